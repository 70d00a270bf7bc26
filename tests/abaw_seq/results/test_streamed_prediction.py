"""Predictions come group by group, the same as all at once, and memory does not grow with the features."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from abaw_seq import config as configs
from abaw_seq.data.corpus import load_corpus
from abaw_seq.data.feature_file import VideoFeatures, atomic_feature_file
from abaw_seq.data.prediction_file import read_predictions, write_groups
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.learn.train import train
from abaw_seq.results.predict import predict_corpus, predict_run
from tests.conftest import backbone_info

CPU = torch.device("cpu")
DIM = 768


def trained(feats, folder, *changes):
    small = ("model.encoder.dim=8", "model.encoder.heads=2", "model.head=[8]", "epochs=1", "windows.length=32")
    config = configs.load(TrainConfig, None, [*small, *changes])
    corpus = load_corpus([feats])
    return train(config, corpus, folder, device=CPU).model, config, corpus


@pytest.mark.parametrize(
    "changes",
    [
        ("model.encoder.kind=lstm", "windows.carry=true"),
        ("model.encoder.kind=gru", "model.encoder.bidirectional=true", "standardise=video"),
        ("model.encoder.kind=transformer",),
    ],
)
def test_groups_of_videos_are_predicted_as_all_at_once(toy_feats, tmp_path, changes):
    model, config, corpus = trained(toy_feats, tmp_path / "run", *changes)
    whole = predict_corpus(model, config, config.as_seen(corpus), list(range(len(corpus.names))))
    groups = list(predict_run(tmp_path / "run", [toy_feats], CPU, frames_at_once=150))
    assert 1 < len(groups) < len(whole)
    for group in groups:
        assert len(group) == 1 or sum(len(video.frames) for video in group.values()) <= 150
    grouped = {name: video for group in groups for name, video in group.items()}
    assert list(grouped) == list(whole)
    for name, video in whole.items():
        np.testing.assert_array_equal(grouped[name].frames, video.frames)
        np.testing.assert_array_equal(grouped[name].labels, video.labels)
        assert grouped[name].split == video.split
        for task, values in video.outputs.items():
            np.testing.assert_allclose(grouped[name].outputs[task], values, atol=1e-6)


def test_files_written_in_groups_equal_those_written_at_once(toy_feats, tmp_path):
    trained(toy_feats, tmp_path / "run")
    groups = list(predict_run(tmp_path / "run", [toy_feats], CPU, frames_at_once=150))
    assert write_groups(tmp_path / "streamed", iter(groups)) == (762, 9)
    whole = {name: video for group in groups for name, video in group.items()}
    assert write_groups(tmp_path / "whole", [whole]) == (762, 9)
    assert (tmp_path / "streamed.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    streamed, stored = (read_predictions(tmp_path / f"{name}.h5") for name in ("streamed", "whole"))
    for name, video in stored.items():
        for task, values in video.outputs.items():
            np.testing.assert_array_equal(streamed[name].outputs[task], values)


def test_a_group_that_fails_leaves_no_file(toy_feats, tmp_path):
    trained(toy_feats, tmp_path / "run")

    def broken():
        yield next(iter(predict_run(tmp_path / "run", [toy_feats], CPU, frames_at_once=150)))
        raise RuntimeError("the disk went away")

    with pytest.raises(RuntimeError, match="went away"):
        write_groups(tmp_path / "broken", broken())
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


PEAK = """
import sys
from pathlib import Path
import torch
from abaw_seq.results.predict import predict_run
from abaw_seq.data.prediction_file import write_groups
torch.set_num_threads(1)
folder, name = Path(sys.argv[1]), sys.argv[2]
groups = predict_run(folder / "run", [folder / f"{name}.h5"], torch.device("cpu"))
write_groups(folder / f"{name}-predictions", groups)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def test_memory_does_not_grow_with_the_features_of_a_long_video(tmp_path):
    rng = np.random.default_rng(0)
    block = rng.normal(size=(5000, DIM)).astype(np.float16)
    for name, repeats in (("short", 1), ("long", 20)):
        frames = np.arange(1, 5000 * repeats + 1, dtype=np.int32)
        labels = np.zeros((len(frames), 15), np.float32) if name == "short" else None
        values = {"toy": np.tile(block, (repeats, 1))}
        with atomic_feature_file(tmp_path / f"{name}.h5") as writer:
            writer.add_backbone("toy", backbone_info(DIM))
            writer.add_video(VideoFeatures("v", frames, np.ones(len(frames), bool), values, labels, "train"))
    trained(tmp_path / "short.h5", tmp_path / "run", "model.encoder.kind=lstm", "windows.carry=true")
    peaks = {}
    for name in ("short", "long"):
        command = [sys.executable, "-c", PEAK, str(tmp_path), name]
        peaks[name] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) * 1024
    features = 95_000 * DIM * 2
    assert peaks["long"] - peaks["short"] < features / 2
