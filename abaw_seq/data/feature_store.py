"""Where the features of a corpus are while they are used: on the device, in host memory, or in their files.

On the device they are a plain tensor. Features that do not fit there stay in pinned host memory, or, if
they do not fit there either, in the feature files; both are gathered window by window, by a thread that
is a few batches ahead of the training loop (`gathered_ahead`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np
import psutil
import torch
from torch import Tensor

from abaw_seq.data.feature_file import FeatureReader
from abaw_seq.data.foreign_features import ForeignReader
from abaw_seq.errors import UserError

Reader = FeatureReader | ForeignReader
Memory = Literal["auto", "device", "host", "file"]
Item = TypeVar("Item")

DEVICE_SHARE = 0.6  # of a GPU's free memory that features may take
HOST_SHARE = 0.6  # of the memory that is free on the machine
BATCHES_AHEAD = 4
CHUNK_ROWS = 8192


@dataclass
class Traffic:
    """How much has been gathered so far, and in how long."""

    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        rate = max(self.seconds, 1e-9)
        return f"{self.rows / rate:,.0f} frames/s, {self.bytes / rate / 1e6:,.0f} MB/s"


@dataclass(frozen=True)
class HostFeatures:
    """Features in host memory, for a device that has no room for them."""

    values: Tensor
    """(frames, dim)"""
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    def take(self, rows: Tensor) -> Tensor:
        """Features (rows, dim) of rows (rows,), pinned if the values are, for copies that do not wait."""
        started = time.perf_counter()
        gathered = torch.empty(len(rows), self.shape[1], dtype=self.values.dtype, pin_memory=self.values.is_pinned())
        torch.index_select(self.values, 0, rows, out=gathered)
        _count(self.traffic, gathered, started)
        return gathered


@dataclass(frozen=True)
class StoredVideo:
    """One video's features in their files."""

    name: str
    parts: tuple[tuple[Reader, str, slice], ...]
    """for each backbone its reader, its name and its columns"""
    rows: tuple[np.ndarray | None, ...]
    """for each part the row in its file of each of the video's frames, or None where frame k is row k"""
    mean: np.ndarray | None = None
    """(dim,): subtracted from the features"""
    scale: np.ndarray | None = None
    """(dim,): what the difference is multiplied by"""


