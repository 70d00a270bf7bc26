"""Text files as people save them, read as if each had been saved as UTF-8 with commas between its fields.

Read: UTF-16 and UTF-32 with a mark, UTF-16 without one where every other byte is zero; the line ends of Windows and of
old Macs; tabs or semicolons between fields, and then commas in numbers; quotes; a column of row numbers in front.
Other encodings cannot be told apart (Latin-1 from Cyrillic, say): what is not UTF-8 stays as it is, and the line that
names a video so is refused. A usual file is read from the disk as it is needed, any other at once.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from abaw_seq.errors import UserError

HEAD_BYTES = 1 << 12
# The mark of UTF-32 starts with that of UTF-16.
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
NOT_UTF8 = "holds characters that are not UTF-8; save the file as UTF-8"
INDEX_NAMES = (b"", b"index", b"unnamed: 0")

_LINE_END = re.compile(r"\r+\n|\r")
_ROW_NUMBER = re.compile(r"[0-9]{1,18}")
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+", re.ASCII)


@dataclass(frozen=True)
class Form:
    """How the fields of a line are written."""

    delimiter: str = ","
    quoted: bool = False
    """True if quotes stand around fields, somewhere in the first lines"""
    index: bool = False
    """True if the number of the row stands before the fields"""


def open_text(path: Path) -> BinaryIO:
    """A text file as UTF-8, from behind its mark, its lines ended by `\\n` or `\\r\\n`.

    What is no character stays bytes that are not UTF-8.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    head = file.read(HEAD_BYTES)
    mark = next((mark for mark in MARKS if head.startswith(mark)), b"")
    encoding = MARKS.get(mark) or _unmarked(head)
    returns = head.count(b"\r") - head.count(b"\r\n")
    old_mac = encoding == "utf-8" and returns > head.count(b"\n")
    file.seek(len(mark))
    if encoding == "utf-8" and not old_mac:
        return file
    with file:
        content = file.read()
    try:
        text = content.decode(encoding, "surrogateescape" if encoding == "utf-8" else "strict")
    except UnicodeDecodeError:
        text = content.decode(encoding, "replace").replace("\ufffd", "\udcff")
    return io.BytesIO(_LINE_END.sub("\n", text).encode("utf-8", "surrogateescape"))


def _unmarked(head: bytes) -> str:
    """The encoding of a text without a mark: UTF-16 if most characters, and no others, have a zero byte."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    for encoding, zeros, others in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if not others and 4 * zeros > len(head):
            return encoding
    return "utf-8"


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without their ends; what is not UTF-8 is in them as lone surrogates, not printable."""
    with open_text(path) as file:
        return _lines(file)


def read_table_lines(path: Path) -> list[str]:
    """The lines of a text file of fields, as `open_table` gives them."""
    with open_table(path) as file:
        return _lines(file)


def _lines(file: BinaryIO) -> list[str]:
    return [line.decode("utf-8", "surrogateescape").rstrip("\r\n") for line in file]


def open_table(path: Path, *, counted: bool = False) -> BinaryIO:
    """A text file of fields as `open_text` gives it, with commas between the fields and nothing around them.

    The lines are those of the file, in number and order. A line that does not go with the first one stays as it is.
    Where lines are `counted`, as those of a file whose line k is frame k, a column of row numbers has to count, too:
    UserError for the first line at which it does not.
    """
    file = open_text(path)
    if _form(file)[0] == Form():
        return file
    file.close()
    lines = (",".join(fields).encode("utf-8", "surrogateescape") for _, fields in table_rows(path, counted=counted))
    return io.BytesIO(b"".join(line + b"\n" for line in lines))


def _form(file: BinaryIO) -> tuple[Form, int]:
    """How the first line that is not blank is written, and its number; reading goes on from where it was."""
    start = file.tell()
    head = file.read(HEAD_BYTES)
    file.seek(start)
    lines = head.split(b"\n")
    number = next((k for k, line in enumerate(lines) if line.strip()), 0)
    line = lines[number].strip(b" \r\n")
    delimiter = next((d for d in (b"\t", b";") if d in line.rstrip() and b"," not in line), b",")
    first, _, rest = line.partition(delimiter)
    if b"/" in rest and b"/" not in first:
        delimiter, rest = b",", b""  # a path with this character in a folder's name
    index = first.strip(b' "').lower() in INDEX_NAMES and not rest.strip(b' ",').isdigit()
    return Form(delimiter.decode(), b'"' in head, index), number + 1


def table_rows(path: Path, *, counted: bool = False) -> Iterator[tuple[int, list[str]]]:
    """(number from 1, fields) of every line of a text file of fields, without row numbers; see `open_table`."""
    with open_text(path) as file:
        form, first_line = _form(file)
        previous = None
        for number, line in enumerate(file, 1):
            fields = _fields(line.decode("utf-8", "surrogateescape").rstrip("\r\n"), form.delimiter)
            if form.index and fields and (number == first_line or _ROW_NUMBER.fullmatch(fields[0])):
                row = fields.pop(0)
                if counted and number != first_line:
                    if int(row) not in ((0, 1) if previous is None else (previous + 1,)):
                        reason = f"row number {row} is out of order, but line k under the header is frame k"
                        raise line_error(path, number, reason)
                    previous = int(row)
            yield number, fields


def _fields(line: str, delimiter: str) -> list[str]:
    """The fields of one line, without quotes and blanks around them, and with points in numbers."""
    try:
        fields = [field.strip() for field in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])]
    except csv.Error:  # a field of more than 128 KB, or a line that ends within a field
        return [line.strip()]
    if delimiter == ",":
        return fields
    return [field.replace(",", ".") if _DECIMAL_COMMA.fullmatch(field) else field for field in fields]


def first_filled_line(path: Path, *, after: int = 0) -> tuple[int, str]:
    """(line number from 1, text) of the first line after line `after` that is not blank, or (0, "")."""
    with open_table(path) as file:
        for number, line in enumerate(file, 1):
            if number > after and (text := line.strip()):
                return number, text.decode("utf-8", "replace")
    return 0, ""


def line_error(path: Path, number: int, reason: str) -> UserError:
    """The one-line error about line `number` (from 1) of a file, with its text as it stands there."""
    with open_text(path) as file:
        text = next(islice(file, number - 1, None), b"").strip().decode("utf-8", "replace")
    shown = text if len(text) <= 120 else text[:117] + "..."
    return UserError(f"{path}, line {number}: {reason}; correct or remove the line {shown!r}")
