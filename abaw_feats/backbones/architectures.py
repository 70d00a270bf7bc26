"""The kinds of network a spec can name: how each is built, pooled, and read from public checkpoints."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from torch import nn

from abaw_feats.backbones import densenet, iresnet, mae, timm_models
from abaw_feats.backbones.checkpoint import State
from abaw_feats.backbones.spec import BackboneSpec
from abaw_seq.config.fields import checked
from abaw_seq.config.ranges import Heads, Layers, Range, Width
from abaw_seq.errors import UserError


class FeatureNetwork(nn.Module):
    """What every architecture's networks are to those who use them; for annotations alone."""

    dim: int
    """Width of the features: (batch, channels, size, size) -> (batch, dim)."""


@dataclass(frozen=True)
class Architecture:
    """One kind of network."""

    build: Callable[[BackboneSpec], Any]
    """spec -> module with random weights and an attribute `dim`"""
    poolings: tuple[str, ...]
    """The values that `pooling` may have; the first is the usual one."""
    options: Mapping[str, Any] | None
    """The names that `options` may have, and their types with their ranges; None where any are passed on."""
    adapt: Callable[[BackboneSpec, State, list[str]], tuple[BackboneSpec, State]] = lambda spec, state, beside: (
        spec,
        state,
    )
    """(spec, parameters by name, names of what lay beside them) -> (spec with the pooling that the checkpoint allows,
    parameters under the module's names); raises UserError."""
    may_be_left: tuple[str, ...] = ()
    """Patterns of names in a checkpoint that the frozen encoder has no place for."""
    only_stored_state: bool = True
    """A checkpoint replaces every tensor of the module, so that it need not be initialised."""


ARCHITECTURES = {
    "vit": Architecture(
        build=lambda spec: mae.build_vit(size=spec.preprocessing.size, pooling=spec.pooling, **spec.options),
        poolings=(*mae.POOLINGS, mae.AUTO),
        options={
            "patch": Width,
            "width": Width,
            "depth": Layers,
            "heads": Heads,
            "mlp_ratio": Annotated[float, Range("(0, 64]")],
        },
        adapt=mae.adapt_checkpoint,
        may_be_left=mae.MAY_BE_LEFT,
    ),
    "iresnet": Architecture(
        build=lambda spec: iresnet.IResNet(size=spec.preprocessing.size, **spec.options),
        poolings=("fc",),
        options={"blocks": tuple[Layers, ...], "channels": tuple[Width, ...], "dim": Width},
    ),
    "densenet": Architecture(
        build=lambda spec: densenet.DenseNet(pooling=spec.pooling, **spec.options),
        poolings=tuple(densenet.POOLINGS),
        options={"blocks": tuple[Layers, ...], "growth": Width, "classes": Annotated[int, Range("[0, 65536]")]},
        adapt=lambda spec, state, beside: (spec, densenet.rename_old_keys(state)),
        may_be_left=densenet.MAY_BE_LEFT,
    ),
    "timm": Architecture(
        build=timm_models.build_timm,
        poolings=timm_models.POOLINGS,
        options=None,
        adapt=timm_models.adapt_checkpoint,
        may_be_left=timm_models.MAY_BE_LEFT,
        only_stored_state=False,
    ),
}


def architecture_of(spec: BackboneSpec) -> Architecture:
    """The entry of `spec.arch`; UserError where it does not know the spec's pooling, options or colour."""
    if spec.arch not in ARCHITECTURES:
        raise UserError(f"backbone {spec.name!r}: unknown arch {spec.arch!r}; there are {', '.join(ARCHITECTURES)}")
    entry = ARCHITECTURES[spec.arch]
    if spec.pooling not in entry.poolings:
        raise UserError(
            f"backbone {spec.name!r}: unknown pooling {spec.pooling!r} of {spec.arch}; "
            f"there are {', '.join(entry.poolings)}"
        )
    known = spec.options if entry.options is None else entry.options
    for key, value in spec.options.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise UserError(f"backbone {spec.name!r}: unknown option {key!r} of {spec.arch}; {hint}")
        hint = timm_models.option_type(key, value) if entry.options is None else entry.options[key]
        checked(hint, value, f"backbone {spec.name!r}", f"options.{key}")
    channels = 1 if spec.arch == "densenet" else 3
    if spec.preprocessing.channels != channels:
        colour = "grey" if channels == 1 else "rgb"
        raise UserError(f"backbone {spec.name!r}: {spec.arch} takes {colour} images, not {spec.preprocessing.colour}")
    return entry
