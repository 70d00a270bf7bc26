"""When networks are compiled or captured, with a stand-in for CUDA's graphs; the real ones are in tests/gpu."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from abaw_feats.extraction import acceleration
from abaw_feats.extraction.acceleration import Captured, accelerate
from abaw_feats.extraction.encoders import load_backbones, prepare_encoders
from tests.abaw_feats.tiny_videos import write_networks


class Double(nn.Module):
    def forward(self, x):
        return 2 * x


class Graph:
    """What a CUDA graph does: replaying computes from the tensor it reads into the tensor it writes."""

    def __init__(self, function, given, result):
        self.function, self.given, self.result = function, given, result

    def replay(self):
        self.result.copy_(self.function(self.given))


@pytest.fixture
def captures(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes that were captured."""
    shapes = []

    def capture(function, x):
        shapes.append(tuple(x.shape))
        given, result = x.clone(), torch.full_like(x, torch.nan)
        return Graph(function, given, result), given, result

    monkeypatch.setattr(acceleration, "capture", capture)
    return shapes


def test_each_shape_is_captured_once_and_results_are_not_written_over(captures):
    module = Captured(Double())
    inputs = [torch.arange(4.0) + k for k in range(3)] + [torch.ones(2)]
    results = [module(x) for x in inputs]
    for x, result in zip(inputs, results, strict=True):
        assert torch.equal(result, 2 * x)
    assert captures == [(4,), (2,)]


def test_what_cannot_be_captured_is_computed_step_by_step(monkeypatch, capsys):
    def refuse(function, x):
        refusals.append(1)
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    refusals = []
    monkeypatch.setattr(acceleration, "capture", refuse)
    module = Captured(Double())
    assert torch.equal(module(torch.ones(3)), torch.full((3,), 2.0)) and torch.equal(
        module(torch.ones(2)), 2 * torch.ones(2)
    )
    assert len(refusals) == 1 and "operation not permitted when stream is capturing" in capsys.readouterr().err


def test_memory_that_runs_out_while_capturing_is_left_to_the_encoder(monkeypatch):
    def exhausted(function, x):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(acceleration, "capture", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        Captured(Double())(torch.ones(3))


@pytest.mark.parametrize(("frames", "compiled"), [(1000, []), (600_000, ["net"]), (2_600_000, ["vit", "net"])])
def test_long_jobs_compile_and_short_ones_capture(tmp_path, monkeypatch, frames, compiled):
    networks = dict(zip(("vit", "net"), write_networks(tmp_path), strict=True))
    loaded = load_backbones(
        [str(path) for path in networks.values()], {str(path): "random" for path in networks.values()}
    )
    encoders = prepare_encoders(loaded, device=torch.device("cpu"), precision="fp32", rows=4)
    accelerate(encoders, dict.fromkeys(encoders, frames))
    assert all(encoder.compute is None for encoder in encoders.values())
    on_gpu = {name: replace(encoder, device=torch.device("cuda")) for name, encoder in encoders.items()}
    monkeypatch.setattr(torch, "compile", lambda module, dynamic: "compiled")
    accelerate(on_gpu, dict.fromkeys(encoders, frames))
    kinds = dict(zip(networks, on_gpu.values(), strict=True))
    assert [name for name, encoder in kinds.items() if encoder.compute == "compiled"] == compiled
    assert all(isinstance(e.compute, Captured) for name, e in kinds.items() if name not in compiled)
