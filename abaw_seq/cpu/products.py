"""What float32 on a CPU needs to run at the processor's speed: the faster products, and memory that is kept."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache

import torch
from torch import nn

TRUE_FP32_ERROR = 1e-5
LARGE_MODEL = 10**6  # parameters; below, a product is over before oneDNN has been called
KEPT = 512 * 2**20
# glibc's malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD = -1, -2, -3, 32 * 2**20


def fast_products(device: torch.device, parameters: int = LARGE_MODEL) -> AbstractContextManager[None]:
    """Within it, float32 matrix products on the CPU go through oneDNN, if they stay float32 there.

    On many AMD processors torch's default library leaves a tenth to a half of their speed unused. Models of
    fewer than `LARGE_MODEL` parameters, and GPUs, are left alone.
    """
    if device.type == "cpu" and parameters >= LARGE_MODEL and onednn_products_are_fp32():
        return _onednn_products()
    return nullcontext()


def size_of(model: nn.Module) -> int:
    """Number of a model's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


@contextmanager
def _onednn_products() -> Iterator[None]:
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


@cache
def onednn_products_are_fp32() -> bool:
    """Whether torch's switch to oneDNN keeps products at float32 on this processor; on some it means bfloat16."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.backends.mkldnn, "matmul"):
        return False
    values = torch.linspace(-1, 1, 256 * 768, dtype=torch.float64).view(256, 768).sin_()
    exact = values @ values.T
    with _onednn_products():
        found = values.float() @ values.float().T
    return bool((found - exact).abs().max() < TRUE_FP32_ERROR * exact.abs().max())


@cache
def keep_freed_memory() -> bool:
    """Keep up to half a gigabyte of freed memory in this process for the next step; whether that was possible.

    glibc gives large blocks back as soon as they are free. A training step that allocates its gradients and
    activations anew then waits for thousands of page faults, up to a third of its time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    wanted = {M_MMAP_THRESHOLD: LARGEST_MMAP_THRESHOLD, M_TRIM_THRESHOLD: KEPT, M_TOP_PAD: KEPT // 8}
    return all([mallopt(option, value) for option, value in wanted.items()])
