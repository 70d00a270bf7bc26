"""What a result was made from: versions, seed, device, feature files."""

from __future__ import annotations

import platform
import sys
from datetime import UTC, datetime
from typing import Any

import torch

from abaw_seq import __version__
from abaw_seq.data.corpus import Corpus


def provenance(corpus: Corpus, seed: int, device: torch.device) -> dict[str, Any]:
    """A JSON-able record for `provenance.json`."""
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    return {
        "abaw": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "seed": seed,
        "device": {"type": device.type, "name": hardware, "threads": torch.get_num_threads()},
        "features": list(corpus.sources),
        "backbones": {
            name: {
                "dim": info.dim,
                "arch": info.arch,
                "weights": info.weights,
                "weights_sha256": info.weights_sha256,
            }
            for name, info in corpus.backbone_info.items()
        },
    }
