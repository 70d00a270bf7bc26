"""Videos by name, from folders of numbered frames and from video files, and their frames."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from abaw_seq.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
VIDEO_SUFFIXES = (".mp4", ".avi", ".webm", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv")
MAX_FRAME_NUMBER = 2**31 - 1
_TRAILING_DIGITS = re.compile(r"(\d+)$", re.ASCII)
# Aff-Wild2 writes the frame rate into some names: 122-60-1920x1080-1 has 60 frames per second.
_FPS_IN_NAME = re.compile(r"^\d+-(\d+)-\d+x\d+", re.ASCII)


@dataclass(frozen=True)
class VideoSource:
    """One video to read."""

    name: str
    """Its name in feature files: that of the folder, or of the video file without suffix."""
    path: Path
    """A folder of frames, or a video file."""
    is_file: bool
    """True for a video file."""
    frame_count: int
    """Number of image files, or of frames by the video file's header; 0 if the header does not say."""
    fps: float | None = None
    """Frames per second by the header or the name, if either says so."""


def list_videos(paths: Iterable[str | Path]) -> list[VideoSource]:
    """List the videos at `paths`, in the order given and by name within a folder.

    Each path is a folder of video folders and video files (Aff-Wild2's `cropped_aligned`), one folder of
    numbered frames, one video file, or a text file with one such path per line (relative to the text
    file; blank lines and lines that start with # are skipped). A video that several paths lead to is
    listed once. A folder without frames is listed with 0 frames.

    Raises UserError, naming the path at fault, if two videos have one name or a path has no video.
    """
    videos: dict[str, VideoSource] = {}
    for path in paths:
        for video in _videos_at(Path(path).expanduser()):
            known = videos.setdefault(video.name, video)
            if known.path != video.path and not known.path.samefile(video.path):
                both = f"{known.path} and {video.path}"
                raise UserError(f"two videos are called {video.name!r}: {both}; leave one out or rename it")
    if not any(video.is_file or video.frame_count for video in videos.values()):
        named = ", ".join(str(path) for path in paths) or "no path given"
        raise UserError(f"{named}: no frames there; expected folders of 00001.jpg, 00002.jpg, ... or video files")
    return list(videos.values())


def frame_files(folder: str | Path) -> tuple[np.ndarray, list[str]]:
    """The frames of one video folder: frame numbers int32 (frames,), rising, and their file names.

    A file's frame number is the number that its name ends in: 00012.jpg and frame_12.png are frame 12.
    Raises ValueError for an image without a number and for two images with the same number.
    """
    names = sorted(_image_names(folder))
    numbers = np.array([frame_number(name) for name in names], np.int64)
    if len(names) and numbers.min() < 0:
        unnumbered = names[int(numbers.argmin())]
        raise ValueError(f"{unnumbered} has no frame number at the end of its name (expected 00001.jpg)")
    order = np.argsort(numbers, kind="stable")
    numbers, names = numbers[order], [names[k] for k in order]
    if len(repeated := np.flatnonzero(np.diff(numbers) == 0)):
        first = int(repeated[0])
        raise ValueError(f"{names[first]} and {names[first + 1]} are both frame {numbers[first]}; remove one")
    return numbers.astype(np.int32), names


def frame_number(file_name: str) -> int:
    """The frame number that a file name ends in, or -1.

    >>> frame_number("00012.jpg"), frame_number("cover.jpg")
    (12, -1)
    """
    digits = _TRAILING_DIGITS.search(os.path.splitext(file_name)[0])
    number = int(digits[1]) if digits and len(digits[1]) < 20 else -1
    return number if number <= MAX_FRAME_NUMBER else -1


def decode_video(path: str | Path) -> Iterator[np.ndarray]:
    """Yield the frames of a video file in the order they are shown: uint8 (height, width, 3), RGB.

    Raises ValueError if decoding fails; it says after how many frames.
    """
    import av

    read = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError("it has no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                yield frame.to_ndarray(format="rgb24")
                read += 1
    except av.error.FFmpegError as error:
        raise ValueError(f"not decodable after {read} frames ({error.strerror})") from error


def _videos_at(path: Path) -> Iterator[VideoSource]:
    if path.is_dir():
        yield from _videos_in_folder(path)
    elif not path.exists():
        raise UserError(f"{path}: no such file or folder")
    elif path.suffix.lower() in VIDEO_SUFFIXES:
        yield _video_file(path)
    else:
        for entry in _listed_paths(path):
            yield from _videos_in_folder(entry) if entry.is_dir() else (_video_file(entry),)


def _videos_in_folder(folder: Path) -> Iterator[VideoSource]:
    folders, files, images = [], [], 0
    with os.scandir(folder) as entries:
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1].lower()
            if entry.name.startswith("."):
                continue
            if suffix in IMAGE_SUFFIXES and frame_number(entry.name) >= 0:
                images += 1
            elif suffix in VIDEO_SUFFIXES:
                files.append(Path(entry.path))
            elif entry.is_dir():
                folders.append(Path(entry.path))
    if images and (folders or files):
        other = min(folders + files).name
        raise UserError(f"{folder}: has numbered frames and also {other}; name the videos in it one by one")
    if not folders and not files:
        yield _source(folder, frame_count=images)
    for path in sorted(folders + files, key=lambda path: path.name):
        yield _video_file(path) if path in files else _source(path, frame_count=len(_image_names(path)))


def _video_file(path: Path) -> VideoSource:
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            fps = float(stream.average_rate) if stream.average_rate else None
            seconds = (container.duration or 0) / av.time_base
            frames = stream.frames or round(seconds * (fps or 0))
    except (av.error.FFmpegError, IndexError):
        frames, fps = 0, None  # listed nevertheless: whoever reads the file reports the error
    return _source(path, is_file=True, frame_count=frames, fps=fps)


def _source(path: Path, *, frame_count: int, is_file: bool = False, fps: float | None = None) -> VideoSource:
    path = Path(os.path.abspath(path))
    name = path.stem if is_file else path.name
    if not name or not name.isprintable():
        raise UserError(f"{str(path)!r}: not usable as the name of a video; rename it")
    if fps is None and (in_name := _FPS_IN_NAME.match(name)):
        fps = float(in_name[1])
    return VideoSource(name, path, is_file, frame_count, fps)


def _image_names(folder: str | Path) -> list[str]:
    visible = (name for name in os.listdir(folder) if not name.startswith("."))
    return [name for name in visible if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]


def _listed_paths(path: Path) -> Iterator[Path]:
    with open(path, "rb") as file:
        binary = b"\0" in file.read(4096)
    try:
        text = "" if binary else path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        binary = True
    if binary:
        kinds = " ".join(VIDEO_SUFFIXES)
        raise UserError(f"{path}: not a folder, a video file ({kinds}) or a text file of paths")
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        entry = path.parent / Path(line).expanduser()
        if not entry.is_dir() and not (entry.suffix.lower() in VIDEO_SUFFIXES and entry.exists()):
            raise UserError(f"{path}, line {number}: {line}: no such folder or video file")
        yield entry
