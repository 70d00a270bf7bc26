"""Files and folders that appear whole: whatever this project writes is written here.

Each is made under a temporary name beside its place, brought to the disk, and renamed. What bears the final name is
complete; what stood there before stays until then, and on any error for good. A killed process leaves no more than
hidden `.<name>.<process>.tmp` entries (`remove_leftovers`).
"""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abaw_seq.errors import UserError

if TYPE_CHECKING:
    import h5py
    import torch

PathLike = str | os.PathLike[str]


def each_path(paths: PathLike | Iterable[PathLike]) -> list[Path]:
    """The paths of an argument that is one path or several."""
    return [Path(paths)] if isinstance(paths, (str, os.PathLike)) else [Path(path) for path in paths]


def check_output(path: str | os.PathLike[str]) -> Path:
    """UserError where a file could not be written at `path`; for before the hours of work that lead there."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file to write")
    check_folder(path.parent, output=path)
    return path


def check_folder(folder: str | os.PathLike[str], *, output: Path | None = None) -> Path:
    """UserError, naming `output` (default: the folder), where the folder could not be made or written into."""
    folder = Path(folder)
    place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    problem = "" if os.access(place, os.W_OK | os.X_OK) else "is not writable"
    if problem := problem if place.is_dir() else "is a file":
        raise UserError(
            f"{output or folder}: {'its folder ' if output else ''}{place} {problem}; choose another output"
        )
    return folder


def make_folder(folder: str | os.PathLike[str]) -> Path:
    """Make a folder to write into, and those above it; UserError where that cannot be."""
    folder = check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}); choose another output") from None
    return folder


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The temporary path at which to write a file; it becomes `path` when the block ends without an error."""
    path = check_output(path)
    make_folder(path.parent)
    temporary = _temporary(path)
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_hdf5(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """A new HDF5 file to fill, which becomes `path` when the block ends without an error."""
    import h5py

    with whole_file(path) as temporary, h5py.File(temporary, "w") as file:
        yield file


def open_hdf5(path: Path, kind: str, *, format: str, version: int) -> h5py.File:
    """An HDF5 file of a given format, open for reading; UserError, which calls it `kind`, for any other file."""
    import h5py

    if not path.is_file():
        raise UserError(f"{path}: no such {kind}")
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise UserError(f"{path}: not a readable HDF5 file, or a truncated one ({error})") from None
    problem = ""
    if (stored := file.attrs.get("format")) != format:
        problem = f"not a {kind} (format is {stored!r}, expected {format!r})"
    elif (stored := int(file.attrs.get("version", 0))) != version:
        problem = f"{kind} version {stored}; this tool reads version {version}"
    if problem:
        file.close()
        raise UserError(f"{path}: {problem}")
    return file


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `path` when the block ends without an error."""
    path = Path(path)
    make_folder(path.parent)
    temporary, old = _temporary(path), _temporary(path.with_name(f"{path.name}.old"))
    try:
        temporary.mkdir()
        yield temporary
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file whole."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file whole, line ends as they are."""
    write_bytes(path, text.encode("utf-8"))


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> None:
    """Write a UTF-8 text file whole, line by line."""
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write plain values as a JSON file, whole."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def save_tensors(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write tensors and plain values, whole, for `load_tensors`."""
    import torch

    with whole_file(path) as temporary:
        torch.save(dict(content), temporary)


def load_tensors(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `save_tensors` wrote, as data alone; UserError where the file is missing or damaged."""
    import torch

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; train first, or name another run")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged file raises anything
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a checkpoint of this tool")
    return content


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove what killed processes left unfinished beside `path`; nobody else may be writing it."""
    path = Path(path)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _sync(path: Path) -> None:
    """Bring a file, or a folder's list of names, to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows does so by itself, and opens no folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
