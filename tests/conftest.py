"""Small, learnable data that many tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from abaw_seq.data.feature_file import BackboneInfo, VideoFeatures, atomic_feature_file
from abaw_seq.terminal import show_messages

show_messages()  # as the commands do; test_isolation has a test that the library alone prints nothing
torch.set_num_threads(1)  # small tensors: a second thread costs more than it brings


def pytest_addoption(parser):
    """`make fuzz` runs the tests in `tests/fuzz` for long."""
    parser.addoption("--fuzz", type=int, default=40, help="changed inputs per reader")
    parser.addoption("--fuzz-from", type=int, default=0, help="the number of the first one")


def backbone_info(dim: int, sha: str = "0" * 64, dtype: str = "float16") -> BackboneInfo:
    """A description of a backbone that never existed."""
    return BackboneInfo(dim, "toy", "toy.pt", sha, {"size": 8}, "avg", dtype, "2026-01-01T00:00:00+00:00")


def toy_video(name: str, frames: int, dim: int, seed: int, split: str | None) -> VideoFeatures:
    """Noisy projections of slowly moving labels, some of which are missing."""
    rng = np.random.default_rng(seed)
    shared = np.random.default_rng(7).normal(size=(14, dim))
    walk = np.cumsum(rng.normal(size=(frames, 14)), 0) / 6 + rng.normal(size=14)
    smooth = np.tanh(walk)
    labels = np.empty((frames, 15), np.float32)
    labels[:, :2] = smooth[:, :2]
    labels[:, 2] = np.clip(((smooth[:, 0] + 1) * 4).astype(int), 0, 7)
    labels[:, 3:] = smooth[:, 2:] > 0.2
    labels[rng.random(frames) < 0.2, 2] = np.nan
    labels[rng.random(frames) < 0.2, 3:] = np.nan
    features = smooth @ shared + rng.normal(size=(frames, dim)) * 1.5
    numbers = np.cumsum(rng.integers(1, 4, frames)).astype(np.int32)
    values = {"toy": features.astype(np.float16)}
    return VideoFeatures(name, numbers, np.ones(frames, bool), values, labels, split, source="made")


@pytest.fixture(scope="session")
def toy_feats(tmp_path_factory) -> Path:
    """A feature file: 6 training and 3 validation videos, one 12-wide backbone."""
    path = tmp_path_factory.mktemp("toy") / "feats.h5"
    with atomic_feature_file(path) as writer:
        writer.add_backbone("toy", backbone_info(12))
        for k, frames in enumerate((150, 90, 64, 200, 37, 11)):
            writer.add_video(toy_video(f"train{k}", frames, 12, k, "train"))
        for k, frames in enumerate((120, 70, 20)):
            writer.add_video(toy_video(f"val{k}", frames, 12, 100 + k, "val"))
    return path
