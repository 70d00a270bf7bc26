"""Columns of text fields to numbers, video names and frame numbers, one array operation per character.

The fields of a column are given as positions in a buffer of bytes that is padded by `PADDING`.
What the array operations do not understand (a space before a number, an exponent, sixteen digits)
is read field by field with Python's own `float`, so speed never changes a value.
"""

from __future__ import annotations

import numpy as np

# 10**15 < 2**53: mantissa and power of ten are exact, so their quotient is the nearest float.
MOST_DIGITS = 15
MOST_NAME_BYTES = 255
PADDING = b"\0" * (MOST_DIGITS + 4)
SLASH, POINT, MINUS, ZERO = (ord(mark) for mark in "/.-0")


class ImageNames:
    """Numbers for video names, in the order in which they are first met."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._codes: dict[bytes, int] = {}

    def code(self, name: bytes) -> int:
        """The number of one video name; ValueError for what cannot be one."""
        known = self._codes.get(name)
        if known is None:
            text = name.decode("utf-8")
            if text in ("", ".", "..") or "\\" in text or not text.isprintable():
                raise ValueError(f"{text!r} is no name of a video")
            known = self._codes[name] = len(self.names)
            self.names.append(text)
        return known


def number_column(
    text: bytes, buffer: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(values float64, which are no number) of the fields [start, end) of one column."""
    negative = buffer[starts] == MINUS
    at = starts + negative
    widths = ends - at
    mantissa = np.zeros(len(starts), np.int64)
    decimals = np.zeros(len(starts), np.int8)
    point = np.zeros(len(starts), bool)
    slow = (widths < 1) | (widths > MOST_DIGITS + 1)
    for k in range(min(int(widths.max(initial=0)), MOST_DIGITS + 1)):
        inside = widths > k
        byte = buffer[at + k]
        digit = byte - np.uint8(ZERO)  # wraps around below "0"
        is_digit = inside & (digit < 10)
        is_point = inside & (byte == POINT) & ~point
        slow |= inside & ~is_digit & ~is_point
        mantissa = np.where(is_digit, mantissa * 10 + digit, mantissa)
        decimals += is_digit & point
        point |= is_point
    slow |= widths == point  # a point alone
    slow |= widths - point > MOST_DIGITS
    values = mantissa / 10.0**decimals
    np.negative(values, out=values, where=negative)
    for row in np.flatnonzero(slow):
        values[row] = _number(text[starts[row] : ends[row]])
    return values, ~np.isfinite(values)


def _number(field: bytes) -> float:
    """One number as Python reads it; NaN for what is none."""
    try:
        return float(field) if b"_" not in field else np.nan
    except ValueError:
        return np.nan


def image_column(
    text: bytes, buffer: np.ndarray, starts: np.ndarray, ends: np.ndarray, images: ImageNames
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(video codes, frame numbers, which are no image path) of the fields [start, end).

    The video is the last folder of a path, so that `cropped_aligned/426/00001.jpg` will do.
    """
    slash = _last_before(np.flatnonzero(buffer == SLASH), starts, ends)
    wrong = slash < 0
    slash = np.where(wrong, starts, slash)
    folder = np.maximum(_last_before(np.flatnonzero(buffer == SLASH), starts, slash) + 1, starts)
    point = _last_before(np.flatnonzero(buffer == POINT), slash, ends)
    frames, no_number = number_column(text, buffer, slash + 1, np.where(point < 0, ends, point))
    wrong |= no_number | (frames < 0) | (frames != np.floor(frames)) | (frames > np.iinfo(np.int32).max)
    wrong |= (slash <= folder) | (slash - folder > MOST_NAME_BYTES)

    rows = np.flatnonzero(~wrong)
    codes = np.zeros(len(starts), np.int32)
    begins = _run_starts(buffer, folder[rows], slash[rows])
    run_codes = np.zeros(len(begins), np.int32)
    for run, row in enumerate(rows[begins]):
        try:
            run_codes[run] = images.code(text[folder[row] : slash[row]])
        except ValueError:
            run_codes[run] = -1
    codes[rows] = np.repeat(run_codes, np.diff(begins, append=len(rows)))
    return codes, np.where(wrong, 0, frames).astype(np.int32), wrong | (codes < 0)


def _last_before(marks: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The last of the rising positions `marks` in each [start, end), -1 where there is none."""
    if not len(marks):
        return np.full(len(starts), -1)
    last = marks[np.maximum(np.searchsorted(marks, ends) - 1, 0)]
    return np.where((last >= starts) & (last < ends), last, -1)


def _run_starts(buffer: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Indices of the texts [start, end) that differ from the one before them."""
    if not len(starts):
        return np.zeros(0, np.int64)
    widths = ends - starts
    differs = np.concatenate([[True], widths[1:] != widths[:-1]])
    for k in range(int(widths.max())):
        byte = np.where(widths > k, buffer[np.minimum(starts + k, len(buffer) - 1)], 0)
        differs[1:] |= byte[1:] != byte[:-1]
    return np.flatnonzero(differs)
