"""Dropout whose random numbers are cheap on the CPU, where torch's own can take a quarter of a training step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 2**16


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero each value with probability `p` and scale the others up, as `torch.nn.functional.dropout`.

    On the CPU one 64-bit random number of torch's generator decides about four values, so that `p`
    is rounded to a multiple of 1 / 65536; the scale follows the rounded value.
    """
    if not training or p == 0.0:
        return x
    if x.device.type != "cpu" or p == 1.0:
        return F.dropout(x, p)
    dropped = round(p * LEVELS)
    bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = x.new_empty(x.numel())
    torch.ge(bits[: x.numel()], dropped - LEVELS // 2, out=kept).mul_(LEVELS / (LEVELS - dropped))
    return x * kept.view(x.shape)


class Dropout(nn.Module):
    """`dropout` as a module."""

    def __init__(self, p: float):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"dropout must be between 0 and 1, not {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"
