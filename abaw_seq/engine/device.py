"""Where and in which precision to compute: what `auto` and the names of devices mean."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from abaw_seq.errors import UserError

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def find_device(name: str) -> torch.device:
    """The device of a name, checked to exist: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:N".

    Raises UserError for others, such as Apple's "mps": nothing here has been tried on them.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name!r}: not a device; use auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r}: only processors (cpu) and CUDA's GPUs (cuda) are supported; use cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices; use cpu")
    return device


def find_precision(precision: str, device: torch.device) -> str:
    """ "fp32", "bf16" or "fp16"; "auto" is bf16 where the hardware multiplies it natively, else fp32."""
    if precision != "auto":
        return precision
    native = False
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    elif device.type == "cpu":
        capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", lambda: {})()
        native = any(capabilities.get(unit, False) for unit in ("avx512_bf16", "amx_bf16", "bf16"))
    return "bf16" if native else "fp32"


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The type in which products are computed, None for plain float32; `precision` as in `find_precision`.

    Raises UserError for fp16 on a CPU, which has no fast fp16 to offer.
    """
    if precision == "fp16" and device.type == "cpu":
        raise UserError("precision fp16 needs a GPU; choose bf16, fp32 or auto")
    return DTYPES[find_precision(precision, device)]


def autocast(dtype: torch.dtype | None, device: torch.device) -> torch.autocast:
    """The context in which a model computes its products in `dtype`; it may be entered again and again."""
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def full_speed(device: torch.device, model: nn.Module | None = None) -> AbstractContextManager[None]:
    """Within it, a whole program that computes on `device` runs under what `abaw_seq.cpu` sets for processors.

    Small models need less of it. Other devices are left alone.
    """
    if device.type != "cpu":
        return nullcontext()
    from abaw_seq import cpu

    return cpu.settings(model)
