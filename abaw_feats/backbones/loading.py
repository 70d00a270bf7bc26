"""From a spec to a network: with random weights, or frozen with loaded ones; and saving both as a folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from abaw_feats.backbones import weights as files
from abaw_feats.backbones.architectures import FeatureNetwork, architecture_of
from abaw_feats.backbones.checkpoint import State, described, fit, pick, read_sets, strip_prefix
from abaw_feats.backbones.registry import SPEC_FILE
from abaw_feats.backbones.spec import BackboneSpec
from abaw_seq.config import dump
from abaw_seq.engine.memory import check_fits
from abaw_seq.errors import UserError
from abaw_seq.files import whole_file, write_text

RANDOM = "random"
WEIGHTS_FILE = "weights.safetensors"


@dataclass(frozen=True)
class LoadedBackbone:
    """A frozen encoder and where its weights came from."""

    spec: BackboneSpec
    """As given, with the pooling that the checkpoint decided where it was `auto`."""
    module: FeatureNetwork
    """(batch, channels, size, size) -> (batch, dim): in evaluation mode, float32, on the CPU, without gradients."""
    dim: int
    """Values per frame."""
    weights: str
    """File name, that with ":<set>" where one of several sets was chosen, "<hub repository>/<file>", or
    "random:<seed>"."""
    weights_sha256: str
    """SHA-256 of the file's bytes, or of the parameters' bytes where they are random or one of several sets."""


def build(spec: BackboneSpec) -> FeatureNetwork:
    """The network of a spec in training mode, its weights drawn from torch's random state.

    Its forward takes normalised floats (batch, channels, size, size) and gives (batch, dim); `dim` is an
    attribute of it. Raises UserError for sizes from which no network can be built.
    """
    entry = architecture_of(spec)
    try:
        check_fits(lambda: entry.build(spec), f"this {spec.arch}")
    except UserError as error:
        raise UserError(f"backbone {spec.name!r}: {error}") from None
    return entry.build(spec)


def load(spec: BackboneSpec, weights: str | Path | None = None) -> LoadedBackbone:
    """The frozen network of a spec with its weights; the same file or seed always gives the same network.

    weights: a file, FILE:SET for one of several sets of weights in it, a folder written by `save`, "random" or
    "random:<seed>". None looks for the spec's own file, then in the weights folder, then on the hub if the spec
    names one.
    Raises UserError where there are no weights, or where the file is damaged or does not fit the network; it then
    names the parameters.
    """
    text = "" if weights is None else str(weights)
    if text == RANDOM or text.startswith(f"{RANDOM}:"):
        return _load_random(spec, text.removeprefix(RANDOM).removeprefix(":"))
    if text:
        folder = Path(text).expanduser()
        file = files.named_file(str(folder / WEIGHTS_FILE) if folder.is_dir() else text)
    else:
        file = files.locate(spec)
    spec, module, state = _load_file(spec, file)
    digest = files.sha256_of_state(state) if file.chosen else files.sha256_of_file(file.path)
    return LoadedBackbone(spec, _frozen(module), module.dim, file.label, digest)


def _load_random(spec: BackboneSpec, seed: str) -> LoadedBackbone:
    if seed and not seed.isdigit():
        raise UserError(f"weights {RANDOM}:{seed} of {spec.name!r}: the seed must be a whole number")
    number = int(seed or 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        module = _frozen(build(spec))
    digest = files.sha256_of_state(module.state_dict())
    return LoadedBackbone(spec, module, module.dim, f"{RANDOM}:{number}", digest)


def _load_file(spec: BackboneSpec, file: files.WeightFile) -> tuple[BackboneSpec, FeatureNetwork, State]:
    """(spec with the pooling of the checkpoint, network, the weights as the file has them)"""
    entry = architecture_of(spec)
    with torch.device("meta"):
        names = build(spec).state_dict()
    sets = read_sets(file.path)
    stored = pick(sets, file.path, file.chosen)
    try:
        state, beside = strip_prefix(stored, names)
        spec, state = entry.adapt(spec, state, beside)
        with torch.random.fork_rng(devices=[]), torch.device("meta" if entry.only_stored_state else "cpu"):
            module = build(spec)
        fit(module, state, may_be_left=entry.may_be_left, what=f"weights for backbone {spec.name!r}")
    except UserError as error:
        others = f"; the file holds {described(sets)}" if len(sets) > 1 else ""
        raise UserError(f"{file.path}: {error}{others}") from None
    return spec, module, stored


def _frozen(module: FeatureNetwork) -> FeatureNetwork:
    return module.eval().requires_grad_(False)


def save(folder: str | Path, spec: BackboneSpec, module: nn.Module) -> None:
    """Write `weights.safetensors` and then `backbone.yaml`, which `find_spec(folder)` and `load` read again."""
    folder = Path(folder)
    state = {key: value.detach().cpu().contiguous().clone() for key, value in module.state_dict().items()}
    spec = replace(spec, weights=WEIGHTS_FILE, hub=None)
    with whole_file(folder / WEIGHTS_FILE) as temporary:
        save_file(state, temporary)
    write_text(folder / SPEC_FILE, dump(spec))
