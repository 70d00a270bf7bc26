"""Extraction on a GPU: captured and compiled networks give what the eager ones give, whoever decodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from abaw_feats import extract
from abaw_feats.extraction import acceleration
from abaw_feats.extraction import extract as program
from abaw_feats.extraction.encoders import load_backbones, prepare_encoders
from abaw_seq.data.feature_file import FeatureReader
from abaw_seq.engine.captured import CALLS_BEFORE, Captured
from tests.abaw_feats.tiny_videos import write_frames, write_networks


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> dict:
    """Backbones, weights and videos."""
    folder = tmp_path_factory.mktemp("gpu")
    networks = [str(path) for path in write_networks(folder)]
    for name, count in (("a", 70), ("b", 5)):
        write_frames(folder / "videos" / name, range(1, count + 1))
    return {"backbones": networks, "weights": dict.fromkeys(networks, "random"), "videos": folder / "videos"}


def features(path) -> dict[str, np.ndarray]:
    with FeatureReader(path) as reader:
        return {
            f"{video} {name}": reader.features(video, name).astype(np.float32)
            for video in reader.videos
            for name in reader.backbones
        }


def closest(one: np.ndarray, other: np.ndarray) -> float:
    """The smallest cosine between rows."""
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(1) / norms).min())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_captured_network_computes_as_the_eager_one(given, precision):
    loaded = load_backbones(given["backbones"], given["weights"])
    for encoder in prepare_encoders(loaded, device=torch.device("cuda"), precision=precision, rows=16).values():
        captured = Captured(encoder.module, encoder.name)
        side, channels = encoder.preprocessing.size, encoder.preprocessing.channels
        with torch.inference_mode():
            for _ in range(CALLS_BEFORE + 3):
                x = torch.randn(16, channels, side, side, device="cuda")
                torch.testing.assert_close(captured(x), encoder.module(x), rtol=1e-3, atol=1e-3)
        assert captured._graphs


@pytest.mark.parametrize("way", ["captured", "compiled", "processes"])
def test_extraction_on_the_gpu_equals_the_cpus(given, way, tmp_path, monkeypatch):
    extract(**given, out=tmp_path / "cpu.h5", device="cpu", precision="fp32", dtype="float32")
    if way == "compiled":
        monkeypatch.setattr(acceleration, "PAYS_FROM", {False: 1, True: 1})
    if way == "processes":
        monkeypatch.setattr(program, "IMAGES_FOR_PROCESSES", 1)
    extract(**given, out=tmp_path / "gpu.h5", device="cuda", precision="fp32", dtype="float32", batch_size=16)
    expected, computed = features(tmp_path / "cpu.h5"), features(tmp_path / "gpu.h5")
    assert expected.keys() == computed.keys()
    for key, values in expected.items():
        assert closest(values, computed[key]) > 0.9999


def test_an_interrupted_extraction_goes_on(given, tmp_path):
    extract(**{**given, "videos": given["videos"] / "a"}, out=tmp_path / "feats.h5", device="cuda")
    extract(**given, out=tmp_path / "feats.h5", device="cuda")
    assert len(features(tmp_path / "feats.h5")) == 2 * len(given["backbones"])
