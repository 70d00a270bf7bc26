import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from abaw_feats.backbones import build, find_spec, load
from abaw_feats.learning.finetune import finetune
from abaw_feats.learning.finetune_config import FinetuneConfig
from abaw_feats.learning.labelled_frames import SourceConfig, gather_frames
from abaw_feats.learning.task_network import (
    HeadConfig,
    TaskHeads,
    TaskNetwork,
    encoder_spec,
    read_network,
    set_drop_path,
)
from abaw_seq.config import dump, from_dict
from abaw_seq.engine.schedule import layer_scale, parameter_groups
from abaw_seq.errors import UserError
from abaw_seq.learn.losses import LossConfig, task_losses, teacher_distance, with_teacher
from abaw_seq.tasks import TASKS
from tests.abaw_feats.tiny_faces import write_faces

TINY_VIT = {
    "like": "mae", "name": "tiny", "pooling": "gap", "preprocessing": {"size": 32},
    "options": {"patch": 8, "width": 32, "depth": 2, "heads": 2},
}  # fmt: skip
TINY_IRESNET = {
    "like": "iresnet18", "name": "small", "preprocessing": {"size": 32},
    "options": {"blocks": [1, 1, 1, 1], "channels": [8, 8, 8, 16], "dim": 16},
}  # fmt: skip
TINY_DENSENET = {
    "like": "densenet", "name": "dense", "preprocessing": {"size": 32}, "options": {"blocks": [2, 2, 2], "growth": 4}
}  # fmt: skip
TINY_TIMM = {"like": "timm:test_resnet", "preprocessing": {"size": 32}}
SETTINGS = {
    "backbone": TINY_IRESNET, "weights": "random", "epochs": 6, "batch_size": 16, "base_lr": 0.1, "warmup_epochs": 0.5,
    "weight_decay": 0.01, "precision": "fp32",
    "augment": {"flip": 0.0, "rotation": 2.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0},
}  # fmt: skip


def config(**changes) -> FinetuneConfig:
    return from_dict(FinetuneConfig, {**SETTINGS, **changes})


def history(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def train(changes: dict, out, faces, **extra):
    images, labels = faces
    return finetune(config(**changes), out, videos=[images], annotations=[labels], device="cpu", **extra)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("faces"), train=4, val=2, frames=32)


@pytest.fixture(scope="module")
def run(faces, tmp_path_factory):
    """A whole, uninterrupted run."""
    return train({}, tmp_path_factory.mktemp("runs") / "whole", faces)


def test_learns_what_can_be_seen_and_keeps_the_best_epoch(run):
    lines = history(run)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    totals = [line["val"]["p_mtl"] for line in lines]
    assert max(totals) > 1.8
    scores = json.loads((run / "scores.json").read_text())
    assert scores["best_epoch"] == 1 + int(np.argmax(totals))
    assert scores["untuned"]["p_mtl"] == max(totals)
    assert lines[-1]["train"]["loss"] == pytest.approx(sum(lines[-1]["train"][task] for task in TASKS), rel=1e-5)


@pytest.mark.parametrize(
    ("backbone", "dim", "changes"),
    [
        (TINY_DENSENET, 16, {"normalisation": "measured"}),
        (TINY_VIT, 32, {"drop_path": 0.2, "layer_decay": 0.7, "loss": {"valence_arousal": "bins"}, "ema": 0.9}),
        (TINY_TIMM, 96, {"freeze": True, "head": {"normalise": True, "hidden": [8]}}),
    ],
)
def test_any_backbone_trains_and_the_result_is_one(backbone, dim, changes, faces, tmp_path):
    out = train(
        {"backbone": backbone, "epochs": 2, "batch_size": 64, "base_lr": 4e-3, **changes}, tmp_path / "r", faces
    )
    loaded = load(find_spec(out))
    assert loaded.dim == dim
    assert len(history(out)) == 2
    side, channels = loaded.spec.preprocessing.size, loaded.spec.preprocessing.channels
    assert loaded.module(torch.zeros(1, channels, side, side)).shape == (1, dim)
    if changes.get("normalisation"):
        assert 80 < loaded.spec.preprocessing.mean[0] < 110


