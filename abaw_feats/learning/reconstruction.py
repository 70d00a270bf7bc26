"""Pictures of what a masked autoencoder sees and what it reconstructs."""

from __future__ import annotations

import io
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from abaw_feats.backbones import Preprocessing
from abaw_seq.files import write_bytes

GAP = 2
HIDDEN_GREY = 127


def write_grid(
    path: Path, images: Tensor, hidden: Tensor, reconstructed: Tensor, *, preprocessing: Preprocessing
) -> None:
    """Write a PNG with one row per image: the original, its visible patches, the reconstruction.

    images, reconstructed: (rows, 3, size, size), normalised; hidden: bool (rows, 1, size, size).
    """
    original, reconstruction = (_pixels(batch, preprocessing) for batch in (images, reconstructed))
    masked = original.masked_fill(hidden.cpu().permute(0, 2, 3, 1), HIDDEN_GREY)
    sheet = torch.stack([original, masked, reconstruction], dim=1)  # (rows, 3, size, size, 3)
    sheet = F.pad(sheet, (0, 0, 0, GAP, 0, GAP), value=255).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    sheet = sheet[:-GAP, :-GAP]
    buffer = io.BytesIO()
    Image.fromarray(sheet.numpy()).save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def _pixels(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Undo the normalisation: (batch, 3, size, size) -> uint8 (batch, size, size, 3) on the CPU."""
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    pixels = (images.float().cpu() * std + mean) * preprocessing.scale
    return pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
