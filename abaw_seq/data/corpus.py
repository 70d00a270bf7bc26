"""Feature files joined by video and frame number, with labels and splits, on one device.

All frames of all videos lie in one tensor, video after video; a window is a gather by index.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from abaw_seq.data.annotations import Annotations, VideoLabels
from abaw_seq.data.feature_file import BackboneInfo, FeatureReader, merge_backbones
from abaw_seq.data.foreign_features import ForeignReader, open_features
from abaw_seq.data.nearest import fill_nearest_labels
from abaw_seq.errors import UserError
from abaw_seq.tasks import LABEL_COLUMNS

Reader = FeatureReader | ForeignReader


@dataclass(frozen=True)
class Corpus:
    """Videos as rows of flat tensors.

    features: (N, D) float16 or float32; labels: (N, 15) float32, NaN where there is no label;
    frames: (N,) int32; `names`, `splits`, `offsets` (V + 1) describe the videos; `backbones` gives
    each backbone's columns.
    """

    features: Tensor
    labels: Tensor
    frames: np.ndarray
    names: tuple[str, ...]
    splits: tuple[str | None, ...]
    offsets: np.ndarray
    backbones: dict[str, slice]
    backbone_info: dict[str, BackboneInfo]
    sources: tuple[str, ...] = ()

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
        return self.features.device

    def to(self, device: torch.device | str) -> Corpus:
        """The same corpus with its tensors on `device`."""
        return replace(self, features=self.features.to(device), labels=self.labels.to(device))

    def standardised_per_video(self, columns: list[slice]) -> Corpus:
        """The same corpus with the given columns at mean 0 and deviation 1 within each video."""
        if not columns:
            return self
        features = self.features.clone()
        for start, stop in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            for span in columns:
                own = features[start:stop, span].float()
                scale = own.std(0, unbiased=False).clamp(min=1e-6)
                features[start:stop, span] = ((own - own.mean(0)) / scale).to(features.dtype)
        return replace(self, features=features)

    def labelled(self, annotations: Annotations) -> Corpus:
        """The same corpus with labels and splits from annotation files instead of its own."""
        spans = zip(self.names, self.offsets[:-1], self.offsets[1:], strict=True)
        labels = [annotations.for_frames(name, self.frames[a:b]) for name, a, b in spans]
        known = [annotations.videos.get(name) for name in self.names]
        splits = tuple(video.split if video is not None else None for video in known)
        return replace(self, labels=torch.from_numpy(np.concatenate(labels)).to(self.device), splits=splits)

    def with_nearest_labels(self, videos: list[int], max_distance: dict[str, int]) -> tuple[Corpus, dict[str, int]]:
        """The same corpus where, in these videos, a missing label is that of the nearest labelled frame.

        max_distance: {task: farthest frame, in frame numbers}. Also returns {task: frames that got a label}.
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

    def in_split(self, split: str) -> list[int]:
        """Indices of a split's videos."""
        return [index for index, found in enumerate(self.splits) if found == split]

    def rows(self, videos: list[int]) -> Tensor:
        """(n,) row indices of all frames of the given videos."""
        spans = [torch.arange(self.offsets[v], self.offsets[v + 1]) for v in videos]
        return torch.cat(spans).to(self.device) if spans else torch.zeros(0, dtype=torch.long, device=self.device)

    def window_rows(self, windows: np.ndarray, videos: list[int], length: int | None = None) -> Tensor:
        """(B, T) row indices of windows (B, 3) over `videos`; T is `length` or the longest window.

        Positions behind a window's end repeat its last row; `gather_labels` hides their labels.
        """
        length = int(length or windows[:, 2].max())
        first = self.offsets[np.asarray(videos)[windows[:, 0]]] + windows[:, 1]
        position = np.minimum(np.arange(length)[None, :], windows[:, 2:3] - 1)
        return torch.from_numpy(first[:, None] + position).to(self.device, non_blocking=True)

    def gather_features(self, rows: Tensor) -> Tensor:
        """(B, T, D) features as stored of (B, T) rows."""
        return self.features.index_select(0, rows.reshape(-1)).view(*rows.shape, -1)

    def gather_labels(self, rows: Tensor, used: Tensor | None = None) -> Tensor:
        """(B, T, 15) labels of (B, T) rows; none behind the first `used` (B,) frames of a window."""
        labels = self.labels.index_select(0, rows.reshape(-1)).view(*rows.shape, -1)
        if used is None:
            return labels
        beyond = torch.arange(rows.shape[1], device=rows.device)[None, :] >= used[:, None]
        return labels.masked_fill(beyond[..., None], torch.nan)


