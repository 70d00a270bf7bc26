"""Damaged features of other programs: arrays, several arrays in one file, tables under the name of an array."""

from __future__ import annotations

import io

import numpy as np
import pytest

from abaw_seq.data.foreign_features import open_features
from tests.fuzz.changes import changed_bytes, read_or_refused

VALUES = np.random.default_rng(0).normal(size=(40, 8))


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, v=VALUES)
    return file.getvalue()


def csv() -> bytes:
    return "\n".join(",".join(map(str, row)) for row in VALUES).encode()


@pytest.mark.parametrize("kind", ["npy", "numbers", "npz", "csv"])
def test_damaged_arrays_are_read_or_refused(tmp_path, cases, kind):
    whole = {"npy": npy(VALUES), "numbers": npy(np.arange(1, 41)), "npz": npz(), "csv": csv()}
    for name, rng in cases:
        for file, content in (("v", npy(VALUES)), ("v.frames", npy(np.arange(1, 41))), ("w", npy(VALUES[:5]))):
            (tmp_path / f"{file}.npy").write_bytes(content)
        data = changed_bytes(whole[kind], rng)
        if kind == "npy" and rng.integers(2):  # its header alone, which claims shape and type
            data = changed_bytes(whole[kind][:128], rng) + whole[kind][128:]
        (tmp_path / ("v.frames.npy" if kind == "numbers" else "v.npy")).write_bytes(data)
        with read_or_refused(name), open_features(tmp_path) as reader:
            for video in reader.videos:
                reader.valid(video)
                reader.video(video)
