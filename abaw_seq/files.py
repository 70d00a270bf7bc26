"""Files and folders that appear whole: whatever this project writes is written here.

Each is made under a temporary name beside its place, brought to the disk, and renamed. What bears the final name is
complete; what stood there before stays until then, and on any error for good. A killed process leaves no more than
hidden `.<name>.<process>.tmp` entries (`remove_leftovers`).
"""

from __future__ import annotations

import errno
import glob
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from abaw_seq.errors import UserError

if TYPE_CHECKING:
    import h5py
    import torch

NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}  # the last two: a limit of the process, a quota

PathLike = str | os.PathLike[str]


class DiskFull(OSError):
    """A file that the disk has no room for: `filename`, and in `strerror` how much it needs and what to do."""


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
def whole_file(path: str | os.PathLike[str], *, size: int = 0) -> Iterator[Path]:
    """The temporary path at which to write a file; it becomes `path` when the block ends without an error.

    size: how many bytes it takes, where that is known. Raises DiskFull where there is no room for it.
    """
    path = check_output(path)
    make_folder(path.parent)
    temporary = _temporary(path)
    try:
        with _room_told(path, temporary, size):
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_hdf5(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """A new HDF5 file to fill, which becomes `path` when the block ends without an error.

    It is private until then, and so needs no lock. Raises DiskFull where there is no room for it.
    """
    import h5py

    path = Path(path)
    with whole_file(path) as temporary, _NeverFull.opened(temporary, path) as stream, h5py.File(stream, "w") as file:
        yield file


class _NeverFull(io.FileIO):
    """A file to write that refuses nothing: what the disk refuses first is raised at the end, the rest is dropped.

    For libraries that do not survive a refusal: HDF5 ends the process where it cannot close a file, and PyTorch turns
    the reason into one of its own.
    """

    refusal: OSError | None = None
    needed = 0

    @classmethod
    @contextmanager
    def opened(cls, temporary: Path, output: Path) -> Iterator[_NeverFull]:
        """Such a file for `output`; at the end of the block raises what the disk refused."""
        with cls(temporary, "w+b") as stream:
            try:
                yield stream
            finally:  # what was dropped may have led to any other error
                if stream.refusal is not None:
                    with _room_told(output, temporary, stream.needed):
                        raise stream.refusal

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size, end = len(rest), self.tell() + len(rest)
        self.needed = max(self.needed, end)
        try:
            while self.refusal is None and len(rest):
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.refusal = error
        self.seek(end)
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            if self.refusal is None:
                return super().truncate(size)
        except OSError as error:
            self.refusal = error
        return size or 0


def reserve(output: Path, size: int) -> None:
    """DiskFull where the disk has no room for `size` bytes in the folder of `output`.

    It is asked for by allocating it, because the free space that `shutil` or `psutil` report ignores quotas and limits.
    """
    with _room_told(output, output, size), tempfile.TemporaryFile(dir=output.parent) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, max(size, 1))
        elif shutil.disk_usage(output.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def _room_told(output: Path, place: Path, size: int = 0) -> Iterator[None]:
    """Turn the refusal of a full disk into DiskFull; `place` is where `output` is being written."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM or isinstance(error, DiskFull):
            raise
        # What waits in buffers is not in the file yet, so that its length is a lower bound.
        needs = _readable(size) if size else f"more than {_readable(_size(place))}"
        free = _readable(shutil.disk_usage(output.parent).free)
        reason = f"{error.strerror}, it needs {needs} and {free} are free; make room or choose another output"
        raise DiskFull(error.errno, reason, str(output)) from None


def _readable(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `path` when the block ends without an error."""
    path = Path(path)
    make_folder(path.parent)
    temporary, old = _temporary(path), _temporary(path.with_name(f"{path.name}.old"))
    try:
        with _room_told(path, temporary):
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
    with whole_file(path, size=len(content)) as temporary:
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

    path = Path(path)
    with whole_file(path) as temporary, _NeverFull.opened(temporary, path) as stream:
        torch.save(dict(content), stream)


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
        _remove(leftover)


def remove_leftovers_in(folder: str | os.PathLike[str]) -> None:
    """Remove what processes left unfinished in a folder that are no longer there; nobody else may be writing it."""
    for name in os.listdir(folder):
        writer = re.fullmatch(r"\..+\.(\d+)\.tmp", name)
        if writer and (int(writer[1]) == os.getpid() or not psutil.pid_exists(int(writer[1]))):
            _remove(Path(folder, name))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


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
