"""DenseNet-BC for small grey faces ("denseface"): 64x64 -> 342 non-negative values.

Architecture and parameter names follow the PyTorch model of MEmoConv,
extract_fts/denseface/model/dense_net.py, trained on FER+ with growth 12 and three blocks of 16 layers.
"""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import nn

from abaw_feats.backbones.checkpoint import State

BOTTLENECK = 4
MAY_BE_LEFT = (r"classifier\..*",)
# Cells per side whose maps are averaged separately. The mean of all, as published, does not say where on the face
# something was, which helps small networks that train for minutes.
POOLINGS = {"gap": 1, "grid2": 2, "grid4": 4}


class DenseLayer(nn.Module):
    """BN, ReLU, 1x1, BN, ReLU, 3x3; the `growth` new maps are appended to the input."""

    def __init__(self, inputs: int, growth: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, BOTTLENECK * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(BOTTLENECK * growth)
        self.conv2 = nn.Conv2d(BOTTLENECK * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # x: (batch, inputs, height, width) -> (batch, inputs + growth, height, width)
        new = self.conv1(F.relu(self.norm1(x)))
        new = self.conv2(F.relu(self.norm2(new)))
        return torch.cat([x, new], dim=1)


class Transition(nn.Module):
    """BN, ReLU, 1x1 with half as many maps, 2x2 average pooling."""

    def __init__(self, inputs: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, inputs // 2, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # x: (batch, inputs, height, width) -> (batch, inputs // 2, height // 2, width // 2)
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)


class DenseNet(nn.Module):
    """A stride-2 stem, dense blocks with transitions between them, ReLU and average pooling.

    blocks: layers of each dense block. growth: maps that each layer adds; the stem has twice as many. pooling: one of
    POOLINGS; `dim` is proportional to its number of cells. classes: outputs of the expression classifier in public
    checkpoints; 0 for none.
    """

    def __init__(
        self, *, blocks: tuple[int, ...] = (16, 16, 16), growth: int = 12, classes: int = 0, pooling: str = "gap"
    ):
        super().__init__()
        maps = 2 * growth
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(1, maps, 3, stride=2, padding=1, bias=False))
        for k, layers in enumerate(blocks, start=1):
            block = nn.Sequential()
            for i in range(1, layers + 1):
                block.add_module(f"denselayer{i}", DenseLayer(maps, growth))
                maps += growth
            self.features.add_module(f"denseblock{k}", block)
            if k < len(blocks):
                self.features.add_module(f"transition{k}", Transition(maps))
                maps //= 2
        self.features.add_module(f"norm{len(blocks)}", nn.BatchNorm2d(maps))
        self.cells = POOLINGS[pooling]
        self.dim = maps * self.cells**2
        self.classifier = nn.Linear(self.dim, classes) if classes else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # x: (batch, 1, height, width) -> (batch, dim)
        maps = F.relu(self.features(x))
        return maps.mean(dim=(2, 3)) if self.cells == 1 else F.adaptive_avg_pool2d(maps, self.cells).flatten(1)


def rename_old_keys(state: State) -> State:
    """Rename dense layers from the names of older torchvision (`norm.1`) to those used here (`norm1`)."""
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", key): value for key, value in state.items()}
