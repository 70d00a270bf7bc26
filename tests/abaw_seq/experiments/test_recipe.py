"""A recipe trained for real on small data: members, seeds, weights, and the table."""

import json
import shutil
import statistics

import h5py
import pytest
import torch

from abaw_seq.cli import main
from abaw_seq.data.corpus import load_corpus
from abaw_seq.data.prediction_file import read_predictions
from abaw_seq.errors import UserError
from abaw_seq.experiments import recipe as recipes
from abaw_seq.experiments import side_by_side
from abaw_seq.experiments.recipe import Recipe, follow
from abaw_seq.results.postprocess import load_postprocess
from abaw_seq.results.weights import fit_ensemble, load_ensemble

CPU = torch.device("cpu")
CHANGES = ("epochs=2", "model.encoder.dim=8", "model.head=[8]", "windows.length=32")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("abaw_seq.results.postprocess.WINDOWS", (9,))
    monkeypatch.setattr("abaw_seq.results.weights.GREEDY_ROUNDS", 5)
    (tmp_path / "gru.yaml").write_text("model: {encoder: {kind: gru}}\n")
    (tmp_path / "none.yaml").write_text("model: {encoder: {kind: none}}\n")
    return tmp_path


def scores(path):
    return json.loads((path / "scores.json").read_text())


def rows(table):
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return {cells[1].strip(): [c.strip() for c in cells[2:-1]] for cells in (line.split("|") for line in lines[2:])}


def test_members_are_trained_once_on_one_corpus_and_joined(folder, toy_feats, monkeypatch):
    loaded = []
    monkeypatch.setattr(recipes, "load_corpus", lambda *a, **k: loaded.append(1) or load_corpus(*a, **k))
    recipe = Recipe(("gru.yaml", "none.yaml"), seeds=(0, 5), method="greedy", set=CHANGES)
    run = folder / "run"
    table = follow(recipe, folder, [toy_feats], run, device=CPU)
    assert len(loaded) == 1 and (run / "results.md").read_text() == table

    members = [f"members/{name}-{seed}" for name in ("gru", "none") for seed in (0, 5)]
    ensemble = load_ensemble(run)
    assert list(ensemble.members) == members and ensemble.fitted_on == "the validation split"
    joined = read_predictions(run)["val0"].outputs["au"]
    again = fit_ensemble({m: read_predictions(run / m) for m in members}, "greedy")
    assert again.weights == ensemble.weights
    assert (joined == again.apply({m: read_predictions(run / m) for m in members})["val0"].outputs["au"]).all()
    assert load_postprocess(run) is not None and scores(run)["tuned"]["p_mtl"] >= scores(run)["untuned"]["p_mtl"]

    cells = rows(table)
    assert list(cells) == ["gru", "none", "mean of 2 configs", "ensemble of 4 (greedy)"]
    single = [scores(run / f"members/gru-{seed}")["untuned"]["p_mtl"] for seed in (0, 5)]
    assert single[0] != single[1]
    assert cells["gru"][0] == f"{statistics.fmean(single):.3f} ± {statistics.stdev(single):.3f}"
    assert cells["ensemble of 4 (greedy)"][0] == f"{scores(run)['cross_fitted_weights']['p_mtl']:.3f}"

    monkeypatch.setattr(side_by_side, "train", None)
    assert follow(recipe, folder, [toy_feats], run, device=CPU) == table


def test_with_folds_everything_is_fitted_out_of_fold(folder, toy_feats):
    recipe = Recipe(("gru.yaml",), seeds=(0, 1), folds=2, method="weighted", baselines=("none.yaml",), set=CHANGES)
    run = folder / "run"
    table = follow(recipe, folder, [toy_feats], run, device=CPU)
    ensemble = load_ensemble(run)
    assert ensemble.members == ("members/gru-0", "members/gru-1") and "2 folds" in ensemble.fitted_on
    held_out = read_predictions(run / "out_of_fold.h5")
    assert len(held_out) == 9 and len(read_predictions(run)) == 3
    members = {m: read_predictions(run / m) for m in ensemble.members}
    assert fit_ensemble(members, "weighted").weights == ensemble.weights
    assert "9 videos" in load_postprocess(run).fitted_on
    assert list(rows(table)) == ["none", "gru", "mean of 1 configs", "ensemble of 2 (weighted)"]
    assert "out-of-fold predictions of 2 folds" in table


def test_the_command_prints_the_table(folder, toy_feats, capsys):
    (folder / "both.yaml").write_text("members: [none.yaml]\nseeds: [0]\nmethod: mean\npostprocess: false\n")
    arguments = ["ensemble", "--config", folder / "both.yaml", "--feats", toy_feats, "--run", folder / "run"]
    changes = [part for change in ("seeds=[3]", *CHANGES) for part in ("--set", change)]
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments), *changes])
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == (folder / "run" / "results.md").read_text().strip()
    assert load_postprocess(folder / "run") is None
    assert len((folder / "run/members/none-3/metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "wrong", [{"members": ()}, {"members": ("a/x.yaml", "b/x.yaml")}, {"members": ("a.yaml",), "folds": 1}]
)
def test_recipes_that_cannot_be_followed_are_refused(wrong):
    with pytest.raises(ValueError):
        Recipe(**wrong)


def test_a_corpus_without_validation_videos_is_refused(folder, toy_feats, tmp_path):
    blank = tmp_path / "blank.h5"
    shutil.copyfile(toy_feats, blank)
    with h5py.File(blank, "a") as file:
        for video in file["videos"].values():
            video.attrs["split"] = "train"
    with pytest.raises(UserError, match="no validation videos"):
        recipes.follow(Recipe(("none.yaml",)), folder, [blank], tmp_path / "run", device=CPU)
    assert not (tmp_path / "run").exists()
