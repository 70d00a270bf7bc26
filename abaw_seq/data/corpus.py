"""Feature files joined by video and frame number, with labels and splits, on one device.

The frames of all videos are the rows of one tensor, video after video, and a window is gathered by index.
Features that do not fit on the device are gathered by the same row numbers from host memory or their files
(`abaw_seq.data.feature_store`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abaw_seq.data.annotations import Annotations, VideoLabels
from abaw_seq.data.feature_file import BackboneInfo, merge_backbones
from abaw_seq.data.feature_store import (
    Features,
    FileFeatures,
    HostFeatures,
    Item,
    Memory,
    Reader,
    StoredVideo,
    gathered_ahead,
    settled_memory,
    standardised,
    standardised_videos,
)
from abaw_seq.data.folder import video_name
from abaw_seq.data.foreign_features import open_features
from abaw_seq.data.labelling import log_alignment
from abaw_seq.data.nearest import fill_nearest_labels, nearest_rows
from abaw_seq.errors import UserError
from abaw_seq.tasks import LABEL_COLUMNS

LOAD_ROWS = 8192


@dataclass(frozen=True)
class Corpus:
    """The frames of all videos as rows of flat tensors."""

    features: Features
    """(frames, dim) float16 or float32, on the device, in host memory or in their files"""
    labels: Tensor
    """(frames, 15) float32 on the device, NaN where there is no label"""
    frames: np.ndarray
    """(frames,) int32: frame numbers, rising within a video"""
    names: tuple[str, ...]
    """the videos"""
    splits: tuple[str | None, ...]
    """each video's split"""
    offsets: np.ndarray
    """(videos + 1,): where each video's rows start, and where the last one's end"""
    backbones: dict[str, slice]
    """each backbone's columns of the features"""
    backbone_info: dict[str, BackboneInfo]
    """how each backbone's features were made"""
    sources: tuple[str, ...] = ()
    """the feature files"""
    label_sources: tuple[str, ...] | None = None
    """The annotations that labels and splits are from; None where they are those of the feature files."""

    @property
    def lengths(self) -> list[int]:
        """Frames per video."""
        return np.diff(self.offsets).tolist()

    @property
    def dim(self) -> int:
        """Width of the joined features."""
        return self.features.shape[1]

    @property
    def device(self) -> torch.device:
        return self.labels.device

    def to(self, device: torch.device | str) -> Corpus:
        """The same corpus with its tensors on `device`; features kept elsewhere stay there."""
        features = self.features.to(device) if isinstance(self.features, Tensor) else self.features
        return replace(self, features=features, labels=self.labels.to(device))

    def standardised_per_video(self, columns: list[slice]) -> Corpus:
        """The same corpus, with mean 0 and standard deviation 1 within each video in the given columns."""
        if not columns:
            return self
        if isinstance(self.features, FileFeatures):
            return replace(self, features=standardised_videos(self.features, columns))
        stored = self.features.values if isinstance(self.features, HostFeatures) else self.features
        values = torch.empty_like(stored, pin_memory=stored.is_pinned())
        for start, stop in zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True):
            rows = torch.arange(start, stop, device=stored.device)
            mean, scale = standardised(lambda part: stored.index_select(0, part), rows, columns)
            values[start:stop] = ((stored[start:stop].float() - mean) * scale).to(stored.dtype)
        return replace(self, features=HostFeatures(values) if isinstance(self.features, HostFeatures) else values)

    def labelled(self, annotations: Annotations) -> Corpus:
        """The same corpus with labels and splits from annotation files instead of its own."""
        spans = zip(self.names, self.offsets[:-1], self.offsets[1:], strict=True)
        labels = [annotations.for_frames(name, self.frames[a:b]) for name, a, b in spans]
        known = [annotations.videos.get(video_name(name)) for name in self.names]
        splits = tuple(video.split if video is not None else None for video in known)
        labels = torch.from_numpy(np.concatenate(labels)).to(self.device)
        return replace(self, labels=labels, splits=splits, label_sources=annotations.sources)

    def with_nearest_labels(self, videos: list[int], max_distance: dict[str, int]) -> tuple[Corpus, dict[str, int]]:
        """The same corpus with missing labels of these videos filled from the nearest labelled frame.

        max_distance: {task: farthest frame, in frame numbers}. Also returns {task: frames that received a label}.
        """
        labels, counts = self.labels.cpu().numpy().copy(), dict.fromkeys(max_distance, 0)
        for video in videos:
            rows = slice(self.offsets[video], self.offsets[video + 1])
            labels[rows], given = fill_nearest_labels(self.frames[rows], labels[rows], max_distance=max_distance)
            counts = {task: count + given.get(task, 0) for task, count in counts.items()}
        return replace(self, labels=torch.from_numpy(labels).to(self.device)), counts

    def video_labels(self) -> dict[str, VideoLabels]:
        """{video: its frame numbers, labels and split}, as annotation files would give them."""
        spans = zip(self.names, self.offsets[:-1], self.offsets[1:], self.splits, strict=True)
        labels = self.labels.cpu().numpy()
        return {name: VideoLabels(self.frames[a:b], labels[a:b], split) for name, a, b, split in spans}

    def described(self) -> dict[str, Any]:
        """Feature files, backbones and where the labels are from, as `provenance.json` records them."""
        keys = ("dim", "arch", "weights", "weights_sha256")
        backbones = {name: {key: getattr(info, key) for key in keys} for name, info in self.backbone_info.items()}
        labels = "features" if self.label_sources is None else list(self.label_sources)
        return {"features": list(self.sources), "backbones": backbones, "labels": labels}

    def training_videos(self) -> list[int]:
        """Indices of the videos that train: those of the training split, and labelled ones without a split."""
        labelled = {name for name, video in self.video_labels().items() if not np.isnan(video.labels).all()}
        named = enumerate(zip(self.names, self.splits, strict=True))
        return [k for k, (name, split) in named if split == "train" or (split is None and name in labelled)]

    def in_split(self, split: str) -> list[int]:
        """Indices of a split's videos."""
        return [index for index, own in enumerate(self.splits) if own == split]

    def rows(self, videos: list[int]) -> Tensor:
        """Row indices (rows,) of all frames of the given videos."""
        spans = [torch.arange(self.offsets[v], self.offsets[v + 1]) for v in videos]
        return torch.cat(spans).to(self.device) if spans else torch.zeros(0, dtype=torch.long, device=self.device)

    def window_rows(self, windows: np.ndarray, videos: list[int], length: int | None = None) -> Tensor:
        """Row indices (batch, time) of windows (batch, 3) over `videos`; `time` is `length`, or the longest window.

        Positions behind a window's end repeat its last row; `gather_labels` hides their labels.
        """
        length = int(length or windows[:, 2].max())
        first = self.offsets[np.asarray(videos)[windows[:, 0]]] + windows[:, 1]
        position = np.minimum(np.arange(length)[None, :], windows[:, 2:3] - 1)
        rows = torch.from_numpy(first[:, None] + position)
        return rows.to(self.device, non_blocking=True) if isinstance(self.features, Tensor) else rows

    def gather_features(self, rows: Tensor) -> Tensor:
        """Features (..., dim) of rows (...) on the device, in the dtype that is stored."""
        flat = rows.reshape(-1)
        if isinstance(self.features, Tensor):
            return self.features.index_select(0, flat).view(*rows.shape, -1)
        return self.features.take(flat.cpu()).to(self.device).view(*rows.shape, -1)

    def gathered(self, work: Iterable[tuple[Item, Tensor]]) -> Iterator[tuple[Item, Tensor]]:
        """Each item with the features (..., dim) of its `window_rows` (...), read ahead unless on the device."""
        if isinstance(self.features, Tensor):
            return ((item, self.gather_features(rows)) for item, rows in work)
        return gathered_ahead(self.features, work, self.device)

    def elsewhere(self) -> str | None:
        """In words where the features are and how large; None if they are on the device."""
        if isinstance(self.features, Tensor):
            return None
        rows, dim = self.features.shape
        where = "in host memory" if isinstance(self.features, HostFeatures) else "in their files"
        return f"{rows:,} frames x {dim} ({rows * dim * self.features.dtype.itemsize / 1e9:.2f} GB) stay {where}"

    def gather_rate(self) -> str | None:
        """In words how fast features were gathered so far; None if they are on the device."""
        return None if isinstance(self.features, Tensor) else str(self.features.traffic)

    def gather_labels(self, rows: Tensor, used: Tensor | None = None) -> Tensor:
        """Labels (batch, time, 15) of rows (batch, time); NaN behind the first `used` (batch,) frames of a window."""
        return self.gather_rows(self.labels, rows, used)

    def gather_rows(self, table: Tensor, rows: Tensor, used: Tensor | None = None) -> Tensor:
        """As `gather_labels`, of another table (frames, width) on the device."""
        gathered = table.index_select(0, rows.reshape(-1).to(self.device)).view(*rows.shape, -1)
        if used is None:
            return gathered
        beyond = torch.arange(rows.shape[1], device=self.device)[None, :] >= used[:, None]
        return gathered.masked_fill(beyond[..., None], torch.nan)


