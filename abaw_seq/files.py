"""HDF5 files that are either whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from abaw_seq.errors import UserError


@contextmanager
def atomic_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file that appears under its name only when complete and on disk."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file to write")
    if not path.parent.exists():
        raise UserError(f"{path}: its folder {path.parent} does not exist; create it or choose another output")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path}: its folder is not writable; choose another output")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w") as file:
            yield file
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        _fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