@dataclass(frozen=True)
class FileFeatures:
    """Features that stay in their files; a window is read as one slice per backbone."""

    videos: tuple[StoredVideo, ...]
    offsets: np.ndarray
    """(videos + 1,): where each video's rows start, and where the last one's end"""
    dim: int
    dtype: torch.dtype
    pinned: bool = False
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.offsets[-1]), self.dim

    def take(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """Features (rows, dim) of rows (rows,) in host memory, in `out` if given; adjacent rows are read together.

        Raises UserError naming a video whose features hold NaN or infinity.
        """
        started = time.perf_counter()
        wanted = rows.numpy()
        if out is None:
            out = torch.empty(len(wanted), self.dim, dtype=self.dtype, pin_memory=self.pinned)
        video = np.searchsorted(self.offsets, wanted, side="right") - 1
        step = np.diff(wanted)
        breaks = np.flatnonzero((np.diff(video) != 0) | (step < 0) | (step > 1)) + 1
        for run in np.split(np.arange(len(wanted)), breaks) if len(wanted) else ():
            own = int(video[run[0]])
            _read(self.videos[own], wanted[run] - self.offsets[own], out.numpy()[run[0] : run[-1] + 1])
        _count(self.traffic, out, started)
        return out


Features = Tensor | HostFeatures | FileFeatures


def _count(traffic: Traffic, gathered: Tensor, started: float) -> None:
    traffic.rows += len(gathered)
    traffic.bytes += gathered.nbytes
    traffic.seconds += time.perf_counter() - started


def _read(video: StoredVideo, positions: np.ndarray, into: np.ndarray) -> None:
    """Fill `into` (rows, dim) with the features of a video's frames at `positions` (rows,)."""
    for (reader, backbone, columns), stored in zip(video.parts, video.rows, strict=True):
        rows = positions if stored is None else stored[positions]
        first, last = int(rows.min()), int(rows.max()) + 1
        block = reader.features(video.name, backbone, first, last)
        into[:, columns] = block if len(rows) == len(block) and stored is None else block[rows - first]
    if video.mean is not None:
        into[:] = (into.astype(np.float32) - video.mean) * video.scale


def moments(take: Callable[[Tensor], Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (dim,) float64 of the given rows, read once in chunks.

    The differences from the first chunk's mean are summed, so that float32 is exact enough within a chunk.
    (scikit-learn's StandardScaler would copy every chunk off the device.)
    """
    count = max(len(rows), 1)
    pilot: Any = None
    total: Any = 0.0
    square: Any = 0.0
    for part in rows.split(CHUNK_ROWS):
        values = take(part).float()
        pilot = values.sum(0) / max(len(values), 1) if pilot is None else pilot
        values = values - pilot
        total = total + values.sum(0).double()
        square = square + values.square_().sum(0).double()
    shift = total / count
    return pilot.double() + shift, (square / count - shift.square()).clamp(min=0).sqrt()


def standardised(take: Callable[[Tensor], Tensor], rows: Tensor, columns: list[slice]) -> tuple[Tensor, Tensor]:
    """Mean and 1 / standard deviation (dim,) float32 of the rows in the given columns; 0 and 1 in the others.

    A column that does not vary is not scaled.
    """
    mean, deviation = moments(take, rows)
    chosen = torch.zeros(len(mean), dtype=torch.bool, device=mean.device)
    for span in columns:
        chosen[span] = True
    scale = torch.where(chosen & (deviation > 1e-6), 1 / deviation.clamp(min=1e-6), 1.0)
    return torch.where(chosen, mean, 0.0).float(), scale.float()


def standardised_videos(features: FileFeatures, columns: list[slice]) -> FileFeatures:
    """The same features, with mean 0 and standard deviation 1 within each video in the given columns."""
    videos = []
    for video, start, stop in zip(features.videos, features.offsets[:-1], features.offsets[1:], strict=True):
        mean, scale = standardised(features.take, torch.arange(int(start), int(stop)), columns)
        videos.append(replace(video, mean=mean.numpy(), scale=scale.numpy()))
    return replace(features, videos=tuple(videos), traffic=Traffic())


def gathered_ahead(
    features: HostFeatures | FileFeatures, work: Iterable[tuple[Item, Tensor]], device: torch.device
) -> Iterator[tuple[Item, Tensor]]:
    """Each item with the features (..., dim) of its rows (...) on the device, gathered by a thread in advance."""
    with ThreadPoolExecutor(1) as reader:
        ahead: deque[tuple[Item, torch.Size, Future[Tensor]]] = deque()
        for item, rows in work:
            ahead.append((item, rows.shape, reader.submit(features.take, rows.reshape(-1))))
            if len(ahead) > BATCHES_AHEAD:
                yield _arrived(*ahead.popleft(), device)
        while ahead:
            yield _arrived(*ahead.popleft(), device)


def _arrived(item: Item, shape: torch.Size, rows: Future[Tensor], device: torch.device) -> tuple[Item, Tensor]:
    # Copying a window takes little time compared with a step of training, so it shares the step's stream.
    return item, rows.result().to(device, non_blocking=True).view(*shape, -1)


def settled_memory(asked: Memory, size: int, device: torch.device) -> Literal["device", "host", "file"]:
    """Where `size` bytes of features go: as asked, or for "auto" to the first of device, host and file with room.

    On the CPU the device's memory is the host's. Raises UserError for any other word.
    """
    if asked not in ("auto", "device", "host", "file"):
        raise UserError(f"memory {asked!r}: use auto, device, host or file")
    if device.type == "cpu":
        return "file" if asked == "file" or (asked == "auto" and size > HOST_SHARE * free_host_memory()) else "device"
    if asked != "auto":
        return asked
    if size <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
        return "device"
    return "host" if size <= HOST_SHARE * free_host_memory() else "file"


def free_host_memory() -> int:
    """Bytes of memory that programs can still take without swapping."""
    return psutil.virtual_memory().available