def load_corpus(
    paths: list[Path],
    *,
    backbones: tuple[str, ...] | None = None,
    annotations: Annotations | None = None,
    device: torch.device | str = "cpu",
    memory: Memory = "auto",
) -> Corpus:
    """Open feature files, and features of other layouts, and join them by video and frame number.

    backbones: which to use, in this order (default: all, in order of appearance).
    annotations: labels and splits to use instead of those in the files.
    memory: where the features go: "device", "host" memory, or "file" to leave them there; "auto" takes
    the first of these that has room. Labels go to the device.
    Frames missing from one of the files are left out. Frames that could not be read take the features of
    the nearest frame that could. Raises UserError for a video without features of one of the backbones,
    and for files that contradict each other.
    """
    device = torch.device(device)
    with ExitStack() as stack:
        readers = [open_features(path, annotations) for path in paths]
        for reader in readers:
            stack.enter_context(reader)
        info = merge_backbones({str(r.path): r.backbones for r in readers})
        if not info:
            raise UserError(f"{paths[0]}: holds no features; run abaw-extract first")
        used = backbones or tuple(info)
        for name in used:
            if name not in info:
                raise UserError(f"no backbone {name!r} in {', '.join(map(str, paths))} (there are: {', '.join(info)})")
        videos = _common_videos(readers, used)
        corpus = _opened(readers, videos, {name: info[name] for name in used})
        stored = corpus.features
        assert isinstance(stored, FileFeatures)
        rows, dim = stored.shape
        settled = settled_memory(memory, rows * dim * stored.dtype.itemsize, device)
        if settled == "file":
            corpus = replace(corpus, features=replace(stored, pinned=device.type == "cuda"))
            stack.pop_all()  # the files stay open for as long as they are read from
        else:
            corpus = replace(corpus, features=_loaded(stored, device, settled))
        corpus = corpus.to(device)
        if annotations is None:
            return corpus
        annotations = annotations.without_labels({video for reader in readers for video in reader.unnumbered})
        log_alignment({name: video.frames for name, video in corpus.video_labels().items()}, annotations)
        return corpus.labelled(annotations)