def test_weights_of_the_result_are_those_that_were_validated(run):
    spec, network = read_network(run)
    assert spec.name == "small"
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(network.encoder(images), load(find_spec(run)).module(images))
    assert set(network(images)) == set(TASKS)


def test_interrupted_and_resumed_equals_uninterrupted(faces, tmp_path, monkeypatch):
    import abaw_feats.learning.finetune as program

    changes = {
        "backbone": TINY_VIT,
        "epochs": 4,
        "ema": 0.8,
        "drop_path": 0.3,
        "head": {"dropout": 0.3},
        "balance": 0.5,
    }
    whole = train(changes, tmp_path / "whole", faces)
    real, epochs = program.train_epoch, []

    def dies_in_the_third_epoch(*args, **kwargs):
        epochs.append(1)
        if len(epochs) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(program, "train_epoch", dies_in_the_third_epoch)
    with pytest.raises(KeyboardInterrupt):
        train(changes, tmp_path / "stopped", faces)
    assert not (tmp_path / "stopped" / "backbone.yaml").exists()
    out = train(changes, tmp_path / "stopped", faces, resume=True)
    assert (out / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    kept = ("train", "val", "lr")
    assert [[line[k] for k in kept] for line in history(out)] == [[line[k] for k in kept] for line in history(whole)]


def test_early_stopping_ends_the_run_and_resuming_it_changes_nothing(faces, tmp_path):
    changes = {"epochs": 30, "base_lr": 1e-7, "patience": 2, "tasks": ["expression"], "batch_size": 64}
    out = train(changes, tmp_path / "r", faces)
    lines = history(out)
    assert len(lines) < 10
    best = json.loads((out / "scores.json").read_text())["best_epoch"]
    assert len(lines) == best + 2
    train(changes, out, faces, resume=True)
    assert len(history(out)) == len(lines)


def test_fine_tuned_beats_frozen(faces, tmp_path):
    changes = {"epochs": 4, "base_lr": 0.05}
    scores = {}
    for freeze in (False, True):
        out = train({**changes, "freeze": freeze}, tmp_path / f"{freeze}", faces)
        scores[freeze] = json.loads((out / "scores.json").read_text())["untuned"]["p_mtl"]
    assert scores[False] > scores[True] + 0.2


def test_frozen_encoder_does_not_change(faces, tmp_path):
    out = train({"freeze": True, "epochs": 1}, tmp_path / "r", faces)
    torch.manual_seed(0)
    start = build(encoder_spec(TINY_IRESNET)).state_dict()
    end = load(find_spec(out)).module.state_dict()
    assert all(torch.equal(start[key], end[key]) for key in start)


def test_pretrained_run_is_a_start(run, faces, tmp_path):
    out = train({"backbone": str(run), "weights": None, "epochs": 1, "base_lr": 1e-6}, tmp_path / "r", faces)
    before, after = (load(find_spec(folder)).module.fc.weight for folder in (run, out))
    torch.testing.assert_close(before, after, atol=1e-5, rtol=0)
    assert after.requires_grad is False


def test_missing_tasks_never_get_gradients():
    torch.manual_seed(0)
    widths = {name: task.outputs for name, task in TASKS.items()}
    encoder = build(encoder_spec(TINY_DENSENET))
    network = TaskNetwork(encoder, TaskHeads(encoder.dim, widths, HeadConfig(hidden=(4,))))
    for labelled in TASKS:
        labels = torch.full((6, 15), torch.nan)
        labels[:, TASKS[labelled].columns] = torch.tensor([0.0, 1, 1, 0, 1, 0])[:, None]
        network.zero_grad()
        sum(task_losses(network(torch.randn(6, 1, 32, 32)), labels, LossConfig()).values()).backward()
        for task, head in network.heads.tasks.items():
            size = sum(float(parameter.grad.abs().sum()) for parameter in head.parameters())
            assert (size > 0) == (task == labelled), (task, labelled)
        assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    network.zero_grad()
    sum(
        task_losses(network(torch.randn(6, 1, 32, 32)), torch.full((6, 15), torch.nan), LossConfig()).values()
    ).backward()
    assert all(
        float(parameter.grad.abs().sum()) == 0 for parameter in network.parameters() if parameter.grad is not None
    )


def test_sources_with_different_labels_are_mixed(tmp_path):
    one = write_faces(tmp_path / "one", train=2, val=1, frames=10, unlabelled=slice(2, 15))
    two = write_faces(tmp_path / "two", train=1, val=0, frames=10, unlabelled=slice(0, 2))
    sources = (
        SourceConfig((str(one[0]),), (str(one[1]),), share=1.0, every=2),
        SourceConfig((str(two[0]),), (str(two[1]),), share=3.0, tasks=("au",)),
    )
    frames = gather_frames(sources, ("valence", "au"))
    known = ~torch.isnan(frames.labels)
    first = frames.training[frames.source[frames.training] == 0]
    second = frames.training[frames.source[frames.training] == 1]
    assert (len(first), len(second), len(frames.validation)) == (10, 10, 10)
    assert known[first].sum(0).tolist() == [10] + [0] * 14
    assert known[second].sum(0).tolist() == [0] * 3 + [10] * 12
    assert known[frames.validation].sum(0).tolist() == [10, 0, 0] + [10] * 12
    pools = frames.pools(sources, np.ones(len(frames.index), bool), 0.0)
    assert [pool.share for pool in pools] == [1.0, 3.0]

    out = tmp_path / "run"
    finetune(
        config(sources=[vars(s) for s in sources], tasks=["valence", "au"], epochs=1, batch_size=8), out, device="cpu"
    )
    assert history(out)[0]["val"]["au"] is not None
    with pytest.raises(UserError, match="no training frame has a label for expression"):
        gather_frames(sources, ("valence", "au", "expression"))


def test_teacher_labels_what_has_no_label(run, faces, tmp_path):
    images, _ = faces
    dimensions = write_faces(tmp_path / "va", train=2, val=1, frames=24, seed=5, unlabelled=slice(2, 15))
    changes = {"epochs": 4, "teacher": {"run": str(run)}, "tasks": ["valence", "expression"]}
    sources = [{"videos": [str(dimensions[0])], "annotations": [str(dimensions[1])]}]
    other = {"videos": [str(images)], "annotations": [str(faces[1])], "tasks": ["expression"], "share": 0.1}
    out = finetune(config(sources=[*sources, other], **changes), tmp_path / "student", device="cpu")
    scores = json.loads((out / "scores.json").read_text())["untuned"]
    assert scores["expression"] > 0.5


def test_distance_from_the_teacher_is_zero_only_where_they_agree():
    torch.manual_seed(0)
    for task, width in (("expression", 8), ("au", 12), ("valence", 20), ("arousal", 1)):
        teacher, student = torch.randn(5, width), torch.randn(5, width)
        torch.testing.assert_close(teacher_distance(task, teacher, teacher, 1.5), torch.zeros(5), atol=1e-6, rtol=0)
        assert (teacher_distance(task, student, teacher, 1.5) > 0).all()


def test_labels_and_teacher_are_weighed_frame_by_frame():
    labels = torch.full((4, 15), torch.nan)
    labels[:3, 0] = 0.5
    outputs, told = {"valence": torch.zeros(4, 1)}, {"valence": torch.full((4, 1), 0.5)}
    supervised = {"valence": torch.tensor(2.0), "au": torch.tensor(1.0)}
    mixed = with_teacher(supervised, {**outputs, "au": torch.zeros(4, 12)}, told, labels, weight=0.4, temperature=1.5)
    distance = float(torch.tanh(torch.tensor(0.5)) ** 2)
    assert float(mixed["valence"]) == pytest.approx((3 * (0.6 * 2.0 + 0.4 * distance) + distance) / 4)
    assert float(mixed["au"]) == 1.0


def test_rates_fall_with_depth():
    encoder = build(encoder_spec(TINY_VIT))
    groups = parameter_groups(encoder, weight_decay=0.1, scale=layer_scale(encoder, 0.5))
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    named = {name: scales[id(p)] for name, p in encoder.named_parameters()}
    assert named["fc_norm.weight"] == 1.0
    assert named["blocks.1.mlp.fc1.weight"] == 0.5
    assert named["blocks.0.attn.qkv.bias"] == 0.25
    assert named["patch_embed.proj.weight"] == named["pos_embed"] == 0.125
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    undecayed = {name for name, p in encoder.named_parameters() if decays[id(p)] == 0}
    assert {"cls_token", "pos_embed", "blocks.0.norm1.weight", "blocks.0.attn.qkv.bias"} <= undecayed
    assert "blocks.0.attn.qkv.weight" not in undecayed


def test_two_processes_train_like_one_with_the_whole_batch(faces, tmp_path):
    images, labels = faces
    still = {"flip": 0.0, "scale": [1.0, 1.0], "aspect": 0.0, "rotation": 0.0}
    changes = {"backbone": TINY_VIT, "epochs": 2, "loss": {"valence_arousal": "mse"}, "tasks": ["valence"]}
    changes |= {"augment": {**SETTINGS["augment"], **still}, "base_lr": 0.01}
    alone = train({**changes, "batch_size": 32}, tmp_path / "alone", faces)
    (tmp_path / "two.yaml").write_text(dump(config(**changes, batch_size=16)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "abaw_feats", "finetune", "--config", tmp_path / "two.yaml", "--out", tmp_path / "two"]
    command += ["--videos", images, "--annotations", labels, "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    for one, two in zip(history(alone), history(tmp_path / "two"), strict=True):
        assert two["steps"] == one["steps"] == 4
        assert two["lr"] == one["lr"]
        assert two["train"]["valence"] == pytest.approx(one["train"]["valence"], rel=1e-4)
        assert two["val"]["valence"] == pytest.approx(one["val"]["valence"], abs=1e-3)
    assert json.loads((tmp_path / "two" / "provenance.json").read_text())["processes"] == 2


def test_drop_path_rises_with_depth():
    encoder = build(encoder_spec(TINY_VIT))
    set_drop_path(encoder, 0.4)
    assert [block.drop_path1.drop_prob for block in encoder.blocks] == [0.0, 0.4]
    with pytest.raises(UserError, match="drop_path needs a vit"):
        set_drop_path(build(encoder_spec(TINY_DENSENET)), 0.1)


def test_what_cannot_work_is_said_in_one_line(faces, run, tmp_path):
    images, labels = faces
    with pytest.raises(UserError, match="did you mean base_lr"):
        config(base_lrr=1.0)
    with pytest.raises(UserError, match="tasks: 'smile' is not one of"):
        config(tasks=["smile"])
    with pytest.raises(UserError, match="needs `like`"):
        train({"backbone": {"name": "x"}}, tmp_path / "a", faces)
    with pytest.raises(UserError, match="nothing to train on"):
        finetune(config(), tmp_path / "b", device="cpu")
    with pytest.raises(UserError, match="both videos and annotations"):
        finetune(config(), tmp_path / "c", videos=[images], device="cpu")
    with pytest.raises(UserError, match="already holds a run; resume it"):
        train({}, run, faces)
    unknown, _ = write_faces(tmp_path / "unknown", train=1, val=0, frames=2)
    with pytest.raises(UserError, match="has a training label"):
        finetune(config(), tmp_path / "d", videos=[unknown], annotations=[labels], device="cpu")
    assert not list(tmp_path.glob("[abcd]/*.pt"))
