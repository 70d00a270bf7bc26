"""Training images by row number: decoded once into memory when they fit, else decoded batch by batch.

There is no loader process: rows are gathered from one uint8 tensor, or a few threads decode the next
batches while the current one trains (decoding releases the interpreter's lock).
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from abaw_feats.backbones import Preprocessing
from abaw_feats.reading.frames import decode_video
from abaw_feats.reading.image_index import ImageIndex
from abaw_feats.reading.images import decode_image, preprocess
from abaw_seq.errors import UserError
from abaw_seq.terminal import progress, say

GIGABYTE = 2**30
BATCHES_AHEAD = 3
DECODE_BLOCK = 256
NORMALISATION_IMAGES = 2000


@dataclass
class FrameStore:
    """uint8 images of one shape, by row.

    `index` says which frame a row is; `pixels` uint8 (rows, height, width, 3) or None when images are
    decoded as they are needed; `readable` bool (rows,), false for images known to be broken.
    """

    index: ImageIndex
    shape: tuple[int, int]
    pixels: Tensor | None
    readable: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def batches(self, row_batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images uint8 (batch, height, width, 3), rows int64 (batch,)) for each batch of rows.

        Images that cannot be read are left out of their batch, and their rows with them.
        """
        if self.pixels is not None:
            for rows in row_batches:
                rows = rows[torch.from_numpy(self.readable[rows.numpy()])]
                yield self.pixels[rows.to(self.pixels.device)], rows
            return
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            waiting: deque = deque()
            for rows in row_batches:
                waiting.append((rows, [pool.submit(self._decode, int(row)) for row in rows]))
                if len(waiting) > BATCHES_AHEAD:
                    yield self._collect(*waiting.popleft())
            while waiting:
                yield self._collect(*waiting.popleft())

    def _decode(self, row: int) -> Tensor | None:
        if not self.readable[row]:
            return None
        try:
            return fit_shape(read_image(self.index.path(row)), self.shape)
        except (ValueError, OSError) as error:
            self.readable[row] = False
            say(f"{self.index.path(row)}: left out, {error}")
            return None

    def _collect(self, rows: Tensor, decoding: list) -> tuple[Tensor, Tensor]:
        images = [future.result() for future in decoding]
        kept = torch.tensor([image is not None for image in images])
        if not kept.any():
            raise UserError(f"{self.index.path(int(rows[0]))}: no image of a whole batch can be read")
        return torch.stack([image for image in images if image is not None]), rows[kept]


def open_frames(index: ImageIndex, *, side: int, memory_gb: float, device: torch.device) -> FrameStore:
    """The images of an index as a store.

    side: images of one square shape keep it up to twice this size; all others are brought to squares
    of `side` pixels. memory_gb: the most that decoded images may take; beyond it, image files are
    decoded while training and video files into a temporary file. Images fully decoded that take less
    than a third of a GPU's free memory live there. Raises UserError if no image can be read.
    """
    shape = _common_shape(index, side)
    size = len(index) * shape[0] * shape[1] * 3
    fits = size <= memory_gb * GIGABYTE
    readable = np.ones(len(index), bool)
    if not fits and not index.video_files:
        return FrameStore(index, shape, None, readable)
    pixels = torch.empty((len(index), *shape, 3), dtype=torch.uint8) if fits else _on_disk(len(index), shape)
    _decode_all(index, pixels, readable)
    if not readable.any():
        raise UserError(f"{index.path(0)}: neither this nor any other image can be read")
    if broken := int((~readable).sum()):
        example = index.path(int(np.argmin(readable)))
        say(f"{broken} of {len(index)} images cannot be read and are left out, such as {example}")
    if device.type == "cuda" and size < torch.cuda.mem_get_info(device)[0] / 3:
        pixels = pixels.to(device)
    return FrameStore(index, shape, pixels, readable)


