"""Random changes of a batch of images, computed as tensors on the device that trains.

They change resized and normalised images, so that without them a network in training sees exactly what
it sees in extraction. They leave the labels as they are: action units are coded without a side, so a
mirrored face keeps its labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F

from abaw_feats.backbones import Preprocessing
from abaw_feats.reading.images import normalise
from abaw_seq.config.ranges import Checked, NotNegative, Range, Share

LUMA = (0.299, 0.587, 0.114)
# Frames larger than a network's input are resized to this many times its side, then cropped.
CROP_MARGIN = 1.25


Area = Annotated[float, Range("(0, 1]")]


@dataclass(frozen=True)
class AugmentConfig(Checked):
    """How strongly images are changed; with all zeros, and `scale` [1, 1], they stay as they are."""

    flip: Share = 0.5
    """Probability of mirroring an image."""
    scale: tuple[Area, Area] = (0.85, 1.0)
    """Smallest and largest share of the image's area that the random crop keeps."""
    aspect: Annotated[float, Range("[0, 1000]")] = 0.1
    """The crop's width : height lies between 1 / (1 + aspect) and 1 + aspect."""
    rotation: Annotated[float, Range("[0, 360]")] = 8.0
    """Largest rotation, in degrees."""
    brightness: NotNegative = 0.3
    """Largest shift of all pixels, in standard deviations of the normalisation."""
    contrast: Share = 0.25
    """Contrast is multiplied by 1 - contrast to 1 + contrast."""
    saturation: Share = 0.25
    """A pixel's distance from its grey value is multiplied by 1 - saturation to 1 + saturation. Without effect
    on grey images."""
    erasing: Share = 0.0
    """Probability of hiding a rectangle."""
    erasing_area: tuple[Area, Area] = (0.02, 0.15)
    """Smallest and largest share of the image's area that the rectangle hides."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("scale", "erasing_area"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must be two rising shares")


def size_before_crop(size: int, config: AugmentConfig, *, frame_side: int) -> int:
    """Side of the images that `training_views` crops a network's input of `size` from.

    It is larger than the input as far as the frames, whose shorter side is `frame_side`, have the pixels.
    """
    return size if _is_identity(config) else max(size, min(frame_side, round(size * CROP_MARGIN)))


def training_views(
    pixels: torch.Tensor,
    preprocessing: Preprocessing,
    config: AugmentConfig,
    *,
    generator: torch.Generator,
    window: torch.Tensor | None = None,
) -> torch.Tensor:
    """Resized frames as a network in training sees them: normalised, then changed.

    pixels: uint8 (batch, channels, side, side), `side` as in `size_before_crop`; returns float32
    (batch, channels, size, size). window: see `augment`.
    """
    images = normalise(pixels, preprocessing)
    return augment(images, config, generator=generator, size=preprocessing.size, window=window)


def augment(
    images: torch.Tensor,
    config: AugmentConfig,
    *,
    generator: torch.Generator,
    size: int | None = None,
    window: torch.Tensor | None = None,
) -> torch.Tensor:
    """Change every image of a batch in its own random way, or all images of a window alike.

    images: (batch, channels, height, width), normalised. Returns (batch, channels, size, size); `size` is
    the images' height by default. Random numbers are drawn on the CPU from `generator`, so that a seed
    gives the same changes on every device. window: int64 (batch,), rising from 0, the window of each image.
    """
    size = size or images.shape[-2]
    window = torch.arange(len(images)) if window is None else window
    count = int(window[-1]) + 1 if len(window) else 0
    warp = random_warps(count, config, generator=generator)[window].to(images.device, images.dtype)
    if size != images.shape[-2] or not _is_identity(config):
        images = F.grid_sample(
            images, sampling_grid(warp, size), mode="bilinear", padding_mode="border", align_corners=False
        )
    if config.brightness or config.contrast or config.saturation:
        images = _jitter(images, config, generator, count, window)
    if config.erasing:
        images = _erase(images, config, generator, count, window)
    return images


def random_warps(count: int, config: AugmentConfig, *, generator: torch.Generator) -> torch.Tensor:
    """Affine maps from output to input coordinates in [-1, 1], (count, 2, 3): crop, rotation, mirroring."""
    area = _uniform(count, config.scale, generator)
    stretch = torch.exp(_uniform(count, (-1.0, 1.0), generator) * math.log1p(config.aspect) / 2)
    width = (area.sqrt() * stretch).clamp(max=1.0)
    height = (area.sqrt() / stretch).clamp(max=1.0)
    shift_x = _uniform(count, (-1.0, 1.0), generator) * (1 - width)
    shift_y = _uniform(count, (-1.0, 1.0), generator) * (1 - height)
    angle = _uniform(count, (-1.0, 1.0), generator) * math.radians(config.rotation)
    mirror = torch.where(torch.rand(count, generator=generator) < config.flip, -1.0, 1.0)
    cos, sin = angle.cos(), angle.sin()
    rows = (cos * width * mirror, -sin * height, shift_x, sin * width * mirror, cos * height, shift_y)
    return torch.stack(rows, dim=1).reshape(count, 2, 3)


def sampling_grid(warp: torch.Tensor, size: int) -> torch.Tensor:
    """Where in the input, as (x, y), each output pixel is sampled: (count, size, size, 2).

    warp: affine maps (count, 2, 3). The same as `torch.nn.functional.affine_grid` without aligned corners
    for square images, but faster on the CPU because it needs no small matrix products.
    """
    centres = (torch.arange(size, device=warp.device, dtype=warp.dtype) * 2 + 1) / size - 1
    along, across, shift = warp.unbind(2)
    planes = warp.new_empty(2, len(warp), size, size)
    for axis in range(2):
        by_column = (along[:, axis, None] * centres)[:, None, :]
        by_row = (across[:, axis, None] * centres + shift[:, axis, None])[:, :, None]
        torch.add(by_column, by_row, out=planes[axis])
    return planes.permute(1, 2, 3, 0)


def _jitter(
    images: torch.Tensor, config: AugmentConfig, generator: torch.Generator, count: int, window: torch.Tensor
) -> torch.Tensor:
    channels = images.shape[1]

    def factor(spread: float, middle: float) -> torch.Tensor:
        drawn = _uniform(count, (middle - spread, middle + spread), generator)[window]
        return drawn.to(images.device, images.dtype).reshape(-1, 1, 1, 1)

    contrast, brightness = factor(config.contrast, 1.0), factor(config.brightness, 0.0)
    saturation = factor(config.saturation, 1.0)
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    offset = middle * (1 - contrast) + brightness
    if channels == 3 and config.saturation:
        luma = images.new_tensor(LUMA).reshape(1, 3, 1, 1)
        grey = (images * luma).sum(dim=1, keepdim=True)
        return torch.addcmul(offset + grey * (contrast * (1 - saturation)), images, contrast * saturation)
    return torch.addcmul(offset, images, contrast)


def _erase(
    images: torch.Tensor, config: AugmentConfig, generator: torch.Generator, count: int, window: torch.Tensor
) -> torch.Tensor:
    """Set a rectangle of some of the images to 0, the mean colour."""
    height, width = images.shape[2:]
    chosen = torch.rand(count, generator=generator) < config.erasing
    area = _uniform(count, config.erasing_area, generator)
    stretch = torch.exp(_uniform(count, (-0.7, 0.7), generator))
    half_height, half_width = (area * stretch).sqrt() / 2, (area / stretch).sqrt() / 2
    middle_y, middle_x = _uniform(count, (0.0, 1.0), generator), _uniform(count, (0.0, 1.0), generator)
    rows = (torch.arange(height) + 0.5) / height
    columns = (torch.arange(width) + 0.5) / width
    hit_rows = (rows - middle_y[:, None]).abs() <= half_height[:, None]
    hit_columns = (columns - middle_x[:, None]).abs() <= half_width[:, None]
    hit = hit_rows[:, :, None] & hit_columns[:, None, :] & chosen[:, None, None]
    return images.masked_fill(hit[window][:, None].to(images.device), 0.0)


def _uniform(count: int, bounds: tuple[float, float], generator: torch.Generator) -> torch.Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(count, generator=generator)


def _is_identity(config: AugmentConfig) -> bool:
    return not config.flip and config.scale == (1.0, 1.0) and not config.aspect and not config.rotation
