"""Fitting and applying what is done to predictions after the model."""

import json

import numpy as np
import pytest

from abaw_seq.data.prediction_file import VideoPredictions, concatenated, read_predictions, write_predictions
from abaw_seq.errors import UserError
from abaw_seq.metrics import score
from abaw_seq.results.objective import cross_fitted, halves, labelled_videos, task_score
from abaw_seq.results.postprocess import (
    Postprocess,
    fit_in_sample,
    fit_postprocess,
    fit_run,
    load_postprocess,
    postprocessed,
    save_postprocess,
)
from abaw_seq.results.smooth import Smoothing, smooth


def noisy_video(seed: int, frames: int = 150, noise: float = 0.8) -> VideoPredictions:
    """Slow truth, noisy predictions of it, units that fire too rarely and a favoured expression."""
    rng = np.random.default_rng(seed)
    number = np.cumsum(rng.integers(1, 3, frames)).astype(np.int32)
    phase = number[:, None] / rng.uniform(15, 40, 14) + rng.uniform(0, 6, 14)
    truth = np.sin(phase)
    labels = np.empty((frames, 15), np.float32)
    labels[:, :2] = 0.8 * truth[:, :2]
    labels[:, 2] = np.clip((truth[:, 0] + 1) * 4, 0, 7).astype(int)
    labels[:, 3:] = truth[:, 2:] > 0.3
    logits = rng.normal(0, 1.2, (frames, 8)) + 2 * np.eye(8)[labels[:, 2].astype(int)] + np.linspace(2, 0, 8)
    expression = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    outputs = {
        "valence": np.clip(labels[:, 0] + rng.normal(0, noise, frames), -1, 1),
        "arousal": np.clip(labels[:, 1] + rng.normal(0, noise, frames), -1, 1),
        "expression": expression,
        "au": 1 / (1 + np.exp(-(2 * truth[:, 2:] - 2 + rng.normal(0, 1, (frames, 12))))),
    }
    labels[rng.random(frames) < 0.2, 2] = np.nan
    return VideoPredictions(number, {t: v.astype(np.float32) for t, v in outputs.items()}, labels, "val")


@pytest.fixture(scope="module")
def videos():
    return {f"v{k}": noisy_video(k) for k in range(6)}


@pytest.fixture(scope="module")
def fitted(videos):
    return fit_postprocess(videos, fitted_on="here")


def test_fitting_raises_every_score_and_holds_on_other_videos(videos, fitted):
    others = {f"w{k}": noisy_video(50 + k) for k in range(6)}
    for some in (videos, others):
        before, after = score(*concatenated(some)), score(*concatenated(fitted.apply(some)))
        for task in ("valence", "arousal", "expression", "au"):
            assert after[task] > before[task] + 0.03, task


def test_in_sample_no_task_falls(videos):
    some = {name: videos[name] for name in ("v0", "v1")}
    before, after = score(*concatenated(some)), score(*concatenated(fit_in_sample(some).apply(some)))
    assert all(after[task] >= before[task] - 1e-6 for task in ("valence", "arousal", "expression", "au"))


def test_applying_changes_only_the_outputs_and_leaves_the_input_alone(videos, fitted):
    before = {task: values.copy() for task, values in videos["v0"].outputs.items()}
    applied = fitted.apply(videos)["v0"]
    assert all(np.array_equal(videos["v0"].outputs[task], before[task]) for task in before)
    assert np.array_equal(applied.frames, videos["v0"].frames) and applied.labels is videos["v0"].labels
    assert {t: v.dtype for t, v in applied.outputs.items()} == dict.fromkeys(before, np.dtype(np.float32))
    np.testing.assert_allclose(applied.outputs["expression"].sum(1), 1, atol=1e-5)


def test_the_usual_decisions_on_what_is_applied_are_the_fitted_ones(videos, fitted):
    values = videos["v1"].outputs["au"]
    smoothed = smooth(values, videos["v1"].frames, fitted.smoothing.get("au", Smoothing()))
    applied = fitted.apply(videos)["v1"].outputs["au"]
    assert np.array_equal(applied >= 0.5, smoothed >= np.array(fitted.au_thresholds))
    assert len(set(fitted.au_thresholds)) > 6


def test_nothing_fitted_changes_nothing(videos):
    for name, video in Postprocess().apply(videos).items():
        assert all(np.array_equal(values, videos[name].outputs[task]) for task, values in video.outputs.items())


