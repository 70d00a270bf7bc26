"""Numbered lists of the images to train on: frames of named videos, or any tree of image files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from abaw_feats.reading.frames import VideoSource, list_videos, video_files
from abaw_feats.reading.video_file import BrokenOff, decode_video
from abaw_seq.data.folder import log_passed_over, walk
from abaw_seq.data.frame_names import IMAGE_SUFFIXES, frame_files, image_names
from abaw_seq.errors import UserError


@dataclass(frozen=True)
class ImageIndex:
    """A numbered list of images; the number of an image is called its row."""

    sources: tuple[VideoSource, ...]
    """The folders and video files that the images are in."""
    source: np.ndarray
    """int32 (rows,): the place in `sources` of each image's folder or video file."""
    number: np.ndarray
    """int32 (rows,): frame numbers."""
    names: tuple[str, ...]
    """File names within the folder; "" for frames of video files."""

    def __len__(self) -> int:
        return len(self.names)

    def path(self, row: int) -> Path:
        """The image file of a row, or the video file that the frame is in."""
        return self.sources[self.source[row]].path / self.names[row]

    def select(self, rows: np.ndarray) -> ImageIndex:
        """The index of some of the rows, with the same sources."""
        names = tuple(self.names[row] for row in rows)
        return ImageIndex(self.sources, self.source[rows], self.number[rows], names)

    @property
    def sha256(self) -> str:
        """A hash of source names, frame numbers and file names; it does not depend on where the folders are."""
        digest = hashlib.sha256()
        for source in self.sources:
            digest.update(source.name.encode() + b"\0")
        digest.update(self.source.astype("<i4").tobytes() + self.number.astype("<i4").tobytes())
        digest.update("\0".join(self.names).encode())
        return digest.hexdigest()


def index_videos(paths: Sequence[str | Path]) -> ImageIndex:
    """The frames of the videos at `paths` (see `list_videos`), by video and frame number."""
    return join_indexes([_index_video(video) for video in list_videos(paths)])


def index_images(paths: Sequence[str | Path]) -> ImageIndex:
    """Every image and video file in the folder trees at `paths`, whatever the files are called.

    A path may also be a video file or a text file of paths, as for `list_videos`. Raises UserError if
    there is no image.
    """
    parts = []
    passed_over: list[Path] = []
    for path in (Path(path).expanduser() for path in paths):
        if not path.is_dir():
            parts.append(index_videos([path]))
            continue
        for folder in walk(path):
            images, videos = image_names(folder), video_files(folder)
            others = sorted({*folder.files, *folder.dangling} - {*images, *videos})
            passed_over += [folder.path / name for name in others]
            if images:
                source = VideoSource(os.path.relpath(folder.path, path), folder.path, False, len(images))
                parts.append(_of_one_source(source, np.arange(1, len(images) + 1), images))
            if videos:
                parts.append(index_videos([folder.path / name for name in videos]))
    log_passed_over(passed_over, "images or videos")
    if not parts:
        named = ", ".join(str(path) for path in paths) or "no path given"
        raise UserError(f"{named}: no images there ({' '.join(IMAGE_SUFFIXES)} or video files)")
    return join_indexes(parts)


def join_indexes(indexes: Iterable[ImageIndex]) -> ImageIndex:
    """Several indexes as one, in the order given."""
    sources: list[VideoSource] = []
    parts = []
    names: list[str] = []
    for index in indexes:
        parts.append((index.source + len(sources), index.number))
        sources += index.sources
        names += index.names
    source, number = (np.concatenate(column).astype(np.int32) for column in zip(*parts, strict=True))
    return ImageIndex(tuple(sources), source, number, tuple(names))


def _index_video(video: VideoSource) -> ImageIndex:
    try:
        if not video.is_file:
            return _of_one_source(video, *frame_files(video.path))
        count = video.frame_count or _count_frames(video.path)
    except (ValueError, OSError) as error:
        raise UserError(f"{video.path}: {error}") from None
    return _of_one_source(video, np.arange(1, count + 1), [""] * count)


def _count_frames(path: Path) -> int:
    count = 0
    with suppress(BrokenOff):  # what comes before the break can be trained on
        for _ in decode_video(path):
            count += 1
    return count


def _of_one_source(source: VideoSource, numbers: np.ndarray, names: Sequence[str]) -> ImageIndex:
    return ImageIndex((source,), np.zeros(len(names), np.int32), numbers.astype(np.int32), tuple(names))
