"""Damaged checkpoint files, and containers of every shape."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from abaw_feats.backbones.checkpoint import CONTAINERS, read_checkpoint
from tests.fuzz.changes import changed_bytes, read_or_refused

STATE = {"0.weight": torch.ones(3, 4), "0.bias": torch.zeros(3), "1.num_batches_tracked": torch.tensor(3)}
BESIDE = [None, 3, "text", [1, 2], [STATE["0.bias"]], np.float64(2), np.ones(3), argparse.Namespace(a=1), {}, {"lr": 1}]


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_damaged_checkpoints_are_read_or_refused(tmp_path, cases, kind):
    path = tmp_path / "w.pth"
    if kind == "safetensors":
        save_file(STATE, path)
    else:
        content = {"model": STATE, "best": np.float64(1), "a": np.ones(2), "args": argparse.Namespace(lr=1)}
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    for case, rng in cases:
        path.write_bytes(changed_bytes(whole, rng))
        with read_or_refused(case):
            read_checkpoint(path)


def test_containers_of_every_shape_are_read_or_refused(tmp_path, cases):
    path = tmp_path / "w.pth"

    def container(rng, depth):
        if depth == 0 or rng.random() < 0.3:
            return dict(STATE) if rng.random() < 0.7 else BESIDE[rng.integers(len(BESIDE))]
        words = [*CONTAINERS, "optimizer", "generator", "", "a.b", 0, "n_averaged"]
        return {words[k]: container(rng, depth - 1) for k in rng.integers(len(words), size=rng.integers(1, 4))}

    for case, rng in cases:
        torch.save(container(rng, int(rng.integers(1, 12))), path)
        with read_or_refused(case):
            read_checkpoint(path)
            read_checkpoint(path, ["model", "ema", "0", ""][rng.integers(4)])
