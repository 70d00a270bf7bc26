"""HDF5 files of others, read as data alone: the one way in for every file of this project's layouts.

What is read has been checked: it is an object of the file itself (no soft or external link, no virtual or external
data set), of the type and rank that its reader expects, and not larger than so many stored bytes can be. Whatever
else is wrong with a file, or surfaces in HDF5 while it is read, is one UserError that names the file and the place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np

from abaw_seq.errors import UserError

Scalar = TypeVar("Scalar", str, int, float)

NUMBERS = "fiub"
"""Kinds of NumPy dtypes that hold numbers or truth values."""
MOST_COMPRESSED = 1032
"""How many bytes one stored byte can stand for: the bound of deflate."""
FREE_BYTES = 16 * 2**20
"""What may be declared without being stored, as data sets are that were filled in part."""
PLAIN_TYPES = (h5py.h5t.STRING, h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM)
HEAPS_WITHIN = 2**20
HEAP_HEADER = 16
LONGEST_ATTRIBUTE = 2**20
LONGEST_REASON = 160


class CheckedFile:
    """An HDF5 file open for reading.

    A place in it is named by the links that lead there from the root, such as ("videos", "v1", "frames"). UserError,
    which calls the file `kind`, if it is missing or cannot be opened.
    """

    def __init__(self, path: Path, kind: str):
        self.path, self.kind = path, kind
        if not path.is_file():
            raise UserError(f"{path}: no such {kind}")
        if _has_endless_heap(path):
            raise UserError(f"{path}: not a readable HDF5 file, its texts are damaged")
        try:
            self._file = h5py.File(path, "r", locking=False)
        except Exception as error:  # HDF5 raises anything
            reason = _short(error)
            raise UserError(f"{path}: not a readable HDF5 file, or a truncated one ({reason})") from None
        self._checked: set[tuple[str, ...]] = set()  # places that hard links lead to
        self._sound: set[tuple[str, ...]] = set()  # those of them that are data sets as readers expect

    def __enter__(self) -> CheckedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def check_format(self, format: str, version: int) -> None:
        """UserError unless the file says that it is of this format and version; closes it then."""
        try:
            if (stored := self.attribute("format", str)) != format:
                raise self.fault(f"not a {self.kind} (format is {_short(repr(stored))}, expected {format!r})")
            if (number := self.attribute("version", int, default=0)) != version:
                raise self.fault(f"{self.kind} version {number}; this tool reads version {version}")
        except UserError:
            self.close()
            raise

    def names(self, *place: str) -> tuple[str, ...]:
        """The names in a group; none if there is no such group."""
        with self.reading(*place):
            group = self._object(*place)
            if group is None:
                return ()
            if not isinstance(group, h5py.Group):
                raise self.fault("is not a group", *place)
            return tuple(group)

    def dataset(
        self, *place: str, kinds: str = NUMBERS, shape: tuple[int | None, ...] | None = None
    ) -> h5py.Dataset | None:
        """The data set at a place, checked but not read yet; None if there is none.

        kinds: those of the NumPy dtypes that it may have; shape: None stands for any length, or for any shape.
        UserError names the place of what is a link or no data set, does not fit, or is larger than its file allows.
        """
        with self.reading(*place):
            if (data := self._object(*place)) is None:
                return None
            if not isinstance(data, h5py.Dataset):
                raise self.fault("is not a data set", *place)
            if place not in self._sound:
                if problem := _problem(data, kinds):
                    raise self.fault(problem, *place)
                self._sound.add(place)
            stored = data.shape
        if shape is not None and (
            len(stored) != len(shape) or any(want not in (None, own) for own, want in zip(stored, shape, strict=True))
        ):
            expected = ", ".join("frames" if length is None else str(length) for length in shape)
            raise self.fault(f"has shape {list(stored)}, expected [{expected}]", *place)
        return data

    def values(self, data: h5py.Dataset, *place: str, rows: slice = slice(None)) -> np.ndarray:
        """Rows (all) of the data set at a place, which `dataset` has checked."""
        with self.reading(*place):
            return data[rows]

    def attribute(self, name: str, kind: type[Scalar], *place: str, default: Scalar | None = None) -> Scalar | None:
        """An attribute of the object at a place, by default the root; `default` if it is missing.

        UserError unless it is one text or number, as `kind` asks.
        """
        with self.reading(*place):
            owner = self._object(*place)
            if owner is None or name not in owner.attrs:
                return default
            stored = owner.attrs.get_id(name)
            if stored.shape not in ((), (1,)) or stored.get_storage_size() > LONGEST_ATTRIBUTE:
                raise self.fault(f"attribute {name} has shape {list(stored.shape or ())}, not one value", *place)
            if stored.get_type().get_class() not in PLAIN_TYPES:  # HDF5 may not survive reading others, if damaged
                raise self.fault(f"attribute {name} is neither a text nor a number", *place)
            value = owner.attrs[name]
            value = value.item() if isinstance(value, np.ndarray | np.generic) else value
            value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        whole = isinstance(value, float) and value.is_integer()  # some programs know no other numbers
        fits = isinstance(value, kind) or (kind is float and isinstance(value, int)) or (kind is int and whole)
        if not fits or isinstance(value, bool):
            words = {str: "a text", int: "a whole number", float: "a number"}[kind]
            raise self.fault(f"attribute {name} is {_short(repr(value))}, not {words}", *place)
        return kind(value)

    def check_tree(self, *place: str) -> h5py.Group:
        """The group at a place, in which every link is hard and every data set passes as `dataset` checks it."""
        self.names(*place)
        with self.reading(*place):
            group = self._object(*place)
            links: list[str] = []
            group.visititems_links(lambda name, link: None if isinstance(link, h5py.HardLink) else links.append(name))
            if links:
                raise self.fault("is a link; copy what it points to into the file", *place, links[0])

            def check(name: str, item: h5py.Group | h5py.Dataset) -> None:
                if isinstance(item, h5py.Dataset) and (problem := _problem(item, "")):
                    raise self.fault(problem, *place, name)

            group.visititems(check)
            return group

    def fault(self, what: str, *place: str) -> UserError:
        """The error for what is wrong at a place."""
        words = [_short(word) for word in place]
        if len(words) > 1 and words[0] in ("videos", "backbones"):
            words = [f"{words[0][:-1]} {words[1]}:", "/".join(words[2:])]
        elif words:
            words = ["/".join(words)]
        words.append(_short(what, 2 * LONGEST_REASON))
        return UserError(f"{self.path}: {' '.join(' '.join(words).split())}")

    def _object(self, *place: str) -> Any:
        """The object at a place; None if there is none."""
        return self._file["/".join(place) or "/"] if self._is_here(*place) else None

    def _is_here(self, *place: str) -> bool:
        """Whether there is something at a place; UserError if a link on the way leads anywhere."""
        if not place or place in self._checked:
            return True
        if not self._is_here(*place[:-1]):
            return False
        links, name = self._file.id.links, "/".join(place).encode("utf-8", "surrogateescape")
        if not links.exists(name):
            return False
        if links.get_info(name).type != h5py.h5l.TYPE_HARD:
            raise self.fault("is a link; copy what it points to into the file", *place)
        self._checked.add(place)
        return True

    @contextmanager
    def reading(self, *place: str) -> Iterator[None]:
        """Whatever HDF5 raises about a damaged file becomes one line."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            raise self.fault(f"cannot be read, the file is damaged ({_short(error)})", *place) from None


