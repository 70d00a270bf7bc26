"""Models trained in one stack are those trained alone: the same windows, random numbers, best epochs and files."""

import json

import numpy as np
import pytest
import torch

from abaw_seq import config as configs
from abaw_seq.data.corpus import load_corpus
from abaw_seq.data.prediction_file import read_predictions
from abaw_seq.errors import AbawError
from abaw_seq.files import load_tensors, save_tensors
from abaw_seq.learn.member import Member
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.learn.together import stack_key, train_together
from abaw_seq.learn.train import train

CPU = torch.device("cpu")
SMALL = ["model.encoder.dim=16", "model.head=[16]", "windows.length=32", "windows.batch=4", "optim.lr=3e-3", "epochs=2"]
SBE = ["model.encoder.layers=2", "model.framework=sbe", "model.task_layers=1"]
HSF = [*SBE, "model.framework=sbe_hsf", "model.feedback={arousal: [valence, au]}"]
VARIANTS = {
    "none": ["model.encoder.kind=none"],
    "lstm": ["model.encoder.kind=lstm"],
    "lstm both ways": ["model.encoder.kind=lstm", "model.encoder.bidirectional=true", "model.encoder.layers=2",
                       "model.encoder.dropout=0"],
    "lstm of several blocks, layers": ["model.encoder.kind=lstm", "model.encoder.dim=128", "model.encoder.layers=2"],
    "lstm carried": ["model.encoder.kind=lstm", "windows.carry=true"],
    "gru": ["model.encoder.kind=gru", "model.encoder.layers=2"],
    "gru both ways": ["model.encoder.kind=gru", "model.encoder.bidirectional=true"],
    "gru carried": ["model.encoder.kind=gru", "model.encoder.layers=2", "windows.carry=true", "windows.length=20"],
    "transformer": ["model.encoder.kind=transformer", "model.encoder.ffn=32", "model.encoder.layers=2"],
    "transformer, rotary, pre": [
        "model.encoder.kind=transformer", "model.encoder.positions=rotary", "model.encoder.norm=pre",
    ],
    "tcn": ["model.encoder.kind=tcn", "model.encoder.layers=2"],
    "tcn, causal": ["model.encoder.kind=tcn", "model.encoder.causal=true", "model.encoder.kernel=2"],
    "sbe": ["model.encoder.kind=gru", *SBE],
    "sbe_hsf": ["model.encoder.kind=gru", *HSF, "windows.carry=true"],
    "sbe_hsf, transformer": ["model.encoder.kind=transformer", *HSF],
    "prediction feedback": ["model.encoder.kind=tcn", *SBE, "model.framework=prediction_feedback",
                            "model.feedback={expression: [au]}", "model.gt_rate=0.5"],
    "average": ["optim.ema=0.9"],
    "uncertainty": ["weighting.kind=uncertainty"],
    "dynamic": ["weighting.kind=dynamic", "loss.valence_arousal=bins"],
    "clipped": ["optim.clip=0.05", "optim.kind=adam"],
    "best per task": ["keep_best_per_task=true"],
    "noisy": ["augment={noise: 0.1, time_mask: 0.1, feature_dropout: 0.1}", "standardise={toy: video}"],
    "few tasks": ["tasks=[au, valence]", "nearest_label=3"],
    "short windows": ["windows.length=7", "windows.batch=3"],
    "longer than some videos": ["windows.length=70"],
}  # fmt: skip


def settings(*overrides, seed=0) -> TrainConfig:
    return configs.load(TrainConfig, None, [*SMALL, *overrides, f"seed={seed}"])


@pytest.fixture
def corpus(toy_feats):
    corpus = load_corpus([toy_feats])
    corpus.labels[3:40, :2] = np.nan  # whole windows without valence and arousal
    return corpus


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def members(configs_, corpus, folder, *, resume=False, videos=None):
    return [
        Member(config, corpus, folder / str(k), device=CPU, resume=resume,
               train_videos=videos[k] if videos else None)
        for k, config in enumerate(configs_)
    ]  # fmt: skip


