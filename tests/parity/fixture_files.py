"""A parity fixture as files that a user would have: a checkpoint and a folder of PNG frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.parity import filler

FOLDER = Path(__file__).parent


def load(name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """(spec, expected outputs) of a fixture."""
    return filler.load(FOLDER / name)


def state(name: str) -> dict[str, torch.Tensor]:
    """The fixture's parameters by name, checked against the hash in its spec."""
    spec, _ = load(name)
    arrays = filler.state(spec)
    assert filler.digest(arrays) == spec["fill_sha256"], "the filler made other weights than the authors' run had"
    return {key: torch.from_numpy(value) for key, value in arrays.items()}


def images(name: str) -> torch.Tensor:
    """The fixture's images as a decoder gives them: uint8 (n, height, width, 3)."""
    spec, _ = load(name)
    made = filler.images(**spec["input"]["images"])
    return torch.from_numpy(np.repeat(made, 3 // made.shape[-1], axis=-1))


def write_checkpoint(name: str, path: Path, *, container: str | None = None) -> Path:
    """Save the fixture's parameters with torch, inside `{container: ...}` where one is named."""
    weights = state(name)
    torch.save({container: weights} if container else weights, path)
    return path


def write_frames(name: str, folder: Path) -> Path:
    """Save the fixture's images as a video folder of lossless frames: 00001.png, 00002.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images(name).numpy(), start=1):
        Image.fromarray(image).save(folder / f"{number:05}.png")
    return folder
