"""Float32 matrix products through oneDNN."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache

import torch
from torch import nn

TRUE_FP32_ERROR = 1e-5
LARGE_MODEL = 10**6  # parameters; the products of smaller models take less time than a call of oneDNN


def fast_products(model: nn.Module | None = None) -> AbstractContextManager[None]:
    """Within it, float32 matrix products go through oneDNN, on processors where they stay float32 there.

    Nothing changes for a `model` of fewer than `LARGE_MODEL` parameters.
    """
    large = model is None or sum(parameter.numel() for parameter in model.parameters()) >= LARGE_MODEL
    return _onednn_products() if large and onednn_products_are_fp32() else nullcontext()


@contextmanager
def _onednn_products() -> Iterator[None]:
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


@cache
def onednn_products_are_fp32() -> bool:
    """Whether torch's switch to oneDNN leaves products in float32 on this processor; on some it means bfloat16."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.backends.mkldnn, "matmul"):
        return False
    values = torch.linspace(-1, 1, 256 * 768, dtype=torch.float64).view(256, 768).sin_()
    exact = values @ values.T
    with _onednn_products():
        product = values.float() @ values.float().T
    return bool((product - exact).abs().max() < TRUE_FP32_ERROR * exact.abs().max())
