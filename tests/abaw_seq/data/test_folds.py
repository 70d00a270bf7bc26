from __future__ import annotations

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from abaw_seq.data.annotations import VideoLabels
from abaw_seq.data.folds import (
    FOLD_HEADER,
    Fold,
    fold_rows,
    make_folds,
    official_fold,
    read_folds,
    source_video,
    write_folds,
)
from abaw_seq.errors import UserError


def video(count: int, expression: int | None = 0, split: str | None = "train", valence: float = 0.0) -> VideoLabels:
    labels = np.full((count, 15), np.nan, np.float32)
    if expression is not None:
        labels[:, :2] = valence, 0.5
        labels[:, 2] = expression
        labels[:, 3:] = np.arange(12) == expression
    return VideoLabels(np.arange(1, count + 1, dtype=np.int32), labels, split)


def corpus(count: int = 90) -> dict[str, VideoLabels]:
    """Videos of very different length, of one expression and about one valence each."""
    rng = np.random.default_rng(7)
    lengths = np.clip(rng.lognormal(5, 0.8, count), 11, 2000).astype(int)
    return {
        f"{k}-30-640x360": video(int(n), k % 8, "val" if k % 5 == 0 else "train", rng.uniform(-0.9, 0.9))
        for k, n in enumerate(lengths)
    }


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("10-60-1280x720_right", "10-60-1280x720"),
        ("10-60-1280x720", "10-60-1280x720"),
        ("video2_left", "video2"),
        ("video10_1", "video10_1"),
        ("122-60-1920x1080-1", "122-60-1920x1080-1"),
        ("_left", "_left"),
    ],
)
def test_the_source_of_one_side(name, source):
    assert source_video(name) == source


def test_each_video_is_validated_once_and_trained_on_otherwise():
    videos = corpus(40) | {"t": video(5, 0, "test")}
    folds = make_folds(videos, 5)
    labelled = sorted(set(videos) - {"t"})
    assert [fold.name for fold in folds] == ["1", "2", "3", "4", "5"]
    assert sorted(name for fold in folds for name in fold.val) == labelled
    for fold in folds:
        assert sorted(fold.train + fold.val) == labelled
        assert list(fold.val) == sorted(fold.val) and list(fold.train) == sorted(fold.train)


def test_both_sides_of_a_source_video_are_in_the_same_part():
    videos = {}
    for k in range(12):
        videos |= {f"v{k}_left": video(20 + k, k % 8), f"v{k}_right": video(300, 7 - k % 8)}
        if k % 3 == 0:
            videos[f"v{k}"] = video(5)
    for fold in make_folds(videos, 4):
        assert not {source_video(name) for name in fold.train} & {source_video(name) for name in fold.val}


def test_folds_agree_in_frames_and_label_distribution():
    videos = corpus()
    folds = make_folds(videos, 5)
    frames = np.array([sum(len(videos[name].frames) for name in fold.val) for fold in folds])
    assert np.abs(frames / frames.mean() - 1).max() < 0.05
    counts = np.array(
        [sum(np.bincount(videos[name].labels[:, 2].astype(int), minlength=8) for name in fold.val) for fold in folds]
    )
    # Each class is about 11 videos of lengths from 11 to 2000 frames: a fold cannot be exact.
    assert np.abs(counts / counts.mean(0) - 1).mean() < 0.12
    at_random = np.random.default_rng(0).permutation(len(videos)) % 5
    names = sorted(videos)
    random_frames = np.array(
        [sum(len(videos[names[i]].frames) for i in np.flatnonzero(at_random == k)) for k in range(5)]
    )
    assert frames.std() < 0.2 * random_frames.std()


def test_the_same_seed_gives_the_same_folds_in_any_order_of_the_videos_and_another_seed_others():
    videos = corpus()
    folds = make_folds(videos, 5, seed=3)
    assert make_folds(dict(reversed(videos.items())), 5, seed=3) == folds
    assert make_folds(videos, 5, seed=4) != folds


def test_videos_without_labels_are_shared_out_by_their_frames():
    folds = make_folds({f"v{k}": video(100, None) for k in range(6)}, 3)
    assert [len(fold.val) for fold in folds] == [2, 2, 2]


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 6), st.data())
def test_no_fold_is_empty(count, data):
    lengths = data.draw(st.lists(st.integers(0, 500), min_size=count, max_size=15))
    folds = make_folds({f"v{k}": video(n, k % 8) for k, n in enumerate(lengths)}, count)
    assert all(fold.train and fold.val for fold in folds)


def test_too_few_videos_are_refused():
    videos = {"a_left": video(5), "a_right": video(5), "b": video(5)}
    with pytest.raises(UserError, match="3 folds cannot be made of 2 source videos"):
        make_folds(videos, 3)
    with pytest.raises(UserError, match="at least 2"):
        make_folds(videos, 1)


def test_the_official_split_is_one_fold():
    videos = {"b": video(5), "a": video(5), "c": video(5, split="val"), "d": video(5, split="test")}
    assert official_fold(videos) == Fold("official", ("a", "b"), ("c",))
    del videos["c"]
    with pytest.raises(UserError, match="no official split: 2 videos for training, 0 for validation"):
        official_fold(videos)


@pytest.mark.parametrize("name", ["folds.yaml", "folds.json"])
def test_folds_survive_write_and_read(tmp_path, name):
    folds = [Fold("official", ("007", "12_3", "1e3", "2-30-640x360"), ("null", "video10_1", "yes"))]
    folds += make_folds(corpus(20), 3)
    write_folds(tmp_path / name, folds)
    assert read_folds(tmp_path / name) == folds
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is not a fold file"),
        ({"version": 2}, "is not a fold file"),
        ({"folds": []}, "no folds"),
        ({"folds": [{"name": "1", "train": ["a"]}]}, "keys name, train and val"),
        (
            {"folds": [{"name": "1", "train": [426], "val": ["b"]}]},
            "train must be a list of video names, each in quotes",
        ),
        ({"folds": [{"name": "1", "train": ["a"], "val": []}]}, "val must be a list of video names"),
        ({"folds": [{"name": "1", "train": ["a_left"], "val": ["a"]}]}, "a is in train and in val"),
        ({"folds": [{"name": "1", "train": ["a"], "val": ["b"]}] * 2}, "two folds of the same name"),
    ],
)
def test_a_faulty_fold_file_is_refused_with_its_name(tmp_path, change, message):
    content = {"format": "abaw-folds", "version": 1, "folds": [{"name": "1", "train": ["a"], "val": ["b"]}]}
    path = tmp_path / "folds.yaml"
    path.write_text(yaml.safe_dump(content))
    assert read_folds(path) == [Fold("1", ("a",), ("b",))]
    path.write_text(yaml.safe_dump(content | change))
    with pytest.raises(UserError, match=message) as error:
        read_folds(path)
    assert str(path) in str(error.value)


def test_text_that_is_no_yaml_is_refused(tmp_path):
    (tmp_path / "folds.yaml").write_text("folds: [")
    with pytest.raises(UserError, match="folds.yaml: is neither YAML nor JSON"):
        read_folds(tmp_path / "folds.yaml")


def test_the_table_shows_what_each_fold_validates_on():
    videos = {"a": video(30, 2), "b": video(10, 3), "c": video(8, None)}
    rows = fold_rows([Fold("1", ("a",), ("b", "c"))], videos)
    assert rows == [["1", "1", "2", "18", "10", "10", "10", "0% 0% 0% 100% 0% 0% 0% 0%"]]
    assert len(rows[0]) == len(FOLD_HEADER)
