"""Lines of comma-separated numbers, as label and submission files hold them, to arrays.

A file is parsed in blocks, one column at a time. The first line that cannot be read ends the
reading with an error that names it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from abaw_seq.data.text_columns import PADDING, ImageNames, image_column, number_column
from abaw_seq.errors import UserError

BLOCK_BYTES = 4 << 20
NEWLINE, COMMA = ord("\n"), ord(",")
_TRAILING = np.isin(np.arange(256), [ord(mark) for mark in " \t\r,"])
_LEADING = np.isin(np.arange(256), [ord(mark) for mark in " \t\r"])


@dataclass(frozen=True)
class Block:
    """Consecutive lines of a file that are not blank.

    `line_numbers` int64 (L,), from 1; `values` float64 (L, F); `codes` int32 (L,) the video of
    each line, as an index into `ImageNames.names`, and `frames` int32 (L,) its frame number: both
    None when lines do not start with an image path.
    """

    line_numbers: np.ndarray
    values: np.ndarray
    codes: np.ndarray | None
    frames: np.ndarray | None
    trailing_commas: int
    blank_lines: int


@dataclass
class Lines:
    """The text of one file: its lines by number, and the error that names one of them."""

    path: Path
    data: bytes

    @classmethod
    def of(cls, path: Path) -> Lines:
        """Read a file; a byte order mark in front is left out."""
        return cls(path, path.read_bytes().removeprefix(b"\xef\xbb\xbf"))

    def first_filled(self, after: int = 0) -> tuple[int, str]:
        """(line number from 1, text) of the first line behind line `after` that is not blank, or (0, "")."""
        at = self.start(after + 1)
        number = after
        while at < len(self.data):
            number += 1
            end = self._end(at)
            line = self.data[at:end]
            if line.strip():
                return number, line.decode("utf-8", "replace").strip()
            at = end + 1
        return 0, ""

    def text(self, number: int) -> str:
        """Line `number` (from 1)."""
        at = self.start(number)
        return self.data[at : self._end(at)].decode("utf-8", "replace").strip()

    def fail(self, number: int, reason: str) -> NoReturn:
        """Raise the one-line error about line `number`."""
        text = self.text(number)
        shown = text if len(text) <= 120 else text[:117] + "..."
        raise UserError(f"{self.path}, line {number}: {reason}; correct or remove the line {shown!r}")

    def start(self, number: int) -> int:
        """Where line `number` (from 1) starts; the end of the text when there are fewer lines."""
        at = 0
        for _ in range(number - 1):
            at = self.data.find(b"\n", at) + 1 or len(self.data)
        return at

    def _end(self, at: int) -> int:
        end = self.data.find(b"\n", at)
        return len(self.data) if end < 0 else end


def read_blocks(
    lines: Lines, *, first_line: int, numbers: int, images: ImageNames | None, rest: bool = False
) -> Iterator[Block]:
    """Parse every line from `first_line` (from 1) on.

    A line is an image path `<video>/<frame>.jpg` when `images` is given (its video is numbered
    there), then `numbers` numbers, then, with `rest`, anything. Commas and blanks at the end of a
    line are left out, blank lines are passed over; both are counted.

    Raises UserError with file, line number and text at the first line that is something else,
    after the lines before it were yielded.
    """
    at = lines.start(first_line)
    number = first_line
    while at < len(lines.data):
        end = _block_end(lines.data, at)
        text = lines.data[at:end]
        block, fault = _parse_block(text, number, numbers, images, rest)
        yield block
        if fault:
            lines.fail(*fault)
        number += text.count(b"\n")
        at = end


def _block_end(data: bytes, at: int) -> int:
    """Where the block that starts at `at` ends: behind its last whole line."""
    if at + BLOCK_BYTES >= len(data):
        return len(data)
    return data.rfind(b"\n", at, at + BLOCK_BYTES) + 1 or data.find(b"\n", at) + 1 or len(data)


def _parse_block(
    text: bytes, first_line: int, numbers: int, images: ImageNames | None, rest: bool
) -> tuple[Block, tuple[int, str] | None]:
    """The lines before the first faulty one, and that one's (line number, reason)."""
    text += PADDING
    buffer = np.frombuffer(text, np.uint8)
    starts, ends, trailing_commas = _line_bounds(buffer)
    filled = ends > starts
    line_numbers = first_line + np.flatnonzero(filled)
    blank_lines = len(starts) - len(line_numbers)
    starts, ends = starts[filled], ends[filled]

    fields = numbers + (images is not None)
    commas = np.flatnonzero(buffer == COMMA)
    first = np.searchsorted(commas, starts)
    found = np.searchsorted(commas, ends) - first + 1
    good, reason = _first((found < fields) if rest else (found != fields), "")
    if good < len(found):
        reason = f"{fields} {'field' if fields == 1 else 'fields'} expected, {found[good]} found"

    def bounds(field: int) -> tuple[np.ndarray, np.ndarray]:
        begin = starts[:good] if field == 0 else commas[first[:good] + field - 1] + 1
        last = np.minimum(first[:good] + field, max(len(commas) - 1, 0))
        end = np.where(found[:good] > field + 1, commas[last], ends[:good]) if len(commas) else ends[:good]
        return begin, end

    codes = frames = None
    faults = [(good, reason)]
    if images is not None:
        codes, frames, wrong = image_column(text, buffer, *bounds(0), images)
        faults.append(_first(wrong, "no image path like 426/00001.jpg"))
    values = np.empty((good, numbers))
    for k in range(numbers):
        values[:, k], wrong = number_column(text, buffer, *bounds(fields - numbers + k))
        faults.append(_first(wrong, f"field {fields - numbers + k + 1} is no number"))

    row, reason = min(faults, key=lambda fault: fault[0])
    fault = (int(line_numbers[row]), reason) if row < len(line_numbers) else None
    block = Block(
        line_numbers[:row],
        values[:row],
        None if codes is None else codes[:row],
        None if frames is None else frames[:row],
        trailing_commas,
        blank_lines,
    )
    return block, fault


def _first(wrong: np.ndarray, reason: str) -> tuple[int, str]:
    """(index of the first true value or the length, reason)."""
    return (int(np.argmax(wrong)) if wrong.any() else len(wrong)), reason


def _line_bounds(buffer: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """(starts, ends) of the lines without the blanks around them, and how many ended with a comma."""
    newlines = np.flatnonzero(buffer == NEWLINE)
    text_end = len(buffer) - len(PADDING)
    if not len(newlines) or newlines[-1] + 1 < text_end:
        newlines = np.append(newlines, text_end)
    starts = np.concatenate([[0], newlines[:-1] + 1])
    ends = newlines.copy()
    comma_ended = np.zeros(len(ends), bool)
    rows = np.arange(len(ends))
    while len(rows := rows[(ends[rows] > starts[rows]) & _TRAILING[buffer[ends[rows] - 1]]]):
        comma_ended[rows] |= buffer[ends[rows] - 1] == COMMA
        ends[rows] -= 1
    rows = np.arange(len(ends))
    while len(rows := rows[(ends[rows] > starts[rows]) & _LEADING[buffer[starts[rows]]]]):
        starts[rows] += 1
    return starts, ends, int(comma_ended.sum())