def load_corpus(
    paths: list[Path], *, backbones: tuple[str, ...] | None = None, annotations: Annotations | None = None
) -> Corpus:
    """Read feature files, and features of other layouts, and join them by video and frame number.

    backbones: which to use, in this order (default: all, in order of appearance).
    annotations: labels and splits to use instead of those in the files.
    Frames missing from one of the files are left out; a video missing from one of them is an error
    that names it. Frames that could not be read take the features of the nearest frame that could.
    Raises UserError for anything that does not fit together.
    """
    with ExitStack() as stack:
        readers = [stack.enter_context(open_features(path, annotations)) for path in paths]
        info = merge_backbones({str(r.path): r.backbones for r in readers})
        if not info:
            raise UserError(f"{paths[0]}: holds no features; run abaw-extract first")
        used = backbones or tuple(info)
        for name in used:
            if name not in info:
                raise UserError(f"no backbone {name!r} in {', '.join(map(str, paths))} (found: {', '.join(info)})")
        videos = _common_videos(readers, used)
        corpus = _read(readers, videos, {name: info[name] for name in used})
        return corpus if annotations is None else corpus.labelled(annotations)


def _common_videos(readers: list[Reader], backbones: tuple[str, ...]) -> list[str]:
    """Videos for which every backbone is somewhere; a video that lacks one is an error."""
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


def _read(readers: list[Reader], videos: list[str], info: dict[str, BackboneInfo]) -> Corpus:
    ends = np.cumsum([0, *(one.dim for one in info.values())])
    columns = {name: slice(int(a), int(b)) for name, a, b in zip(info, ends[:-1], ends[1:], strict=True)}
    frames = [_common_frames(readers, video) for video in videos]
    offsets = np.cumsum([0, *map(len, frames)])
    wide = any(one.dtype == "float32" for one in info.values())
    features = np.empty((offsets[-1], ends[-1]), np.float32 if wide else np.float16)
    labels = np.full((offsets[-1], len(LABEL_COLUMNS)), np.nan, np.float32)
    splits = []
    for index, video in enumerate(videos):
        rows = slice(offsets[index], offsets[index + 1])
        _read_video(readers, video, frames[index], columns, features[rows], labels[rows])
        splits.append(_split(readers, video))
    return Corpus(
        features=torch.from_numpy(features),
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
    """Frame numbers that every file holding this video has."""
    held = [reader.frames(video) for reader in readers if video in reader.videos]
    common = held[0]
    for frames in held[1:]:
        if not np.array_equal(common, frames):
            common = np.intersect1d(common, frames)
    if not len(common):
        raise UserError(f"video {video}: the feature files share no frame of it")
    return common


def _read_video(
    readers: list[Reader],
    video: str,
    frames: np.ndarray,
    columns: dict[str, slice],
    features: np.ndarray,
    labels: np.ndarray,
) -> None:
    """Fill one video's rows of `features` (n, D) and `labels` (n, 15) in place."""
    for reader in readers:
        if video not in reader.videos:
            continue
        own = reader.frames(video)
        pick = slice(None) if len(own) == len(frames) else np.searchsorted(own, frames)
        donor = _nearest_valid(reader.valid(video)[pick])
        for name, span in columns.items():
            if reader.has(video, name):
                features[:, span] = reader.features(video, name)[pick][donor]
        if (found := reader.labels(video)) is not None:
            np.copyto(labels, found[pick], where=np.isnan(labels))


def _nearest_valid(valid: np.ndarray) -> np.ndarray | slice:
    """(n,) for each frame the position of the nearest readable one."""
    if valid.all() or not valid.any():
        return slice(None)
    good = np.flatnonzero(valid)
    position = np.arange(len(valid))
    right = np.searchsorted(good, position).clip(max=len(good) - 1)
    left = (right - 1).clip(min=0)
    nearer_left = np.abs(position - good[left]) <= np.abs(good[right] - position)
    return np.where(nearer_left, good[left], good[right])


def _split(readers: list[Reader], video: str) -> str | None:
    found = {reader.split(video) for reader in readers if video in reader.videos} - {None}
    if len(found) > 1:
        raise UserError(f"video {video}: the feature files disagree about its split ({', '.join(sorted(found))})")
    return found.pop() if found else None
