"""From decoded frames to the normalised input of a backbone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from abaw_feats.backbones.spec import Preprocessing

# OpenCV's 8-bit luma: 0.299 R + 0.587 G + 0.114 B in units of 2^-15, the sum rounded.
_LUMA, _LUMA_BITS = (9798, 19235, 3735), 15
# Fixed-point units of the resize coefficients in Pillow (2^-22) and OpenCV (2^-11 per axis).
_PILLOW_BITS, _OPENCV_BITS = 22, 11


def preprocess(images: torch.Tensor, preprocessing: Preprocessing, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Resize and normalise a batch for a backbone, on the device that the batch is on.

    images: uint8 (batch, height, width, 3), RGB. Returns (batch, channels, size, size) of `dtype`.
    """
    return normalise(resize(images, preprocessing), preprocessing, dtype)


def normalise(x: torch.Tensor, preprocessing: Preprocessing, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(x / scale - mean) / std of resized images: uint8 (batch, channels, size, size) -> the same of `dtype`."""
    mean, std = (
        (torch.tensor(values, dtype=torch.float64) * preprocessing.scale).float().view(-1, 1, 1).to(x.device)
        for values in (preprocessing.mean, preprocessing.std)
    )
    return x.to(torch.float32).sub_(mean).div_(std).to(dtype)


def measure_normalisation(batches: Iterable[torch.Tensor], preprocessing: Preprocessing) -> Preprocessing:
    """`preprocessing` with the mean and standard deviation per channel over all pixels of resized images.

    batches: uint8 (batch, channels, size, size). Raises ValueError if there are no images.
    """
    count = 0
    total: Any = 0.0
    squares: Any = 0.0
    for images in batches:
        x = images.double()
        count += x.numel() // x.shape[1]
        total = total + x.sum((0, 2, 3))
        squares = squares + x.square().sum((0, 2, 3))
    if not count:
        raise ValueError("no images to measure")
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=1e-12).sqrt()
    mean, std = ((value / preprocessing.scale).tolist() for value in (mean, std))
    return replace(preprocessing, mean=tuple(mean), std=tuple(std))


def resize(images: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Frames in a backbone's colours and size: uint8 (batch, height, width, 3) -> (batch, channels, size, size).

    Grey values equal OpenCV's. On a GPU, colour values of square frames equal Pillow's; torch's kernel for
    the CPU differs from them by at most 2 of 255 (from 112 to 224 in 0.003 % of the values with bicubic, in none with
    bilinear; at other sizes in up to 8 %).
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"expected uint8 (batch, height, width, 3), got {images.dtype} {tuple(images.shape)}")
    x = images.permute(0, 3, 1, 2)
    side = preprocessing.size
    if preprocessing.colour == "grey":
        return resize_like_opencv(luma(x), side)
    return x if x.shape[2:] == (side, side) else resize_like_pillow(x, side, preprocessing.resize)


def luma(x: torch.Tensor) -> torch.Tensor:
    """RGB to grey as OpenCV's cvtColor does: uint8 (batch, 3, height, width) -> (batch, 1, ...)."""
    red, green, blue = (x[:, k : k + 1].to(torch.int32) for k in range(3))
    weighted = red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2]
    return ((weighted + (1 << (_LUMA_BITS - 1))) >> _LUMA_BITS).to(torch.uint8)


def resize_like_opencv(x: torch.Tensor, side: int) -> torch.Tensor:
    """Resize to (side, side) as OpenCV's INTER_LINEAR does: uint8 (batch, channels, height, width).

    The values are equal because OpenCV's fixed-point arithmetic is followed to the bits that it drops
    between the two axes.
    """
    height, width = x.shape[2:]
    if (height, width) == (side, side):
        return x
    wide = _weighted_sum(x.to(torch.int32), 3, *_opencv_taps(width, side)) >> 4
    (above, below), weights = _opencv_taps(height, side)
    upper, lower = (
        (wide.index_select(2, rows.to(x.device)) * weight.view(-1, 1).to(x.device)) >> 16
        for rows, weight in zip((above, below), weights, strict=True)
    )
    return ((upper + lower + 2) >> 2).to(torch.uint8)


def resize_like_pillow(x: torch.Tensor, side: int, resize: str) -> torch.Tensor:
    """Resize to (side, side) with Pillow's antialiased filter: uint8 (batch, channels, height, width)."""
    if x.device.type == "cpu":  # the only device that torch has a kernel for uint8 for; it is much faster
        return F.interpolate(x, (side, side), mode=resize, antialias=True, align_corners=False)
    return resize_in_fixed_point(x, side, resize)


def resize_in_fixed_point(x: torch.Tensor, side: int, resize: str) -> torch.Tensor:
    """The same on any device; for square frames the values are exactly Pillow's."""
    half = 1 << (_PILLOW_BITS - 1)
    for axis in (3, 2):
        if x.shape[axis] != side:
            total = _weighted_sum(x.to(torch.int32), axis, *_pillow_taps(x.shape[axis], side, resize))
            x = ((total + half) >> _PILLOW_BITS).clamp_(0, 255)
    return x.to(torch.uint8)


def _weighted_sum(x: torch.Tensor, axis: int, positions: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum over taps of int32 x at `positions` along an axis, times `weights`; both are (taps, outputs)."""
    shape = [1] * x.ndim
    shape[axis] = -1
    total: Any = None
    for position, weight in zip(positions.to(x.device), weights.to(x.device), strict=True):
        term = x.index_select(axis, position).mul_(weight.view(shape))
        total = term if total is None else total.add_(term)
    return total


@lru_cache(maxsize=64)
def _opencv_taps(source: int, target: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions and integer weights, (2, target), of the two neighbours of each output pixel's centre."""
    centre = (np.arange(target, dtype=np.float64) + 0.5) * (source / target) - 0.5
    left = np.floor(centre)
    fraction = centre - left
    right_weight = np.rint(fraction * (1 << _OPENCV_BITS)).astype(np.int32)
    weights = np.stack([(1 << _OPENCV_BITS) - right_weight, right_weight])
    positions = np.clip(np.stack([left, left + 1]), 0, source - 1).astype(np.int64)
    return torch.from_numpy(positions), torch.from_numpy(weights)


@lru_cache(maxsize=64)
def _pillow_taps(source: int, target: int, resize: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions and integer weights, (taps, target), of Pillow's filter, which widens to shrink an image."""
    shape, radius = {"bilinear": (lambda x: np.maximum(1 - np.abs(x), 0), 1.0), "bicubic": (_cubic, 2.0)}[resize]
    stretch = max(source / target, 1.0)
    support = radius * stretch
    taps = math.ceil(support) * 2 + 1
    positions, weights = np.zeros((taps, target), np.int64), np.zeros((taps, target), np.int32)
    for k in range(target):
        centre = (k + 0.5) * source / target
        first = max(int(centre - support + 0.5), 0)
        last = min(int(centre + support + 0.5), source)
        inside = np.arange(first, last)
        values = shape((inside - centre + 0.5) / stretch)
        positions[: len(inside), k] = inside
        fixed = values / values.sum() * (1 << _PILLOW_BITS)
        weights[: len(inside), k] = np.trunc(fixed + np.copysign(0.5, fixed))
    return torch.from_numpy(positions), torch.from_numpy(weights)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic with a = -0.5, as in Pillow."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = -0.5 * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0))
