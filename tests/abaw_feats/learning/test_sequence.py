"""Fine-tuning over windows of frames: which frames they hold, what comes out of them, and a whole run."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from abaw_feats.backbones import build, find_spec, load
from abaw_feats.learning.finetune import finetune
from abaw_feats.learning.finetune_config import FinetuneConfig
from abaw_feats.learning.sampling import Pool
from abaw_feats.learning.sequence import Fusion, SequenceConfig, SequenceNetwork, Windows, windows_of
from abaw_feats.learning.task_network import HeadConfig, TaskHeads, TaskNetwork, read_network
from abaw_feats.reading.frames import VideoSource
from abaw_feats.reading.image_index import ImageIndex
from abaw_seq.config import from_dict
from abaw_seq.data.feature_file import VideoFeatures, atomic_feature_file
from abaw_seq.errors import UserError
from abaw_seq.models.encoders import EncoderConfig
from tests.abaw_feats.learning.test_finetune import SETTINGS, TINY_IRESNET, TINY_VIT
from tests.abaw_feats.tiny_faces import write_faces
from tests.conftest import backbone_info

WIDTHS = {"valence": 1, "expression": 8}
GRU = {"kind": "gru", "dim": 16, "dropout": 0.0}


def index_of(*counts: int) -> ImageIndex:
    """Videos of so many frames."""
    sources = tuple(VideoSource(f"v{k}", None, False, count) for k, count in enumerate(counts))
    source = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    number = np.concatenate([np.arange(1, count + 1, dtype=np.int32) for count in counts])
    return ImageIndex(sources, source, number, ("",) * len(source))


@pytest.mark.parametrize("counts", [(24, 7, 1), (5,), (12, 13), (3, 40)])
@pytest.mark.parametrize("length", [1, 5, 12])
def test_windows_without_overlap_hold_every_frame_once(counts, length):
    index = index_of(*counts)
    rows = torch.arange(len(index))[::2]
    table = windows_of(index, rows, length, length)
    assert table[table >= 0].tolist() == rows.tolist()
    for window in table:
        held = window[window >= 0]
        assert len(set(index.source[held.tolist()])) == 1 and (window[len(held) :] == -1).all() and len(held)


@pytest.mark.parametrize(
    ("counts", "length", "step"), [((24, 7, 1), 5, 2), ((9,), 4, 3), ((3, 30), 8, 1), ((20,), 4, 6)]
)
def test_windows_that_overlap_are_whole_and_reach_the_end(counts, length, step):
    index = index_of(*counts)
    table = windows_of(index, torch.arange(len(index)), length, step)
    first = 0
    for count in counts:
        own = [w for w in table.tolist() if first <= w[0] < first + count]
        assert max(max(w) for w in own) == first + count - 1 and own[0][0] == first
        assert all(w == list(range(w[0], w[0] + length)) for w in own if count >= length)
        steps = np.diff([w[0] for w in own])
        assert (steps[:-1] == step).all() and (steps[-1:] <= step).all()
        first += count


def test_images_that_cannot_be_read_leave_a_gap_in_their_window():
    windows = Windows(windows_of(index_of(7, 3), torch.arange(10), 4, 4))
    (rows,) = windows.rows([torch.tensor([0, 1, 2])])
    assert rows.tolist() == list(range(10))
    place, used, window = windows.places(torch.tensor([0, 1, 3, 5, 6, 9]))
    assert place.tolist() == [0, 1, 3, 5, 6, 10]
    assert used.tolist() == [4, 3, 3] and window.tolist() == [0, 0, 0, 1, 1, 2]


def test_windows_belong_to_the_pool_of_their_first_frame_and_weigh_its_mean():
    windows = Windows(windows_of(index_of(4, 5), torch.arange(9), 3, 3))
    pools = windows.pools([
        Pool(torch.arange(4), 2.0, torch.tensor([1.0, 2.0, 6.0, 4.0], dtype=torch.float64)),
        Pool(torch.arange(4, 9), 1.0),
    ])  # fmt: skip
    assert [pool.rows.tolist() for pool in pools] == [[0, 1], [2, 3]] and pools[0].share == 2
    assert pools[0].weights.tolist() == [3.0, 4.0] and pools[1].weights is None


class Pixels(nn.Module):
    """An encoder whose feature is the image."""

    dim = 3

    def forward(self, x):
        return x.mean((2, 3))


def heads(dim: int) -> TaskHeads:
    torch.manual_seed(0)
    return TaskHeads(dim, WIDTHS, HeadConfig())


def test_without_temporal_module_windows_give_what_single_frames_give():
    encoder = Pixels()
    config = SequenceConfig(length=4, temporal=EncoderConfig(kind="none"))
    over_windows = SequenceNetwork(encoder, heads, config).eval()
    over_frames = TaskNetwork(encoder, heads(3)).eval()
    images = torch.randn(6, 3, 8, 8)
    outputs = over_windows(images, torch.tensor([0, 1, 3, 4, 5, 6]), torch.tensor([4, 3]))
    for task, expected in over_frames(images).items():
        torch.testing.assert_close(outputs[task], expected, rtol=0, atol=0)


def test_the_joint_network_is_fusion_leaky_relu_temporal_module_and_heads():
    config = SequenceConfig(length=3, temporal=EncoderConfig(**GRU), features=("f.h5",))
    network = SequenceNetwork(Pixels(), heads, config, extra=(2, 4)).eval()
    images, cached = torch.randn(5, 3, 8, 8), torch.randn(5, 6)
    outputs = network(images, torch.tensor([0, 1, 2, 3, 4]), torch.tensor([3, 2]), cached)
    fusion, rnn = network.fusion, network.temporal.rnn
    mixed = images.mean((2, 3)) + fusion.maps[0](cached[:, :2]) + fusion.maps[1](cached[:, 2:])
    first, _, _, last = fusion.mix
    mixed = F.leaky_relu(last(F.relu(first(mixed))), 0.1)
    expected = torch.cat([rnn(mixed[None, :3])[0][0], rnn(mixed[None, 3:])[0][0]])
    for task, output in outputs.items():
        torch.testing.assert_close(output, network.heads.tasks[task](expected), rtol=1e-5, atol=1e-6)


def test_concatenation_puts_features_side_by_side():
    fusion = Fusion(3, (2,), "concat")
    feature, cached = torch.randn(4, 3), torch.randn(4, 2)
    assert fusion.out_dim == 5 and torch.equal(fusion(feature, cached), torch.cat([feature, cached], 1))


def test_activations_that_are_computed_again_change_nothing():
    torch.manual_seed(2)
    config = {"length": 4, "temporal": EncoderConfig(**GRU)}
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    encoder.dim = 4
    plain = SequenceNetwork(encoder, heads, SequenceConfig(**config))
    images, place, used = torch.randn(7, 3, 8, 8), torch.arange(7), torch.tensor([4, 3])
    gradients = []
    for kept in (0, 3):
        plain.kept = kept
        plain.zero_grad()
        sum(output.sum() for output in plain(images, place, used).values()).backward()
        gradients.append([parameter.grad.clone() for parameter in plain.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(UserError, match="batch norm"):
        SequenceNetwork(build(find_spec("iresnet18")), heads, SequenceConfig(checkpoint=2))


def config(**changes) -> FinetuneConfig:
    sequence = {"length": 6, "temporal": GRU}
    return from_dict(FinetuneConfig, {**SETTINGS, "batch_size": 24, "epochs": 5, "sequence": sequence, **changes})


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("faces"), train=3, val=1, frames=27)


def train(faces, out, changes=None, **extra):
    images, labels = faces
    return finetune(config(**(changes or {})), out, videos=[images], annotations=[labels], device="cpu", **extra)


def history(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(faces, tmp_path_factory):
    return train(faces, tmp_path_factory.mktemp("runs") / "whole")


def test_a_run_over_windows_learns_and_leaves_a_backbone(run, faces):
    lines = history(run)
    assert lines[-1]["train"]["loss"] < lines[0]["train"]["loss"] and lines[0]["val"]["valence"] is not None
    loaded = load(find_spec(run))
    assert loaded.dim == 16 and loaded.module(torch.zeros(1, 3, 32, 32)).shape == (1, 16)
    with pytest.raises(UserError, match="a teacher must see single frames"):
        read_network(run)


def test_an_interrupted_run_over_windows_ends_the_same(run, faces, tmp_path, monkeypatch):
    from abaw_feats.learning import finetune as program

    save = program.save_epoch

    def interrupted(out, state):
        save(out, state)
        if state["epoch"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(program, "save_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(faces, tmp_path / "r")
    monkeypatch.setattr(program, "save_epoch", save)
    train(faces, tmp_path / "r", resume=True)
    for one, other in zip(history(run), history(tmp_path / "r"), strict=True):
        assert one["train"] == other["train"] and one["val"] == other["val"]


def test_cached_features_are_fused_by_video_and_frame(faces, tmp_path):
    videos = sorted(path.name for path in faces[0].iterdir())
    with atomic_feature_file(tmp_path / "task.h5") as writer:
        writer.add_backbone("p7_au", backbone_info(5))
        for k, name in enumerate(videos):
            values = {"p7_au": np.random.default_rng(k).normal(size=(27, 5)).astype(np.float16)}
            numbers = np.arange(1, 28, dtype=np.int32)
            writer.add_video(VideoFeatures(name, numbers, np.ones(27, bool), values, None, None, source="made"))
    sequence = {"length": 6, "temporal": GRU, "features": [str(tmp_path / "task.h5")], "step": 3}
    vit = {"backbone": TINY_VIT, "sequence": {**sequence, "checkpoint": 6}, "epochs": 1, "base_lr": 1e-3}
    assert history(train(faces, tmp_path / "vit", vit))[0]["val"]["p_mtl"] > 0
    frozen = {"backbone": TINY_IRESNET, "freeze": True, "sequence": {**sequence, "fusion": "concat"}, "epochs": 1}
    assert history(train(faces, tmp_path / "frozen", frozen))[0]["val"]["p_mtl"] > 0
    other = {**sequence, "backbones": ["p7_va"]}
    with pytest.raises(UserError, match="none of p7_va is in"):
        train(faces, tmp_path / "x", {"sequence": other})


@pytest.mark.parametrize(
    ("sequence", "reason"),
    [({"length": 0}, "length must be"), ({"step": 0}, "step must be"), ({"checkpoint": -1}, "checkpoint must be"),
     ({"backbones": ["a"]}, "backbones need the feature files")],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(sequence, reason):
    with pytest.raises(UserError, match=reason):
        config(sequence=sequence)