def _loaded(stored: FileFeatures, device: torch.device, memory: str) -> Features:
    """All features in one tensor, read in pieces, so that they are never in memory twice."""
    values = torch.empty(stored.shape, dtype=stored.dtype, pin_memory=memory == "host")
    for start, stop in zip(stored.offsets[:-1].tolist(), stored.offsets[1:].tolist(), strict=True):
        for first in range(start, stop, LOAD_ROWS):
            rows = torch.arange(first, min(first + LOAD_ROWS, stop))
            stored.take(rows, out=values[first : first + len(rows)])
    return HostFeatures(values) if memory == "host" else values.to(device)


def _common_videos(readers: list[Reader], backbones: tuple[str, ...]) -> list[str]:
    """The videos, sorted; UserError for one without features of one of the backbones."""
    videos = sorted({video for reader in readers for video in reader.videos})
    for video in videos:
        for backbone in backbones:
            if not any(video in reader.videos and reader.has(video, backbone) for reader in readers):
                files = ", ".join(str(reader.path) for reader in readers)
                raise UserError(
                    f"video {video}: no {backbone} features in {files}; "
                    f"run abaw-extract --backbone {backbone} again with the same output"
                )
    if not videos:
        raise UserError(f"{readers[0].path}: holds no videos")
    return videos


