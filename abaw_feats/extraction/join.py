"""Joins feature files, of single videos, shards or backbones, into one, with labels."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from abaw_feats.extraction.spool import disk_error, locked_spool
from abaw_seq.data.annotations import Annotations
from abaw_seq.data.feature_file import (
    BackboneInfo,
    FeatureReader,
    FeatureWriter,
    atomic_feature_file,
    merge_backbones,
)
from abaw_seq.data.source_record import SourceRecord
from abaw_seq.errors import UserError
from abaw_seq.files import reserve
from abaw_seq.terminal import progress

log = logging.getLogger(__name__)

COPY_ROWS = 4096
OPEN_FILES = 32


@dataclass(frozen=True)
class Copy:
    """What one feature file has of a video."""

    backbones: list[str]
    rows: int
    record: SourceRecord


class Holdings:
    """The videos and backbones in several feature files.

    outdated: videos of which the first file's copy counts only where no other file has one.
    """

    def __init__(self, paths: Sequence[Path], outdated: Collection[str] = ()):
        self.by_file: dict[str, dict[str, BackboneInfo]] = {}
        """{file: its backbones}"""
        self.videos: dict[str, dict[Path, list[str]]] = {}
        """{video: {file: the backbones to take from it}}; of several files with the same backbone, the first is used"""
        self.rows: dict[str, int] = {}
        """{video: number of frames}"""
        self.copies: dict[str, dict[Path, Copy]] = {}
        """{video: {file: what it has of the video}}"""
        self.replaced: set[str] = set()
        """the outdated videos of which another file has a copy"""
        for path in paths:
            with FeatureReader(path) as reader:
                self.by_file[str(path)] = reader.backbones
                for video in reader.videos:
                    names = [name for name in reader.backbones if reader.has(video, name)]
                    copy = Copy(names, reader.rows(video), reader.record(video))
                    self.copies.setdefault(video, {})[path] = copy
        for video, copies in self.copies.items():
            if video in outdated and paths[0] in copies and len(copies) > 1:
                del copies[paths[0]]
                self.replaced.add(video)
            self.rows[video] = next(iter(copies.values())).rows
            for path, copy in copies.items():
                known = self.held(video)
                self.videos.setdefault(video, {})[path] = [name for name in copy.backbones if name not in known]

    def held(self, video: str) -> set[str]:
        """The backbones whose features of a video are in some file."""
        return {name for names in self.videos.get(video, {}).values() for name in names}

    def backbones(self) -> dict[str, BackboneInfo]:
        """All backbones; UserError if two networks have the same name."""
        return merge_backbones(self.by_file)


def join_files(
    paths: Sequence[Path],
    out: Path,
    *,
    annotations: Annotations | None = None,
    outdated: Collection[str] = (),
    stamps: Mapping[str, str] | None = None,
) -> Holdings:
    """Write everything in the feature files at `paths` to `out`, which may be one of them, atomically.

    A video's features may come from several files if these have the same frames of it; of several files with the
    same backbone, the first is used. `annotations` replace the labels and splits of the videos that are in them.
    `outdated`: videos of which the first file's features give way to another file's, where there are some, and keep
    their labels. `stamps`: {video: the stamp it gets}, see `SourceRecord`.
    Returns what is in `out` now. Raises UserError if two networks have the same name or frames differ, AbawError if
    `out` cannot be written.
    """
    holdings = Holdings(paths, outdated)
    backbones = holdings.backbones()
    try:
        reserve(out, sum(path.stat().st_size for path in paths))
        with (
            progress("join", len(holdings.videos), "videos") as advance,
            atomic_feature_file(out) as writer,
            _Readers() as readers,
        ):
            for name, info in backbones.items():
                writer.add_backbone(name, info)
            for video in sorted(holdings.videos):
                _join_video(video, holdings.videos[video], backbones, writer, readers)
                if video in holdings.replaced:
                    _keep_labels(video, readers.open(paths[0]), writer)
                if stamps and video in stamps:
                    writer.videos_group[video].attrs["stamp"] = stamps[video]
                if annotations is not None and video in annotations.videos:
                    frames = readers.open(next(iter(holdings.videos[video]))).frames(video)
                    writer.set_labels(video, *labels_of(annotations, video, frames))
                advance()
    except OSError as error:
        raise disk_error(out, error) from error
    return holdings


def labels_of(annotations: Annotations, video: str, frames: np.ndarray) -> tuple[np.ndarray | None, str | None]:
    """(labels float32 (frames, 15), or None if no frame has any; split) of a video."""
    labels = annotations.for_frames(video, frames)
    return (None if np.isnan(labels).all() else labels), annotations.videos[video].split


def labels_are_in(path: Path, annotations: Annotations) -> bool:
    """Whether the labels and splits in a feature file are those of the annotations."""
    with FeatureReader(path) as reader:
        for video in reader.videos:
            if video in annotations.videos:
                labels, split = labels_of(annotations, video, reader.frames(video))
                new, old = (np.empty(0) if table is None else table for table in (labels, reader.labels(video)))
                if reader.split(video) != split or not np.array_equal(new, old, equal_nan=True):
                    return False
    return True


class _Readers:
    """Opens feature files when they are needed; the last few stay open."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, FeatureReader] = OrderedDict()

    def __enter__(self) -> _Readers:
        return self

    def __exit__(self, *_: object) -> None:
        for reader in self._open.values():
            reader.close()

    def open(self, path: Path) -> FeatureReader:
        if path not in self._open:
            self._open[path] = FeatureReader(path)
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(path)
        return self._open[path]


