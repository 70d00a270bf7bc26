"""Weights of ensembles: what they promise, where they are stored, and how they are applied."""

import json

import numpy as np
import pytest

from abaw_seq.data.prediction_file import VideoPredictions, concatenated, read_predictions, write_predictions
from abaw_seq.errors import UserError
from abaw_seq.metrics import score
from abaw_seq.results.ensemble import join_runs
from abaw_seq.results.objective import task_score
from abaw_seq.results.postprocess import Postprocess, load_postprocess, save_postprocess
from abaw_seq.results.smooth import Smoothing
from abaw_seq.results.weights import (
    Ensemble,
    cross_fitted_ensemble,
    fit_ensemble,
    load_ensemble,
    save_ensemble,
)
from abaw_seq.tasks import TASKS


def video(seed: int, noise: dict[str, float], member: int, frames: int = 60, labels: bool = True) -> VideoPredictions:
    """Predictions with a given noise for each task; the truth depends on the seed alone."""
    truth = np.random.default_rng(seed).uniform(-0.9, 0.9, (frames, 15)).astype(np.float32)
    known = truth.copy()
    known[:, 2] = np.clip((truth[:, 2] + 1) * 4, 0, 7).astype(int)
    known[:, 3:] = truth[:, 3:] > 0
    rng = np.random.default_rng([seed, member])
    logits = 3 * np.eye(8)[known[:, 2].astype(int)] + rng.normal(0, noise["expression"], (frames, 8))
    p = np.exp(logits)
    outputs = {
        "valence": np.clip(truth[:, 0] + rng.normal(0, noise["valence"], frames), -1, 1),
        "arousal": np.clip(truth[:, 1] + rng.normal(0, noise["arousal"], frames), -1, 1),
        "expression": p / p.sum(1, keepdims=True),
        "au": 1 / (1 + np.exp(-4 * (truth[:, 3:] + rng.normal(0, noise["au"], (frames, 12))))),
    }
    outputs = {task: values.astype(np.float32) for task, values in outputs.items()}
    return VideoPredictions(np.arange(1, frames + 1), outputs, known if labels else None, "val")


def member(number: int, labels: bool = True, **noise: float) -> dict[str, VideoPredictions]:
    noise = {"valence": 0.6, "arousal": 0.6, "expression": 2.0, "au": 0.6} | noise
    return {f"v{seed}": video(seed, noise, number, labels=labels) for seed in range(4)}


@pytest.fixture(scope="module")
def members():
    """Two equally good members, one good for valence alone, one of pure noise."""
    noise = dict.fromkeys(("valence", "arousal", "expression", "au"), 9.0)
    return {"a": member(1), "b": member(2), "v": member(3, **(noise | {"valence": 0.2})), "noise": member(4, **noise)}


def scores(videos):
    return score(*concatenated(videos))


def test_the_mean_is_the_mean_over_the_members_that_predict_the_task(members):
    bare = {name: VideoPredictions(v.frames, {"au": v.outputs["au"]}, v.labels) for name, v in members["b"].items()}
    ensemble = fit_ensemble({"a": members["a"], "b": bare}, "mean")
    joined = ensemble.apply({"a": members["a"], "b": bare})["v1"].outputs
    np.testing.assert_allclose(
        joined["au"], (members["a"]["v1"].outputs["au"] + members["b"]["v1"].outputs["au"]) / 2, atol=1e-7
    )
    np.testing.assert_array_equal(joined["valence"], members["a"]["v1"].outputs["valence"])
    assert ensemble.weights["valence"] == (1.0, 0.0) and ensemble.fitted_on == ""