def _opened(readers: list[Reader], videos: list[str], info: dict[str, BackboneInfo]) -> Corpus:
    """The corpus with its features still in their files."""
    ends = np.cumsum([0, *(one.dim for one in info.values())])
    columns = {name: slice(int(a), int(b)) for name, a, b in zip(info, ends[:-1], ends[1:], strict=True)}
    frames = [_common_frames(readers, video) for video in videos]
    offsets = np.cumsum([0, *map(len, frames)])
    wide = any(one.dtype == "float32" for one in info.values())
    labels = np.full((offsets[-1], len(LABEL_COLUMNS)), np.nan, np.float32)
    stored, splits = [], []
    for index, video in enumerate(videos):
        rows = slice(offsets[index], offsets[index + 1])
        stored.append(_stored_video(readers, video, frames[index], columns, labels[rows]))
        splits.append(_split(readers, video))
    dtype = torch.float32 if wide else torch.float16
    return Corpus(
        features=FileFeatures(tuple(stored), offsets, int(ends[-1]), dtype),
        labels=torch.from_numpy(labels),
        frames=np.concatenate(frames),
        names=tuple(videos),
        splits=tuple(splits),
        offsets=offsets,
        backbones=columns,
        backbone_info=info,
        sources=tuple(str(reader.path) for reader in readers),
    )


def _common_frames(readers: list[Reader], video: str) -> np.ndarray:
    """The frame numbers that are in all files with this video."""
    numbers = [reader.frames(video) for reader in readers if video in reader.videos]
    common = numbers[0]
    for other in numbers[1:]:
        if not np.array_equal(common, other):
            common = np.intersect1d(common, other)
    if not len(common):
        raise UserError(f"video {video}: the feature files have no frame of it in common")
    return common


def _stored_video(
    readers: list[Reader], video: str, frames: np.ndarray, columns: dict[str, slice], labels: np.ndarray
) -> StoredVideo:
    """Where one video's features are; its `labels` (frames, 15) are filled in place."""
    parts: dict[str, tuple[Reader, str, slice]] = {}
    rows: dict[str, np.ndarray | None] = {}
    for reader in readers:
        if video not in reader.videos:
            continue
        own = reader.frames(video)
        pick = np.arange(len(own)) if len(own) == len(frames) else np.searchsorted(own, frames)
        source = pick[_nearest_valid(reader.valid(video)[pick])]
        as_stored = len(own) == len(frames) and np.array_equal(source, pick)
        for name, span in columns.items():
            if reader.has(video, name):
                parts[name], rows[name] = (reader, name, span), None if as_stored else source
        if (stored := reader.labels(video)) is not None:
            np.copyto(labels, stored[pick], where=np.isnan(labels))
    return StoredVideo(video, tuple(parts.values()), tuple(rows.values()))


def _nearest_valid(valid: np.ndarray) -> np.ndarray | slice:
    """For each frame the position (frames,) of the nearest one that could be read."""
    if valid.all() or not valid.any():
        return slice(None)
    readable = np.flatnonzero(valid)
    return readable[nearest_rows(readable, np.arange(len(valid)))]


def _split(readers: list[Reader], video: str) -> str | None:
    splits = {reader.split(video) for reader in readers if video in reader.videos} - {None}
    if len(splits) > 1:
        raise UserError(
            f"video {video}: the feature files disagree about its split ({', '.join(sorted(map(str, splits)))})"
        )
    return splits.pop() if splits else None
