import numpy as np
import pytest
import torch

from abaw_seq.data.annotations import Annotations, VideoLabels
from abaw_seq.data.corpus import load_corpus
from abaw_seq.data.feature_file import BackboneInfo, VideoFeatures, atomic_feature_file
from abaw_seq.errors import UserError


def info(dim, sha="a", dtype="float16"):
    return BackboneInfo(dim, "toy", "toy.pt", sha * 64, {}, "avg", dtype, "2026")


def write(path, backbone, dim, videos, *, sha="a", dtype="float16"):
    """videos: {name: (frame numbers, valid or None, labels or None, split)}; feature = frame number + column / 10."""
    with atomic_feature_file(path) as writer:
        writer.add_backbone(backbone, info(dim, sha, dtype))
        for name, (frames, valid, labels, split) in videos.items():
            frames = np.asarray(frames, np.int32)
            values = (frames[:, None] + np.arange(dim) / 10).astype(dtype)
            valid = np.ones(len(frames), bool) if valid is None else np.asarray(valid)
            values[~valid] = 0
            writer.add_video(VideoFeatures(name, frames, valid, {backbone: values}, labels, split))
    return path


def test_two_files_are_joined_by_video_and_frame_number(tmp_path):
    a = write(tmp_path / "a.h5", "mae", 2, {"v": ([1, 2, 4, 7], None, None, "train"), "w": ([1], None, None, None)})
    b = write(
        tmp_path / "b.h5",
        "ires",
        3,
        {"w": ([1, 2], None, None, "val"), "v": ([2, 4, 5, 7], None, None, None)},
    )
    corpus = load_corpus([a, b])
    assert corpus.names == ("v", "w") and corpus.splits == ("train", "val")
    assert corpus.backbones == {"mae": slice(0, 2), "ires": slice(2, 5)}
    np.testing.assert_array_equal(corpus.frames, [2, 4, 7, 1])
    assert corpus.lengths == [3, 1]
    expected = corpus.frames[:, None] + np.array([0, 0.1, 0, 0.1, 0.2])
    np.testing.assert_allclose(corpus.features.numpy(), expected, atol=4e-3)


def test_order_and_choice_of_backbones_are_the_callers(tmp_path):
    videos = {"v": ([1, 2], None, None, "train")}
    a, b = write(tmp_path / "a.h5", "mae", 2, videos), write(tmp_path / "b.h5", "ires", 3, videos)
    assert load_corpus([a, b], backbones=("ires", "mae")).backbones == {
        "ires": slice(0, 3),
        "mae": slice(3, 5),
    }
    assert load_corpus([a, b], backbones=("ires",)).dim == 3
    with pytest.raises(UserError, match="no backbone 'dense'"):
        load_corpus([a, b], backbones=("dense",))


def test_a_video_without_one_of_the_backbones_is_named(tmp_path):
    a = write(tmp_path / "a.h5", "mae", 2, {"v": ([1], None, None, None), "w": ([1], None, None, None)})
    b = write(tmp_path / "b.h5", "ires", 3, {"v": ([1], None, None, None)})
    with pytest.raises(UserError, match="video w: no ires features"):
        load_corpus([a, b])


def test_no_common_frame_and_disagreeing_splits_are_named(tmp_path):
    a = write(tmp_path / "a.h5", "mae", 2, {"v": ([1, 2], None, None, "train")})
    b = write(tmp_path / "b.h5", "ires", 3, {"v": ([3, 4], None, None, "train")})
    with pytest.raises(UserError, match="video v: the feature files have no frame of it in common"):
        load_corpus([a, b])
    c = write(tmp_path / "c.h5", "ires", 3, {"v": ([1, 2], None, None, "val")})
    with pytest.raises(UserError, match="video v: .* disagree about its split"):
        load_corpus([a, c])


def test_an_unreadable_frame_takes_the_nearest_readable_ones_features(tmp_path):
    valid = [False, True, False, False, True, False]
    path = write(tmp_path / "a.h5", "mae", 1, {"v": ([10, 20, 30, 40, 50, 60], valid, None, None)})
    assert load_corpus([path]).features[:, 0].tolist() == [20, 20, 20, 50, 50, 50]


def test_float32_stays_float32(tmp_path):
    path = write(tmp_path / "a.h5", "mae", 2, {"v": ([1, 2], None, None, None)}, dtype="float32")
    assert load_corpus([path]).features.dtype == torch.float32


