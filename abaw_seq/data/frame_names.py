"""What the names of image files say: which files are frames, and which frame each of them is."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from abaw_seq.data.folder import Folder, has_suffix, list_folder

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff")
MAX_FRAME_NUMBER = 2**31 - 1
MOST_DIGITS = 18  # of a number that fits 64 bits
_TRAILING_DIGITS = re.compile(r"(\d+)$", re.ASCII)
_DIGITS = re.compile(r"(\d+)", re.ASCII)
_FACE = re.compile(r"(?<![a-z])(face|person|people|subject|track|id)[-_. ]*$", re.IGNORECASE)


def image_names(folder: Folder) -> list[str]:
    """The images of a folder, sorted by name.

    Beside images, links to nothing and folders with the name of an image are among them: frames that cannot be read.
    """
    images = [name for name in folder.files + folder.dangling if has_suffix(name, IMAGE_SUFFIXES)]
    return sorted(images + [name for name in folder.folders if images and has_suffix(name, IMAGE_SUFFIXES)])


def frame_number(file_name: str) -> int:
    """The frame number that a file name ends in, or -1.

    >>> frame_number("00012.jpg"), frame_number("cover.jpg")
    (12, -1)
    """
    digits = _TRAILING_DIGITS.search(_stem(file_name))
    number = int(digits[1]) if digits and len(digits[1]) < 20 else -1
    return number if number <= MAX_FRAME_NUMBER else -1


def _stem(file_name: str) -> str:
    """A name without its suffix; in frame.12 there is none."""
    stem, suffix = os.path.splitext(file_name)
    return file_name if suffix[1:].isdecimal() and not stem[-1:].isdecimal() else stem


def frame_numbers(file_names: Sequence[str]) -> np.ndarray:
    """The frame numbers int64 (names,) of the files of one video, -1 where a name does not end in a number.

    It is the last number of a name. Where the names have several, that of a face may stand last: an earlier number is
    taken if it rises from name to name and the last one does not, or is said to be that of a face.

    >>> frame_numbers(["00001_face3.jpg", "00002_face0.jpg"])
    array([1, 2])
    """
    last = np.array([frame_number(name) for name in file_names], np.int64)
    parts = [_DIGITS.split(_stem(name)) for name in file_names]
    texts = parts[0][::2] if parts else []
    if len(texts) < 3 or texts[-1] or any(part[::2] != texts for part in parts):
        return last
    if any(len(digits) > MOST_DIGITS for part in parts for digits in part[1::2]):
        return last
    table = np.array([part[1::2] for part in parts]).astype(np.int64)
    steps = np.diff(table[np.lexsort(table.T[::-1])], axis=0)
    rising = np.logical_and((steps > 0).all(axis=0), (table <= MAX_FRAME_NUMBER).all(axis=0))
    earlier = np.flatnonzero(rising[:-1])
    if not len(earlier) or (rising[-1] and not _FACE.search(texts[-2])):
        return last
    _say_which_number("#".join(texts), int(earlier[-1]) + 1)
    return table[:, earlier[-1]]


@functools.cache
def _say_which_number(pattern: str, place: int) -> None:
    log.info(
        f"image names like {pattern}: number {place} is taken for that of the frame, the last for that of the face"
    )


def frame_files(folder: str | Path) -> tuple[np.ndarray, list[str]]:
    """The frames of one video folder: frame numbers int32 (frames,), rising, and their file names.

    `frame_numbers` says which number of a name is the frame's: 00012.jpg and frame_12.png are frame 12.
    Raises ValueError for an image without a number and for two images with the same number.
    """
    names = image_names(list_folder(folder))
    numbers = frame_numbers(names)
    if len(names) and numbers.min() < 0:
        unnumbered = names[int(numbers.argmin())]
        raise ValueError(f"{unnumbered} has no frame number at the end of its name (expected 00001.jpg)")
    order = np.argsort(numbers, kind="stable")
    numbers, names = numbers[order], [names[k] for k in order]
    if len(repeated := np.flatnonzero(np.diff(numbers) == 0)):
        first, second = names[int(repeated[0]) : int(repeated[0]) + 2]
        several = all(len(_DIGITS.findall(_stem(name))) > 1 for name in (first, second))
        if several:
            advice = "if it tells the face, give each face a folder of its own"
            raise ValueError(f"{first} and {second} end in the same number; {advice}")
        raise ValueError(f"{first} and {second} are both frame {numbers[repeated[0]]}; remove one")
    return numbers.astype(np.int32), names
