"""Several tasks' features of a frame as one: `Fusion`, with one class for each kind in FUSIONS.

These take features of one width, (sources, batch, time, dim), the first of which are the task's own, and return
(batch, time, dim). The published one is `sum` (Liu et al., ABAW7, arXiv 2407.16945): the sum, then
linear - ReLU - dropout - linear, and a LeakyReLU; the others differ in what comes before these layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abaw_seq.config.ranges import Checked, Heads, ShareBelowOne, Width
from abaw_seq.models.dropout import Dropout

LEAK = 0.1  # of the LeakyReLU, as published
FusionKind = Literal["none", "sum", "concat", "gate", "attention"]


@dataclass(frozen=True)
class FusionConfig(Checked):
    """How the features of several tasks become those of one."""

    dim: Width = 768
    """Width of the fused features; task features of another width are first brought to it by a linear
    layer."""
    dropout: ShareBelowOne = 0.3
    """Dropout between the two linear layers of a fusion."""
    heads: Heads = 4
    """Attention heads (attention); `dim` is a multiple of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} must be a multiple of the number of heads ({self.heads})")


class FirstSource(nn.Module):
    """No fusion: the task's own features as they are."""

    def __init__(self, sources: int, config: FusionConfig):
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        # x: (sources, batch, time, dim)
        return x[0]


class Sum(nn.Module):
    """The sum of the features, then two layers."""

    def __init__(self, sources: int, config: FusionConfig):
        super().__init__()
        self.layers = two_layers(config.dim, config)

    def forward(self, x: Tensor) -> Tensor:
        # x: (sources, batch, time, dim)
        return self.layers(x.sum(0))


class Concatenation(nn.Module):
    """The features side by side, then two layers."""

    def __init__(self, sources: int, config: FusionConfig):
        super().__init__()
        self.layers = two_layers(sources * config.dim, config)

    def forward(self, x: Tensor) -> Tensor:
        # x: (sources, batch, time, dim)
        return self.layers(torch.cat([*x], -1))


class Gate(nn.Module):
    """The mean of the features, weighted per source and frame by what all of them say, then two layers."""

    def __init__(self, sources: int, config: FusionConfig):
        super().__init__()
        self.weigh = nn.Linear(sources * config.dim, sources)
        self.layers = two_layers(config.dim, config)

    def forward(self, x: Tensor) -> Tensor:
        # x: (sources, batch, time, dim)
        share = self.weigh(torch.cat([*x], -1)).softmax(-1)
        return self.layers(torch.einsum("bts,sbtd->btd", share, x))


class CrossAttention(nn.Module):
    """The task's own features, and what they ask of those of all sources in the same frame, then two layers."""

    def __init__(self, sources: int, config: FusionConfig):
        super().__init__()
        self.attention = nn.MultiheadAttention(config.dim, config.heads, batch_first=True)
        self.layers = two_layers(config.dim, config)

    def forward(self, x: Tensor) -> Tensor:
        # x: (sources, batch, time, dim)
        frames = x.flatten(1, 2).transpose(0, 1)
        asked, _ = self.attention(frames[:, :1], frames, frames, need_weights=False)
        return self.layers(x[0] + asked.view_as(x[0]))


class Fusion(nn.Module):
    """The features of several sources, brought to one width where they have another, as one, then a LeakyReLU."""

    def __init__(self, widths: list[int], kind: str, config: FusionConfig):
        """widths: of each source, the task's own first."""
        super().__init__()
        self.bring = nn.ModuleList(
            nn.Identity() if width == config.dim else nn.Linear(width, config.dim) for width in widths
        )
        self.fuse = FUSIONS[kind](len(widths), config)

    def forward(self, sources: list[Tensor]) -> Tensor:
        # sources: (batch, time, width) each
        brought = [layer(source) for layer, source in zip(self.bring, sources, strict=True)]
        return F.leaky_relu(self.fuse(torch.stack(brought)), LEAK)


FUSIONS: dict[str, type[nn.Module]] = {
    "none": FirstSource,
    "sum": Sum,
    "concat": Concatenation,
    "gate": Gate,
    "attention": CrossAttention,
}


def two_layers(in_dim: int, config: FusionConfig) -> nn.Sequential:
    """Linear - ReLU - dropout - linear, (..., in_dim) -> (..., dim)."""
    return nn.Sequential(
        nn.Linear(in_dim, config.dim), nn.ReLU(), Dropout(config.dropout), nn.Linear(config.dim, config.dim)
    )
