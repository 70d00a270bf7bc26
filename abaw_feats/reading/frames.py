"""Videos by name, from folders of numbered frames and from video files, and their frames."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from abaw_feats.reading.video_file import video_header
from abaw_seq.data.folder import Folder, has_suffix, list_folder, log_passed_over, on_disk, video_name, walk
from abaw_seq.data.frame_names import frame_number, image_names
from abaw_seq.errors import UserError

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = (
    ".mp4", ".avi", ".webm", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv",
    ".3gp", ".3g2", ".asf", ".f4v", ".flv", ".m2ts", ".mts", ".mxf", ".ogv", ".ts", ".vob",
)  # fmt: skip
FOLDERS_SEARCHED = 10_000
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

    Each path is a folder of video folders and video files (Aff-Wild2's `cropped_aligned`), a folder of several
    such folders, one folder of numbered frames, one video file, or a text file with one such path per line
    (relative to the text file; blank lines and lines that start with # are skipped). A video that several paths
    lead to is listed once. A folder without frames is listed with 0 frames. What is passed over is logged in one
    line, but for what `folder.is_dropping`.

    Raises UserError, naming the path at fault, if two videos have one name or a path has no video.
    """
    roots = [on_disk(Path(path).expanduser()) for path in paths]
    videos: dict[str, VideoSource] = {}
    passed_over: list[Path] = []
    for root in roots:
        for video in _videos_at(root, passed_over):
            known = videos.setdefault(video.name, video)
            if known.path != video.path and not known.path.samefile(video.path):
                both = f"{known.path} and {video.path}"
                raise UserError(f"two videos are called {video.name!r}: {both}; leave one out or rename it")
    if not any(video.is_file or video.frame_count for video in videos.values()):
        named = ", ".join(map(str, roots)) or "no path given"
        expected = "expected folders of 00001.jpg, 00002.jpg, ... or video files"
        raise UserError(f"{named}: no frames there; {_deeper_frames(roots) or expected}")
    log_passed_over(passed_over, "frames or videos")
    return list(videos.values())


def _videos_at(path: Path, passed_over: list[Path]) -> Iterator[VideoSource]:
    if path.is_dir():
        yield from _videos_in(list_folder(path), passed_over)
    elif not path.exists():
        raise UserError(f"{path}: no such file or folder")
    elif has_suffix(path.name, VIDEO_SUFFIXES):
        yield _video_file(path)
    else:
        for entry in _listed_paths(path):
            yield from _videos_in(list_folder(entry), passed_over) if entry.is_dir() else (_video_file(entry),)


def _videos_in(folder: Folder, passed_over: list[Path]) -> list[VideoSource]:
    """The videos of a folder of videos, or of folders of them; or the folder itself as a video of its frames."""
    images, files = image_names(folder), video_files(folder)
    numbered = [name for name in images if frame_number(name) >= 0]
    is_video = not set(folder.folders).issuperset(numbered)
    folders = [name for name in folder.folders if not is_video or name not in images]
    if is_video and (folders or files):
        other = min(folders + files)
        raise UserError(f"{folder.path}: has numbered frames and also {other}; name the videos in it one by one")
    if not folders and not files:
        return [_frames_of(folder, images, passed_over, frame_count=len(numbered))]
    videos, empty = [_video_file(folder.path / name) for name in files], []
    inner = 0
    for below in (list_folder(folder.path / name) for name in folders):
        if images := image_names(below):
            videos.append(_frames_of(below, images, passed_over))
        elif deeper := _videos_one_level_deeper(below, passed_over):
            videos += deeper
            inner += 1
        else:
            empty.append(_source(below.path, frame_count=0))
    if inner:
        log.info(f"{folder.path}: the videos in {inner} folders of it are read too")
        passed_over += [video.path for video in empty]
        empty = []
    passed_over += [folder.path / name for name in folder.files + folder.dangling if name not in files]
    return sorted(videos + empty, key=lambda video: (video.path.parent, video.path.name))


def _videos_one_level_deeper(folder: Folder, passed_over: list[Path]) -> list[VideoSource]:
    videos = [_video_file(folder.path / name) for name in video_files(folder)]
    for below in (list_folder(folder.path / name) for name in folder.folders):
        if images := image_names(below):
            videos.append(_frames_of(below, images, passed_over))
    return videos


def _frames_of(
    folder: Folder, images: list[str], passed_over: list[Path], *, frame_count: int | None = None
) -> VideoSource:
    if others := {*folder.folders, *folder.files}.difference(images):
        passed_over += [folder.path / name for name in sorted(others)]
    return _source(folder.path, frame_count=len(images) if frame_count is None else frame_count)


def video_files(folder: Folder) -> list[str]:
    """The video files of a folder, by name; links to nothing are among them, as videos that cannot be read."""
    return sorted(name for name in folder.files + folder.dangling if has_suffix(name, VIDEO_SUFFIXES))


def _deeper_frames(paths: list[Path]) -> str:
    """Which folder to name instead, if frames or videos are deeper than they are searched for."""
    folders = (below for path in paths if path.is_dir() for below in walk(path))
    for below in islice(folders, FOLDERS_SEARCHED):
        if any(frame_number(name) >= 0 for name in image_names(below)):
            return f"there are some in {below.path}: name {below.path.parent} instead"
        if video_files(below):
            return f"there are some in {below.path}: name it instead"
    return ""


def _video_file(path: Path) -> VideoSource:
    frame_count, fps = video_header(path)
    return _source(path, is_file=True, frame_count=frame_count, fps=fps)


def _source(path: Path, *, frame_count: int, is_file: bool = False, fps: float | None = None) -> VideoSource:
    path = Path(os.path.abspath(path))
    name = video_name(path.stem if is_file else path.name)
    if not name or not name.isprintable():
        raise UserError(f"{str(path)!r}: not usable as the name of a video; rename it")
    if fps is None and (in_name := _FPS_IN_NAME.match(name)):
        fps = float(in_name[1])
    return VideoSource(name, path, is_file, frame_count, fps)


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
        entry = on_disk(path.parent / Path(line).expanduser())
        if not entry.is_dir() and not (has_suffix(entry.name, VIDEO_SUFFIXES) and entry.exists()):
            raise UserError(f"{path}, line {number}: {line}: no such folder or video file")
        yield entry
