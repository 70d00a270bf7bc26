"""Scoring files against annotations: what is compared, and what is said about the rest."""

import numpy as np
import pytest

from abaw_seq.data.annotations import Annotations, VideoLabels, write_mtl_annotations, write_task_annotations
from abaw_seq.data.prediction_file import VideoPredictions, write_predictions
from abaw_seq.errors import UserError
from abaw_seq.metrics import bootstrap, score
from abaw_seq.results.evaluate import best_constant_scores, coverage, score_files
from abaw_seq.results.reading import read_scorable
from abaw_seq.results.submission.wanted import files_per_video, read_image_list
from abaw_seq.results.submission.writing import write_submission
from abaw_seq.tasks import ACTION_UNITS

HEADER_2020 = "AU1,AU2,AU4,AU6,AU12,AU15,AU20,AU25"


def video(frames, seed, labels=True, split="val"):
    rng = np.random.default_rng(seed)
    n = len(frames)
    outputs = {
        "valence": rng.uniform(-1, 1, n),
        "arousal": rng.uniform(-1, 1, n),
        "expression": rng.dirichlet(np.ones(8), n),
        "au": rng.random((n, 12)),
    }
    truth = np.concatenate(
        [rng.uniform(-1, 1, (n, 2)), rng.integers(0, 8, (n, 1)), rng.integers(0, 2, (n, 12))], 1
    ).astype(np.float32)
    outputs = {task: values.astype(np.float32) for task, values in outputs.items()}
    return VideoPredictions(np.array(frames, np.int32), outputs, truth if labels else None, split)


@pytest.fixture
def videos():
    return {"a": video(range(1, 40), 1), "b": video(range(3, 60, 2), 2)}


def annotations(folder, videos, split="validation"):
    """An official multi-task file of the videos' labels."""
    path = folder / f"{split}_set_annotations.txt"
    rows = [
        (f"{name}/{frame:05d}.jpg", labels)
        for name, one in videos.items()
        for frame, labels in zip(one.frames, one.labels, strict=True)
    ]
    write_mtl_annotations(path, rows)
    return path


def test_a_prediction_file_scores_the_same_with_its_labels_and_with_the_official_ones(videos, tmp_path):
    write_predictions(tmp_path / "p.h5", videos)
    own = score_files([tmp_path / "p.h5"])
    official = score_files([tmp_path / "p.h5"], (annotations(tmp_path, videos),))
    assert own.scores["p"]["p_mtl"] == official.scores["p"]["p_mtl"] is not None
    assert own.notes == []
    assert official.notes == [
        "p: labelled frames without a prediction: 0 of 68 in val; predictions without a label: 0 in val"
    ]


def test_frames_on_one_side_only_are_counted_per_split(videos, tmp_path):
    path = annotations(tmp_path, videos)
    other = annotations(tmp_path, {"c": video(range(1, 6), 3), "d": video([1, 2], 4)}, "train")
    predicted = {
        "a": video([1, 2, 3, 500], 5, labels=False),
        "c": video([1, 2, 9], 6, labels=False),
        "stray": video([1, 2], 7, labels=False),
    }
    write_predictions(tmp_path / "p.h5", predicted)
    result = score_files([tmp_path / "p.h5"], (path, other))
    assert result.notes[0] == (
        "p: labelled frames without a prediction: 5 of 7 in train, 65 of 68 in val; "
        "predictions without a label: 1 in train, 1 in val, 2 in 1 videos that the annotations do not name"
    )
    assert "the videos of train and val together" in result.notes[1]
    assert result.scores["p"]["frames"] == {"valence": 5, "arousal": 5, "expression": 5, "au": 5}
    one = score_files([tmp_path / "p.h5"], (path, other), split="val")
    assert one.scores["p"]["frames"]["valence"] == 3 and len(one.notes) == 1
    assert one.notes[0].startswith("p: labelled frames without a prediction: 65 of 68 in val; ")


def test_only_labels_of_the_editions_tasks_count_as_labelled():
    labels = np.full((3, 15), np.nan, np.float32)
    labels[0, 2], labels[1, 0] = 4, 0.5
    truth = Annotations({"a": VideoLabels(np.array([1, 2, 3], np.int32), labels, "val")})
    assert "1 of 1 in val" in coverage({}, truth, "expr")
    assert "2 of 2 in val" in coverage({}, truth, "mtl")
    assert "without a prediction: none" in coverage({}, truth, "au")


def test_a_submission_is_scored_like_the_predictions_it_was_written_from(videos, tmp_path):
    path = annotations(tmp_path, videos)
    write_predictions(tmp_path / "p.h5", videos)
    write_submission(tmp_path / "mtl.txt", read_image_list(path), videos)
    result = score_files([tmp_path / "p.h5", tmp_path / "mtl.txt"], (path,)).scores
    assert result["mtl"]["p_mtl"] == pytest.approx(result["p"]["p_mtl"], abs=1e-5)
    assert result["mtl"]["au_f1"] == result["p"]["au_f1"]


