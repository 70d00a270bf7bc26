"""Checkpoints as other people wrote them: read as data, unwrapped, and fitted to a module by name."""

from __future__ import annotations

import argparse
import codecs
import logging
import pathlib
import pickle
import re
import struct
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from abaw_seq.errors import UserError

log = logging.getLogger(__name__)

State = dict[str, torch.Tensor]
Place = tuple[str, ...]

# Keys under which training programs put the weights; of several, the first is taken.
CONTAINERS = (
    *("state_dict_backbone", "state_dict", "model_state_dict", "model", "teacher", "backbone", "encoder"),
    *("state_dict_ema", "model_ema", "ema_model", "model_ema_state_dict", "ema_state_dict", "ema", "averaged_model"),
    *("net", "network", "net_state_dict", "params_ema", "params", "weights", "module", "student", "shadow"),
)
# Words that wrap a network's own parameter names. Those of the first line only say how it was run;
# the others name a part of a bigger model, whose other parts (heads, sequence models) are left behind.
RUN_WRAPPERS = ("module", "_orig_mod")
PART_WRAPPERS = (
    *("model", "main", "backbone", "encoder", "base_model", "image_encoder", "visual_encoder", "net"),
    *("network", "ema_model", "online_model", "model_ema"),
)
# What optimisers, schedules and gradient scalers keep has the shapes of weights, but is none.
NOT_WEIGHTS = re.compile(r".*(optim|sched|scaler).*", re.IGNORECASE)
# Buffers that only count training steps; old checkpoints lack them.
MAY_BE_MISSING = (r"(.*\.)?num_batches_tracked",)
_NAMED = 4
_DEPTH = 8
_CONVERT = "load it in a throwaway environment, save its .state_dict() with safetensors.torch.save_file, give that file"
# What training programs store beside the weights and torch refuses, although building it runs nothing: their command
# line, numbers and arrays of numpy under the names of its first and second version, paths.
_HARMLESS = [
    *(argparse.Namespace, np.ndarray, np.dtype, codecs.encode),
    *(getattr(np.dtypes, name) for name in np.dtypes.__all__),
    *(
        (getattr(multiarray, name), f"numpy.{core}.multiarray.{name}")
        for name in ("scalar", "_reconstruct")
        for core in ("core", "_core")
    ),
    *(
        (getattr(pathlib, f"Pure{kind}Path"), f"pathlib.{pure}{kind}Path")
        for kind in ("Posix", "Windows")
        for pure in ("", "Pure")
    ),
]


def read_checkpoint(path: Path, chosen: str | None = None) -> State:
    """The weights of a checkpoint file by name, without the container around them; see `read_sets` and `pick`."""
    return pick(read_sets(path), path, chosen)


