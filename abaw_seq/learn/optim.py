"""The optimiser of a sequence model, and its learning rate over time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from abaw_seq.config.ranges import Checked, LargestNorm, NotNegative, Positive, ShareBelowOne
from abaw_seq.engine.schedule import Schedule, parameter_groups, rate_factor

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
GROUPS = ("trunk", "tops", "heads", "embeddings", "parts", "fusions")


@dataclass(frozen=True)
class OptimConfig(Checked):
    """Optimiser, learning-rate schedule and running average of the weights."""

    kind: Literal["adam", "adamw"] = "adamw"
    """Optimiser: `adam` adds the weight decay to the gradient, `adamw` applies it to the weights."""
    lr: Positive = 1e-3
    """Highest learning rate."""
    weight_decay: NotNegative = 0.01
    """Weight decay of matrices; vectors and scalars have none."""
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.999)
    """Decay of the running averages of the gradient and of its square."""
    schedule: Schedule = "cosine"
    """How the learning rate changes: `constant`; `constant_linear`, constant for `constant` epochs, then falling
    linearly to 0; `warmup_linear`, rising over `warmup` epochs, then falling linearly to 0; `cosine`, rising over
    `warmup` epochs, then falling to 0 along half a cosine."""
    warmup: NotNegative = 1.0
    """Epochs over which the learning rate rises linearly (`warmup_linear`, `cosine`); at most half of all epochs."""
    constant: NotNegative = 0.0
    """Epochs before the learning rate starts to fall (`constant_linear`)."""
    clip: LargestNorm = 5.0
    """Largest norm of the gradient of all weights; a larger gradient is scaled down to it."""
    ema: ShareBelowOne = 0.0
    """Decay per step of the running average of the weights. Above 0 this average is what is validated
    and saved; 0 uses the weights themselves."""
    group_lr: dict[str, NotNegative] = field(default_factory=dict)
    """Factor on the learning rate of a part of the model: trunk, tops, heads, embeddings; of a joint model parts (the
    separate models), fusions, tops (the temporal module), heads. 1 where not named."""

    def __post_init__(self) -> None:
        super().__post_init__()
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
