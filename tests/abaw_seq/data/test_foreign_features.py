"""Features of other layouts: which row is which frame, and what is refused."""

import unicodedata

import h5py
import numpy as np
import pytest

from abaw_seq.data.annotations import Annotations, VideoLabels
from abaw_seq.data.corpus import load_corpus
from abaw_seq.data.feature_file import FeatureReader
from abaw_seq.data.foreign_features import ForeignReader, open_features
from abaw_seq.data.labelling import label_feature_file
from abaw_seq.errors import UserError


def values(rows, dim=3, dtype="float32"):
    return (np.arange(rows)[:, None] * 10 + np.arange(dim)).astype(dtype)


def abaw4(path, videos):
    """videos: {name: features, or (features, frame numbers)}."""
    with h5py.File(path, "w") as file:
        for name, stored in videos.items():
            features, numbers = stored if isinstance(stored, tuple) else (stored, None)
            file[f"{name}/feature"] = features
            if numbers is not None:
                file[f"{name}/fn"] = numbers
    return path


def npy(folder, **arrays):
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name.replace('__', '.')}.npy", array)
    return folder


def annotated(**frames):
    """Every frame has valence = its number / 100."""
    videos = {}
    for name, numbers in frames.items():
        labels = np.full((len(numbers), 15), np.nan, np.float32)
        labels[:, 0] = np.array(numbers) / 100
        videos[name] = VideoLabels(np.array(numbers, np.int32), labels, "train")
    return Annotations(videos)


def test_the_abaw4_layout_is_read_with_its_frame_numbers(tmp_path):
    names = np.array([b"v/00002.jpg", b"v/00007.jpg", b"v/00009.jpg"])
    path = abaw4(tmp_path / "mae.h5", {"v": (values(3), names), "w": (values(2), np.array([4, 6])), "x": values(4)})
    with open_features(path) as reader:
        assert isinstance(reader, ForeignReader) and reader.videos == ("v", "w", "x")
        assert list(reader.backbones) == ["mae"] and reader.backbones["mae"].dim == 3
        assert [reader.frames(v).tolist() for v in reader.videos] == [[2, 7, 9], [4, 6], [1, 2, 3, 4]]
        np.testing.assert_array_equal(reader.features("v", "mae"), values(3))
        np.testing.assert_array_equal(reader.features("v", "mae", 1, 2), values(3)[1:2])


def test_a_folder_of_arrays_is_read_and_its_rows_put_in_the_order_of_their_frames(tmp_path, capsys):
    numbers = np.array([5.0, 3.0, 5.0, 1.0])
    folder = npy(tmp_path / "clip", v=values(4), v__frames=numbers, w=values(2, dtype="float64"))
    with open_features(folder) as reader:
        assert reader.videos == ("v", "w") and list(reader.backbones) == ["clip"]
        assert reader.frames("v").tolist() == [1, 3, 5]
        np.testing.assert_array_equal(reader.features("v", "clip"), values(4)[[3, 1, 0]])
        assert reader.features("w", "clip").dtype == np.float32
    said = capsys.readouterr().err
    assert (
        "stored, of a frame that comes twice the first row (1 videos)" in said and "counted from 1 (1 videos)" in said
    )


def test_float16_stays_and_another_name_can_be_given(tmp_path):
    folder = npy(tmp_path / "x", v=values(2, dtype="float16"))
    with open_features(f"mae={folder}") as reader:
        assert reader.backbones["mae"].dtype == "float16" and reader.features("v", "mae").dtype == np.float16


def test_rows_without_numbers_are_the_annotated_frames_if_there_are_as_many(tmp_path, capsys):
    path = abaw4(tmp_path / "mae.h5", {"v": values(3), "w": values(3), "x": values(2)})
    known = annotated(v=[10, 20, 40], w=[10, 20])
    corpus = load_corpus([path], annotations=known)
    assert corpus.frames.tolist() == [10, 20, 40, 1, 2, 3, 1, 2]
    np.testing.assert_allclose(corpus.labels[:3, 0], [0.1, 0.2, 0.4])
    assert corpus.labels[3:].isnan().all() and corpus.splits == ("train", "train", None)
    said = capsys.readouterr().err
    assert "as annotated, row by row (1 videos)" in said
    assert "counted from 1, although other frames are annotated (1 videos)" in said


def test_they_are_joined_with_a_feature_file_by_frame_number(toy_feats, tmp_path):
    own = load_corpus([toy_feats])
    videos = {}
    for name, start, stop in zip(own.names, own.offsets[:-1], own.offsets[1:], strict=True):
        frames = own.frames[start:stop][::2]
        videos[name] = (np.repeat(frames[:, None], 2, 1).astype("float32"), frames)
    joined = load_corpus([toy_feats, abaw4(tmp_path / "extra.h5", videos)])
    assert joined.backbones == {"toy": slice(0, 12), "extra": slice(12, 14)}
    np.testing.assert_array_equal(joined.features[:, 12], joined.frames)
    assert joined.in_split("val") == own.in_split("val")


