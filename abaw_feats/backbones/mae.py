"""The vision transformers of MAE (masked autoencoders): sizes, poolings, position tables.

The network is timm's VisionTransformer with MAE's settings: LayerNorm eps 1e-6, exact GELU, a class
token and absolute positions. Parameter names are those of facebookresearch/mae.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from abaw_feats.backbones.checkpoint import State
from abaw_feats.backbones.spec import BackboneSpec
from abaw_seq.errors import UserError

LAYER_NORM_EPS = 1e-6
# How the tokens become one vector:
#   cls                  norm of the tokens, then the class token
#   gap                  mean of the patch tokens without norm, then fc_norm; a checkpoint without fc_norm gets one
#                        of weight 1 and bias 0, as in the original
#   gap_norm_as_fc_norm  as gap, with the checkpoint's norm as fc_norm
#   gap_normed           norm of the tokens, then the mean of the patch tokens
POOLINGS = ("cls", "gap", "gap_norm_as_fc_norm", "gap_normed")
AUTO = "auto"
_WITH_FC_NORM = ("gap", "gap_norm_as_fc_norm")
_HEAD = r"(?i:\w*head\w*)\..*"
MAY_BE_LEFT = (r"mask_token", r"decoder_.*", _HEAD)


def build_vit(
    *, size: int, patch: int, width: int, depth: int, heads: int, mlp_ratio: float = 4.0, pooling: str = "cls"
) -> VisionTransformer:
    """A ViT encoder without a head: (batch, 3, size, size) -> (batch, width)."""
    if size % patch:
        raise ValueError(f"image size {size} is not a multiple of the patch size {patch}")
    model = VisionTransformer(
        img_size=size,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=mlp_ratio,
        num_classes=0,
        global_pool="token" if pooling in ("cls", AUTO) else "avg",
        fc_norm=pooling in _WITH_FC_NORM,
        norm_layer=partial(nn.LayerNorm, eps=LAYER_NORM_EPS),
    )
    model.dim = width
    if not model.pos_embed.is_meta:
        with torch.no_grad():
            model.pos_embed.copy_(torch.from_numpy(sincos_positions(width, size // patch)))
    return model


def sincos_positions(width: int, grid: int) -> np.ndarray:
    """The fixed sine-cosine position table of MAE: float64 (1 + grid * grid, width), row 0 zero.

    The first half of the width encodes a patch's column, the second half its row; each half consists of sines, then
    cosines, of frequencies 10000^(-k / (width / 4)).
    """
    if width % 4:
        raise ValueError(f"width {width} is not a multiple of 4")
    quarter = width // 4
    frequency = 10000.0 ** -(np.arange(quarter) / quarter)
    angle = np.arange(grid)[:, None] * frequency
    wave = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    column, row = np.tile(wave, (grid, 1)), np.repeat(wave, grid, axis=0)
    patches = np.concatenate([column, row], axis=1)
    return np.concatenate([np.zeros((1, width)), patches])


def resize_positions(table: torch.Tensor, grid: int) -> torch.Tensor:
    """Resize a position table (1, 1 + old * old, width) to another grid: (1, 1 + grid * grid, width).

    As in the original, the class token's row stays and the others are resized bicubically without antialiasing.
    """
    old = round((table.shape[1] - 1) ** 0.5)
    if old * old + 1 != table.shape[1]:
        raise UserError(f"pos_embed has {table.shape[1]} rows, not a class token and a square of patches")
    if old == grid:
        return table
    patches = table[:, 1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, (grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1].float(), patches.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def adapt_checkpoint(spec: BackboneSpec, state: State, beside: list[str]) -> tuple[BackboneSpec, State]:
    """Decide the pooling, supply its norm, and resize the positions to the spec's image size.

    Public checkpoints come from pre-training (with norm and a decoder), from fine-tuning on the class token (with norm
    and a head) or from fine-tuning on the mean (with fc_norm and a head). Only the first allow any pooling.
    """
    has_fc_norm = "fc_norm.weight" in state
    fine_tuned = bool(beside) or any(re.fullmatch(_HEAD, key) for key in state)
    pooling = spec.pooling
    if pooling == AUTO:
        pooling = "gap" if has_fc_norm else "cls"
    if has_fc_norm and pooling not in _WITH_FC_NORM:
        raise UserError(_mismatch(spec, "gap", "fc_norm.*"))
    if pooling in _WITH_FC_NORM and not has_fc_norm and fine_tuned and "norm.weight" in state:
        raise UserError(_mismatch(spec, "cls", "norm.* and a head"))
    state = dict(state)
    if pooling in _WITH_FC_NORM:
        norm = {kind: state.pop(f"norm.{kind}", None) for kind in ("weight", "bias")}
        if not has_fc_norm and norm["weight"] is not None:
            fresh = {"weight": torch.ones(norm["weight"].shape), "bias": torch.zeros(norm["weight"].shape)}
            chosen = norm if pooling == "gap_norm_as_fc_norm" else fresh
            state.update({f"fc_norm.{kind}": value for kind, value in chosen.items() if value is not None})
    if state.get("pos_embed", torch.empty(0)).ndim == 3:
        state["pos_embed"] = resize_positions(state["pos_embed"], spec.preprocessing.size // spec.options["patch"])
    return replace(spec, pooling=pooling), state


def _mismatch(spec: BackboneSpec, trained: str, evidence: str) -> str:
    return (
        f"has {evidence}: it was trained with pooling {trained!r}, but backbone {spec.name!r} asks for "
        f"{spec.pooling!r}; use an entry with `pooling: {trained}` or `pooling: {AUTO}`"
    )