def _join_video(
    video: str,
    files: dict[Path, list[str]],
    backbones: dict[str, BackboneInfo],
    writer: FeatureWriter,
    readers: _Readers,
) -> None:
    origin, *others = files
    readers.open(origin).copy_video(video, writer.videos_group, files[origin])
    group = writer.videos_group[video]
    for path in others:
        first, reader = readers.open(origin), readers.open(path)
        contents = {holder.record(video).content for holder in (first, reader)} - {""}
        if len(contents) > 1 or not all(
            np.array_equal(read(first, video), read(reader, video))
            for read in (FeatureReader.frames, FeatureReader.valid)
        ):
            raise UserError(
                f"{path}: video {video} has other frames, or other unreadable ones, than in {origin}; "
                "extract it again into a new file"
            )
        if first.labels(video) is None and reader.labels(video) is not None:
            writer.set_labels(video, reader.labels(video), reader.split(video))
        for name in files[path]:
            info, rows = backbones[name], first.rows(video)
            target = writer.create_features(group, name, rows, info.dim, info.dtype)
            source = reader.feature_dataset(video, name)
            for start in range(0, rows, COPY_ROWS):
                target[start : start + COPY_ROWS] = source[start : start + COPY_ROWS]


def _keep_labels(video: str, old: FeatureReader, writer: FeatureWriter) -> None:
    """Give a video that was extracted again the labels and the split that it had, by frame number."""
    labels = old.labels(video)
    if labels is not None:
        frames = writer.videos_group[video]["frames"][:]
        known = old.frames(video)
        place = np.searchsorted(known, frames).clip(max=len(known) - 1)
        labels = np.where((known[place] == frames)[:, None], labels[place], np.nan)
    writer.set_labels(video, labels, old.split(video))


def merge_files(files: Sequence[Path], out: Path) -> None:
    """Join feature files of shards, or of several backbones on the same videos, into `out`.

    Raises UserError if a backbone has other weights or preprocessing in one of them than in another.
    """
    with locked_spool(out):
        holdings = join_files(files, out)
        frames = sum(holdings.rows.values())
        log.info(f"{out}: {len(holdings.videos)} videos, {frames} frames from {len(files)} files")