def test_what_does_not_hold_on_other_videos_is_left_alone():
    outcomes = set()
    for seed in range(4):
        rng = np.random.default_rng(seed)
        videos = {}
        for k in range(6):
            labels = np.full((80, 15), np.nan, np.float32)
            labels[:, 2] = rng.integers(0, 8, 80)  # without any relation to the predictions
            outputs = {"expression": rng.dirichlet(np.ones(8), 80).astype(np.float32)}
            videos[f"v{k}"] = VideoPredictions(np.arange(80), outputs, labels, "val")
        assert any(fit_in_sample(videos).expression_biases)
        trial = cross_fitted(videos, lambda part: fit_in_sample(part).apply)
        (before, labels), (after, _) = concatenated(videos), concatenated(trial)
        gains = [task_score("expression", outputs["expression"], labels) for outputs in (before, after)]
        kept = any(fit_postprocess(videos).expression_biases)
        assert kept == (gains[1] > gains[0])
        outcomes.add(kept)
    assert outcomes == {True, False}


def test_halves_keep_the_sides_of_a_video_together_and_each_is_changed_by_the_other(videos):
    named = {f"a{k}_{side}": videos[f"v{k}"] for k in range(3) for side in ("left", "right")}
    one, other = halves(named)
    assert sorted(one + other) == sorted(named) and one and other
    assert {n.rpartition("_")[0] for n in one} & {n.rpartition("_")[0] for n in other} == set()
    seen = []
    changed = cross_fitted(named, lambda part: lambda rest: seen.append((set(part), set(rest))) or rest)
    assert list(changed) == list(named)
    assert seen == [(set(one), set(other)), (set(other), set(one))]
    assert halves({"b_left": videos["v0"], "b_right": videos["v1"]}) is None


def test_it_is_stored_and_read_back(tmp_path, videos, fitted):
    save_postprocess(tmp_path, fitted)
    assert load_postprocess(tmp_path) == fitted
    again = postprocessed(tmp_path, videos)["v2"].outputs
    assert all(np.array_equal(again[t], values) for t, values in fitted.apply(videos)["v2"].outputs.items())
    (tmp_path / "postprocess.yaml").unlink()
    assert load_postprocess(tmp_path) is None and postprocessed(tmp_path, videos) is videos


@pytest.mark.parametrize(
    "text, words",
    [
        ("au_thresholds: [0.5]", "au_thresholds must be 12 numbers"),
        (
            "expression_biases: [.nan, 0, 0, 0, 0, 0, 0, 0]",
            r"expression_biases\[0\] must be a number in \(-inf",
        ),
        ("smoothing: {valence: {kind: moving, window: 4}}", "window must be odd"),
        ("smoothing: {pain: {kind: moving, window: 3}}", "unknown task 'pain'"),
        ("au_threshold: []", "did you mean au_thresholds"),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path, text, words):
    (tmp_path / "postprocess.yaml").write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        load_postprocess(tmp_path)
    assert "postprocess.yaml" in str(caught.value)


def test_a_run_keeps_its_predictions_and_gets_its_tuned_score_beside_the_untuned(tmp_path, videos):
    write_predictions(tmp_path / "predictions.h5", videos)
    untuned = score(*concatenated(videos))
    (tmp_path / "scores.json").write_text(
        json.dumps({"split": "val", "untuned": untuned, "tuned": None, "best_epoch": 7})
    )
    before = (tmp_path / "predictions.h5").read_bytes()
    scores = fit_run(tmp_path)
    assert json.loads((tmp_path / "scores.json").read_text()) == scores
    assert scores["best_epoch"] == 7 and scores["untuned"] == untuned
    assert scores["tuned"] == score(*concatenated(load_postprocess(tmp_path).apply(read_predictions(tmp_path))))
    assert scores["tuned_on"] == "the labels scored here"
    assert untuned["p_mtl"] < scores["cross_fitted"]["p_mtl"] < scores["tuned"]["p_mtl"]
    assert (tmp_path / "predictions.h5").read_bytes() == before
    assert "6 videos, 900 frames (val)" in load_postprocess(tmp_path).fitted_on


def test_fitted_on_other_predictions_it_is_said_so(tmp_path, videos):
    write_predictions(tmp_path / "predictions.h5", videos)
    write_predictions(tmp_path / "folds.h5", {f"w{k}": noisy_video(90 + k) for k in range(4)})
    scores = fit_run(tmp_path, tmp_path / "folds.h5")
    assert scores["tuned_on"] == f"other videos ({tmp_path / 'folds.h5'})" and scores["cross_fitted"] is None
    assert scores["tuned"]["p_mtl"] > scores["untuned"]["p_mtl"]


def test_predictions_without_labels_cannot_be_fitted_on(tmp_path, videos):
    bare = {name: VideoPredictions(v.frames, v.outputs) for name, v in videos.items()}
    with pytest.raises(UserError, match="p.h5: holds no labels to fit on"):
        labelled_videos(bare, "p.h5")
    with pytest.raises(UserError, match="not a run folder"):
        fit_run(tmp_path / "predictions.h5")


def test_frames_that_do_not_rise_are_refused_by_video(videos):
    broken = VideoPredictions(videos["v0"].frames[::-1], videos["v0"].outputs)
    with pytest.raises(UserError, match="video v9: frame numbers must rise"):
        Postprocess().apply({"v9": broken})
