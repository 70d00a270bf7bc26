"""Kernels and settings for processors. On another device nothing of this package is imported.

TABLE
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from torch import nn

from abaw_seq.cpu.dropout import fast_attention, fast_dropout
from abaw_seq.cpu.memory import keep_freed_memory
from abaw_seq.cpu.products import fast_products
from abaw_seq.cpu.recurrence import fast_rnn

__all__ = ["fast_attention", "fast_dropout", "fast_products", "fast_rnn", "keep_freed_memory", "settings"]


def settings(model: nn.Module | None = None) -> AbstractContextManager[None]:
    """The settings for a whole program that computes on the CPU: `fast_products` within it, kept memory from now on."""
    keep_freed_memory()
    return fast_products(model)
