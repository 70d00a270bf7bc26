"""A frozen encoder from Python: frames in, the features that extraction stores out."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch

from abaw_feats.extraction.encoders import Encoder, load_backbones, one_part_per_core, prepare_encoders
from abaw_seq.engine.device import find_device, find_precision

ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class FrameEncoder:
    """A frozen encoder on its device; call it with frames."""

    name: str
    dim: int
    """Width of the features."""
    weights_sha256: str
    """Identifies the weights, as feature files do."""
    precision: str
    """What it computes in: "fp32", "bf16" or "fp16"."""
    encoder: Encoder

    def __call__(self, frames: np.ndarray | torch.Tensor) -> np.ndarray:
        """Features float32 (n, dim) of whole face crops uint8 (n, height, width, 3), RGB, of any one size.

        They are resized and normalised as in extraction. Raises ValueError for arrays of another type or shape.
        """
        pixels = torch.as_tensor(np.ascontiguousarray(frames) if isinstance(frames, np.ndarray) else frames)
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
            raise ValueError(f"expected uint8 (n, height, width, 3), got {pixels.dtype} {tuple(pixels.shape)}")
        parts = [np.zeros((0, self.dim), np.float32)]
        with one_part_per_core([self.encoder]):
            for part in pixels.split(ROWS_AT_ONCE) if len(pixels) else ():
                rows = self.encoder.rows
                capacity = -(-len(part) // rows) * rows
                images = [(np.arange(len(part)), part.to(self.encoder.device))]
                features = self.encoder.encode(images, capacity, len(part)).result()[: len(part)]
                parts.append(features.cpu().numpy())
        return np.concatenate(parts)


def load_encoder(
    backbone: str | os.PathLike[str] = "mae",
    *,
    weights: str | os.PathLike[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
) -> FrameEncoder:
    """A frozen encoder, ready to compute.

    backbone: a name that `abaw-feats backbones` lists, "timm:<model>", a YAML file, or the folder of a pre-training or
    fine-tuning run. weights: a weight file, "random", or None for where the backbone's own are looked for. precision:
    "auto" (bf16 where the hardware has it, else fp32), "fp32", "bf16" or "fp16". batch_size: frames computed at once.
    Raises UserError for an unknown backbone or weights that do not fit.

    >>> encoder = load_encoder("iresnet18", weights="random", device="cpu")
    >>> encoder(np.zeros((2, 112, 112, 3), np.uint8)).shape
    (2, 512)
    """
    given = {} if weights is None else {str(backbone): str(weights)}
    place = find_device(device)
    precision = find_precision(precision, place)
    ((name, loaded),) = load_backbones([str(backbone)], given).items()
    encoder = prepare_encoders({name: loaded}, device=place, precision=precision, rows=batch_size)[name]
    return FrameEncoder(name, loaded.dim, loaded.weights_sha256, precision, encoder)
