"""HDF5 files of others: what is no plain data of the file itself is refused by name."""

import h5py
import numpy as np
import pytest

from abaw_seq.data.corpus import load_corpus
from abaw_seq.data.feature_file import FeatureReader, atomic_feature_file
from abaw_seq.data.prediction_file import read_predictions
from abaw_seq.errors import UserError
from tests.conftest import backbone_info, toy_video


@pytest.fixture
def path(tmp_path):
    with atomic_feature_file(tmp_path / "f.h5") as writer:
        writer.add_backbone("toy", backbone_info(4))
        writer.add_video(toy_video("v", 300, 4, 0, "train"))
    return tmp_path / "f.h5"


def replaced(file, place, **dataset):
    del file[place]
    file.create_dataset(place, **dataset)


def linked(file, place, link):
    del file[place]
    file[place] = link


def virtual(file):
    layout = h5py.VirtualLayout((300, 15), "f4")
    layout[...] = h5py.VirtualSource("/etc/hostname", "x", (300, 15))
    del file["videos/v/labels"]
    file.create_virtual_dataset("videos/v/labels", layout)


def zeros(rows):
    """What terabytes of zeros are when they are declared and hardly stored."""
    return dict(shape=(rows, 15), dtype="f4", chunks=(256, 15), compression="gzip")


REFUSED = {
    "video v: frames has shape [300, 1], expected [frames]":
        lambda f: replaced(f, "videos/v/frames", data=np.zeros((300, 1), "i4")),
    "video v: frames has shape [], expected [frames]": lambda f: replaced(f, "videos/v/frames", data=np.int32(3)),
    "video v: frames holds float64, not numbers": lambda f: replaced(f, "videos/v/frames", data=np.arange(300.0)),
    "video v: frames holds numbers that are no int32":
        lambda f: replaced(f, "videos/v/frames", data=np.arange(300) + 2**40),
    "video v: valid holds object, not numbers":
        lambda f: replaced(f, "videos/v/valid", shape=(300,), dtype=h5py.string_dtype()),
    "video v: labels claims": lambda f: replaced(f, "videos/v/labels", **zeros(2**40)),
    "video v: features/toy is a link": lambda f: linked(f, "videos/v/features/toy", h5py.SoftLink("/videos/v/labels")),
    "video v: features is a link": lambda f: linked(f, "videos/v/features", h5py.ExternalLink("/etc/passwd", "/")),
    "videos is a link": lambda f: linked(f, "videos", h5py.SoftLink("/")),
    "video v: features/toy is not a data set":
        lambda f: (f.pop("videos/v/features/toy"), f.create_group("videos/v/features/toy")),
    "video v: labels takes its values from other files": virtual,
    "video v: valid takes its values from other files":
        lambda f: replaced(f, "videos/v/valid", shape=(300,), dtype="i1", external=[("/etc/passwd", 0, 300)]),
    "backbone toy: attribute dim is 'wide', not a whole number":
        lambda f: f["backbones/toy"].attrs.__setitem__("dim", "wide"),
    "video v: features/toy has shape [300, 4], expected [300, 4611686018427387904]":
        lambda f: f["backbones/toy"].attrs.__setitem__("dim", 2**62),
    "backbone toy: attribute preprocessing is not JSON":
        lambda f: f["backbones/toy"].attrs.__setitem__("preprocessing", "[" * 9000),
    "backbone toy: attribute arch has shape [2], not one value":
        lambda f: f["backbones/toy"].attrs.__setitem__("arch", np.zeros(2)),
    "video v: attribute split is neither a text nor a number":
        lambda f: f["videos/v"].attrs.create("split", f["videos/v"].ref, dtype=h5py.ref_dtype),
    "attribute version is 'one', not a whole number": lambda f: f.attrs.__setitem__("version", "one"),
    "video v: attribute split is": lambda f: f["videos/v"].attrs.__setitem__("split", 3),
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_no_plain_data_of_the_file_is_refused_by_name(path, words):
    with h5py.File(path, "r+") as file:
        REFUSED[words](file)
    with pytest.raises(UserError) as caught:
        load_corpus([path])
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_files_that_are_packed_well_are_read_as_before(path):
    before = load_corpus([path])
    with h5py.File(path, "r+") as file:
        for place in ("frames", "valid", "labels", "features/toy"):
            data = file[f"videos/v/{place}"][:]
            replaced(file, f"videos/v/{place}", data=data, compression="gzip", shuffle=True)
        file.attrs["version"] = 1.0
        file["videos/v"].attrs["split"] = np.array(["train"], h5py.string_dtype())
    after = load_corpus([path])
    np.testing.assert_array_equal(before.features, after.features)
    np.testing.assert_array_equal(before.labels, after.labels)
    assert before.splits == after.splits


def test_many_equal_numbers_are_packed_by_deflate_and_still_read(path):
    with h5py.File(path, "r+") as file:
        for place, data in (
            ("frames", np.arange(1, 2_000_001, dtype="i4")), ("valid", np.ones(2_000_000, bool)),
            ("labels", np.full((2_000_000, 15), np.nan, "f4")), ("features/toy", np.zeros((2_000_000, 4), "f2")),
        ):  # fmt: skip
            replaced(file, f"videos/v/{place}", data=data, compression="gzip", compression_opts=9)
    with FeatureReader(path) as reader:
        assert reader.valid("v").all() and np.isnan(reader.labels("v")).all() and reader.rows("v") == 2_000_000


def test_a_group_is_copied_only_if_all_in_it_is_of_the_file(path, tmp_path):
    with h5py.File(path, "r+") as file:
        file["videos/v/time"] = h5py.ExternalLink("/etc/passwd", "/")
    with FeatureReader(path) as reader, h5py.File(tmp_path / "copy.h5", "w") as copy:
        with pytest.raises(UserError, match="video v: time is a link; copy what it points to into the file"):
            reader.copy_video("v", copy)


@pytest.mark.parametrize("claimed", [0, 2**64 - 16])
def test_a_heap_of_texts_without_end_is_refused(path, claimed):
    blob = bytearray(path.read_bytes())
    first = blob.index(b"GCOL") + 16
    blob[first : first + 2] = bytes(2) if claimed == 0 else b"\1\0"
    blob[first + 8 : first + 16] = claimed.to_bytes(8, "little")
    path.write_bytes(blob)
    with pytest.raises(UserError, match="f.h5: not a readable HDF5 file, its texts are damaged"):
        FeatureReader(path)


def test_damaged_prediction_files_name_the_video(tmp_path):
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file.attrs.update(format="abaw-predictions", version=1)
        file["videos/v/frames"] = np.arange(3)
        file["videos/v/valence"] = h5py.SoftLink("/videos/v/frames")
    with pytest.raises(UserError, match="p.h5: video v: valence is a link"):
        read_predictions(tmp_path / "p.h5")