def _has_endless_heap(path: Path) -> bool:
    """Whether HDF5 would never end reading a text: it steps from object to object of a heap, by the lengths they claim.

    Looks at the start of the file, where a small file's texts are, and those that say what a large one is.
    """
    with path.open("rb") as file:
        start = file.read(HEAPS_WITHIN)
    place = start.find(b"GCOL")
    while place >= 0:
        end = min(place + int.from_bytes(start[place + 8 : place + 16], "little"), len(start))
        at = place + HEAP_HEADER
        while at + HEAP_HEADER <= end:
            index, length = start[at : at + 2], int.from_bytes(start[at + 8 : at + 16], "little")
            step = length if index == b"\0\0" else HEAP_HEADER + -(-length // 8) * 8
            if step % 2**64 == 0:
                return True
            at += step
        place = start.find(b"GCOL", place + 4)
    return False


def _problem(data: h5py.Dataset, kinds: str) -> str:
    """What forbids reading a data set; empty if nothing does. Without `kinds` any type will do."""
    layout = data.id.get_create_plist()
    if layout.get_layout() == h5py.h5d.VIRTUAL or layout.get_external_count():
        return "takes its values from other files; copy them into the file"
    if kinds and data.dtype.kind not in kinds or (data.dtype.kind == "O" and not h5py.check_string_dtype(data.dtype)):
        return f"holds {data.dtype}, not numbers"
    if data.shape is None:
        return "holds nothing"
    chunk = layout.get_chunk() if layout.get_layout() == h5py.h5d.CHUNKED else (0,)
    declared = max(math.prod(data.shape), math.prod(chunk)) * data.id.get_type().get_size()
    if declared > FREE_BYTES and declared > FREE_BYTES + MOST_COMPRESSED * data.id.get_storage_size():
        return f"claims {declared / 1e6:,.0f} MB, more than its stored bytes can hold"
    return ""


def _short(error: object, most: int = LONGEST_REASON) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else text[:most] + " ..."
