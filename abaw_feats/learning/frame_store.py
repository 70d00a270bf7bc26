"""Images to train on, by row number, with the pixels that extraction gives to the backbone.

Every image is resized by the backbone's own preprocessing, on the device that trains. Images are decoded
once and kept if they fit into memory; otherwise a few threads read the next batches while the current one
trains (decoding releases the interpreter's lock). There is no loader process.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from abaw_feats.backbones import Preprocessing
from abaw_feats.learning.augment import AugmentConfig, size_before_crop
from abaw_feats.reading.decoding import Unreadable, decode_image
from abaw_feats.reading.image_index import ImageIndex
from abaw_feats.reading.images import resize
from abaw_feats.reading.video_file import decode_video
from abaw_seq.errors import UserError
from abaw_seq.files import reserve
from abaw_seq.terminal import progress

log = logging.getLogger(__name__)

GIGABYTE = 2**30
BATCH = 64
BATCHES_AHEAD = 3
# Images of more bytes are resized one by one, so that those that wait for their batch take little memory.
LARGE_IMAGE = 2**20


@dataclass
class FrameStore:
    """Some rows of an index as uint8 images of one size, in a backbone's colours."""

    index: ImageIndex
    rows: Tensor
    """int64, rising: the rows in the store."""
    preprocessing: Preprocessing
    """The images' size and colours, and how they are resized."""
    device: torch.device
    """Where images are resized: CPU and GPU round some pixels differently, in extraction too."""
    pixels: Tensor | None = None
    """uint8 (rows, height, width, channels): resized images, or smaller frames that are resized when
    they are used. None: images are read for each batch."""
    readable: np.ndarray = field(init=False)
    """bool (len(index),): which rows are in the store and not known to be broken."""
    reasons: dict[int, str] = field(default_factory=dict)
    """{row that is known to be broken: why}"""

    def __post_init__(self) -> None:
        self.readable = np.zeros(len(self.index), bool)
        self.readable[self.rows.numpy()] = True
        self.place = torch.full((len(self.index),), -1)
        self.place[self.rows] = torch.arange(len(self.rows))
        self.shape = (self.preprocessing.size, self.preprocessing.size, self.preprocessing.channels)
        video_files = [number for number, source in enumerate(self.index.sources) if source.is_file]
        self.in_video = torch.from_numpy(np.isin(self.index.source, video_files))[self.rows]

    @property
    def readable_rows(self) -> Tensor:
        """`rows` without those known to be broken."""
        return torch.from_numpy(self.readable).nonzero()[:, 0]

    @property
    def gigabytes(self) -> float:
        """Size of the images that are kept."""
        return 0.0 if self.pixels is None else self.pixels.nbytes / GIGABYTE

    def batches(self, row_batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images uint8 (batch, channels, size, size), rows int64 (batch,)) for each batch of rows.

        Images that cannot be read are left out of their batch, and their rows with them.
        """
        if self.pixels is None:
            for images, rows in self._read_files(row_batches):
                yield self._stack(images).permute(0, 3, 1, 2), rows
            return
        for rows in row_batches:
            rows = rows[torch.from_numpy(self.readable[rows.numpy()])]
            yield self._resize(self.pixels[self.place[rows].to(self.pixels.device)]).permute(0, 3, 1, 2), rows

    def read(self) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Read every row once: yield (images, their rows), first of the image files, then of each video file.

        An image is uint8 (height, width, 3) as decoded, or (size, size, channels) if it is resized already.
        """
        if not self.in_video.all():
            yield from self._read_files(self.rows[~self.in_video].split(BATCH))
        for source in np.unique(self.index.source[self.rows[self.in_video]]):
            yield from self._read_video(int(source))

    def _read_files(self, row_batches: Iterable[Tensor]) -> Iterator[tuple[list[Tensor], Tensor]]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            waiting: deque[tuple[Tensor, list[Future]]] = deque()
            for rows in row_batches:
                waiting.append((rows, [pool.submit(self._read_file, int(row)) for row in rows]))
                if len(waiting) > BATCHES_AHEAD:
                    yield self._collect(*waiting.popleft())
            while waiting:
                yield self._collect(*waiting.popleft())

    def _read_file(self, row: int) -> Tensor | None:
        if not self.readable[row]:
            return None
        path = self.index.path(row)
        try:
            return self._shrink(decode_image(path.read_bytes()))
        except (ValueError, OSError) as error:
            self.readable[row] = False
            self.reasons[row] = str(error)
            if self.pixels is None:
                log.warning(f"{path}: left out, {error}")
            return None

    def _collect(self, rows: Tensor, reading: Sequence[Future]) -> tuple[list[Tensor], Tensor]:
        images = [future.result() for future in reading]
        read = torch.tensor([image is not None for image in images])
        if self.pixels is None and not read.any():
            raise UserError(f"{self.index.path(int(rows[0]))}: no image of a whole batch can be read")
        return [image for image in images if image is not None], rows[read]

    def _read_video(self, source: int) -> Iterator[tuple[list[Tensor], Tensor]]:
        rows = np.flatnonzero(self.readable & (self.index.source == source))
        missing = {int(self.index.number[row]): int(row) for row in rows}
        path = self.index.sources[source].path
        images, read = [], []
        reason = "the video file has no such frame"
        try:
            for number, image in enumerate(decode_video(path), start=1):
                if isinstance(image, Unreadable):
                    if number in missing:
                        self.reasons[missing[number]] = image.reason
                elif number in missing:
                    images.append(self._shrink(image))
                    read.append(missing.pop(number))
                if len(images) == BATCH:
                    yield images, torch.tensor(read)
                    images, read = [], []
                if not missing:
                    break
        except (ValueError, OSError) as error:
            reason = str(error)
            log.warning(f"{path}: {error}")
        if images:
            yield images, torch.tensor(read)
        self.reasons = {row: reason for row in missing.values()} | self.reasons
        self.readable[list(missing.values())] = False

    def _shrink(self, image: np.ndarray) -> Tensor:
        """A decoded image: resized at once if that saves memory, but for a GPU only if it is large.

        Other images are resized with their batch, which a GPU does much faster than one by one.
        """
        pixels = torch.from_numpy(image)
        if image.size <= math.prod(self.shape) or (self.device.type != "cpu" and image.size <= LARGE_IMAGE):
            return pixels
        return self._resize(pixels[None])[0].cpu()

    def _resize(self, pixels: Tensor) -> Tensor:
        """uint8 (batch, height, width, 3), or what is resized already -> (batch, size, size, channels)."""
        if pixels.shape[1:] == self.shape:
            return pixels
        return resize(pixels.to(self.device), self.preprocessing).permute(0, 2, 3, 1)

    def _stack(self, images: Sequence[Tensor]) -> Tensor:
        """Images as `read` yields them -> uint8 (batch, size, size, channels) on the device."""
        stacked = torch.empty((len(images), *self.shape), dtype=torch.uint8, device=self.device)
        for shape in {image.shape for image in images}:
            places = [k for k, image in enumerate(images) if image.shape == shape]
            stacked[places] = self._resize(torch.stack([images[k] for k in places])).to(self.device)
        return stacked


