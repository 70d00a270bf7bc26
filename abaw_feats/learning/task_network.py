"""An encoder with one head per task: how fine-tuning starts, scores and stores it, and how it is read again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from timm.layers import DropPath
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from abaw_feats.backbones import BackboneSpec, FeatureNetwork, Preprocessing, build, find_spec, load, spec_from_dict
from abaw_feats.learning.frame_store import BATCH, FrameStore
from abaw_feats.reading.images import normalise
from abaw_seq.config import from_dict, to_dict
from abaw_seq.config.ranges import Checked, ShareBelowOne, Width
from abaw_seq.engine.device import autocast
from abaw_seq.errors import UserError
from abaw_seq.files import load_tensors
from abaw_seq.metrics import score
from abaw_seq.models.outputs import probabilities
from abaw_seq.run_folder import BEST

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class HeadConfig(Checked):
    """The layers between the pooled feature and a task's output."""

    hidden: tuple[Width, ...] = ()
    """Widths of fully connected layers with ReLU before the output; [] for a linear head."""
    dropout: ShareBelowOne = 0.0
    """Dropout in front of each layer."""
    normalise: bool = False
    """Standardise the feature with running statistics first, as linear probes of MAE do."""


class TaskHeads(nn.Module):
    """(batch, dim) features -> {task: (batch, width) raw outputs}."""

    def __init__(self, dim: int, widths: Mapping[str, int], config: HeadConfig):
        super().__init__()
        self.normalise = nn.BatchNorm1d(dim, eps=1e-6, affine=False) if config.normalise else nn.Identity()
        self.tasks = nn.ModuleDict({task: _head(dim, width, config) for task, width in widths.items()})

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        # features: (batch, dim)
        features = self.normalise(features)
        return {task: head(features) for task, head in self.tasks.items()}


def _head(dim: int, width: int, config: HeadConfig) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Dropout(config.dropout)]
    for hidden in config.hidden:
        layers += [nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(config.dropout)]
        dim = hidden
    return nn.Sequential(*layers, nn.Linear(dim, width))


class TaskNetwork(nn.Module):
    """Encoder and heads; with `frozen`, the encoder stays as it is and only the heads learn."""

    def __init__(self, encoder: nn.Module, heads: TaskHeads, *, frozen: bool = False):
        super().__init__()
        self.encoder = encoder
        self.heads = heads
        self.frozen = frozen

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        # images: (batch, channels, size, size)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.encoder(images)
        return self.heads(features)

    def train(self, mode: bool = True) -> TaskNetwork:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self


def encoder_spec(backbone: str | dict[str, Any]) -> BackboneSpec:
    """The spec of a config's `backbone`.

    backbone: a name, a YAML file or a folder (see `find_spec`); or a mapping with what differs from the
    backbone that it is `like`, such as `{like: iresnet18, name: small, options: {dim: 128}}`. A variant
    has no weights to start from, because those of the other backbone may not fit.
    """
    if isinstance(backbone, str):
        return find_spec(backbone)
    if "like" not in backbone:
        raise UserError("backbone: a mapping needs `like`, the backbone it is a variant of, such as `like: mae`")
    values = dict(backbone)
    start = replace(find_spec(str(values.pop("like"))), weights=None, hub=None)
    return spec_from_dict(values, start=start)


def starting_encoder(spec: BackboneSpec, weights: str | None, *, frozen: bool) -> tuple[BackboneSpec, FeatureNetwork]:
    """(spec with its settled pooling, encoder to train) from weights, or at random from torch's state.

    weights: as for `backbones.load`; "random" draws from torch's current random state.
    """
    if weights == "random":
        encoder = build(spec)
    else:
        trainable = {name for name, parameter in build(spec).named_parameters() if parameter.requires_grad}
        loaded = load(spec, weights)
        spec, encoder = loaded.spec, loaded.module
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(name in trainable)
    if frozen:
        encoder.requires_grad_(False)
    return spec, encoder


