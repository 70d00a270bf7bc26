"""Dropout from cheap random numbers, and attention with it."""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 2**16


def fast_dropout(x: Tensor, p: float) -> Tensor:
    """Zero each value with probability `p` and scale the others up, as `torch.nn.functional.dropout` in training.

    One 64-bit random number of torch's generator decides about four values, so that `p` is rounded to a
    multiple of 1 / 65536; the scale follows the rounded value.
    """
    factors = x.new_empty(x.numel())
    fill_factors(factors, p)
    return x * factors.view(x.shape)


def fill_factors(factors: Tensor, p: float, generator: torch.Generator | None = None) -> None:
    """Fill `factors` (n,) with the zeros and scales of `fast_dropout`, from `generator` or torch's own one."""
    dropped = round(p * LEVELS)
    if dropped == LEVELS:
        factors.zero_()
        return
    bits = torch.empty((len(factors) + 3) // 4, dtype=torch.int64)
    bits = bits.random_(-(2**63), None, generator=generator).view(torch.int16)
    torch.ge(bits[: len(factors)], dropped - LEVELS // 2, out=factors).mul_(LEVELS / (LEVELS - dropped))


def fast_attention(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None, p: float) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention` with dropout `p`: (batch, heads, time, dim).

    mask: boolean, (batch, 1, 1, time) or whatever broadcasts to (batch, heads, time, time); None for no mask.
    """
    scores = q @ (k * k.shape[-1] ** -0.5).transpose(-1, -2)
    weights = (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)
    return fast_dropout(weights, p) @ v
