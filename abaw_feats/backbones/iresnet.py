"""IResNet, the residual network of ArcFace for face recognition: aligned 112x112 RGB faces -> 512 values.

Architecture and parameter names follow insightface, recognition/arcface_torch/backbones/iresnet.py.
"""

from __future__ import annotations

import math

import torch
from torch import nn

BLOCKS = {
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
    "iresnet200": (6, 26, 60, 6),
}
CHANNELS = (64, 128, 256, 512)


class Block(nn.Module):
    """BN, 3x3, BN, PReLU, 3x3 (with the stride), BN, plus the input; no activation after the sum."""

    def __init__(self, inputs: int, outputs: int, *, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1:
            project = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(project, nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # x: (batch, inputs, height, width)
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(x)) + shortcut


class IResNet(nn.Module):
    """Four stages of residual blocks, each halving the resolution, and a fully connected embedding.

    size: side of the input in pixels; the shape of the embedding's weights depends on it. dim: length of the
    embedding, which is not L2-normalised.
    """

    def __init__(
        self,
        *,
        size: int = 112,
        blocks: tuple[int, ...] = BLOCKS["iresnet100"],
        channels: tuple[int, ...] = CHANNELS,
        dim: int = 512,
    ):
        super().__init__()
        if len(blocks) != 4 or len(channels) != 4:
            raise ValueError("an IResNet has four stages: give four block counts and four channel counts")
        self.dim = dim
        self.conv1 = nn.Conv2d(3, channels[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.prelu = nn.PReLU(channels[0])
        inputs, side, stages = channels[0], size, []
        for count, outputs in zip(blocks, channels, strict=True):
            first = Block(inputs, outputs, stride=2)
            rest = (Block(outputs, outputs, stride=1) for _ in range(count - 1))
            stages.append(nn.Sequential(first, *rest))
            inputs, side = outputs, math.ceil(side / 2)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.bn2: nn.BatchNorm2d | nn.Identity = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs * side * side, dim)
        self.features = nn.BatchNorm1d(dim)
        self.features.weight.requires_grad_(False)
        self._initialise(sum(blocks))

    def _initialise(self, blocks: int) -> None:
        """Draw random weights with which activations keep their size in evaluation mode too.

        The original draws convolutions from N(0, 0.1); with running statistics that are not trained yet, activations
        then grow to infinity.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.25)
            elif isinstance(module, Block):
                nn.init.constant_(module.bn3.weight, 1 / math.sqrt(blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # x: (batch, 3, size, size) -> (batch, dim)
        x = self.prelu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.features(self.fc(self.bn2(x).flatten(1)))
