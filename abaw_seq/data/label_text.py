"""Lines of comma-separated numbers, as label and submission files hold them, to arrays.

Usual lines are parsed by array operations, a character of a whole column at a time; anything else, and
every fault, is read line by line by Python's own `float`, so that speed never changes a value. A CSV
library would replace only the first of the two ways: pandas and numpy's loadtxt are slower at it, and
pyarrow and polars, faster on one big file and no faster on folders of small ones, take 170 MB on disk
(figures in BENCHMARKS.md).
"""

from __future__ import annotations

import codecs
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from abaw_seq.data.folder import video_name
from abaw_seq.errors import UserError

BLOCK_BYTES = 1 << 20
MOST_NAME_BYTES = 255
# 10**15 < 2**53: mantissa and power of ten are exact, so their quotient is the nearest float.
MOST_DIGITS = 15
PADDING = b"\0" * (MOST_DIGITS + 1)
SUFFIX = np.frombuffer(b".jpg", np.uint8)
NEWLINE, COMMA, SLASH, POINT, MINUS, ZERO = b"\n,/.-0"


@dataclass(frozen=True)
class Block:
    """Consecutive lines of a file that are not blank."""

    line_numbers: np.ndarray
    """int64 (lines,), from 1"""
    values: np.ndarray
    """float64 (lines, numbers)"""
    codes: np.ndarray
    """int32 (lines,): the number of each line's video among the names; 0 without image paths"""
    frames: np.ndarray
    """int32 (lines,): the frame number of each line; 0 without image paths"""
    trailing_commas: int = 0
    """how many lines end with a comma"""
    blank_lines: int = 0
    """how many blank lines were skipped"""


def first_filled_line(path: Path, *, after: int = 0) -> tuple[int, str]:
    """(line number from 1, text) of the first line after line `after` that is not blank, or (0, "")."""
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if number > after and (text := line.strip()):
                return number, text.decode("utf-8", "replace")
    return 0, ""


def line_error(path: Path, number: int, reason: str) -> UserError:
    """The one-line error about line `number` (from 1) of a file."""
    with _open(path) as file:
        text = next(islice(file, number - 1, None), b"").strip().decode("utf-8", "replace")
    shown = text if len(text) <= 120 else text[:117] + "..."
    return UserError(f"{path}, line {number}: {reason}; correct or remove the line {shown!r}")


def read_blocks(path: Path, *, first_line: int, numbers: int, names: dict[str, int] | None = None) -> Iterator[Block]:
    """Parse every line of a file from `first_line` (from 1) on.

    A line is an image path `<video>/<frame>.jpg` when `names` is given, then `numbers` numbers; where
    these are 0, anything may follow the path. `names` numbers the videos in the order in which they are
    first met; new ones are added. Blank lines, and commas and blanks at the end of a line, are skipped;
    blank lines and lines with such commas are counted.

    Raises UserError with file, line number and text at the first line that is something else, after
    the lines before it were yielded.
    """
    parser = _Parser(numbers, names)
    with _open(path) as file:
        for _ in range(first_line - 1):
            file.readline()
        number = first_line
        while text := file.read(BLOCK_BYTES) + file.readline():
            text = text.removesuffix(b"\n")
            fault = None
            if (block := parser.at_once(text, number)) is None:
                block, fault = parser.line_by_line(text, number)
            yield block
            if fault:
                raise line_error(path, *fault)
            number += text.count(b"\n") + 1


def _open(path: Path) -> BinaryIO:
    """A file, read from behind the byte order mark that some editors put in front."""
    file = path.open("rb")
    if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
        file.seek(0)
    return file


