"""Learning rates over time, and over the depth and the parts of a network.

A schedule is a pure function of the moment, so that a resumed run needs no state of it; the schedulers of torch and
timm keep one, and start their warm-ups differently.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Literal

from torch import nn

Schedule = Literal["constant", "constant_linear", "warmup_linear", "cosine"]
LOWEST = 1e-3  # of the warm-up, so that the first update moves something
EMBEDDINGS = ("cls_token", "pos_embed", "mask_token", "decoder_pos_embed")


def rate_factor(
    schedule: Schedule, at: float, *, total: float, warmup: float = 0.0, constant: float = 0.0, step: float = 0.0
) -> float:
    """Factor on the learning rate at the moment `at` of `total`, all in one unit (epochs or updates).

    `constant`; `constant_linear` (1 up to `constant`, then linearly to 0); `warmup_linear` (up over `warmup`, then
    linearly to 0); `cosine` (up over `warmup`, then half a cosine to 0). In the warm-up the factor is that of the end
    of an update of length `step`.

    >>> [rate_factor("cosine", k, total=4, warmup=2, step=1) for k in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    if schedule not in ("warmup_linear", "cosine"):
        warmup = 0.0
    if at < warmup:
        return max((at + step) / warmup, LOWEST)
    if schedule == "constant":
        return 1.0
    start = constant if schedule == "constant_linear" else warmup
    share = min(max(at - start, 0.0) / max(total - start, 1e-9), 1.0)
    return (1 + math.cos(math.pi * share)) / 2 if schedule == "cosine" else 1 - share


def epoch_rates(epoch: int, lr: float, *, epochs: int, updates: int, warmup_epochs: float) -> list[float]:
    """The learning rate of each of the `updates` updates of an epoch, counted from 0: warm-up, then half a cosine."""
    warmup, total = round(warmup_epochs * updates), epochs * updates
    steps = range(epoch * updates, (epoch + 1) * updates)
    return [lr * rate_factor("cosine", step, total=total, warmup=warmup, step=1) for step in steps]


def parameter_groups(
    modules: nn.Module | Iterable[nn.Module], *, weight_decay: float, scale: Callable[[str], float] = lambda name: 1.0
) -> list[dict]:
    """Optimiser groups of trainable parameters; vectors, scalars and embeddings do not decay.

    scale: name of a parameter -> its learning rate relative to the others', kept as `lr_scale` of its group.
    """
    groups: dict[tuple[float, bool], list] = {}
    for module in [modules] if isinstance(modules, nn.Module) else modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                decays = parameter.ndim > 1 and name.rpartition(".")[2] not in EMBEDDINGS
                groups.setdefault((scale(name), decays), []).append(parameter)
    return [
        {"params": parameters, "lr_scale": factor, "weight_decay": weight_decay if decays else 0.0}
        for (factor, decays), parameters in groups.items()
    ]


def layer_scale(module: nn.Module, decay: float, *, scale: float = 1.0) -> Callable[[str], float]:
    """For `parameter_groups`: scale x decay^k for a parameter that lies k layers below the top of a vision network.

    Depth counts a ViT's blocks, and the stages of a convolutional network (Clark et al., ELECTRA; as used to fine-tune
    MAE). timm's layer decay knows the layers of timm's networks alone.
    """
    top = 1 + max((_layer(name) or 0 for name, _ in module.named_parameters()), default=0)

    def scale_of(name: str) -> float:
        layer = _layer(name)
        return scale * decay ** (top - (top if layer is None else layer))

    return scale_of


def _layer(name: str) -> int | None:
    """0 for the input layer, 1, 2, ... for the numbered block or stage a parameter is in, None for the top."""
    if match := re.search(r"(?:^|\.)(?:blocks|stages|layers)\.(\d+)\.", name):
        return int(match[1]) + 1
    if match := re.search(r"(?:^|\.)(?:layer|denseblock|transition)(\d+)\.", name):
        return int(match[1])
    top = re.search(r"(?:^|\.)(?:norm\d*|fc_norm|fc|features|bn2|head|classifier)\.(?:weight|bias)$", name)
    return None if top else 0
