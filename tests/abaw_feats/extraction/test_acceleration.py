"""When networks of an extraction are compiled or captured; what that gives is tested in tests/gpu."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from abaw_feats.extraction.acceleration import accelerate
from abaw_feats.extraction.encoders import load_backbones, prepare_encoders
from abaw_seq.engine.captured import Captured
from tests.abaw_feats.tiny_videos import write_networks


@pytest.mark.parametrize(("frames", "compiled"), [(1000, []), (600_000, ["net"]), (2_600_000, ["vit", "net"])])
def test_long_jobs_compile_and_short_ones_capture(tmp_path, monkeypatch, frames, compiled):
    files = [str(path) for path in write_networks(tmp_path)]
    loaded = load_backbones(files, dict.fromkeys(files, "random"))
    encoders = prepare_encoders(loaded, device=torch.device("cpu"), precision="fp32", rows=4)
    accelerate(encoders, dict.fromkeys(encoders, frames))
    assert all(encoder.compute is None for encoder in encoders.values())
    on_gpu = {name: replace(encoder, device=torch.device("cuda")) for name, encoder in encoders.items()}
    monkeypatch.setattr(torch, "compile", lambda module, dynamic: "compiled")
    accelerate(on_gpu, dict.fromkeys(encoders, frames))
    kinds = dict(zip(("vit", "net"), on_gpu.values(), strict=True))
    assert [name for name, encoder in kinds.items() if encoder.compute == "compiled"] == compiled
    assert all(isinstance(e.compute, Captured) for name, e in kinds.items() if name not in compiled)


def test_an_accelerated_encoder_computes_with_what_it_was_given(tmp_path):
    files = [str(path) for path in write_networks(tmp_path)][:1]
    loaded = load_backbones(files, dict.fromkeys(files, "random"))
    (encoder,) = prepare_encoders(loaded, device=torch.device("cpu"), precision="fp32", rows=4).values()
    calls = []
    encoder.compute = lambda x: calls.append(len(x)) or encoder.module(x)
    pixels = torch.randint(0, 255, (6, 48, 48, 3), dtype=torch.uint8)
    images = [(torch.arange(6).numpy(), pixels)]
    assert encoder.encode(images, 8, 6).result().shape[0] == 8 and calls == [4, 4]
