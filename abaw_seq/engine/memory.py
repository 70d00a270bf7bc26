"""Whether a network fits into this machine, asked before it is built."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import nn

from abaw_seq.errors import UserError

TRAINING_COPIES = 4
"""In training: weights, gradients, and the two running averages of the optimiser."""


def check_fits(build: Callable[[], nn.Module], what: str, *, copies: int = 1) -> None:
    """UserError where a network cannot be built, or its weights, `copies` times over, need more than all memory.

    build: makes the network; it is called on the meta device, which has no memory and computes nothing.
    what: its name in the error.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            state = build().state_dict()
    except (TypeError, ValueError, AssertionError, AttributeError, RuntimeError, ArithmeticError, LookupError) as error:
        raise UserError(f"cannot build {what}: {' '.join(str(error).split())}") from None
    needed = copies * sum(value.numel() * value.element_size() for value in state.values())
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**40
    if needed > there:
        raise UserError(
            f"{what} needs {needed / 2**30:.0f} GiB for its weights{' in training' * (copies > 1)}, and this machine "
            f"has {there / 2**30:.0f} GiB; choose smaller sizes"
        )
