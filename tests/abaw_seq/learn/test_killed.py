"""Training that is killed again and again, and resumed each time, ends as if nothing had happened."""

import json
import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
import torch._dynamo  # which optimisers import when they are made; here once, for all processes

from abaw_seq import config as configs
from abaw_seq import files
from abaw_seq.data.corpus import load_corpus
from abaw_seq.data.prediction_file import read_predictions
from abaw_seq.files import load_tensors
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.learn.train import train

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([__name__])
KILLS = 6
SMALL = ["epochs=4", "model.encoder.dim=8", "model.head=[8]", "windows.length=32", "optim.lr=3e-3"]
VARIANTS = {
    "fixed": ["weighting.kind=fixed", "weighting.valence=2", "keep_best_per_task=true"],
    "normalised, averaged": ["weighting.kind=normalised", "optim.ema=0.9", "model.encoder.kind=none"],
    "uncertainty, averaged": ["weighting.kind=uncertainty", "optim.ema=0.8", "model.head_dropout=0.2"],
    "dynamic": ["weighting.kind=dynamic", "windows.carry=true", "augment.noise=0.1"],
}


def _train(feats, run, overrides, writes):
    """Train and, unless `writes` is 0, be killed at that write: at an odd one before it, at an even one after it."""
    torch.set_num_threads(1)
    replace, done = os.replace, 0

    def deadly(*paths):
        nonlocal done
        done += 1
        if done == writes and writes % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*paths)
        if done == writes:
            os.kill(os.getpid(), signal.SIGKILL)

    files.os.replace = deadly
    config = configs.load(TrainConfig, None, [*SMALL, *overrides])
    train(config, load_corpus([feats]), run, device=torch.device("cpu"), resume=True)


def trained(*arguments) -> int | None:
    """The exit code of a process that trains."""
    process = SERVER.Process(target=_train, args=arguments)
    process.start()
    process.join(120)
    return process.exitcode


def without_times(content):
    if isinstance(content, dict):
        return {key: without_times(value) for key, value in content.items() if key != "seconds"}
    return [without_times(value) for value in content] if isinstance(content, list | tuple) else content


def flat(content, place=""):
    """{place: tensor or value} of a checkpoint."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    parts = [(f"{place}/{key}", value) for key, value in items]
    nested = [flat(value, key) if isinstance(value, dict | list) else {key: value} for key, value in parts]
    return {key: value for part in nested for key, value in part.items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_at_any_write_and_resumed_training_ends_the_same(toy_feats, tmp_path, variant):
    whole, run = tmp_path / "whole" / "run", tmp_path / "killed" / "run"
    assert trained(toy_feats, whole, VARIANTS[variant], 0) == 0
    rng = np.random.default_rng(len(variant))
    ends = [trained(toy_feats, run, VARIANTS[variant], int(writes)) for writes in rng.permutation(range(1, KILLS + 1))]
    assert set(ends) <= {-signal.SIGKILL, 0} and ends.count(-signal.SIGKILL) > KILLS // 2
    assert trained(toy_feats, run, VARIANTS[variant], 0) == 0

    assert sorted(path.name for path in run.iterdir()) == sorted(path.name for path in whole.iterdir())
    for path in whole.glob("*.pt"):
        one, other = (flat(without_times(load_tensors(folder / path.name))) for folder in (whole, run))
        assert one.keys() == other.keys()
        for key, value in one.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(other[key].nan_to_num(7), value.nan_to_num(7)), f"{path.name}: {key}"
            else:
                assert other[key] == value, f"{path.name}: {key}"
    assert (run / "scores.json").read_text() == (whole / "scores.json").read_text()
    lines = [[json.loads(line) for line in (at / "metrics.jsonl").read_text().splitlines()] for at in (whole, run)]
    assert without_times(lines[0]) == without_times(lines[1])
    for name, video in read_predictions(whole).items():
        for task, values in read_predictions(run)[name].outputs.items():
            np.testing.assert_array_equal(values, video.outputs[task])
