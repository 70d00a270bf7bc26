"""The training program, run for real on small data."""

import json

import numpy as np
import pytest
import torch

from abaw_seq import config as configs
from abaw_seq.data.corpus import load_corpus
from abaw_seq.data.prediction_file import concatenated
from abaw_seq.engine.best import selection_criterion
from abaw_seq.errors import AbawError, UserError
from abaw_seq.files import load_tensors, save_tensors
from abaw_seq.learn.settings import AugmentConfig, TrainConfig
from abaw_seq.learn.train import augmented, train
from abaw_seq.metrics import score
from abaw_seq.models.heads import Standardise
from abaw_seq.results.predict import load_run

CPU = torch.device("cpu")
SMALL = ["model.encoder.dim=16", "model.head=[16]", "windows.length=32", "windows.batch=4", "optim.lr=3e-3"]
VARIANTS = {
    "none": ["model.encoder.kind=none"],
    "gru windows": ["model.encoder.kind=gru", "model.encoder.bidirectional=true"],
    "lstm carried": ["model.encoder.kind=lstm", "windows.carry=true"],
    "lstm carried, bf16": ["model.encoder.kind=lstm", "windows.carry=true", "precision=bf16"],
    "lstm both ways, carried": [
        "model.encoder.kind=lstm", "windows.carry=true", "model.encoder.bidirectional=true",
    ],
    "transformer": ["model.encoder.kind=transformer", "model.encoder.ffn=32", "optim.ema=0.9", "precision=bf16"],
    "sbe_hsf": [
        "model.encoder.kind=gru", "model.encoder.layers=2", "model.framework=sbe_hsf", "model.task_layers=1",
        "model.feedback={arousal: [valence, au]}", "windows.carry=true", "weighting.kind=uncertainty",
    ],
    "prediction feedback": [
        "model.encoder.kind=tcn", "model.framework=prediction_feedback", "model.task_layers=1",
        "model.feedback={expression: [au]}", "model.gt_rate=0.5", "model.gt_decay=true",
        "weighting.kind=dynamic", "loss.valence_arousal=bins",
    ],
    "noisy": ["augment={noise: 0.1, time_mask: 0.1, feature_dropout: 0.1}", "standardise={toy: video}"],
}  # fmt: skip


def settings(*overrides, epochs=3) -> TrainConfig:
    return configs.load(TrainConfig, None, [*SMALL, f"epochs={epochs}", *overrides])


@pytest.fixture
def corpus(toy_feats):
    return load_corpus([toy_feats])


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def without_times(entries):
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in entries]


@pytest.mark.parametrize("variant", VARIANTS)
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(variant, corpus, tmp_path, monkeypatch):
    config = settings(*VARIANTS[variant])
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

    assert without_times(lines(tmp_path / "cut")) == without_times(lines(tmp_path / "whole"))
    for name in ("last.pt", "best.pt"):
        whole, cut = (load_tensors(tmp_path / run / name)["model"] for run in ("whole", "cut"))
        assert whole.keys() == cut.keys()
        assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_a_run_leaves_what_the_contract_says(corpus, tmp_path):
    config = settings()
    result = train(config, corpus, tmp_path / "run", device=CPU)
    entries = lines(tmp_path / "run")
    assert [entry["epoch"] for entry in entries] == [1, 2, 3]
    assert set(entries[0]) == {"epoch", "steps", "lr", "seconds", "train", "val"}
    assert set(entries[0]["train"]) == {"loss", "valence", "arousal", "expression", "au"}
    best = max(entries, key=lambda entry: selection_criterion(entry["val"]))
    assert result.epoch == best["epoch"] and result.scores["untuned"] == best["val"] == score(
        *concatenated(result.predictions)
    )
    assert configs.load(TrainConfig, tmp_path / "run" / "config.yaml") == config
    made = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert made["seed"] == 0 and made["backbones"]["toy"]["weights_sha256"] == "0" * 64
    model, stored, backbones = load_run(tmp_path / "run", CPU)
    assert stored == config and list(backbones) == ["toy"]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), result.model.parameters(), strict=True))


def test_training_learns(corpus, tmp_path):
    result = train(settings("model.encoder.dim=32", epochs=30), corpus, tmp_path / "run", device=CPU)
    entries = lines(tmp_path / "run")
    assert entries[-1]["train"]["loss"] < 0.6 * entries[0]["train"]["loss"]
    assert selection_criterion(result.scores["untuned"]) > selection_criterion(entries[0]["val"]) + 0.2


