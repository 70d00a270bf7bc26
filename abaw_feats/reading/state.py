"""What tells whether a video has changed since it was read."""

from __future__ import annotations

import hashlib
import os
import stat
import zlib
from collections.abc import Sequence

import numpy as np

from abaw_feats.reading.frames import VideoSource
from abaw_seq.data.frame_names import frame_files

FileState = tuple[int, int, int]
"""(bytes, nanoseconds of the last change, checksum) of a file; -1 for each that cannot be known."""


def state_of(status: os.stat_result | None, data: bytes | None = None) -> FileState:
    """The state of an image file by its status and its bytes, as far as they could be read."""
    checksum = -1 if data is None else zlib.crc32(data)
    if status is None or not stat.S_ISREG(status.st_mode):
        return -1, -1, checksum
    return status.st_size, status.st_mtime_ns, checksum


def state_of_video_file(path: str | os.PathLike) -> FileState:
    """The state of a video file, which is read for it. Raises OSError."""
    with open(path, "rb") as file:
        size, changed, _ = state_of(os.fstat(file.fileno()))
        return size, changed, int.from_bytes(hashlib.file_digest(file, "sha256").digest()[:7])


def stamp_and_content(numbers: Sequence[int] | np.ndarray, states: Sequence[FileState]) -> tuple[str, str]:
    """Two digests of a video's files: of their sizes and times of change, and of their sizes and bytes.

    numbers: the frame number of each image; none for a video file.
    """
    table = np.array(states, "<i8").reshape(-1, 3)
    frames = np.asarray(numbers, "<i8").tobytes()
    digests = (hashlib.sha256(frames + table[:, columns].tobytes()) for columns in ((0, 1), (0, 2)))
    stamp, content = (digest.hexdigest()[:32] for digest in digests)
    return stamp, content


def stamp_now(video: VideoSource) -> str:
    """The stamp of a video as its files are now; they are not opened.

    Raises OSError or ValueError if it cannot be listed.
    """
    if video.is_file:
        return stamp_and_content([], [state_of(os.stat(video.path))])[0]
    numbers, names = frame_files(video.path)
    return stamp_and_content(numbers, [state_of(_status(f"{video.path}{os.sep}{name}")) for name in names])[0]


def content_now(video: VideoSource) -> str:
    """The digest of a video's bytes, all of which are read; it is the same wherever they are, and whenever copied.

    Raises OSError or ValueError if the video cannot be listed, or, a video file, not be read.
    """
    if video.is_file:
        return stamp_and_content([], [state_of_video_file(video.path)])[1]
    numbers, names = frame_files(video.path)
    return stamp_and_content(numbers, [_state_of_image(f"{video.path}{os.sep}{name}") for name in names])[1]


def _state_of_image(path: str) -> FileState:
    try:
        with open(path, "rb") as file:
            return state_of(os.fstat(file.fileno()), file.read())
    except OSError:
        return state_of(None)


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None