def test_windows_are_gathered_by_index_and_never_reach_the_next_video(tmp_path):
    videos = {"v": ([1, 2, 3], None, None, None), "w": ([11, 12, 13, 14], None, None, None)}
    corpus = load_corpus([write(tmp_path / "a.h5", "mae", 1, videos)])
    rows = corpus.window_rows(np.array([[0, 1, 3], [1, 0, 2]]), [1, 0])
    assert corpus.gather_features(rows)[..., 0].tolist() == [[12, 13, 14], [1, 2, 2]]


def test_labels_behind_a_windows_end_are_hidden(tmp_path):
    labels = np.zeros((3, 15), np.float32)
    path = write(tmp_path / "a.h5", "mae", 1, {"v": ([1, 2, 3], None, labels, None)})
    corpus = load_corpus([path])
    rows = corpus.window_rows(np.array([[0, 0, 2], [0, 0, 3]]), [0])
    labels = corpus.gather_labels(rows, torch.tensor([2, 3]))[..., 0]
    assert torch.isnan(labels).tolist() == [[False, False, True], [False, False, False]]


def test_annotations_replace_labels_and_splits_by_frame_number(tmp_path):
    path = write(tmp_path / "a.h5", "mae", 1, {"v": ([1, 5, 9], None, None, None), "w": ([1], None, None, "train")})
    labels = np.full((2, 15), 0.25, np.float32)
    known = Annotations({"v": VideoLabels(np.array([5, 6], np.int32), labels, "val")})
    corpus = load_corpus([path]).labelled(known)
    assert corpus.splits == ("val", None)
    assert torch.isnan(corpus.labels[:, 0]).tolist() == [True, False, True, True]


def test_standardising_per_video(tmp_path):
    videos = {"v": (range(1, 50), None, None, None), "w": (range(100, 400, 3), None, None, None)}
    corpus = load_corpus([write(tmp_path / "a.h5", "mae", 2, videos, dtype="float32")])
    changed = corpus.standardised_per_video([slice(0, 1)])
    for start, stop in zip(corpus.offsets[:-1], corpus.offsets[1:], strict=True):
        own = changed.features[start:stop]
        assert abs(float(own[:, 0].mean())) < 1e-5
        assert float(own[:, 0].std(unbiased=False)) == pytest.approx(1, abs=1e-5)
        assert torch.equal(own[:, 1], corpus.features[start:stop, 1])


def test_missing_labels_are_taken_from_the_nearest_frame_in_the_given_videos_alone(tmp_path):
    labels = np.full((4, 15), np.nan, np.float32)
    labels[1, :3] = 0.5, -0.5, 4
    videos = {name: ([1, 3, 6, 20], None, labels, None) for name in ("v", "w")}
    corpus = load_corpus([write(tmp_path / "a.h5", "mae", 1, videos)])
    filled, counts = corpus.with_nearest_labels([1], {"valence": 3, "expression": 20})
    assert counts == {"valence": 2, "expression": 3}
    np.testing.assert_array_equal(filled.labels[:4], labels)
    np.testing.assert_array_equal(filled.labels[4:, 0], [0.5, 0.5, 0.5, np.nan])
    np.testing.assert_array_equal(filled.labels[4:, 2], [4, 4, 4, 4])
    np.testing.assert_array_equal(filled.labels[4:, 1], labels[:, 1])
    assert np.isnan(corpus.labels.numpy()[4:]).sum() == 4 * 15 - 3, "the corpus itself stays as it was"


def test_video_labels_are_what_annotation_files_would_give(tmp_path):
    labels = np.full((2, 15), 0.25, np.float32)
    path = write(tmp_path / "a.h5", "mae", 1, {"v": ([5, 9], None, labels, "val"), "w": ([1], None, None, None)})
    corpus = load_corpus([path])
    videos = corpus.video_labels()
    assert list(videos) == ["v", "w"] and videos["v"].split == "val" and videos["w"].split is None
    assert videos["v"].frames.tolist() == [5, 9] and np.isnan(videos["w"].labels).all()
    np.testing.assert_array_equal(videos["v"].labels, labels)


def test_videos_of_the_training_split_and_labelled_ones_without_a_split_train(tmp_path):
    labels = np.full((2, 15), np.nan, np.float32)
    labels[1, 3] = 1
    nothing = np.full((2, 15), np.nan, np.float32)
    videos = {
        "blank": ([1, 2], None, nothing, None),
        "free": ([1, 2], None, labels, None),
        "test": ([1, 2], None, labels, "test"),
        "train": ([1, 2], None, None, "train"),
        "unknown": ([1, 2], None, None, None),
        "val": ([1, 2], None, labels, "val"),
    }
    corpus = load_corpus([write(tmp_path / "a.h5", "mae", 2, videos)])
    assert [corpus.names[video] for video in corpus.training_videos()] == ["free", "train"]
