"""Damaged feature files, features of another layout and prediction files: single bytes, and the objects within."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from abaw_seq.data.corpus import load_corpus
from abaw_seq.data.feature_file import FeatureReader, atomic_feature_file
from abaw_seq.data.prediction_file import VideoPredictions, read_predictions, write_predictions
from tests.conftest import backbone_info, toy_video
from tests.fuzz.changes import changed_bytes, read_or_refused

ODD_VALUES = (
    "text", b"\xff\xfe", "", "{", "[" * 20_000, -1, 0, 2**62, 1.5, np.nan, np.inf, True, h5py.Empty("f"),
    np.zeros(3), np.zeros((0,)), np.array(["a", "b"], h5py.string_dtype()), np.zeros(2, [("a", "i4"), ("b", "f8")]),
)  # fmt: skip


def a_feature_file(path: Path) -> None:
    with atomic_feature_file(path) as writer:
        writer.add_backbone("toy", backbone_info(4))
        for k in range(2):
            writer.add_video(toy_video(f"v{k}", 30, 4, k, "train"))


def a_foreign_file(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for k in range(2):
            file[f"v{k}/feature"] = np.ones((30, 4), np.float32)
            file[f"v{k}/fn"] = np.arange(30)


def a_prediction_file(path: Path) -> None:
    outputs = {"valence": np.zeros(30), "expression": np.full((30, 8), 0.125), "au": np.full((30, 12), 0.5)}
    labels = np.zeros((30, 15), np.float32)
    write_predictions(path, {f"v{k}": VideoPredictions(np.arange(30), outputs, labels, "val") for k in range(2)})


def read_features(path: Path) -> None:
    load_corpus([path], memory="device")


def join_features(path: Path) -> None:
    """What label, merge and extract do: all of each video, and copied."""
    with FeatureReader(path) as reader, h5py.File(io.BytesIO(), "w") as file:
        for video in reader.videos:
            reader.video(video)
            reader.copy_video(video, file)
            reader.copy_video(video, file.require_group("some"), list(reader.backbones))


READERS: dict[str, tuple[Callable[[Path], None], Callable[[Path], object]]] = {
    "features": (a_feature_file, read_features),
    "joined features": (a_feature_file, join_features),
    "foreign features": (a_foreign_file, read_features),
    "predictions": (a_prediction_file, read_predictions),
}


def change_an_object(path: Path, rng: np.random.Generator) -> str:
    """Replace, drop or spoil one to three objects or attributes of an HDF5 file; returns what was done."""
    done = []
    with h5py.File(path, "r+") as file:
        for _ in range(rng.integers(1, 4)):
            places: list[str] = []
            file.visit(places.append)
            place = str(rng.choice(["/", *places]))
            if place == "/" or rng.random() < 0.4:
                owner = file[place]
                name = str(rng.choice([*owner.attrs, "split", "fps", "frame_count"]))
                value = ODD_VALUES[rng.integers(len(ODD_VALUES))]
                done.append(f"attribute {name} of {place}: {str(value)[:20]!r}")
                if rng.random() < 0.2:
                    owner.attrs.pop(name, None)
                else:
                    try:
                        owner.attrs[name] = value
                    except (OSError, ValueError):  # an attribute has at most 64 KB
                        owner.attrs[name] = "[" * 9000
                continue
            change = CHANGES[rng.integers(len(CHANGES))]
            done.append(f"{change.__name__} {place}")
            shape = getattr(file[place], "shape", None) or (30,)
            shape = shape if np.prod(shape, dtype=float) < 1e6 else (30,)
            del file[place]
            change(file, place, shape, rng)
    return ", ".join(done)


def gone(file, place, shape, rng):
    pass


def a_group(file, place, shape, rng):
    file.create_group(place)


def other_type(file, place, shape, rng):
    kinds = ("i1", "u8", "f8", ">f4", "S4", "bool", h5py.string_dtype(), h5py.vlen_dtype("i4"), h5py.ref_dtype, "c8")
    file.create_dataset(place, shape, kinds[rng.integers(len(kinds))])


def other_shape(file, place, shape, rng):
    shapes = ((), (0,), (1,), (*shape, 1), shape[:-1], (shape[0] + 1, *shape[1:]), tuple(reversed(shape)), None)
    chosen = shapes[rng.integers(len(shapes))]
    file.create_dataset(place, data=h5py.Empty("f4") if chosen is None else np.zeros(chosen, "f4"))


def odd_numbers(file, place, shape, rng):
    value = (np.nan, np.inf, -1.0, 1e300, 2.0**40)[rng.integers(5)]
    file[place] = np.full(shape, value, ("f8", "i8")[rng.integers(2)] if np.isfinite(value) and value < 1e20 else "f8")


def huge(file, place, shape, rng):
    rows = int(2 ** rng.uniform(25, 60))
    file.create_dataset(place, (rows, *shape[1:]), "i4", chunks=(64, *shape[1:]), compression="gzip")


def huge_chunk(file, place, shape, rng):
    space = h5py.h5s.create_simple(shape, (h5py.h5s.UNLIMITED,) * len(shape))
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_chunk((2**28, *shape[1:]))
    parent, _, name = place.rpartition("/")
    h5py.h5d.create(file.require_group(parent or "/").id, name.encode(), h5py.h5t.NATIVE_INT32, space, layout)


def compressed_zeros(file, place, shape, rng):
    file.create_dataset(place, data=np.zeros(2**20, "f4"), chunks=(2**20,), compression="gzip", compression_opts=9)


def soft_link(file, place, shape, rng):
    file[place] = h5py.SoftLink(("/videos", "/nowhere", f"/{place}", "/")[rng.integers(4)])


def hard_link(file, place, shape, rng):
    file[place] = file["/"]


def external_link(file, place, shape, rng):
    file[place] = h5py.ExternalLink(("/etc/passwd", "/dev/zero", file.filename)[rng.integers(3)], "/")


def external_values(file, place, shape, rng):
    file.create_dataset(place, shape, "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def virtual(file, place, shape, rng):
    layout = h5py.VirtualLayout(shape, "f4")
    layout[...] = h5py.VirtualSource("/etc/hostname", "x", shape)
    file.create_virtual_dataset(place, layout)


CHANGES = (
    gone, a_group, other_type, other_shape, odd_numbers, huge, huge_chunk, compressed_zeros,
    soft_link, hard_link, external_link, external_values, virtual,
)  # fmt: skip


@pytest.mark.parametrize("kind", READERS)
def test_files_of_changed_objects_are_read_or_refused(tmp_path, cases, kind):
    write, read = READERS[kind]
    whole, path = tmp_path / "whole.h5", tmp_path / "changed.h5"
    write(whole)
    for name, rng in cases:
        path.write_bytes(whole.read_bytes())
        what = change_an_object(path, rng)
        with read_or_refused(f"{kind}, {name}: {what}"):
            read(path)


@pytest.mark.parametrize("kind", READERS)
def test_files_of_changed_bytes_are_read_or_refused(tmp_path, cases, kind):
    write, read = READERS[kind]
    whole, path = tmp_path / "whole.h5", tmp_path / "changed.h5"
    write(whole)
    for name, rng in cases:
        path.write_bytes(changed_bytes(whole.read_bytes(), rng))
        with read_or_refused(f"{kind}, {name}"):
            read(path)
