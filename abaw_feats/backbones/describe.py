"""What each backbone costs and where its weights are, without running it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from abaw_feats.backbones import weights as files
from abaw_feats.backbones.loading import build
from abaw_feats.backbones.registry import BUILT_IN, find_spec
from abaw_feats.backbones.spec import BackboneSpec


@dataclass(frozen=True)
class BackboneRow:
    """One line of the list of backbones."""

    name: str
    arch: str
    pooling: str
    size: int
    """Side of the square input, in pixels."""
    dim: int
    """Values per frame."""
    parameters: int
    gflops: float
    """GFLOP per frame: 2 per multiply-add."""
    weights: str
    """The path of the weight file, `hub: ...` where it can be downloaded from, `missing: ...`, or `none`."""
    licence: str


def describe_backbones(names: Iterable[str] | None = None) -> list[BackboneRow]:
    """A row per backbone: the built-in ones, or those of `names`, which are as for `find_spec`.

    Networks are built on the meta device: no memory for weights, no arithmetic, no network access.
    """
    specs = [find_spec(name) for name in (BUILT_IN if names is None else names)]
    costs: dict[str, tuple[int, int, float]] = {}
    rows = []
    for spec in specs:
        # Entries that differ only in pooling cost the same, and counting a large network takes a second.
        size = spec.preprocessing.size
        key = f"{spec.arch} {spec.options} {size}"
        if key not in costs:
            costs[key] = _cost(spec)
        dim, parameters, gflops = costs[key]
        where = _where(spec)
        rows.append(BackboneRow(spec.name, spec.arch, spec.pooling, size, dim, parameters, gflops, where, spec.licence))
    return rows


def _cost(spec: BackboneSpec) -> tuple[int, int, float]:
    """(dim, parameters, GFLOP per frame)"""
    with torch.device("meta"):
        module = build(spec).eval().requires_grad_(False)
    side = spec.preprocessing.size
    frame = torch.empty(1, spec.preprocessing.channels, side, side, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(frame)
    parameters = sum(value.numel() for value in module.parameters())
    return module.dim, parameters, counter.get_total_flops() / 1e9


def _where(spec: BackboneSpec) -> str:
    if spec.weights and not files.named_file(spec.weights).path.exists():
        return f"missing: {spec.weights}"
    if file := files.find_local(spec):
        return str(file.path)
    return f"hub: {spec.hub}" if spec.hub else "none"
