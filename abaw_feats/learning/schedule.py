"""Learning rates over time and over depth, and the precision a device trains in."""

from __future__ import annotations

import math
import re

import torch
from torch import nn

from abaw_feats.extraction.encoders import find_precision
from abaw_seq.errors import UserError


def warmup_cosine(step: int, *, total: int, warmup: int, floor: float = 0.0) -> float:
    """Factor on the learning rate of step 0 .. total - 1: linear rise, then half a cosine to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(total - warmup, 1)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def epoch_rates(epoch: int, lr: float, *, epochs: int, updates: int, warmup_epochs: float) -> list[float]:
    """The learning rate of each of the `updates` updates of an epoch, counted from 0, under `warmup_cosine`."""
    warmup = round(warmup_epochs * updates)
    steps = range(epoch * updates, (epoch + 1) * updates)
    return [lr * warmup_cosine(step, total=epochs * updates, warmup=warmup) for step in steps]


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group `rate` times its own `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def parameter_groups(
    module: nn.Module, *, weight_decay: float, layer_decay: float = 1.0, scale: float = 1.0
) -> list[dict]:
    """Optimiser groups of a network: no decay on vectors and embeddings, lower rates near the input.

    The learning rate of a layer that lies k layers below the top is scaled by layer_decay^k
    (Clark et al., ELECTRA; as used to fine-tune MAE). Depth counts a ViT's blocks, and the stages of
    a convolutional network.
    """
    names = [name for name, _ in module.named_parameters()]
    top = 1 + max((_layer(name) or 0 for name in names), default=0)
    groups: dict[tuple[float, float], dict] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = _layer(name)
        factor = scale * layer_decay ** (top - (top if layer is None else layer))
        decay = 0.0 if parameter.ndim <= 1 or _is_embedding(name) else weight_decay
        group = groups.setdefault((decay, factor), {"params": [], "weight_decay": decay, "lr_scale": factor})
        group["params"].append(parameter)
    return list(groups.values())


def _is_embedding(name: str) -> bool:
    return name.rpartition(".")[2] in ("cls_token", "pos_embed", "mask_token", "decoder_pos_embed")


def _layer(name: str) -> int | None:
    """0 for the input layer, 1, 2, ... for the numbered block or stage a parameter is in, None for the top."""
    if found := re.search(r"(?:^|\.)(?:blocks|stages|layers)\.(\d+)\.", name):
        return int(found[1]) + 1
    if found := re.search(r"(?:^|\.)(?:layer|denseblock|transition)(\d+)\.", name):
        return int(found[1])
    top = re.search(r"(?:^|\.)(?:norm\d*|fc_norm|fc|features|bn2|head|classifier)\.(?:weight|bias)$", name)
    return None if top else 0


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype of autocast, or None for plain float32; `auto` as in `find_precision`.

    Raises UserError for fp16 on a CPU, which has no fast fp16 to offer.
    """
    if precision == "fp16" and device.type == "cpu":
        raise UserError("precision fp16 needs a GPU; choose bf16, fp32 or auto")
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[find_precision(precision, device)]