def read_sets(path: Path) -> dict[Place, State]:
    """{keys that lead there: tensors by name} of each dictionary in a checkpoint file that holds tensors.

    Reads safetensors and torch files, the latter with `weights_only=True`, so that nothing in the file is executed.
    Raises UserError for a file that is missing, damaged, a pickled object or without named tensors.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise UserError(f"{path}: cannot read these weights: {error.strerror}") from None
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: a Git LFS pointer, not the weights themselves: fetch them with `git lfs pull`")
    content = _read_safetensors(path) if head[8:9] == b"{" else _read_torch(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: contains a {type(content).__name__}, not named tensors")
    sets: dict[Place, State] = {}
    _collect(content, (), sets, set())
    if not sets:
        raise UserError(f"{path}: contains no tensors: {_listed(str(key) for key in content) or 'it is empty'}")
    return sets


def pick(sets: dict[Place, State], path: Path, chosen: str | None = None) -> State:
    """The weights among the dictionaries of a file, the counter of an averaged model aside.

    chosen: the keys that lead to a dictionary, joined by dots; the last of them; or a word that begins names of
    tensors. Without it the first of CONTAINERS is taken, and a line tells which, of which, where the file holds
    another that looks alike. Raises UserError that lists what the file holds.
    """
    if chosen is None:
        place = _usual(sets, ())
        own = {_bare(key) for key in sets[place]}
        rivals = [
            other
            for other, state in sets.items()
            if other != place and 2 * len(own & set(map(_bare, state))) > len(own)
        ]
        if rivals:
            log.info(
                f"{path}: takes the weights under {_name(place)}, not under {_listed(map(_name, rivals))}; to choose, "
                f"write weights NAME={path.name}:{_name(rivals[0])}"
            )
        state = sets[place]
    else:
        state = _chosen(sets, path, chosen)
    averaged = "n_averaged" in state and all(key.startswith("module.") for key in state if key != "n_averaged")
    return {key: value for key, value in state.items() if key != "n_averaged"} if averaged else state


def described(sets: dict[Place, State]) -> str:
    """The dictionaries of tensors in a file with their sizes, the largest first."""
    largest = sorted(sets, key=lambda place: -len(sets[place]))
    return _listed(f"{_name(place)} ({len(sets[place])} tensor{'s' * (len(sets[place]) != 1)})" for place in largest)


def _read_safetensors(path: Path) -> State:
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError, OSError, MemoryError) as error:
        raise UserError(f"{path}: damaged or truncated safetensors file ({error}): copy it again") from None


def _read_torch(path: Path) -> Any:
    damaged = (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, OSError)
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (*damaged, MemoryError, pickle.UnpicklingError, struct.error) as error:
        if refused := re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(error)):
            problem = f"a pickled object ({refused[1]}), which could run code when read: {_CONVERT}"
        elif "TorchScript" in str(error):
            problem = f"a TorchScript program, not weights: {_CONVERT}"
        else:
            problem = "not a checkpoint, or a damaged one: copy it again"
        raise UserError(f"{path}: {problem}") from None


def _collect(content: dict, place: Place, sets: dict[Place, State], entered: set[int]) -> None:
    """Add each dictionary of tensors in `content` to `sets`; what lies inside of one is looked for once."""
    tensors = {str(key): tensor for key, value in content.items() if (tensor := _as_tensor(value)) is not None}
    if tensors:
        sets[place] = tensors
    if id(content) in entered or len(place) == _DEPTH:
        return
    entered.add(id(content))
    for key, value in content.items():
        if isinstance(value, dict):
            _collect(value, (*place, str(key)), sets, entered)


def _as_tensor(value: Any) -> torch.Tensor | None:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))
    return value if isinstance(value, torch.Tensor) else None


def _usual(sets: dict[Place, State], place: Place) -> Place:
    """Where below `place` the weights usually are: under known words, else in the largest dictionary."""
    while True:
        deeper = {other[len(place)] for other in sets if other[: len(place)] == place and len(other) > len(place)}
        word = next((word for word in CONTAINERS if word in deeper), None)
        if word is None:
            break
        place = (*place, word)
    if place in sets and any(value.ndim for value in sets[place].values()):
        return place
    below = [other for other in sets if other[: len(place)] == place]
    weights = [other for other in below if not any(NOT_WEIGHTS.fullmatch(word) for word in other[len(place) :])]
    return max(weights or below, key=lambda other: sum(value.numel() for value in sets[other].values()))


def _chosen(sets: dict[Place, State], path: Path, chosen: str) -> State:
    places = {place[:depth] for place in sets for depth in range(1, len(place) + 1)}
    exact = [place for place in places if _name(place) == chosen]
    last = [place for place in places if place[-1] == chosen]
    if len(exact or last) == 1:
        return sets[_usual(sets, (exact or last)[0])]
    begun = {place: state for place, state in sets.items() if any(key.startswith(f"{chosen}.") for key in state)}
    if begun and not last:
        state = begun[max(begun, key=lambda place: len(begun[place]))]
        return {key.removeprefix(f"{chosen}."): value for key, value in state.items() if key.startswith(f"{chosen}.")}
    problem = f"several things are called {chosen!r}" if last else f"nothing is called {chosen!r}"
    raise UserError(f"{path}: {problem}; it holds {described(sets)}")


def _name(place: Place) -> str:
    return ".".join(place) or "(top level)"


def _bare(key: str) -> str:
    """The name of a parameter without the words that wrap it."""
    words = key.split(".")
    while len(words) > 1 and words[0] in RUN_WRAPPERS + PART_WRAPPERS:
        del words[0]
    return ".".join(words)


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
