"""How large a video file should be by its own headers, which tells a broken download from a whole file."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

BOXES = 100_000  # read at most, of a file that consists of ever more small ones
_ISO_STARTS = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp")
_ISO_CONTENTS = (b"moov", b"mdat", b"moof")
_EBML, _SEGMENT = bytes.fromhex("1a45dfa3"), bytes.fromhex("18538067")
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def declared_size(path: str | Path) -> int:
    """The bytes that a video file should have at least; 0 where its headers do not say.

    Sources: ISO/IEC 14496-12 (MP4, QuickTime), the RIFF and OpenDML texts (AVI), RFC 8794 and RFC 9559 (Matroska,
    WebM), and the Advanced Systems Format specification (WMV). Transport streams and the like declare no size.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(16)
        if start[4:8] in _ISO_STARTS:
            return _size_of_boxes(file, size)
        if start[:4] == b"RIFF":
            return _size_of_riff(file, size)
        if start[:4] == _EBML:
            return _size_of_matroska(file)
        return _size_of_asf(file) if start == _ASF else 0


def _size_of_boxes(file: BinaryIO, size: int) -> int:
    position = 0
    for _ in range(BOXES):
        file.seek(position)
        length, kind, long_length = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        length = long_length if length == 1 else length
        if length < 8:  # it reaches to the end of the file, or there is something else
            return 0
        position += length
        if position > size:
            return position if kind in _ISO_CONTENTS else 0
    return 0


def _size_of_riff(file: BinaryIO, size: int) -> int:
    position = 0
    while position < size:
        file.seek(position)
        name, length, kind = struct.unpack("<4sI4s", file.read(12).ljust(12, b"\0"))
        if name != b"RIFF" or not kind.startswith(b"AVI") or length in (0, 0xFFFFFFFF):
            return 0
        position += 8 + length + length % 2
    return position - 1  # the last byte only fills up an odd length


def _size_of_matroska(file: BinaryIO) -> int:
    file.seek(len(_EBML))
    header = _variable_length(file)
    file.seek(header, os.SEEK_CUR)
    if file.read(len(_SEGMENT)) != _SEGMENT:
        return 0
    length = _variable_length(file)
    return file.tell() + length if length else 0


def _variable_length(file: BinaryIO) -> int:
    """The length of an element; 0 if it is unknown, as in a live recording."""
    first = file.read(1)
    if not first or not first[0]:
        return 0
    more = 8 - first[0].bit_length()
    value = int.from_bytes(first + file.read(more), "big") - (1 << (7 * (more + 1)))
    return value if value < (1 << (7 * (more + 1))) - 1 else 0


def _size_of_asf(file: BinaryIO) -> int:
    header = file.read(1 << 16)
    properties = header.find(_ASF_FILE_PROPERTIES)
    if properties < 0 or len(header) < properties + 92:
        return 0
    (length,) = struct.unpack_from("<Q", header, properties + 40)
    (flags,) = struct.unpack_from("<I", header, properties + 88)
    return 0 if flags & 1 else length  # the flag: it was broadcast, and the length is not known