@pytest.mark.parametrize("method", ["weighted", "greedy"])
def test_fitted_weights_suit_each_task_and_other_frames(members, method):
    ensemble = fit_ensemble(members, method, fitted_on="here")
    for weights in ensemble.weights.values():
        assert min(weights) >= 0 and sum(weights) == pytest.approx(1)
    assert np.argmax(ensemble.weights["valence"]) == 2
    for task in ("arousal", "expression", "au"):
        assert ensemble.weights[task][0] > 0.2 and ensemble.weights[task][1] > 0.2
        assert ensemble.weights[task][2] + ensemble.weights[task][3] < 0.3
    others = {
        name: {f"w{seed}": video(seed + 50, noise, k) for seed in range(3)}
        for k, (name, noise) in enumerate(
            {
                "a": {"valence": 0.6, "arousal": 0.6, "expression": 2.0, "au": 0.6},
                "b": {"valence": 0.6, "arousal": 0.6, "expression": 2.0, "au": 0.6},
                "v": {"valence": 0.2, "arousal": 9.0, "expression": 9.0, "au": 9.0},
                "noise": {"valence": 9.0, "arousal": 9.0, "expression": 9.0, "au": 9.0},
            }.items()
        )
    }
    mean = scores(fit_ensemble(others, "mean").apply(others))
    assert scores(ensemble.apply(others))["p_mtl"] > mean["p_mtl"] + 0.1


@pytest.mark.parametrize("method", ["weighted", "greedy"])
def test_what_is_fitted_never_scores_below_what_it_starts_from(members, method):
    fitted = scores(fit_ensemble(members, method).apply(members))
    mean = scores(fit_ensemble(members, "mean").apply(members))
    single = [scores(one) for one in members.values()]
    for task in TASKS:
        start = mean[task] if method == "weighted" else max(one[task] for one in single)
        assert fitted[task] >= start - 1e-5


def test_greedy_selection_is_the_best_bag_of_a_slow_search(members):
    pair = {name: members[name] for name in ("a", "b")}
    ensemble = fit_ensemble(pair, "greedy")
    stack = np.stack([concatenated(videos)[0]["arousal"] for videos in pair.values()]).astype(float)
    labels = concatenated(members["a"])[1]
    counts, best, kept = [0, 0], -1.0, None
    for size in range(1, 31):
        tried = []
        for k in range(2):
            bag = [c + (j == k) for j, c in enumerate(counts)]
            tried.append((task_score("arousal", (bag[0] * stack[0] + bag[1] * stack[1]) / size, labels), -k, bag))
        reached, _, counts = max(tried)
        if reached > best + 1e-9:
            best, kept = reached, [c / size for c in counts]
    assert ensemble.weights["arousal"] == pytest.approx(kept)


def test_cross_fitted_weights_are_judged_by_the_other_half(members):
    honest = scores(cross_fitted_ensemble(members, "greedy"))
    fitted = scores(fit_ensemble(members, "greedy").apply(members))
    assert honest["p_mtl"] <= fitted["p_mtl"] + 1e-6
    assert honest["frames"] == fitted["frames"]
    assert cross_fitted_ensemble(members, "mean") is None


def test_a_task_without_labels_gets_equal_weights(members):
    blank = {}
    for name, videos in members.items():
        blank[name] = {}
        for key, one in videos.items():
            labels = one.labels.copy()
            labels[:, 2] = np.nan
            blank[name][key] = VideoPredictions(one.frames, one.outputs, labels)
    assert fit_ensemble(blank, "greedy").weights["expression"] == (0.25,) * 4


def test_labels_may_come_from_any_member(members):
    bare = {name: VideoPredictions(v.frames, v.outputs) for name, v in members["b"].items()}
    ensemble = fit_ensemble({"bare": bare, "v": members["v"]}, "greedy")
    assert ensemble.weights["valence"] == pytest.approx((0, 1), abs=0.2)
    assert ensemble.apply({"bare": bare, "v": members["v"]})["v0"].labels is not None


def write(folder, members):
    paths = []
    for name, videos in members.items():
        (folder / name).mkdir()
        write_predictions(folder / name / "predictions.h5", videos)
        paths.append(folder / name)
    return paths