def test_they_are_converted_to_a_labelled_feature_file(tmp_path):
    path = abaw4(tmp_path / "mae.h5", {"v": values(3), "x": values(2)})
    _, rows = label_feature_file(path, annotated(v=[10, 20, 40]), tmp_path / "out.h5")
    with FeatureReader(tmp_path / "out.h5") as reader:
        assert reader.frames("v").tolist() == [10, 20, 40] and reader.split("v") == "train"
        np.testing.assert_allclose(reader.labels("v")[:, 0], [0.1, 0.2, 0.4])
        np.testing.assert_array_equal(reader.features("v", "mae"), values(3))
        assert reader.labels("x") is None
    assert rows[0][:4] == ["train", "1", "3", "3"]
    before = path.read_bytes()
    with pytest.raises(UserError, match="name another output"):
        label_feature_file(path, annotated(v=[10]), path)
    assert path.read_bytes() == before


REFUSED = {
    "holds no features": lambda t: npy(t / "d"),
    "not a plain .npy array": lambda t: npy(t / "d", v=np.array([{}], object)),
    r"video v: features are float32 \(4,\)": lambda t: npy(t / "d", v=np.zeros(4, "float32")),
    r"video v: features are <U1": lambda t: npy(t / "d", v=np.array([["a"]])),
    "differ in width": lambda t: npy(t / "d", v=values(2), w=values(2, dim=4)),
    "video v: its frame numbers": lambda t: abaw4(t / "a.h5", {"v": (values(2), np.array([1, 2, 3]))}),
    "video w: its frame numbers": lambda t: abaw4(t / "a.h5", {"w": (values(2), np.array([1, 2.5]))}),
    "video x: its frame numbers": lambda t: abaw4(t / "a.h5", {"x": (values(2), np.array([b"1.jpg", b"face"]))}),
    "video w: holds no feature": lambda t: _with_stray_group(t),
    "no such feature file": lambda t: t / "none.h5",
    "neither a folder of .npy files nor an HDF5 file": lambda t: f"mae={t / 'none'}",
}


def _with_stray_group(folder):
    path = abaw4(folder / "a.h5", {"v": values(2)})
    with h5py.File(path, "r+") as file:
        file["w/other"] = values(2)
    return path


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_read_is_refused_by_name(words, tmp_path):
    with pytest.raises(UserError, match=words):
        open_features(REFUSED[words](tmp_path))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_features_that_are_not_finite_name_their_video(bad, tmp_path):
    spoiled = values(3, dtype="float64")
    spoiled[1, 1] = bad
    with open_features(npy(tmp_path / "d", v=spoiled)) as reader:
        with pytest.raises(UserError, match="video v: the features hold NaN or infinity"):
            reader.features("v", "d")


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_fewer_rows_than_annotated_frames_get_no_labels_and_are_named(tmp_path, rows, caplog):
    path = abaw4(tmp_path / "mae.h5", {"v": values(rows), "w": values(2)})
    known = annotated(v=[10, 20, 30, 40], w=[5, 7])
    with caplog.at_level("INFO"):
        corpus = load_corpus([path], annotations=known)
    assert corpus.labels[:rows].isnan().all() and corpus.labels[rows:, 0].tolist() == pytest.approx([0.05, 0.07])
    assert corpus.splits == ("train", "train")
    assert f"fewer rows than annotated frames: v ({rows} rows, 4 annotated frames)" in caplog.text
    label_feature_file(path, known, tmp_path / "out.h5")
    with FeatureReader(tmp_path / "out.h5") as reader:
        assert np.isnan(reader.labels("v")).all() and reader.split("v") == "train"


def test_fewer_rows_with_frame_numbers_get_their_labels(tmp_path):
    path = abaw4(tmp_path / "mae.h5", {"v": (values(2), np.array([20, 40]))})
    corpus = load_corpus([path], annotations=annotated(v=[10, 20, 30, 40]))
    np.testing.assert_allclose(corpus.labels[:, 0], [0.2, 0.4])


def test_frame_names_are_read_as_extraction_reads_them(tmp_path):
    faces = {"v": (values(2), np.array([b"v/00003_1.jpg", b"v/00004_0.jpg"])), "w": (values(1), np.array([b"frame.7"]))}
    with open_features(abaw4(tmp_path / "a.h5", faces)) as reader:
        assert reader.frames("v").tolist() == [3, 4] and reader.frames("w").tolist() == [7]
    both = {"v": (values(4), np.array([b"3_0.jpg", b"3_1.jpg", b"4_0.jpg", b"4_1.jpg"]))}
    with pytest.raises(UserError, match="video v: its frame numbers are not one whole number for each row"):
        open_features(abaw4(tmp_path / "c.h5", both))


def test_hidden_arrays_count_for_nothing_and_what_is_no_array_is_said(tmp_path, caplog):
    folder = npy(tmp_path / "d", v=values(2))
    (folder / "._v.npy").write_bytes(b"\0\5\x16\7")
    (folder / "x.npy").mkdir()
    with open_features(folder) as reader:
        assert reader.videos == ("v",)
    assert caplog.messages[0] == f"1 entries passed over, not features: {folder / 'x.npy'}"


def test_names_in_another_unicode_form_meet_their_annotations(tmp_path):
    apart, composed = (unicodedata.normalize(form, "vidéo1") for form in ("NFD", "NFC"))
    for path in (npy(tmp_path / "d", **{apart: values(2)}), abaw4(tmp_path / "a.h5", {apart: values(2)})):
        assert load_corpus([path], annotations=annotated(**{composed: [5, 7]})).frames.tolist() == [5, 7]
