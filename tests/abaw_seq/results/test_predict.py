"""The commands around postprocessing and ensembles, from trained runs to predictions of new features."""

import json

import numpy as np
import pytest
import yaml

from abaw_seq.cli import main
from abaw_seq.data.prediction_file import read_predictions
from abaw_seq.results.postprocess import Postprocess, load_postprocess, save_postprocess
from abaw_seq.results.smooth import Smoothing, smooth

QUICK = ["--set", "epochs=2", "--set", "model.encoder.dim=8", "--set", "model.head=[8]"]
TASKS = ("valence", "arousal", "expression", "au")


def run(*arguments) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return ended.value.code


@pytest.fixture(scope="module")
def runs(toy_feats, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for kind in ("gru", "none"):
        arguments = [*QUICK, "--set", f"model.encoder.kind={kind}", "--set", "keep_best_per_task=true"]
        assert run("train", "--feats", toy_feats, "--run", folder / kind, *arguments) == 0
    return folder


def same(first, second, atol=1e-5):
    assert first.keys() == second.keys()
    for name, video in first.items():
        for task in TASKS:
            np.testing.assert_allclose(video.outputs[task], second[name].outputs[task], atol=atol)


def test_predict_applies_what_is_stored_unless_raw(runs, toy_feats, tmp_path):
    stored = Postprocess({"valence": Smoothing("moving", 9)}, au_thresholds=(0.4,) * 12)
    save_postprocess(runs / "gru", stored)
    predict = ("predict", runs / "gru", "--feats", toy_feats, "-o")
    assert run(*predict, tmp_path / "raw", "--raw") == 0 and run(*predict, tmp_path / "tuned") == 0
    (runs / "gru" / "postprocess.yaml").unlink()
    raw, tuned = (read_predictions(tmp_path / f"{name}.h5") for name in ("raw", "tuned"))
    same(stored.apply(raw), tuned, atol=0)
    video = raw["train0"]
    smoothed = smooth(video.outputs["valence"], video.frames, Smoothing("moving", 9))
    np.testing.assert_array_equal(tuned["train0"].outputs["valence"], smoothed)
    np.testing.assert_array_equal(tuned["train0"].outputs["au"] >= 0.5, video.outputs["au"] >= 0.4)


def test_a_tasks_own_checkpoint_can_predict(runs, toy_feats, tmp_path, capsys):
    predict = ("predict", runs / "gru", "--feats", toy_feats, "-o", tmp_path / "x", "--checkpoint")
    assert run(*predict, "best_au.pt") == 0
    assert run(*predict, "best_pain.pt") == 2
    assert "best_pain.pt: no such checkpoint" in capsys.readouterr().err


def test_fitting_leaves_the_predictions_and_adds_the_tuned_score(runs, tmp_path, capsys):
    before = (runs / "none" / "predictions.h5").read_bytes()
    untuned = json.loads((runs / "none" / "scores.json").read_text())["untuned"]
    assert run("evaluate", runs / "none", "--fit") == 0
    out = capsys.readouterr().out
    scores = json.loads((runs / "none" / "scores.json").read_text())
    assert scores["untuned"] == untuned and scores["tuned"]["p_mtl"] >= untuned["p_mtl"]
    for name in ("untuned", "tuned", "cross_fitted"):
        assert f"{scores[name]['p_mtl']:.3f}" in out
    assert "tuned on the labels scored here" in out and "each half tuned on the other" in out
    assert "3 videos, 210 frames (val)" in load_postprocess(runs / "none").fitted_on
    assert (runs / "none" / "predictions.h5").read_bytes() == before
    (runs / "none" / "postprocess.yaml").unlink()


def test_an_ensemble_predicts_with_its_members_and_its_own_postprocessing(runs, toy_feats, tmp_path):
    both = tmp_path / "both"
    assert run("ensemble", runs / "gru", runs / "none", "--run", both, "--method", "weighted") == 0
    weights = yaml.safe_load((both / "ensemble.yaml").read_text())["weights"]
    assert all(sum(w) == pytest.approx(1) and min(w) >= 0 for w in weights.values())
    assert run("predict", both, "--feats", toy_feats, "-o", tmp_path / "all", "--raw") == 0
    joined = read_predictions(tmp_path / "all.h5")
    same({name: joined[name] for name in ("val0", "val1", "val2")}, read_predictions(both))
    assert "train0" in joined

    for member in ("gru", "none"):
        assert run("predict", runs / member, "--feats", toy_feats, "-o", tmp_path / member, "--raw") == 0
    arguments = (tmp_path / "gru.h5", tmp_path / "none.h5", "--run", tmp_path / "again", "--apply", both)
    assert run("ensemble", *arguments) == 0
    same(read_predictions(tmp_path / "again"), joined)


def test_a_cross_validation_predicts_with_all_its_folds(toy_feats, tmp_path):
    folder = tmp_path / "cv"
    assert run("crossval", "--feats", toy_feats, "--folds", "2", "--run", folder, *QUICK) == 0
    assert run("predict", folder, "--feats", toy_feats, "-o", tmp_path / "mean") == 0
    parts = []
    for fold in ("official", "1", "2"):
        assert run("predict", folder / fold, "--feats", toy_feats, "-o", tmp_path / fold) == 0
        parts.append(read_predictions(tmp_path / f"{fold}.h5")["val0"].outputs["au"])
    mean = read_predictions(tmp_path / "mean.h5")["val0"].outputs["au"]
    np.testing.assert_allclose(mean, np.mean(parts, 0), atol=1e-6)


def test_mistakes_are_one_line(runs, toy_feats, tmp_path, capsys):
    (tmp_path / "ensemble.yaml").write_text("{members: [gone], method: mean, weights: {au: [1]}}")
    (tmp_path / "list.txt").write_text("image,valence,arousal,expression,aus\nval0/00001.jpg\n")
    mistakes = {
        "nothing to join": ("ensemble", "--run", tmp_path / "x"),
        "--fit needs run folders": ("evaluate", "--fit"),
        "holds no ensemble.yaml": ("ensemble", runs / "gru", "--run", tmp_path / "x", "--apply", runs / "none"),
        "its member gone is not a run folder here": ("predict", tmp_path, "--feats", toy_feats, "-o", tmp_path / "x"),
        "gru: --config trains its own members": ("ensemble", runs / "gru", "--config", "a", "--run", tmp_path / "x"),
        "none already holds a trained run": ("ensemble", runs / "gru", "--run", runs / "none"),
        "gru already holds a trained run": ("crossval", "--feats", toy_feats, "--run", runs / "gru", "--resume"),
        "list.txt is a file": (
            "submit",
            runs / "gru",
            "--list",
            tmp_path / "list.txt",
            "-o",
            tmp_path / "list.txt" / "x",
        ),
    }
    for words, arguments in mistakes.items():
        assert run(*arguments) == 2
        said = capsys.readouterr().err.strip()
        assert words in said and "\n" not in said
