"""What a run was made with: versions, seed, device, command line."""

from __future__ import annotations

import platform
import sys
from datetime import UTC, datetime
from typing import Any

import torch

from abaw_seq import __version__


def provenance(*, seed: int, device: torch.device, processes: int = 1, **facts: Any) -> dict[str, Any]:
    """A record of plain values for `provenance.json`; `facts` add what the run was made from."""
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    return {
        "abaw": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "seed": seed,
        "device": {"type": device.type, "name": hardware, "threads": torch.get_num_threads()},
        "processes": processes,
        **facts,
    }