@pytest.mark.parametrize("edition", ["va", "expr", "au", "expr2020"])
def test_files_per_video_are_scored_by_their_edition(edition, videos, tmp_path):
    write_submission(tmp_path / "sub", files_per_video(edition, {"a": 39, "b": 59}), videos)
    folder = tmp_path / "Validation_Set"
    folder.mkdir()
    header = next((tmp_path / "sub").glob("*.txt")).read_text().split("\n")[0]
    for name, one in videos.items():
        labels = np.full((59, 15), np.nan, np.float32)
        labels[one.frames - 1] = one.labels
        if edition == "expr2020":
            labels[labels[:, 2] == 7, 2] = np.nan
        write_task_annotations(folder / f"{name}.txt", header, labels)
    result = score_files([tmp_path / "sub"], (folder,), edition=edition)
    outputs = {task: np.concatenate([one.outputs[task] for one in videos.values()]) for task in videos["a"].outputs}
    expected = score(outputs, np.concatenate([one.labels for one in videos.values()]), edition=edition)
    assert result.scores["sub"]["score"] == pytest.approx(expected["score"], abs=1e-5)
    # the even frames of b are predicted and not labelled, and so is Other in an edition of 7 classes
    others = sum(int((one.labels[:, 2] == 7).sum()) for one in videos.values()) if edition == "expr2020" else 0
    assert f"predictions without a label: {30 + others} in val" in result.notes[0]


def test_units_that_an_edition_does_not_submit_are_named_and_not_scored(videos, tmp_path):
    write_submission(tmp_path / "sub", files_per_video("au2020", {"a": 39, "b": 59}), videos)
    result = score_files([tmp_path / "sub"], (annotations(tmp_path, videos),), edition="au2020")
    held = [k for k, unit in enumerate(ACTION_UNITS) if unit in HEADER_2020.split(",")]
    labels = np.concatenate([one.labels for one in videos.values()])
    labels[:, [3 + k for k in range(12) if k not in held]] = np.nan
    units = np.concatenate([one.outputs["au"] for one in videos.values()])
    assert result.scores["sub"]["score"] == pytest.approx(score({"au": units}, labels, edition="au2020")["score"])
    assert result.notes[1] == "sub: holds no AU7, AU10, AU23, AU24, AU26, which are not scored"


def test_a_total_that_is_missing_says_why(videos, tmp_path):
    for one in videos.values():
        del one.outputs["expression"]
    write_predictions(tmp_path / "p.h5", videos)
    result = score_files([tmp_path / "p.h5"])
    assert result.scores["p"]["p_mtl"] is None and result.notes == ["p: no total, expression: no predictions"]


def test_intervals_are_those_of_the_bootstrap_over_videos(tmp_path):
    videos = {f"v{k}": video(range(1, 30), k) for k in range(6)}
    videos["bare"] = video(range(1, 5), 9, labels=False)
    write_predictions(tmp_path / "p.h5", videos)
    result = score_files([tmp_path / "p.h5"], resamples=50).scores["p"]
    blank = np.full((4, 15), np.nan)
    predicted = {name: one.outputs for name, one in videos.items()}
    labels = {name: blank if one.labels is None else one.labels for name, one in videos.items()}
    assert result["intervals"]["p_mtl"] == bootstrap(predicted, labels, resamples=50)
    low, high = result["intervals"]["au"]
    assert low < result["au"] < high


@pytest.mark.parametrize("edition", ["mtl", "va", "expr", "au", "expr2020", "au2020"])
def test_no_constant_beats_the_best_constant(edition):
    labels = video(range(1, 200), 3).labels
    labels[:, 3:] = np.random.default_rng(0).random((199, 12)) < np.linspace(0.05, 0.9, 12)
    best = best_constant_scores(labels, edition)["score"]
    rng = np.random.default_rng(1)
    for expression in range(8):
        constant = {
            "valence": np.full(199, rng.uniform(-1, 1)),
            "arousal": np.full(199, rng.uniform(-1, 1)),
            "expression": np.full(199, expression),
            "au": np.tile(rng.integers(0, 2, 12), (199, 1)),
        }
        assert score(constant, labels, edition=edition)["score"] <= best + 1e-12


def test_files_are_recognised_by_their_content(videos, tmp_path):
    write_predictions(tmp_path / "predictions.bin", videos)
    assert set(read_scorable(tmp_path / "predictions.bin")) == {"a", "b"}
    (tmp_path / "junk.h5").write_text("image,valence\n")
    with pytest.raises(UserError, match="not a readable HDF5 file"):
        read_scorable(tmp_path / "junk.h5")
    (tmp_path / "junk.txt").write_text("what\n")
    with pytest.raises(UserError, match="not a submission"):
        read_scorable(tmp_path / "junk.txt")


def test_unknown_editions_and_splits_and_files_without_labels_are_refused(videos, tmp_path):
    write_predictions(tmp_path / "p.h5", {"a": video([1, 2], 1, labels=False)})
    with pytest.raises(UserError, match="edition mlt is unknown; one of mtl, va"):
        score_files([tmp_path / "p.h5"], edition="mlt")
    with pytest.raises(UserError, match="split dev is unknown"):
        score_files([tmp_path / "p.h5"], split="dev")
    with pytest.raises(UserError, match="holds no labels; give annotations"):
        score_files([tmp_path / "p.h5"])
    with pytest.raises(UserError, match="holds no video of the split test"):
        score_files([tmp_path / "p.h5"], split="test")
    path = annotations(tmp_path, {"z": video([1], 1)})
    with pytest.raises(UserError, match="the annotations name none of its videos"):
        score_files([tmp_path / "p.h5"], (path,))


def test_files_of_one_name_are_named_by_their_folders_too(videos, tmp_path):
    paths = [tmp_path / "x" / "p.h5", tmp_path / "y" / "p.h5"]
    for path in paths:
        write_predictions(path, videos)
    assert list(score_files([*paths, paths[0]]).scores) == ["x/p", "y/p"]
