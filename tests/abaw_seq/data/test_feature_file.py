"""The contract of the feature file, version 1, read with h5py alone."""

import json
import os
import unicodedata

import h5py
import numpy as np
import pytest

from abaw_seq.data.feature_file import (
    BackboneInfo,
    FeatureReader,
    VideoFeatures,
    atomic_feature_file,
    merge_backbones,
)
from abaw_seq.errors import UserError

INFO = BackboneInfo(4, "toy", "toy.pt", "ab" * 32, {"size": 8}, "avg", "float16", "2026-01-01T00:00:00+00:00")


def make_video(name="1-30-640x360", frames=300, dim=4, **extra) -> VideoFeatures:
    numbers = np.arange(1, 2 * frames + 1, 2, dtype=np.int32)
    values = np.random.default_rng(0).normal(size=(frames, dim)).astype(np.float16)
    labels = np.full((frames, 15), np.nan, np.float32)
    labels[::2, 0] = 0.5
    return VideoFeatures(name, numbers, np.ones(frames, bool), {"toy": values}, labels, "train", "here", **extra)


def write(path, *videos):
    with atomic_feature_file(path) as writer:
        writer.add_backbone("toy", INFO)
        for video in videos:
            writer.add_video(video)


def test_layout_is_the_contract(tmp_path):
    path = tmp_path / "f.h5"
    write(path, make_video(fps=30.0, frame_count=900))
    with h5py.File(path) as file:
        assert file.attrs["format"] == "abaw-features"
        assert file.attrs["version"] == 1
        assert file.attrs["tool"].startswith("abaw ")
        backbone = file["backbones/toy"].attrs
        assert set(backbone) == {
            "dim", "arch", "weights", "weights_sha256", "preprocessing", "pooling", "dtype", "created", "precision"
        }  # fmt: skip
        assert json.loads(backbone["preprocessing"]) == {"size": 8}
        video = file["videos/1-30-640x360"]
        assert dict(video.attrs) == {"source": "here", "split": "train", "fps": 30.0, "frame_count": 900}
        assert video["frames"].dtype == np.int32 and video["frames"][0] == 1
        assert video["valid"].dtype == bool
        assert video["features/toy"].dtype == np.float16
        assert video["features/toy"].chunks == (256, 4)
        assert video["labels"].dtype == np.float32 and video["labels"].shape == (300, 15)


def test_what_is_written_is_read(tmp_path):
    path, video = tmp_path / "f.h5", make_video()
    write(path, video)
    with FeatureReader(path) as reader:
        read = reader.video(video.name)
        assert reader.backbones == {"toy": INFO}
    np.testing.assert_array_equal(read.frames, video.frames)
    np.testing.assert_array_equal(read.features["toy"], video.features["toy"])
    np.testing.assert_array_equal(read.labels, video.labels)
    assert (read.split, read.source, read.fps, read.frame_count) == ("train", "here", None, None)


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "f.h5"
    write(path, make_video())
    before = path.read_bytes()
    with pytest.raises(RuntimeError), atomic_feature_file(path) as writer:
        writer.add_backbone("toy", INFO)
        raise RuntimeError("the machine goes away")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["f.h5"]


def spoil(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda f: f["videos/v"].__delitem__("frames"), "video v: frames is missing"),
        (lambda f: f["videos/v"].__delitem__("valid"), "video v: valid is missing"),
        (lambda f: f["videos/v/features"].__delitem__("toy"), "video v: features/toy is missing"),
        (lambda f: f["videos/v/frames"].__setitem__(1, 1), "video v: frames does not rise"),
        (lambda f: f["videos/v/features/toy"].__setitem__((3, 1), np.nan), "video v: features/toy holds NaN"),
        (lambda f: f["videos/v/features/toy"].__setitem__((3, 1), np.inf), "video v: features/toy holds NaN"),
        (lambda f: f["backbones/toy"].attrs.__setitem__("dim", 5), "has shape [300, 4], expected [300, 5]"),
        (lambda f: f["videos/v"].attrs.__setitem__("split", "dev"), "split is 'dev'"),
        (lambda f: f.attrs.__setitem__("version", 2), "version 2; this tool reads version 1"),
        (lambda f: f.attrs.__setitem__("format", "other"), "not a feature file"),
        (lambda f: f["backbones/toy"].attrs.__delitem__("weights"), "backbone toy: attribute weights is missing"),
    ],
)  # fmt: skip
def test_a_spoiled_file_is_refused_by_name(tmp_path, change, words):
    path = tmp_path / "f.h5"
    write(path, make_video("v"))
    spoil(path, change)
    with pytest.raises(UserError) as caught, FeatureReader(path) as reader:
        for video in reader.videos:
            reader.video(video, ["toy"])
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_missing_truncated_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "f.h5"
    with pytest.raises(UserError, match="no such feature file"):
        FeatureReader(path)
    write(path, make_video())
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="truncated"):
        FeatureReader(path)
    path.write_text("valence,arousal\n")
    with pytest.raises(UserError, match="not a readable HDF5 file"):
        FeatureReader(path)


def test_output_places_that_cannot_be_written_are_refused(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        write(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="its folder .*file is a file"):
        write(tmp_path / "file" / "f.h5")


@pytest.mark.parametrize("name", ["a/b", "", "..", "."])
def test_names_cannot_leave_their_group(tmp_path, name):
    with pytest.raises(UserError, match="cannot name"):
        write(tmp_path / "f.h5", make_video(name))


def test_one_name_for_two_networks_is_refused():
    other = BackboneInfo(**{**INFO.__dict__, "weights_sha256": "cd" * 32})
    renamed = BackboneInfo(**{**INFO.__dict__, "weights": "copy.pt", "created": "2027"})
    assert merge_backbones({"a.h5": {"toy": INFO}, "b.h5": {"toy": renamed}}) == {"toy": INFO}
    with pytest.raises(UserError, match="backbone toy in b.h5 and in a.h5 differ in weights_sha256"):
        merge_backbones({"a.h5": {"toy": INFO}, "b.h5": {"toy": other}})


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_of_videos_have_one_form_however_they_are_stored(tmp_path, form):
    name, asked = unicodedata.normalize(form, "vidéo1"), unicodedata.normalize("NFC", "vidéo1")
    write(tmp_path / "f.h5", make_video(name))
    with FeatureReader(tmp_path / "f.h5") as reader, atomic_feature_file(tmp_path / "copy.h5") as writer:
        assert reader.videos == (asked,)
        for video in (asked, name):
            assert reader.rows(video) == 300 and reader.has(video, "toy") and reader.split(video) == "train"
            assert reader.labels(video) is not None and reader.features(video, "toy").shape == (300, 4)
        reader.copy_video(asked, writer.videos_group)
    with h5py.File(tmp_path / "copy.h5") as file:
        assert list(file["videos"]) == [asked]