def test_the_same_seed_gives_the_same_run_and_another_seed_another(corpus, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(settings(f"seed={seed}", epochs=1), corpus, tmp_path / name, device=CPU)
    assert without_times(lines(tmp_path / "a")) == without_times(lines(tmp_path / "b"))
    assert without_times(lines(tmp_path / "a")) != without_times(lines(tmp_path / "c"))


def test_early_stopping(corpus, tmp_path):
    config = settings("optim.lr=1e-12", "optim.schedule=constant", "patience=2", epochs=30)
    train(config, corpus, tmp_path / "run", device=CPU)
    assert len(lines(tmp_path / "run")) < 30


def test_a_subset_of_tasks_is_scored_on_its_own(corpus, tmp_path):
    result = train(settings("tasks=[au, valence]"), corpus, tmp_path / "run", device=CPU)
    scores = result.scores["untuned"]
    assert scores["p_mtl"] is None and scores["expression"] is None
    assert selection_criterion(scores) == pytest.approx(scores["valence"] + scores["au"])


def test_a_loss_that_is_not_finite_ends_the_run_by_name(corpus, tmp_path):
    corpus.features[5, 3] = 60000
    corpus.labels[5, 0] = float("inf")
    with pytest.raises(AbawError, match="loss is not finite in epoch 1"):
        train(settings("loss.valence_arousal=mse"), corpus, tmp_path / "run", device=CPU)


def test_a_corpus_that_cannot_serve_is_refused(corpus, tmp_path):
    corpus.labels[:, 3:] = np.nan
    with pytest.raises(UserError, match="no training frame has a label for au"):
        train(settings(), corpus, tmp_path / "run", device=CPU)
    with pytest.raises(UserError, match="no training videos"):
        train(settings(), corpus, tmp_path / "run", device=CPU, train_videos=[])
    with pytest.raises(UserError, match="standardise: no backbone 'mae'"):
        train(settings("standardise={mae: none}"), corpus, tmp_path / "run", device=CPU)


def test_resuming_with_other_settings_is_refused(corpus, tmp_path):
    train(settings(epochs=1), corpus, tmp_path / "run", device=CPU)
    with pytest.raises(UserError, match="the config differs in optim"):
        train(settings("optim.lr=0.5", epochs=1), corpus, tmp_path / "run", device=CPU, resume=True)


def test_without_validation_videos_the_last_epoch_is_kept(corpus, tmp_path):
    result = train(settings(), corpus, tmp_path / "run", device=CPU, val_videos=[])
    assert result.epoch == 3 and result.predictions == {} and result.scores["untuned"] is None


def test_augmentation_hides_what_it_says_it_hides():
    layer = Standardise(4)
    layer.mean.copy_(torch.arange(4.0))
    torch.manual_seed(0)
    x = torch.full((60, 50, 4), 9.0)
    by_time = augmented(x, layer, AugmentConfig(time_mask=0.25))
    hidden = (by_time != 9).all(-1)
    assert hidden.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(by_time[hidden], layer.mean.expand(int(hidden.sum()), 4))
    by_feature = augmented(x, layer, AugmentConfig(feature_dropout=0.25)) != 9
    assert torch.equal(by_feature.all(1), by_feature.any(1))  # a feature is hidden for the whole window
    noisy = augmented(x, layer, AugmentConfig(noise=0.5))
    assert (noisy - 9).std().item() == pytest.approx(0.5, rel=0.05)


def test_a_pickled_module_is_refused_as_a_checkpoint(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "best.pt")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        load_tensors(tmp_path / "best.pt")


def test_the_nearest_label_serves_training_frames_and_never_validation_frames(corpus, tmp_path, capsys):
    config = settings("model.encoder.kind=none", "nearest_label={expression: 30, au: 0}", epochs=2)
    result = train(config, corpus, tmp_path / "near", device=CPU)
    labels = corpus.labels[corpus.rows(corpus.in_split("train"))]
    missing = int(labels[:, 2].isnan().sum())
    said = capsys.readouterr().err
    assert f"near: training frames with the label of the nearest labelled frame: expression {missing}" in said
    assert "au" not in said.splitlines()[0]
    truth = corpus.labels[corpus.rows(corpus.in_split("val"))]
    assert result.scores["untuned"]["frames"]["expression"] == int((~truth[:, 2].isnan()).sum())
    plain = train(settings("model.encoder.kind=none", epochs=2), corpus, tmp_path / "plain", device=CPU)
    assert lines(tmp_path / "near")[0]["train"]["expression"] != lines(tmp_path / "plain")[0]["train"]["expression"]
    assert plain.scores["untuned"]["frames"] == result.scores["untuned"]["frames"]


@pytest.mark.parametrize(
    "value, words",
    [("{va: 3}", "no task 'va'"), ("-1", "must be a whole number in .0, 1000000000., not -1"), ("near", "number")],
)
def test_a_distance_for_nearest_labels_is_a_number_of_frames(value, words):
    with pytest.raises(UserError, match=f"nearest_label.*{words}"):
        settings(f"nearest_label={value}")
