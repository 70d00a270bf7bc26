"""The optimiser of a sequence model, and its learning rate over time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from abaw_seq.engine.schedule import Schedule, parameter_groups, rate_factor

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
GROUPS = ("trunk", "tops", "heads", "embeddings")


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and schedule. `warmup` and `constant` are counted in epochs.

    Schedules: `constant`; `constant_linear` (constant, then linearly to 0); `warmup_linear` (up
    over the warm-up, then linearly to 0); `cosine` (up over the warm-up, then half a cosine to 0).
    `group_lr` multiplies the rate of parts of the model: trunk, tops, heads, embeddings.
    `ema` is the decay of the running average of weights that is evaluated and kept, 0 for none.
    """

    kind: Literal["adam", "adamw"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Schedule = "cosine"
    warmup: float = 1.0
    constant: float = 0.0
    clip: float = 5.0
    ema: float = 0.0
    group_lr: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if self.lr <= 0 or self.clip <= 0:
            raise ValueError(f"lr and clip must be positive, not {self.lr} and {self.clip}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), not {self.ema}")
        if unknown := set(self.group_lr) - set(GROUPS):
            raise ValueError(f"group_lr: unknown part {sorted(unknown)[0]!r} (parts: {', '.join(GROUPS)})")


def build_optimizer(modules: Iterable[nn.Module], config: OptimConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over the parameters of the modules, those of each part of the model at its own rate."""
    groups = parameter_groups(
        modules,
        weight_decay=config.weight_decay,
        scale=lambda name: config.group_lr.get(name.partition(".")[0], 1.0),
    )
    return OPTIMIZERS[config.kind](groups, lr=config.lr, betas=config.betas, fused=True)


def learning_rate(config: OptimConfig, epoch: float, epochs: int) -> float:
    """The rate at a moment of training of `epochs` epochs; `epoch` counts from 0 and may be a fraction."""
    warmup = min(config.warmup, epochs / 2)
    return config.lr * rate_factor(config.schedule, epoch, total=epochs, warmup=warmup, constant=config.constant)
