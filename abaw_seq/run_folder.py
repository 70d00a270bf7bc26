"""The folder of a training run: resolved config, provenance, one line per epoch, resumable state.

State is written once per epoch under a temporary name; what bears the final name is whole.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml

from abaw_seq import __version__
from abaw_seq.config import dump, read_yaml
from abaw_seq.errors import UserError

CONFIG, PROVENANCE, METRICS, STATE = "config.yaml", "provenance.json", "metrics.jsonl", "last.pt"
# What may differ between the run that is interrupted and the one that goes on.
FREE_KEYS = ("memory_gb",)


def open_run(folder: Path, config: Any, *, resume: bool, writes: bool = True) -> dict[str, Any] | None:
    """Make or reopen a run folder; returns the state to go on from, or None for a fresh start.

    Raises UserError if the folder holds a run and `resume` is false, if it was made with another
    config, or if it cannot be written. `writes` is false in all but the first process of a group.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder for the run")
    state_file = folder / STATE
    if state_file.exists() and not resume:
        raise UserError(f"{folder} already holds a run: --resume goes on with it, or name another folder")
    if state_file.exists():
        _check_same_config(folder, config)
        return torch.load(state_file, map_location="cpu", weights_only=True)
    if writes:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / CONFIG, dump(config))
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from None
    return None


def _check_same_config(folder: Path, config: Any) -> None:
    before, now = read_yaml(folder / CONFIG), yaml.safe_load(dump(config))
    for key in sorted(before.keys() | now.keys()):
        if key not in FREE_KEYS and before.get(key) != now.get(key):
            raise UserError(
                f"{folder}: made with {key} = {before.get(key)!r}, now {now.get(key)!r}; "
                "resume with the same settings or name another folder"
            )


def write_provenance(folder: Path, *, seed: int, device: torch.device, world: int, **facts: Any) -> None:
    """Record versions, device, command line and whatever else identifies what the run was made from."""
    record = {
        "abaw": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "processes": world,
        "threads": torch.get_num_threads(),
        "seed": seed,
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
    }
    write_whole(folder / PROVENANCE, json.dumps(record, indent=2) + "\n")


def save_epoch(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the state after an epoch, then `metrics.jsonl` from the lines in `state["history"]`.

    The state holds tensors and plain values only. The history travels in it, so that a run stopped
    between the two files has no line too many or too few when it goes on.
    """
    write_whole(folder / METRICS, "".join(json.dumps(line) + "\n" for line in state["history"]))
    save_tensors(folder / STATE, state)


def save_tensors(path: Path, state: Mapping[str, Any]) -> None:
    """`torch.save`, whole or not at all."""
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that it is complete whenever it bears its name."""
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
