"""Which images there are to train on: frames of named videos, or any tree of image files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from abaw_feats.reading.frames import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    VideoSource,
    decode_video,
    frame_files,
    list_videos,
)
from abaw_seq.errors import UserError


@dataclass(frozen=True)
class ImageIndex:
    """A numbered list of images.

    `sources` are folders or video files; image k belongs to source `source[k]`, has the frame number
    `number[k]` there and, in a folder, the file name `names[k]` ("" in a video file).
    """

    sources: tuple[VideoSource, ...]
    source: np.ndarray
    number: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def path(self, row: int) -> Path:
        """The image file of a row, or the video file that holds it."""
        return self.sources[self.source[row]].path / self.names[row]

    def select(self, rows: np.ndarray) -> ImageIndex:
        """The same sources with some of the rows."""
        names = tuple(self.names[row] for row in rows)
        return ImageIndex(self.sources, self.source[rows], self.number[rows], names)

    @property
    def video_files(self) -> dict[int, Path]:
        """Video files by source number."""
        return {k: source.path for k, source in enumerate(self.sources) if source.is_file}

    @property
    def sha256(self) -> str:
        """Identifies the list: source names, frame numbers and file names, without the folders' places."""
        digest = hashlib.sha256()
        for source in self.sources:
            digest.update(source.name.encode() + b"\0")
        digest.update(self.source.astype("<i4").tobytes() + self.number.astype("<i4").tobytes())
        digest.update("\0".join(self.names).encode())
        return digest.hexdigest()


def index_videos(paths: Sequence[str | Path]) -> ImageIndex:
    """The frames of the videos at `paths` (see `list_videos`), by video and frame number."""
    sources, numbers, names = [], [], []
    for video in list_videos(paths):
        if video.is_file:
            count = video.frame_count or sum(1 for _ in decode_video(video.path))
            found, files = np.arange(1, count + 1, dtype=np.int32), [""] * count
        else:
            try:
                found, files = frame_files(video.path)
            except ValueError as error:
                raise UserError(f"{video.path}: {error}") from None
        sources.append(video)
        numbers.append(found)
        names.extend(files)
    return _joined(sources, numbers, names)


def index_images(paths: Sequence[str | Path]) -> ImageIndex:
    """Every image and video file in the folder trees at `paths`, whatever the files are called.

    A path may also be a video file or a text file of paths, as for `list_videos`. Raises UserError if
    there is nothing.
    """
    sources, numbers, names = [], [], []
    for path in (Path(path).expanduser() for path in paths):
        if not path.is_dir():
            part = index_videos([path])
            sources += part.sources
            numbers += [part.number[part.source == k] for k in range(len(part.sources))]
            names += part.names
            continue
        for folder, images, videos in _walk(path):
            if images:
                sources.append(VideoSource(os.path.relpath(folder, path), folder, False, len(images)))
                numbers.append(np.arange(1, len(images) + 1, dtype=np.int32))
                names += images
            if videos:
                part = index_videos(videos)
                sources += part.sources
                numbers += [part.number[part.source == k] for k in range(len(part.sources))]
                names += part.names
    if not names:
        named = ", ".join(str(path) for path in paths) or "no path given"
        raise UserError(f"{named}: no images found in it ({' '.join(IMAGE_SUFFIXES)} or video files)")
    return _joined(sources, numbers, names)


def join_indexes(indexes: Iterable[ImageIndex]) -> ImageIndex:
    """Several lists as one, in their order."""
    sources: list[VideoSource] = []
    parts = []
    names: list[str] = []
    for index in indexes:
        parts.append((index.source + len(sources), index.number))
        sources += index.sources
        names += index.names
    source, number = (np.concatenate(column).astype(np.int32) for column in zip(*parts, strict=True))
    return ImageIndex(tuple(sources), source, number, tuple(names))


def _joined(sources: list[VideoSource], numbers: list[np.ndarray], names: list[str]) -> ImageIndex:
    counts = [len(number) for number in numbers]
    source = np.repeat(np.arange(len(sources), dtype=np.int32), counts)
    return ImageIndex(tuple(sources), source, np.concatenate(numbers).astype(np.int32), tuple(names))


def _walk(root: Path) -> Iterable[tuple[Path, list[str], list[Path]]]:
    """(folder, image file names, video files) of a tree, in the order of names."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        seen = sorted(name for name in files if not name.startswith("."))
        images = [name for name in seen if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
        videos = [Path(folder, name) for name in seen if os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES]
        yield Path(folder), images, videos
