"""Cross-validation, run for real on small data."""

import json
import statistics

import numpy as np
import pytest
import torch

from abaw_seq import config as configs
from abaw_seq.data.corpus import load_corpus
from abaw_seq.data.folds import OFFICIAL, Fold, read_folds, source_video, write_folds
from abaw_seq.data.prediction_file import concatenated, read_predictions
from abaw_seq.errors import UserError
from abaw_seq.experiments.crossval import choose_folds, crossvalidate, fold_table, store_folds
from abaw_seq.files import save_tensors
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.metrics import score

CPU = torch.device("cpu")
QUICK = ["epochs=2", "model.encoder.kind=none", "model.encoder.dim=8", "model.head=[8]", "optim.lr=3e-3"]


@pytest.fixture(scope="module")
def corpus(toy_feats):
    return load_corpus([toy_feats])


@pytest.fixture(scope="module")
def config():
    return configs.load(TrainConfig, None, QUICK)


@pytest.fixture(scope="module")
def finished(corpus, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cv")
    folds = choose_folds(corpus, "3")
    return folder, folds, crossvalidate(config, corpus, folds, folder, device=CPU)


def test_the_official_split_and_k_folds_are_chosen(corpus):
    folds = choose_folds(corpus, "3")
    assert [fold.name for fold in folds] == [OFFICIAL, "1", "2", "3"]
    assert folds[0].val == ("val0", "val1", "val2")
    assert sorted(name for fold in folds[1:] for name in fold.val) == sorted(corpus.names)
    for fold in folds:
        assert not {source_video(v) for v in fold.train} & {source_video(v) for v in fold.val}


def test_every_video_is_predicted_by_the_fold_that_did_not_train_on_it(finished, corpus):
    folder, folds, _ = finished
    pooled = read_predictions(folder)
    assert tuple(pooled) == corpus.names
    for fold in folds[1:]:
        own = read_predictions(folder / fold.name)
        assert set(own) == set(fold.val)
        for name in fold.val:
            np.testing.assert_array_equal(pooled[name].outputs["au"], own[name].outputs["au"])


def test_the_scores_are_those_of_the_folds_their_mean_and_deviation_and_the_pooled_one(finished):
    folder, folds, result = finished
    assert json.loads((folder / "scores.json").read_text()) == json.loads(json.dumps(result))
    values = []
    for fold in folds:
        stored = json.loads((folder / fold.name / "scores.json").read_text())
        assert result["folds"][fold.name]["p_mtl"] == stored["untuned"]["p_mtl"]
        assert result["folds"][fold.name]["best_epoch"] == stored["best_epoch"]
        values.append(stored["untuned"]["au"])
    assert result["mean"]["au"] == pytest.approx(sum(values[1:]) / 3)
    assert result["deviation"]["au"] == pytest.approx(statistics.stdev(values[1:]))
    assert result["untuned"]["p_mtl"] == score(*concatenated(read_predictions(folder)))["p_mtl"]
    assert list(fold_table(result)) == [OFFICIAL, "fold 1", "fold 2", "fold 3", "mean", "deviation", "pooled"]
    assert read_folds(folder / "folds.yaml") == folds
    assert configs.load(TrainConfig, folder / "config.yaml") is not None


def test_a_fold_is_the_run_that_training_on_its_videos_gives(finished, corpus, config, tmp_path):
    from abaw_seq.learn.train import train

    folder, folds, result = finished
    videos = {name: k for k, name in enumerate(corpus.names)}
    training, validation = ([videos[v] for v in part] for part in (folds[2].train, folds[2].val))
    alone = train(config, corpus, tmp_path / "r", device=CPU, train_videos=training, val_videos=validation)
    assert alone.scores["untuned"]["p_mtl"] == pytest.approx(result["folds"]["2"]["p_mtl"], abs=1e-9)


@pytest.mark.parametrize("members", [1, 4])
def test_interrupted_and_resumed_is_the_same_and_finished_folds_are_passed_over(
    members, finished, corpus, config, tmp_path, monkeypatch
):
    _, folds, whole = finished
    if members > 1:
        whole = crossvalidate(config, corpus, folds, tmp_path / "whole", device=CPU, members=members)
    folder, saved = tmp_path / "cut", []

    def save_then_die(path, content):
        save_tensors(path, content)
        saved.append(path)
        # In the second of two epochs of the second fold, or of the first in a stack of four.
        if [p.name for p in saved].count("last.pt") == (3 if members == 1 else 5):
            raise KeyboardInterrupt

    monkeypatch.setattr("abaw_seq.run_folder.save_tensors", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        crossvalidate(config, corpus, folds, folder, device=CPU, members=members)
    monkeypatch.undo()
    assert not (folder / "scores.json").exists()
    finished_before = (folder / OFFICIAL / "best.pt").stat().st_mtime_ns
    result = crossvalidate(config, corpus, folds, folder, device=CPU, resume=True, members=members)
    assert (folder / OFFICIAL / "best.pt").stat().st_mtime_ns == finished_before
    assert result["untuned"] == whole["untuned"] and result["folds"] == whole["folds"]


def test_what_is_there_is_never_replaced(finished, corpus, config):
    folder, folds, _ = finished
    with pytest.raises(UserError, match="already holds folds: resume them"):
        crossvalidate(config, corpus, folds, folder, device=CPU)
    with pytest.raises(UserError, match="holds other folds"):
        crossvalidate(config, corpus, choose_folds(corpus, "2"), folder, device=CPU, resume=True)
    other = configs.load(TrainConfig, None, [*QUICK, "seed=1"])
    with pytest.raises(UserError, match="the config differs in seed"):
        crossvalidate(other, corpus, folds, folder, device=CPU, resume=True)


def test_folds_of_a_file_are_used_as_they_are(corpus, config, tmp_path, capsys):
    folds = [Fold("a", ("train0", "train1"), ("val1",)), Fold("b", ("train0", "val1"), ("train2",))]
    write_folds(tmp_path / "folds.yaml", folds)
    assert choose_folds(corpus, str(tmp_path / "folds.yaml")) == folds
    assert "names no fold for 5 videos of the features, such as train3" in capsys.readouterr().err
    result = crossvalidate(config, corpus, folds, tmp_path, device=CPU)
    assert list(result["folds"]) == ["a", "b"] and set(read_predictions(tmp_path)) == {"val1", "train2"}


def test_the_official_split_alone_is_its_own_pool(corpus, config, tmp_path):
    folds = [choose_folds(corpus, "2")[0]]
    result = crossvalidate(config, corpus, folds, tmp_path, device=CPU)
    assert result["split"] == "val" and result["mean"]["au"] == result["untuned"]["au"]
    assert result["deviation"]["au"] is None


def test_without_an_official_split_there_are_k_folds(corpus, capsys):
    from dataclasses import replace

    labels = corpus.labels.clone()
    labels[: corpus.offsets[1]] = torch.nan
    bare = replace(corpus, labels=labels, splits=("train",) * 8 + ("test",))
    folds = choose_folds(bare, "2")
    assert [fold.name for fold in folds] == ["1", "2"]
    assert sorted(name for fold in folds for name in fold.val) == list(bare.names[1:8])
    said = capsys.readouterr().err
    assert "no official split" in said and "1 videos without a label are in no fold, such as train0" in said


REFUSED = {
    "the features hold no video nobody": [Fold("a", ("train0", "nobody"), ("val0",))],
    "cannot be that of a folder": [Fold("../a", ("train0",), ("val0",))],
    "video val0 is in val of folds a and b": [Fold("a", ("train0",), ("val0",)), Fold("b", ("train1",), ("val0",))],
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_fold_file_that_does_not_fit_is_refused(words, corpus, tmp_path):
    write_folds(tmp_path / "f.json", REFUSED[words])
    with pytest.raises(UserError, match=words):
        choose_folds(corpus, str(tmp_path / "f.json"))


def test_folds_are_stored_once(corpus, tmp_path):
    folds = choose_folds(corpus, "2")
    path = store_folds(tmp_path / "new", folds)
    before = path.stat().st_mtime_ns
    assert read_folds(path) == folds and store_folds(tmp_path / "new", folds) == path
    assert path.stat().st_mtime_ns == before