def test_stored_weights_apply_to_other_predictions_of_the_same_members(tmp_path, members):
    paths = write(tmp_path, members)
    table = join_runs(paths, tmp_path / "joined", method="greedy")
    stored = json.loads((tmp_path / "joined" / "scores.json").read_text())
    assert table["joined"] == stored["untuned"] == scores(read_predictions(tmp_path / "joined"))
    assert stored["mean"]["p_mtl"] < stored["cross_fitted_weights"]["p_mtl"] <= stored["untuned"]["p_mtl"]
    fitted = load_ensemble(tmp_path / "joined")
    assert fitted.members == tuple(map(str, paths)) and "4 videos" in fitted.fitted_on

    save_postprocess(tmp_path / "joined", Postprocess({"valence": Smoothing("moving", 5)}))
    bare = {name: {f"x{k}": video(k + 80, {"valence": 0.5, "arousal": 0.5, "expression": 1.0, "au": 0.5}, k,
                                  labels=False) for k in range(2)} for name in "abcd"}  # fmt: skip
    (tmp_path / "test").mkdir()
    again = join_runs(write(tmp_path / "test", bare), tmp_path / "out", method="mean", weights_of=tmp_path / "joined")
    assert again == {} and not (tmp_path / "out" / "scores.json").exists()
    expected = fitted.apply(bare)["x1"].outputs["au"]
    np.testing.assert_array_equal(read_predictions(tmp_path / "out")["x1"].outputs["au"], expected)
    assert load_ensemble(tmp_path / "out").weights == fitted.weights
    assert load_postprocess(tmp_path / "out") == load_postprocess(tmp_path / "joined")


def test_members_that_do_not_fit_together_are_named(tmp_path, members):
    with pytest.raises(UserError, match="b and a hold different videos .such as v3"):
        fit_ensemble({"a": members["a"], "b": {k: v for k, v in members["b"].items() if k != "v3"}}, "mean")
    moved = {k: VideoPredictions(v.frames + 1, v.outputs, v.labels) for k, v in members["b"].items()}
    with pytest.raises(UserError, match="hold different frames of video v0"):
        fit_ensemble({"a": members["a"], "b": moved}, "mean")
    fitted = fit_ensemble(members, "mean")
    with pytest.raises(UserError, match="has 4 members, 1 predictions"):
        fitted.apply({"a": members["a"]})
    bare = {k: VideoPredictions(v.frames, {"au": v.outputs["au"]}) for k, v in members["b"].items()}
    with pytest.raises(UserError, match="b: video v0 has no valence"):
        fitted.apply({**members, "b": bare})
    unlabelled = {"a": {k: VideoPredictions(v.frames, v.outputs) for k, v in members["a"].items()}}
    with pytest.raises(UserError, match="a: holds no labels to fit on"):
        fit_ensemble(unlabelled, "greedy")
    with pytest.raises(UserError, match="named twice"):
        join_runs([tmp_path, tmp_path], tmp_path / "x", method="mean")


@pytest.mark.parametrize(
    "text, words",
    [
        ("{members: [a, b], method: mean, weights: {au: [1]}}", "weights of au: 1 for 2 members"),
        (
            "{members: [a, b], method: mean, weights: {au: [2, -1]}}",
            r"weights\.au\[1\] must be a number in \[0, inf\)",
        ),
        ("{members: [a, b], method: mean, weights: {pain: [1, 0]}}", "unknown task 'pain'"),
        ("{members: [a, b], method: best}", "method must be one of"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, text, words):
    (tmp_path / "ensemble.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        load_ensemble(tmp_path)
    with pytest.raises(UserError, match="holds no ensemble.yaml"):
        load_ensemble(tmp_path / "none")


def test_weights_are_stored_as_they_are(tmp_path):
    ensemble = Ensemble(("a", "b"), "weighted", {"au": (1 / 3, 2 / 3)}, "somewhere")
    save_ensemble(tmp_path, ensemble)
    assert load_ensemble(tmp_path) == ensemble
