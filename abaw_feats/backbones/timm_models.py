"""Any timm model as a frozen backbone: `timm:<model>`, with the model's own data settings."""

from __future__ import annotations

import difflib
import re
import sys
from typing import Annotated, Any

import timm
import torch
from torch import nn

from abaw_feats.backbones.checkpoint import State
from abaw_feats.backbones.spec import BackboneSpec, Preprocessing
from abaw_seq.config import from_dict
from abaw_seq.config.ranges import Range
from abaw_seq.errors import UserError

PREFIX = "timm:"
POOLINGS = ("model", "token", "avg", "max")
_COUNTS_LAYERS = re.compile("depth|layer|block|stage")
_LAYERS = Annotated[float, Range("[0, 256]")]
_OTHER = Annotated[float, Range("[-65536, 65536]")]
MAY_BE_LEFT = (r"(head|head_drop|fc|classifier|last_linear|head_dist)(\..*)?", r"mask_token", r"decoder_.*")


def timm_spec(name: str) -> BackboneSpec:
    """The spec of `timm:<model>`: size, interpolation, mean and std are those of its pretrained weights.

    Frames are resized to the model's square without a crop, unlike in timm's own evaluation.
    """
    model = name.removeprefix(PREFIX)
    config = _config(model)
    _, height, width = config.input_size
    if height != width:
        raise UserError(f"timm model {model!r} takes {width}x{height} images, not squares")
    pixels = {"size": height, "colour": "rgb", "resize": config.interpolation, "scale": 255.0}
    pixels |= {"mean": config.mean, "std": config.std}
    return BackboneSpec(
        name=name,
        arch="timm",
        options={"model": model},
        pooling=POOLINGS[0],
        preprocessing=from_dict(Preprocessing, pixels, where=f"timm model {model!r}: preprocessing"),
        hub=config.hf_hub_id or None,
        licence=config.license or "",
        source="https://github.com/huggingface/pytorch-image-models",
    )


def _config(model: str) -> timm.models.PretrainedCfg:
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models() + timm.list_pretrained(), n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown timm model {model!r}{hint}")
    try:
        return timm.get_pretrained_cfg(model, allow_unregistered=False)
    except RuntimeError as error:
        raise UserError(f"timm model {model!r}: {error}") from None


def option_type(key: str, value: Any) -> Any:
    """The type of one of timm's options, with bounds that keep timm from building for ever."""
    if isinstance(value, (list, tuple)):
        return tuple[option_type(key, value[0]), ...] if value else Any  # type: ignore[misc]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str if key == "model" else Any
    return _LAYERS if _COUNTS_LAYERS.search(key) else _OTHER


def build_timm(spec: BackboneSpec) -> nn.Module:
    """The timm model without its classifier: (batch, 3, size, size) -> (batch, dim).

    `spec.options["model"]` is its name; other options are passed on to timm's `create_model`.
    """
    options = dict(spec.options)
    if "model" not in options:
        raise UserError(f"backbone {spec.name!r}: options.model missing; name the timm model")
    model, size = options.pop("model"), spec.preprocessing.size
    config = _config(model)
    if config.fixed_input_size and size != config.input_size[1]:
        options.setdefault("img_size", size)
    if spec.pooling != POOLINGS[0]:
        options["global_pool"] = spec.pooling
    module = timm.create_model(model, pretrained=False, num_classes=0, **options)
    module.dim = getattr(module, "head_hidden_size", None) or module.num_features
    return module


def adapt_checkpoint(spec: BackboneSpec, state: State, beside: list[str]) -> tuple[BackboneSpec, State]:
    """Parameters under timm's names; a foreign release's names go through the model's own converter."""
    # timm takes a checkpoint with a mask token for one of DINOv2, but MAE's pre-training checkpoints, which have a
    # decoder, contain one as well.
    if any(key.startswith("decoder_") for key in state):
        state = {key: value for key, value in state.items() if not key.startswith("decoder_") and key != "mask_token"}
    with torch.device("meta"):
        module = build_timm(spec)
    expected = module.state_dict()
    if all(key in state and state[key].shape == value.shape for key, value in expected.items()):
        return spec, state
    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    try:
        return spec, convert(state, module) if convert else state
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return spec, state  # a release that the converter does not know: the strict fit names what is wrong
