"""What a backbone is, as data: architecture, sizes, pooling, preprocessing, weights and their origin."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from abaw_seq.config import from_dict, merged, to_dict
from abaw_seq.config.ranges import Checked, Positive, Range
from abaw_seq.errors import UserError

COLOURS = {"rgb": 3, "grey": 1}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+-]*")


@dataclass(frozen=True)
class Preprocessing(Checked):
    """How a frame becomes the square input of a backbone: normalised = (x / scale - mean) / std."""

    size: Annotated[int, Range("[1, 4096]")]
    """Side of the square in pixels. The whole frame is resized to it; nothing is cropped."""
    colour: Literal["rgb", "grey"]
    """`rgb`: resized as Pillow does, with antialiasing. `grey`: converted to grey and then resized as OpenCV does,
    with its luma formula, bilinear without antialiasing."""
    resize: Literal["bicubic", "bilinear"]
    """Interpolation; grey frames are always resized bilinear."""
    scale: Positive
    """Divisor of the pixel values: 255.0 brings them to 0..1 before mean and std, 1.0 keeps 0..255."""
    mean: tuple[Annotated[float, Range("(-inf, inf)")], ...]
    """Mean of each channel, after the division by `scale`."""
    std: tuple[Positive, ...]
    """Standard deviation of each channel, after the division by `scale`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.colour == "rgb" or self.resize == "bilinear", "resize must be bilinear for grey frames")
        for name, values in (("mean", self.mean), ("std", self.std)):
            channels = f"{self.channels} value(s) for {self.colour}"
            _check(len(values) == self.channels, f"{name} needs {channels}, not {len(values)}")

    @property
    def channels(self) -> int:
        """Channels of the network's input: 3 or 1."""
        return COLOURS[self.colour]


@dataclass(frozen=True)
class BackboneSpec:
    """One backbone: everything that decides its features, and where its weights come from."""

    name: str
    """Its name in feature files and on the command line: letters, digits and _ . : + -"""
    arch: str
    """Kind of network: vit, iresnet, densenet or timm."""
    options: dict[str, Any]
    """Sizes of the network. vit: patch, width, depth, heads, mlp_ratio. iresnet: blocks, channels, dim. densenet:
    blocks, growth, classes. timm: model, and whatever timm's create_model takes."""
    pooling: str
    """How tokens or positions become one vector. vit: cls, gap, gap_norm_as_fc_norm, gap_normed, or auto for what the
    checkpoint was trained with. iresnet: fc. densenet: gap, grid2, grid4. timm: model for its own, token, avg, max."""
    preprocessing: Preprocessing
    """How a frame becomes the input."""
    weights: str | None = None
    """A weight file of its own, seen from the folder of this config; null where there is none."""
    hub: str | None = None
    """Hugging Face repository from which the weights can be downloaded; null where there is none."""
    licence: str = ""
    """Licence of the weights."""
    source: str = ""
    """Where the network was published."""

    def __post_init__(self) -> None:
        valid = isinstance(self.name, str) and _NAME.fullmatch(self.name)
        _check(bool(valid), f"name {self.name!r}: use letters, digits and _ . : + - only")


def spec_from_dict(
    values: dict[str, Any], *, start: BackboneSpec | None = None, where: str = "backbone"
) -> BackboneSpec:
    """The spec that plain values describe; `start` supplies what they leave out.

    Options of `start` are taken over only where the architecture is the same. Raises UserError that begins
    with `where` and names the key that is unknown, missing or of the wrong kind.
    """
    if start is not None:
        other = values.get("arch", start.arch) != start.arch
        values = merged(to_dict(start) | ({"options": {}} if other else {}), values)
    return from_dict(BackboneSpec, values, where=where)


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)
