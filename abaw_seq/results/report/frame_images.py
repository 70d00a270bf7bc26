"""Where the images of the frames are that the report's page shows."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from abaw_seq.data.folder import a_few, list_folder, video_name
from abaw_seq.data.frame_names import frame_files

log = logging.getLogger(__name__)


def image_names(root: Path, videos: Iterable[str]) -> dict[str, dict[str, Any]]:
    """{video: its folder below `root`, and how its images are called}, for the videos that have images there.

    A video's folder is in `root` or one level deeper. The image of frame n is prefix + n, filled with zeros to `width`
    digits, + suffix, but for the `others`, {frame number: file name}. Logs which videos have no images.
    """
    folders: dict[str, str] = {}
    listing = list_folder(root)
    for name in listing.folders:
        folders.setdefault(video_name(name), name)
    for outer in listing.folders:
        for name in list_folder(root / outer).folders:
            folders.setdefault(video_name(name), f"{outer}/{name}")
    videos = sorted(set(videos))
    named = {video: pattern for video in videos if (pattern := _pattern(root, folders.get(video_name(video))))}
    if without := [video for video in videos if video not in named]:
        log.warning(
            f"{root}: no images, or none that can be told apart by number, of {len(without)} of {len(videos)} videos, "
            f"which are shown without: {a_few(without)}"
        )
    return named


def _pattern(root: Path, folder: str | None) -> dict[str, Any] | None:
    """How the images of one video are called; None if it has none that are numbered."""
    if folder is None:
        return None
    try:
        numbers, names = frame_files(root / folder)
    except ValueError:
        return None
    images = dict(zip(numbers.tolist(), names, strict=True))
    patterns: list[tuple[int, int, dict[str, Any]]] = []
    for digits in re.finditer(r"\d+", names[0] if names else ""):
        if int(digits[0]) == numbers[0]:
            prefix, width, suffix = names[0][: digits.start()], len(digits[0]), names[0][digits.end() :]
            others = {n: name for n, name in images.items() if name != f"{prefix}{n:0{width}d}{suffix}"}
            pattern = {"folder": folder, "prefix": prefix, "width": width, "suffix": suffix, "others": others}
            patterns.append((len(others), len(patterns), pattern))
    return min(patterns)[-1] if patterns else None