def open_frames(
    index: ImageIndex,
    rows: Tensor,
    preprocessing: Preprocessing,
    *,
    memory_gb: float,
    device: torch.device,
    augment: AugmentConfig | None = None,
) -> FrameStore:
    """Rows of an index as images of a backbone's size, or with `augment` of the size for `training_views`.

    memory_gb: the most that the images may take; beyond it, image files are read for each batch and video
    files go to a temporary file. Images that are kept and take less than a third of a GPU's free memory
    live there. Raises UserError if no image can be read.
    """
    frame = _first_shape(index, rows)
    if augment is not None:
        size = size_before_crop(preprocessing.size, augment, frame_side=min(frame))
        preprocessing = replace(preprocessing, size=size)
    store = FrameStore(index, rows, preprocessing, device)
    as_decoded = 3 * math.prod(frame) <= math.prod(store.shape)
    if not (as_decoded and _fill(store, (*frame, 3), memory_gb)):
        _fill(store, store.shape, memory_gb)
    return store


def read_frames(
    index: ImageIndex, rows: Tensor, preprocessing: Preprocessing, *, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Read rows of an index once and yield batches as those of a store: of image files, then of video files."""
    store = FrameStore(index, rows, preprocessing, device)
    for images, read in store.read():
        yield store._stack(images).permute(0, 3, 1, 2), read


def _fill(store: FrameStore, shape: tuple[int, int, int], memory_gb: float) -> bool:
    """Read images into `store.pixels`, if they fit, as decoded or resized, whichever has this shape.

    False if they are to be kept as decoded and one of them has another shape.
    """
    size = len(store.rows) * math.prod(shape)
    fits = size <= memory_gb * GIGABYTE
    store.pixels = None
    if not fits and not store.in_video.any():
        return True
    if store.device.type == "cuda" and size < torch.cuda.mem_get_info(store.device)[0] / 3:
        store.pixels = torch.empty((len(store.rows), *shape), dtype=torch.uint8, device=store.device)
    elif fits:
        store.pixels = torch.empty((len(store.rows), *shape), dtype=torch.uint8)
    else:
        with tempfile.NamedTemporaryFile(prefix="abaw-images-") as file:  # vanishes with the process
            log.info(f"decoded images go to a temporary file in {Path(file.name).parent}")
            reserve(Path(file.name), size)  # the system ends a process whose mapped file finds no room
            store.pixels = torch.from_numpy(np.memmap(file.name, np.uint8, "w+", shape=(len(store.rows), *shape)))
    with progress("decode", len(store.rows), "images") as advance:
        for images, read in store.read():
            if shape != store.shape and any(image.shape != shape for image in images):
                return False
            if images:
                kept = store._stack(images) if shape == store.shape else torch.stack(images)
                store.pixels[store.place[read].to(store.pixels.device)] = kept.to(store.pixels.device)
            advance(len(read))
    if broken := len(store.rows) - len(store.readable_rows):
        row = next(row for row in store.rows.tolist() if not store.readable[row])
        example = f"{store.index.path(row)}: {store.reasons.get(row, 'unreadable')}"
        log.warning(f"{broken} of {len(store.rows)} images cannot be read and are left out, such as {example}")
    return True


def _first_shape(index: ImageIndex, rows: Tensor) -> tuple[int, int]:
    """(height, width) of the first readable image."""
    reason = ""
    for row in rows.tolist():
        source, path = index.sources[index.source[row]], index.path(row)
        try:
            frames = decode_video(path) if source.is_file else iter([decode_image(path.read_bytes())])
            return next(frame for frame in frames if not isinstance(frame, Unreadable)).shape[:2]
        except (ValueError, OSError) as error:
            reason = reason or str(error)
        except StopIteration:
            reason = reason or "all of its frames are damaged"
    raise UserError(f"{index.path(int(rows[0]))}: neither this nor any other image can be read ({reason})")
