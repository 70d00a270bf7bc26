"""Features on the device, in host memory and in their files are the same features."""

import dataclasses
import types

import h5py
import numpy as np
import pytest
import torch

from abaw_seq import config as configs
from abaw_seq.data import feature_store
from abaw_seq.data.corpus import load_corpus
from abaw_seq.data.feature_file import VideoFeatures, atomic_feature_file
from abaw_seq.data.feature_store import FileFeatures, HostFeatures, settled_memory
from abaw_seq.errors import UserError
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.learn.train import train
from tests.conftest import backbone_info

CPU = torch.device("cpu")


def written(path, backbone, dim, videos, dtype="float16"):
    """videos: {name: (frame numbers, positions that could not be read)}."""
    rng = np.random.default_rng(dim)
    with atomic_feature_file(path) as writer:
        writer.add_backbone(backbone, backbone_info(dim, dtype=dtype))
        for name, (frames, broken) in videos.items():
            values = rng.normal(size=(len(frames), dim)).astype(dtype)
            valid = np.ones(len(frames), bool)
            valid[broken], values[broken] = False, 0
            writer.add_video(VideoFeatures(name, np.array(frames, np.int32), valid, {backbone: values}))
    return path


@pytest.fixture
def joined(tmp_path):
    """Two files that hold other frames of the same videos, some of them unreadable."""
    one = {"a": (range(1, 60), [0, 1, 30]), "b": (range(1, 20), [18]), "c": (range(5, 9), [])}
    two = {"a": (range(3, 80, 2), [5]), "b": (range(1, 20), []), "c": (range(4, 9), [1])}
    return [written(tmp_path / "one.h5", "one", 5, one), written(tmp_path / "two.h5", "two", 3, two, "float32")]


def test_windows_read_from_the_files_are_those_in_memory(joined):
    here, there = load_corpus(joined), load_corpus(joined, memory="file")
    assert isinstance(there.features, FileFeatures) and there.features.shape == tuple(here.features.shape)
    rng = np.random.default_rng(0)
    videos = [2, 0, 1]
    lengths = np.array([here.lengths[v] for v in videos])
    for _ in range(50):
        video = rng.integers(0, 3, 6)
        start = rng.integers(0, lengths[video])
        windows = np.stack([video, start, rng.integers(1, lengths[video] - start + 1)], 1)
        expected = here.gather_features(here.window_rows(windows, videos))
        assert torch.equal(there.gather_features(there.window_rows(windows, videos)), expected)
    rows = torch.from_numpy(rng.integers(0, here.offsets[-1], 40))
    assert torch.equal(there.features.take(rows), here.features[rows])


def test_what_is_gathered_ahead_comes_in_order_and_is_counted(joined):
    here, there = load_corpus(joined), load_corpus(joined, memory="file")
    work = [(k, torch.arange(k, k + 4).view(2, 2)) for k in range(20)]
    gathered = list(there.gathered(iter(work)))
    assert [k for k, _ in gathered] == list(range(20))
    for k, features in gathered:
        assert torch.equal(features, here.features[k : k + 4].view(2, 2, -1))
    assert there.features.traffic.rows == 80 and there.features.traffic.bytes == 80 * 8 * 4
    assert "frames/s" in there.gather_rate() and here.gather_rate() is None


@pytest.mark.parametrize("changes", [("windows.carry=true",), ("standardise=video", "augment.noise=0.2")])
def test_training_does_not_depend_on_where_the_features_are(toy_feats, tmp_path, changes):
    settings = ("model.encoder.kind=lstm", "model.encoder.dim=8", "model.head=[8]", "epochs=2", "windows.length=32")
    config = configs.load(TrainConfig, None, [*settings, *changes])
    device = load_corpus([toy_feats])
    host = dataclasses.replace(device, features=HostFeatures(device.features))
    results = [
        train(config, corpus, tmp_path / name, device=CPU)
        for name, corpus in (("device", device), ("host", host), ("file", load_corpus([toy_feats], memory="file")))
    ]
    first = results[0]
    for other in results[1:]:
        assert other.scores == first.scores
        for key, value in first.model.state_dict().items():
            assert torch.equal(other.model.state_dict()[key], value), key


def test_a_broken_value_is_named_when_it_is_read(toy_feats, tmp_path):
    path = tmp_path / "broken.h5"
    path.write_bytes(toy_feats.read_bytes())
    with h5py.File(path, "a") as file:
        file["videos/train3/features/toy"][150] = np.nan
    corpus = load_corpus([path], memory="file")
    start = int(corpus.offsets[corpus.names.index("train3")])
    corpus.features.take(torch.arange(start, start + 100))
    with pytest.raises(UserError, match="video train3: features/toy holds NaN"):
        corpus.features.take(torch.arange(start + 100, start + 160))
    with pytest.raises(UserError, match="video train3: features/toy holds NaN"):
        load_corpus([path])


@pytest.mark.parametrize(
    ("asked", "device", "free_device", "free_host", "expected"),
    [
        ("auto", "cpu", 0, 1000, "device"),
        ("auto", "cpu", 0, 150, "file"),
        ("host", "cpu", 0, 150, "device"),
        ("file", "cpu", 0, 1000, "file"),
        ("auto", "cuda", 1000, 0, "device"),
        ("auto", "cuda", 150, 1000, "host"),
        ("auto", "cuda", 150, 150, "file"),
        ("device", "cuda", 0, 0, "device"),
    ],
)
def test_features_go_to_the_first_place_with_room(monkeypatch, asked, device, free_device, free_host, expected):
    monkeypatch.setattr(feature_store, "free_host_memory", lambda: free_host)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free_device, free_device))
    assert settled_memory(asked, 100, types.SimpleNamespace(type=device)) == expected


def test_an_unknown_place_is_refused():
    with pytest.raises(UserError, match="memory 'disk': use auto, device, host or file"):
        settled_memory("disk", 100, CPU)
    assert feature_store.free_host_memory() > 1e8
