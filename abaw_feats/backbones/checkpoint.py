"""Checkpoints as other people wrote them: read as data, unwrapped, and fitted to a module by name."""

from __future__ import annotations

import argparse
import pickle
import re
import struct
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from abaw_seq.errors import UserError

State = dict[str, torch.Tensor]

# Keys under which training programs put the weights, the most specific first.
CONTAINERS = ("state_dict_backbone", "state_dict", "model_state_dict", "model", "teacher", "backbone", "encoder")
# Words that wrap a network's own parameter names. Those of the first line only say how it was run;
# the others name a part of a bigger model, whose other parts (heads, sequence models) are left behind.
RUN_WRAPPERS = ("module", "_orig_mod")
PART_WRAPPERS = ("model", "main", "backbone", "encoder", "base_model", "image_encoder", "visual_encoder", "net")
# Buffers that only count training steps; old checkpoints lack them.
MAY_BE_MISSING = (r"(.*\.)?num_batches_tracked",)
_NAMED = 4
_CONVERT = "load it in a throwaway environment, save its .state_dict() with safetensors.torch.save_file, give that file"


def read_checkpoint(path: Path) -> State:
    """The tensors of a checkpoint file by name, without the container around them.

    Reads safetensors and torch files, the latter with `weights_only=True`, so that nothing in the file is executed.
    Raises UserError for a file that is missing, damaged, a pickled object or without tensors.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise UserError(f"{path}: cannot read these weights: {error.strerror}") from None
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: a Git LFS pointer, not the weights themselves: fetch them with `git lfs pull`")
    content = _read_safetensors(path) if head[8:9] == b"{" else _read_torch(path)
    return _unwrap(content, path)


def _read_safetensors(path: Path) -> State:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: damaged or truncated safetensors file ({error}): copy it again") from None


def _read_torch(path: Path) -> Any:
    damaged = (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, OSError)
    try:
        # Training programs store their command line beside the weights: an argparse.Namespace.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (*damaged, pickle.UnpicklingError, struct.error) as error:
        if refused := re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(error)):
            problem = f"a pickled object ({refused[1]}), which could run code when read: {_CONVERT}"
        elif "TorchScript" in str(error):
            problem = f"a TorchScript program, not weights: {_CONVERT}"
        else:
            problem = "not a checkpoint, or a damaged one: copy it again"
        raise UserError(f"{path}: {problem}") from None


def _unwrap(content: Any, path: Path) -> State:
    while isinstance(content, dict):
        inner = next((content[key] for key in CONTAINERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    if isinstance(content, dict):
        tensors = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
        if tensors:
            return tensors
        raise UserError(f"{path}: contains no tensors: {_listed(str(key) for key in content) or 'it is empty'}")
    raise UserError(f"{path}: contains a {type(content).__name__}, not named tensors")


def strip_prefix(state: State, expected: Iterable[str]) -> tuple[State, list[str]]:
    """(parameters under their own names, names of what lay beside them in a bigger model).

    Of all prefixes made of wrapper words, the one with most of the expected names below it is taken off; UserError
    where several have as many.
    """
    expected = set(expected)
    prefixes = {""}
    for key in state:
        prefix = ""
        for word in key.split("."):
            if word not in RUN_WRAPPERS + PART_WRAPPERS:
                break
            prefix += word + "."
            prefixes.add(prefix)
    matches = {prefix: sum(prefix + key in state for key in expected) for prefix in sorted(prefixes)}
    best = max(matches, key=matches.__getitem__)
    rivals = [prefix for prefix, count in matches.items() if count == matches[best]]
    if len(rivals) > 1 and matches[best] > len(expected) // 2:
        raise UserError(f"contains several networks that fit, under {' and '.join(rivals)}: save one of them alone")
    is_part = any(word in PART_WRAPPERS for word in best.split("."))
    own = {key.removeprefix(best): value for key, value in state.items() if not is_part or key.startswith(best)}
    return own, [key for key in state if is_part and not key.startswith(best)]


def fit(module: nn.Module, state: State, *, may_be_left: Iterable[str], what: str) -> None:
    """Load `state` into `module`; every name and shape must fit.

    may_be_left: patterns of names that may be left over; what: whose weights these are, for the error.
    Raises UserError that names what is missing, left over or of the wrong shape, and leaves the module as it was.
    A module on the meta device takes over the tensors of `state`.
    """
    expected = module.state_dict()
    given, state = set(state), dict(state)
    for key in [key for key in expected if key not in state and _matches(key, MAY_BE_MISSING)]:
        state[key] = torch.zeros((), dtype=expected[key].dtype)
    missing = [key for key in expected if key not in state]
    left = [key for key in state if key not in expected and not _matches(key, may_be_left)]
    shapes = [
        f"{key} is {_kind(state[key])}, expected {_kind(expected[key])}"
        for key in expected
        if key in state
        and (state[key].shape, state[key].is_floating_point())
        != (expected[key].shape, expected[key].is_floating_point())
    ]
    if not given & expected.keys():
        raise UserError(
            f"{what}: none of the {len(expected)} expected parameters is there; it contains {_listed(sorted(given))}"
        )
    problems = [
        f"{len(names)} {kind}: {_listed(names)}"
        for kind, names in (("missing", missing), ("left over", left), ("of the wrong shape", shapes))
        if names
    ]
    if problems:
        raise UserError(f"{what}: does not fit: {'; '.join(problems)}")
    fitted = {key: state[key].to(expected[key].dtype).contiguous() for key in expected}
    module.load_state_dict(fitted, strict=True, assign=any(value.is_meta for value in expected.values()))


def _kind(tensor: torch.Tensor) -> str:
    shape = "x".join(str(side) for side in tensor.shape) or "scalar"
    return shape if tensor.is_floating_point() else f"{shape} {str(tensor.dtype).removeprefix('torch.')}"


def _matches(key: str, patterns: Iterable[str]) -> bool:
    return any(re.fullmatch(pattern, key) for pattern in patterns)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + rest