def _common_shape(index: ImageIndex, side: int) -> tuple[int, int]:
    """The shape of the first readable image if it is a square of reasonable size, else `side` squared."""
    for row in range(len(index)):
        source = index.sources[index.source[row]]
        try:
            image = next(decode_video(source.path)) if source.is_file else read_image(index.path(row))
        except (ValueError, OSError, StopIteration):
            continue
        height, width = image.shape[:2]
        return (height, width) if height == width <= 2 * side else (side, side)
    raise UserError(f"{index.path(0)}: neither this nor any other image can be read")


def _on_disk(rows: int, shape: tuple[int, int]) -> Tensor:
    """Room for decoded images in a temporary file that vanishes with the process."""
    with tempfile.NamedTemporaryFile(prefix="abaw-images-") as file:
        say(f"decoded images go to a temporary file in {Path(file.name).parent}")
        return torch.from_numpy(np.memmap(file.name, np.uint8, "w+", shape=(rows, *shape, 3)))


def _decode_all(index: ImageIndex, pixels: Tensor, readable: np.ndarray) -> None:
    shape = (pixels.shape[1], pixels.shape[2])

    def decode(row: int) -> None:
        try:
            pixels[row] = fit_shape(read_image(index.path(row)), shape)
        except (ValueError, OSError):
            readable[row] = False

    in_files = np.isin(index.source, list(index.video_files))
    rows = np.flatnonzero(~in_files)
    with progress("decode", len(index), "images") as advance:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(rows), DECODE_BLOCK):
                block = rows[start : start + DECODE_BLOCK]
                deque(pool.map(decode, block), maxlen=0)
                advance(len(block))
        for source in index.video_files:
            advance(_decode_file(index, source, pixels, readable))


def _decode_file(index: ImageIndex, source: int, pixels: Tensor, readable: np.ndarray) -> int:
    """Decode the rows that a video file holds; returns how many those are."""
    rows = np.flatnonzero(index.source == source)
    row_of = {int(index.number[row]): int(row) for row in rows}
    path = index.sources[source].path
    readable[rows] = False
    try:
        for number, image in enumerate(decode_video(path), start=1):
            if (row := row_of.get(number)) is not None:
                pixels[row] = fit_shape(image, (pixels.shape[1], pixels.shape[2]))
                readable[row] = True
    except ValueError as error:
        say(f"{path}: {error}")
    return len(rows)


def read_image(path: Path) -> np.ndarray:
    """uint8 (height, width, 3), RGB; ValueError or OSError if it cannot be read."""
    return decode_image(path.read_bytes())


def fit_shape(image: np.ndarray, shape: tuple[int, int]) -> Tensor:
    """uint8 (height, width, 3) -> uint8 (*shape, 3), resized with antialiasing where they differ."""
    pixels = torch.from_numpy(image)
    if tuple(pixels.shape[:2]) == tuple(shape):
        return pixels
    batch = pixels.permute(2, 0, 1)[None]
    return F.interpolate(batch, tuple(shape), mode="bicubic", antialias=True)[0].permute(1, 2, 0)


def measured_normalisation(
    store: FrameStore, rows: Tensor, preprocessing: Preprocessing
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) per channel of up to 2000 of the rows, on the preprocessing's scale."""
    chosen = rows[:: max(len(rows) // NORMALISATION_IMAGES, 1)]
    raw = replace(preprocessing, mean=(0.0,) * preprocessing.channels, std=(1.0,) * preprocessing.channels)
    sums = torch.zeros(2, preprocessing.channels, dtype=torch.float64)
    count = 0
    for pixels, _ in store.batches(chosen.split(DECODE_BLOCK)):
        images = preprocess(pixels, raw).double()
        count += images.numel() // preprocessing.channels
        sums += torch.stack([images.sum(dim=(0, 2, 3)), (images**2).sum(dim=(0, 2, 3))]).cpu()
    mean, square = sums / count
    std = (square - mean**2).clamp(min=1e-12).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())
