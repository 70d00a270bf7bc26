"""Options of training: stopping, what is kept, what is taught, and combinations that are refused."""

import json

import pytest
import torch

from abaw_seq import config as configs
from abaw_seq.data.corpus import load_corpus
from abaw_seq.errors import UserError
from abaw_seq.files import load_tensors, save_tensors
from abaw_seq.learn.losses import LossConfig, class_weights, loss_weights, positive_weights
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.learn.train import ground_truth_share, predict_frames, train
from abaw_seq.metrics import score
from abaw_seq.results.predict import load_run

CPU = torch.device("cpu")
SMALL = ["model.encoder.dim=8", "model.head=[8]", "windows.length=32", "windows.batch=4", "optim.lr=1e-2"]


def settings(*overrides) -> TrainConfig:
    return configs.load(TrainConfig, None, [*SMALL, *overrides])


@pytest.fixture
def corpus(toy_feats):
    return load_corpus([toy_feats])


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("patience", [1, 3])
def test_training_stops_after_as_many_epochs_without_a_better_score(patience, corpus, tmp_path):
    config = settings("optim.lr=1e-12", "optim.schedule=constant", f"patience={patience}", "epochs=9")
    train(config, corpus, tmp_path, device=CPU)
    assert len(lines(tmp_path)) == 1 + patience


def test_the_best_epoch_of_each_task_is_kept_besides_the_best_of_all(corpus, tmp_path):
    config = settings("keep_best_per_task=true", "epochs=6")
    train(config, corpus, tmp_path, device=CPU)
    entries = lines(tmp_path)
    videos = corpus.in_split("val")
    truth = corpus.labels[corpus.rows(videos)].numpy()
    for task in config.tasks:
        model, stored, _ = load_run(tmp_path, CPU, f"best_{task}.pt")
        best = max(entry["val"][task] for entry in entries)
        assert score(predict_frames(model, corpus, videos, stored), truth)[task] == pytest.approx(best, abs=1e-6)
    together = [score(predict_frames(load_run(tmp_path, CPU)[0], corpus, videos, config), truth)["p_mtl"]]
    assert together == pytest.approx([max(entry["val"]["p_mtl"] for entry in entries)], abs=1e-6)


def test_the_best_of_each_task_survives_an_interruption(corpus, tmp_path, monkeypatch):
    config = settings("keep_best_per_task=true", "epochs=4")
    train(config, corpus, tmp_path / "whole", device=CPU)
    saved = []

    def save_then_die(path, content):
        save_tensors(path, content)
        saved.append(path.name)
        if saved.count("last.pt") == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("abaw_seq.run_folder.save_tensors", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        train(config, corpus, tmp_path / "cut", device=CPU)
    monkeypatch.undo()
    train(config, corpus, tmp_path / "cut", device=CPU, resume=True)
    for task in config.tasks:
        whole, cut = (load_tensors(tmp_path / run / f"best_{task}.pt")["model"] for run in ("whole", "cut"))
        assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_only_the_best_of_all_is_kept_unless_asked(corpus, tmp_path):
    (tmp_path / "best_au.pt").write_bytes(b"from an earlier run")
    train(settings("epochs=1"), corpus, tmp_path, device=CPU)
    assert {path.name for path in tmp_path.glob("*.pt")} == {"best.pt", "last.pt"}


def test_the_last_epoch_is_kept_where_nothing_can_be_scored(corpus, tmp_path):
    corpus.labels[corpus.rows(corpus.in_split("val"))] = torch.nan
    assert train(settings("epochs=3"), corpus, tmp_path, device=CPU).epoch == 3


def test_the_share_of_ground_truth_falls_linearly_to_nothing():
    feedback = [
        "model.encoder.kind=gru", "model.framework=prediction_feedback", "model.task_layers=1",
        "model.feedback={arousal: [au]}", "model.gt_rate=0.6", "epochs=4",
    ]  # fmt: skip
    decaying = settings(*feedback, "model.gt_decay=true")
    assert [ground_truth_share(decaying, epoch) for epoch in range(4)] == pytest.approx([0.6, 0.4, 0.2, 0.0])
    assert [ground_truth_share(settings(*feedback), epoch) for epoch in range(4)] == [0.6] * 4


def test_loss_weights_are_the_given_ones_or_balanced_or_none(corpus):
    assert loss_weights(LossConfig(balance=False), corpus.labels) == {}
    given = loss_weights(LossConfig(class_weights=(1.0, 2, 3, 4, 5, 6, 7, 8)), corpus.labels)
    assert given["class_weight"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert torch.equal(given["positive_weight"], positive_weights(corpus.labels))
    given = loss_weights(LossConfig(balance=False, positive_weights=(2.0,) * 12), corpus.labels)
    assert given.keys() == {"positive_weight"} and given["positive_weight"].tolist() == [2] * 12
    balanced = loss_weights(LossConfig(), corpus.labels)
    assert torch.equal(balanced["class_weight"], class_weights(corpus.labels))


@pytest.mark.parametrize(
    "wrong, words",
    [
        (["patience=0"], "patience must be a whole number in .1, 1000000., not 0"),
        (["loss.class_weights=[1, 2]"], "class_weights must be 8 positive"),
        (["loss.positive_weights=[0,1,1,1,1,1,1,1,1,1,1,1]"], "positive_weights.0. must be a number in .0, inf."),
        (["loss.focal=-1"], "focal must be a number in .0, inf., not -1.0"),
        (["model.encoder={kind: transformer, dim: 8, heads: 2, positions: learned}", "windows.length=600"], "512"),
        (
            ["tasks=[valence, au]", "model.framework=sbe_hsf", "model.task_layers=1",
             "model.feedback={valence: [arousal]}"],
            "unknown or unused task 'arousal'",
        ),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_before_training(wrong, words):
    with pytest.raises(UserError, match=words):
        settings(*wrong)