class _Parser:
    """Reads lines of an image path, if there are `names`, and `numbers` numbers."""

    def __init__(self, numbers: int, names: dict[str, int] | None):
        self._numbers, self._image = numbers, names is not None
        self._code = functools.cache(lambda folder: _video_code(folder, {} if names is None else names))

    def at_once(self, text: bytes, first_line: int) -> Block | None:
        """All lines by array operations; None if a line is not as usual: blank, faulty, with a comma at its end."""
        text = text.replace(b"\r\n", b"\n") + b"\n" + PADDING
        buffer = np.frombuffer(text, np.uint8)
        lines, fields = text.count(b"\n"), self._numbers + self._image
        ends = np.flatnonzero((buffer == COMMA) | (buffer == NEWLINE))
        if len(ends) != lines * fields or (buffer[ends[fields - 1 :: fields]] != NEWLINE).any():
            return None
        starts = np.append(0, ends[:-1] + 1).reshape(lines, fields).T.copy()
        ends = ends.reshape(lines, fields).T.copy()
        codes = frames = np.zeros(lines, np.int32)
        if self._image:
            slash = np.flatnonzero(buffer == SLASH)
            point = ends[0] - len(SUFFIX)
            usual = buffer[point[:, None] + np.arange(len(SUFFIX))] == SUFFIX
            if len(slash) != lines or (slash < starts[0]).any() or (slash > point).any() or not usual.all():
                return None
            folders = [text[a:b] for a, b in zip(starts[0].tolist(), slash.tolist(), strict=True)]
            codes = np.fromiter(map(self._code, folders), np.int32, lines)
            frames = _number_column(text, buffer, slash + 1, point)
            if codes.min() < 0 or not _is_frame_number(frames).all():
                return None
        values = np.empty((lines, self._numbers))
        for k in range(self._numbers):
            values[:, k] = _number_column(text, buffer, starts[k + self._image], ends[k + self._image])
        if not np.isfinite(values).all():
            return None
        return Block(np.arange(first_line, first_line + lines), values, codes, frames.astype(np.int32))

    def line_by_line(self, text: bytes, first_line: int) -> tuple[Block, tuple[int, str] | None]:
        """The lines before the first faulty one, and that one's (line number, reason)."""
        rows, fault = [], None
        commas = blank = 0
        for number, line in enumerate(text.split(b"\n"), first_line):
            kept = line.rstrip(b" \t\r,")
            commas += b"," in line[len(kept) :]
            blank += not kept
            row = self._line(kept) if kept else []
            if isinstance(row, str):
                fault = number, row
                break
            if row:
                rows.append([number, *row])
        table = np.array(rows, np.float64).reshape(len(rows), 3 + self._numbers)
        line_numbers, codes, frames = (table[:, k].astype(dtype) for k, dtype in enumerate((np.int64, *[np.int32] * 2)))
        return Block(line_numbers, table[:, 3:], codes, frames, commas, blank), fault

    def _line(self, line: bytes) -> list[float] | str:
        """[code, frame number, *numbers] of one line, or the reason why it is faulty."""
        fields = line.split(b",")
        expected = self._numbers + self._image
        if len(fields) != expected and self._numbers:
            return f"{expected} {'field' if expected == 1 else 'fields'} expected, not {len(fields)}"
        code = frame = 0
        if self._image:
            folder, _, file = fields[0].rpartition(b"/")
            stem, point, _ = file.rpartition(b".")
            code, frame = self._code(folder), _number(stem if point else file)
            if code < 0 or not _is_frame_number(frame):
                return "no image path like 426/00001.jpg"
        values = [_number(field) for field in fields[self._image : expected]]
        wrong = [k for k, value in enumerate(values, 1 + self._image) if not math.isfinite(value)]
        return f"field {wrong[0]} is not a number" if wrong else [code, frame, *values]


def _number_column(text: bytes, buffer: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """float64 (fields,) of the texts [start, end), a character of all at a time; NaN for what is not a number."""
    negative = buffer[starts] == MINUS
    at = starts + negative
    widths = ends - at
    mantissa = np.zeros(len(starts), np.int64)
    decimals = np.zeros(len(starts), np.int8)
    point = np.zeros(len(starts), bool)
    odd = (widths < 1) | (widths > MOST_DIGITS + 1)
    for k in range(min(int(widths.max(initial=0)), MOST_DIGITS + 1)):
        inside = widths > k
        byte = buffer[at + k]
        digit = byte - np.uint8(ZERO)  # wraps around below "0"
        is_digit = inside & (digit < 10)
        is_point = inside & (byte == POINT) & ~point
        odd |= inside & ~is_digit & ~is_point
        mantissa = np.where(is_digit, mantissa * 10 + digit, mantissa)
        decimals += is_digit & point
        point |= is_point
    odd |= (widths == point) | (widths - point > MOST_DIGITS)
    values = mantissa / 10.0**decimals
    np.negative(values, out=values, where=negative)
    for row in np.flatnonzero(odd):
        values[row] = _number(text[starts[row] : ends[row]])
    return values


def _number(field: bytes) -> float:
    """One number as Python reads it; NaN for what is not a number."""
    try:
        return float(field) if b"_" not in field else math.nan
    except ValueError:
        return math.nan


def _video_code(folder: bytes, names: dict[str, int]) -> int:
    """Which of the names is the last folder of an image's path; -1 if it cannot be the name of a video."""
    name = folder.lstrip().rpartition(b"/")[2]
    try:
        text = video_name(name.decode("utf-8"))
    except UnicodeDecodeError:
        return -1
    if text in ("", ".", "..") or "\\" in text or not text.isprintable() or len(name) > MOST_NAME_BYTES:
        return -1
    return names.setdefault(text, len(names))


def _is_frame_number(number: Any) -> Any:
    return (number >= 0) & (number < 2**31) & (number == np.floor(number))