def assert_same_runs(alone, stacked, *, tolerance=1e-5):
    assert {path.name for path in alone.iterdir()} == {path.name for path in stacked.iterdir()}
    before, after = lines(alone), lines(stacked)
    assert [line["steps"] for line in before] == [line["steps"] for line in after]
    for one, other in zip(before, after, strict=True):
        assert one["lr"] == other["lr"] and one["epoch"] == other["epoch"]
        assert other["train"] == pytest.approx(one["train"], abs=tolerance, rel=tolerance)
    scores = [json.loads((run / "scores.json").read_text()) for run in (alone, stacked)]
    assert scores[0]["best_epoch"] == scores[1]["best_epoch"]
    for name in (path.name for path in alone.glob("*.pt")):
        one, other = (load_tensors(run / name) for run in (alone, stacked))
        assert one.keys() == other.keys() and (alone / name).stat().st_size == pytest.approx(
            (stacked / name).stat().st_size, rel=0.02
        )
        for key, values in one["model"].items():
            again = other["model"][key]
            if key.endswith("qkv.bias"):
                # One bias for all keys leaves attention as it is: its gradient is nothing but rounding, which Adam
                # scales up to the learning rate.
                values, again = (torch.stack(bias.chunk(3))[[0, 2]] for bias in (values, again))
            assert torch.allclose(values, again, atol=tolerance, rtol=tolerance), (name, key)
    for video, predictions in read_predictions(alone).items():
        for task, values in predictions.outputs.items():
            assert np.allclose(values, read_predictions(stacked)[video].outputs[task], atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_member_of_a_stack_is_the_model_trained_alone(variant, corpus, tmp_path):
    chosen = [settings(*VARIANTS[variant], seed=seed) for seed in (0, 1, 2)]
    assert len({stack_key(config, CPU) for config in chosen}) == 1 and stack_key(chosen[0], CPU)
    for k, config in enumerate(chosen):
        train(config, corpus, tmp_path / "alone" / str(k), device=CPU)
    train_together(members(chosen, corpus, tmp_path / "stacked"))
    for k in range(3):
        assert_same_runs(tmp_path / "alone" / str(k), tmp_path / "stacked" / str(k))


def test_members_of_different_folds_rates_and_lengths_stop_each_in_its_own_time(corpus, tmp_path):
    chosen = [
        settings("optim.lr=1e-12", "optim.schedule=constant", "patience=2", "epochs=9"),
        settings("optim.ema=0.5", "optim.clip=0.1", "epochs=4", "weighting.kind=uncertainty", seed=1),
        settings("optim.schedule=constant", "patience=1", "epochs=6", "optim.group_lr={heads: 2}", seed=2),
    ]
    assert len({stack_key(config, CPU) for config in chosen}) == 1
    videos = corpus.training_videos()
    folds = [videos[1:], videos[:2], videos]
    for k, (config, fold) in enumerate(zip(chosen, folds, strict=True)):
        train(config, corpus, tmp_path / "alone" / str(k), device=CPU, train_videos=fold)
    train_together(members(chosen, corpus, tmp_path / "stacked", videos=folds))
    epochs = [len(lines(tmp_path / "stacked" / str(k))) for k in range(3)]
    steps = {line["steps"] for k in range(3) for line in lines(tmp_path / "stacked" / str(k))}
    assert epochs[0] == 3 and epochs[1] == 4 and len(steps) > 1
    for k in range(3):
        assert_same_runs(tmp_path / "alone" / str(k), tmp_path / "stacked" / str(k), tolerance=5e-5)


@pytest.mark.parametrize("after", [1, 3, 5])
@pytest.mark.parametrize("alone", [False, True])
def test_a_stack_killed_at_any_time_goes_on_together_or_alone(after, alone, corpus, tmp_path, monkeypatch):
    chosen = [settings("optim.ema=0.9", "epochs=3", seed=seed) for seed in (0, 1)]
    train_together(members(chosen, corpus, tmp_path / "whole"))
    saved = []

    def save_then_die(path, content):
        save_tensors(path, content)
        saved.append(path.name)
        if saved.count("last.pt") == after:
            raise KeyboardInterrupt

    monkeypatch.setattr("abaw_seq.run_folder.save_tensors", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        train_together(members(chosen, corpus, tmp_path / "cut"))
    monkeypatch.undo()
    if alone:
        for k, config in enumerate(chosen):
            train(config, corpus, tmp_path / "cut" / str(k), device=CPU, resume=True)
    else:
        train_together(members(chosen, corpus, tmp_path / "cut", resume=True))
    for k in range(2):
        assert_same_runs(tmp_path / "whole" / str(k), tmp_path / "cut" / str(k))


def test_a_member_whose_loss_is_not_finite_is_named_and_does_not_touch_the_others(corpus, tmp_path):
    chosen = [settings("loss.valence_arousal=mse", seed=seed) for seed in (0, 1)]
    stack = members(chosen, corpus, tmp_path)
    with torch.no_grad():
        next(iter(stack[1].model.parameters())).fill_(torch.nan)
    with pytest.raises(AbawError, match="1: the loss is not finite in epoch 1"):
        train_together(stack)
    assert len(lines(tmp_path / "0")) == 1


def test_features_outside_the_device_are_gathered_for_all_at_once(toy_feats, corpus, tmp_path):
    chosen = [settings(seed=seed) for seed in (0, 1)]
    for memory in ("device", "file"):
        held = load_corpus([toy_feats], memory=memory)
        train_together(members(chosen, held, tmp_path / memory))
    for k in range(2):
        assert_same_runs(tmp_path / "device" / str(k), tmp_path / "file" / str(k))


@pytest.mark.parametrize(
    "change",
    [
        "precision=bf16", "model.gt_decay=true", "model.encoder={kind: transformer, positions: learned}",
        "model.encoder={kind: lstm, layers: 2, dim: 16}", "{windows.carry: true, bidirectional}",
    ],
)  # fmt: skip
def test_what_would_not_train_as_it_does_alone_is_not_stacked(change):
    both = ["windows.carry=true", "model.encoder.bidirectional=true"]
    config = settings(*(both if change.startswith("{") else [change]))
    assert stack_key(config, CPU) is None


@pytest.mark.parametrize("change", ["model.encoder.dim=32", "windows.length=16", "tasks=[au]", "augment.noise=0.1",
                                    "loss.focal=1", "model.head_dropout=0.1"])  # fmt: skip
def test_configs_of_another_shape_are_another_stack(change):
    assert stack_key(settings(change), CPU) != stack_key(settings(), CPU)
