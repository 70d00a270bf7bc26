"""Checkpoints: tensors and plain values only, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from abaw_seq.errors import UserError


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write under a temporary name, then rename: `path` is complete or as it was."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as handle:
            torch.save(content, handle)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint as data (`weights_only`); UserError if it is missing or damaged."""
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; train first (abaw-seq train) or name another run")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__})") from None
    if not isinstance(content, dict) or "model" not in content:
        raise UserError(f"{path}: not a checkpoint of abaw-seq")
    return content


def write_text_atomic(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
