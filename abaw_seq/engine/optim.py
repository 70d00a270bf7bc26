"""Optimisers, learning-rate schedules and the running average of weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

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
    schedule: Literal["constant", "constant_linear", "warmup_linear", "cosine"] = "cosine"
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


def build_optimizer(model: nn.Module, extra: list[nn.Parameter], config: OptimConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over the model's parts and `extra` parameters; no decay on vectors and scalars."""
    groups: dict[tuple[float, bool], list] = {}
    for name, parameter in model.named_parameters():
        key = (config.group_lr.get(name.split(".")[0], 1.0), parameter.ndim > 1)
        groups.setdefault(key, []).append(parameter)
    if extra:
        groups.setdefault((1.0, False), []).extend(extra)
    listed = [
        {"params": parameters, "factor": factor, "weight_decay": config.weight_decay if decays else 0.0}
        for (factor, decays), parameters in groups.items()
    ]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.kind]
    return kind(listed, lr=config.lr, betas=config.betas, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate, times each group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def learning_rate(config: OptimConfig, epoch: float, epochs: int) -> float:
    """The rate at a moment of training; `epoch` counts from 0 and may be a fraction."""
    warm = min(config.warmup, epochs / 2) if config.schedule in ("warmup_linear", "cosine") else 0.0
    if epoch < warm:
        return config.lr * max(epoch / warm, 1e-3)
    if config.schedule == "constant":
        return config.lr
    start = config.constant if config.schedule == "constant_linear" else warm
    share = min(max(epoch - start, 0.0) / max(epochs - start, 1e-9), 1.0)
    return config.lr * ((1 + math.cos(math.pi * share)) / 2 if config.schedule == "cosine" else 1 - share)


def averaging_decay(decay: float, step: int) -> float:
    """The decay at a step (from 0): smaller at first, so that the initial weights are soon forgotten."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move `average`'s weights towards `model`'s; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
    for kept, current in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(current)