def set_drop_path(encoder: nn.Module, rate: float) -> None:
    """Skip residual branches of a ViT at random in training: never in the first block, `rate` in the last.

    Raises UserError for networks without transformer blocks.
    """
    if not isinstance(encoder, VisionTransformer):
        raise UserError("drop_path needs a vit backbone; for timm models set options.drop_path_rate instead")
    last = max(len(encoder.blocks) - 1, 1)
    for k, block in enumerate(encoder.blocks):
        share = rate * k / last
        block.drop_path1, block.drop_path2 = DropPath(share), DropPath(share)


def suit_device(module: Network, device: torch.device) -> Network:
    """Move a network to a device in the form that trains fastest there."""
    if device.type == "cpu":
        from abaw_feats.learning.quick_prelu import use_quick_prelu
        from abaw_seq.cpu import keep_freed_memory

        keep_freed_memory()
        for part in module.modules():
            # Fused attention loses on the CPU for the few tokens of an image, above all backwards.
            if hasattr(part, "fused_attn"):
                part.fused_attn = False  # type: ignore[assignment]
        use_quick_prelu(module)
    if any(isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3) for part in module.modules()):
        module = module.to(memory_format=torch.channels_last)
    return module.to(device)


@torch.no_grad()
def validate(
    network: nn.Module,
    store: FrameStore,
    rows: Tensor,
    *,
    labels: Tensor,
    preprocessing: Preprocessing,
    device: torch.device,
    dtype: torch.dtype | None,
) -> dict[str, Any]:
    """Official scores of a network on rows of a store, whose images have the size that the network takes.

    labels: (rows of the index, 15), NaN where there is none.
    """
    network.eval()
    predictions: dict[str, list[np.ndarray]] = {}
    scored = []
    for pixels, read in store.batches(rows.split(BATCH)):
        images = normalise(pixels.to(device), preprocessing)
        with autocast(dtype, device):
            outputs = network(images)
        for task, values in probabilities(outputs).items():
            predictions.setdefault(task, []).append(values.cpu().numpy())
        scored.append(read)
    joined = {task: np.concatenate(parts) for task, parts in predictions.items()}
    return score(joined, labels[torch.cat(scored)].numpy())


def stored_network(
    spec: BackboneSpec, network: nn.Module, widths: Mapping[str, int], config: HeadConfig
) -> dict[str, Any]:
    """A network as tensors and plain values, for `read_network`."""
    return {
        "spec": to_dict(replace(spec, weights=None)),
        "network": {key: value.detach().cpu() for key, value in network.state_dict().items()},
        "widths": dict(widths),
        "head": to_dict(config),
    }


def read_encoder(folder: str | Path) -> tuple[BackboneSpec, FeatureNetwork]:
    """The encoder of the best network of a fine-tuning run; UserError if there is none."""
    stored = load_tensors(Path(folder) / BEST)
    spec = spec_from_dict(stored["spec"])
    encoder = build(spec)
    prefix = "encoder."
    weights = {key.removeprefix(prefix): value for key, value in stored["network"].items() if key.startswith(prefix)}
    encoder.load_state_dict(weights)
    return spec, encoder.eval()


def read_network(folder: str | Path) -> tuple[BackboneSpec, TaskNetwork]:
    """The best network of a fine-tuning run on single frames, frozen, in evaluation mode; UserError if it is none."""
    path = Path(folder) / BEST
    stored = load_tensors(path)
    if "sequence" in stored:
        raise UserError(f"{folder}: its network sees windows of frames; a teacher must see single frames")
    spec = spec_from_dict(stored["spec"])
    encoder = build(spec)
    heads = TaskHeads(encoder.dim, stored["widths"], from_dict(HeadConfig, stored["head"], where=str(path)))
    network = TaskNetwork(encoder, heads, frozen=True)
    network.load_state_dict(stored["network"])
    return spec, network.eval().requires_grad_(False)
