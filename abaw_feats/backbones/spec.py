"""What a backbone is, as data: architecture, sizes, pooling, preprocessing, weights and their origin."""

from __future__ import annotations

import difflib
import re
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from abaw_seq.errors import UserError

COLOURS = {"rgb": 3, "grey": 1}
RESIZES = ("bicubic", "bilinear")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+-]*")


@dataclass(frozen=True)
class Preprocessing:
    """How a frame becomes the square input of a backbone: normalised = (x / scale - mean) / std.

    size    side of the square in pixels; the whole frame is resized to it, nothing is cropped
    colour  "rgb", resized as Pillow does (with antialiasing), or "grey", converted and then resized
            as OpenCV does (its luma formula, bilinear without antialiasing)
    resize  "bicubic" or "bilinear"
    scale   255.0 brings values to 0..1 before mean and std, 1.0 keeps 0..255
    mean, std   one value per channel, on the scale above
    """

    size: int
    colour: str
    resize: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        _check(self.colour in COLOURS, f"colour {self.colour!r}: choose one of {', '.join(COLOURS)}")
        _check(self.resize in RESIZES, f"resize {self.resize!r}: choose one of {', '.join(RESIZES)}")
        _check(self.colour == "rgb" or self.resize == "bilinear", "grey frames are resized bilinear only")
        _check(1 <= self.size <= 4096, f"size {self.size}: choose 1 to 4096 pixels")
        _check(self.scale > 0, f"scale {self.scale}: choose 255.0 or 1.0")
        channels = COLOURS[self.colour]
        for name, values in (("mean", self.mean), ("std", self.std)):
            _check(len(values) == channels, f"{name} needs {channels} value(s) for {self.colour}, not {len(values)}")
        _check(all(value > 0 for value in self.std), "std must be above zero")

    @property
    def channels(self) -> int:
        """Channels of the network's input: 3 or 1."""
        return COLOURS[self.colour]


@dataclass(frozen=True)
class BackboneSpec:
    """One backbone: everything that decides its features, and where its weights come from.

    name      its name in feature files and on the command line
    arch      "vit", "iresnet", "densenet" or "timm"
    options   the architecture's sizes; which there are depends on `arch`
    pooling   how tokens or positions become one vector; which there are depends on `arch`
    weights   a weight file that belongs to this entry, or None
    hub       where the weights can be downloaded: a Hugging Face repository, or None
    """

    name: str
    arch: str
    options: dict[str, Any]
    pooling: str
    preprocessing: Preprocessing
    weights: str | None = None
    hub: str | None = None
    licence: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        _check(
            isinstance(self.name, str) and _NAME.fullmatch(self.name) is not None,
            f"backbone name {self.name!r}: use letters, digits and _ . : + - only",
        )


def spec_to_dict(spec: BackboneSpec) -> dict[str, Any]:
    """The spec as plain values, for JSON and YAML."""
    plain = {item.name: getattr(spec, item.name) for item in fields(BackboneSpec)}
    pre = {item.name: getattr(spec.preprocessing, item.name) for item in fields(Preprocessing)}
    pre["mean"], pre["std"] = list(pre["mean"]), list(pre["std"])
    options = {key: list(value) if isinstance(value, tuple) else value for key, value in spec.options.items()}
    return {**plain, "options": options, "preprocessing": pre}


def spec_from_dict(values: dict[str, Any], *, start: BackboneSpec | None = None) -> BackboneSpec:
    """The spec that plain values describe; `start` supplies what they leave out.

    Raises UserError that names an unknown or missing key, or a value of the wrong kind.
    """
    _known(values, BackboneSpec, "a backbone")
    pre = values.get("preprocessing", {})
    _check(isinstance(pre, dict), "preprocessing: expected a mapping")
    _known(pre, Preprocessing, "preprocessing")
    options = values.get("options", {})
    _check(isinstance(options, dict), "options: expected a mapping")
    try:
        pre = {key: _PREPROCESSING_TYPES[key](value) for key, value in pre.items()}
    except (TypeError, ValueError) as error:
        raise UserError(f"preprocessing: {error}") from None
    same_arch = start is not None and values.get("arch", start.arch) == start.arch
    merged = {
        **values,
        "options": {**(start.options if same_arch else {}), **options},
        "preprocessing": replace(start.preprocessing, **pre)
        if start
        else _complete(Preprocessing, pre, "preprocessing"),
    }
    return replace(start, **merged) if start else _complete(BackboneSpec, merged, "a backbone")


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in (values if isinstance(values, (list, tuple)) else [values]))


def _whole(value: Any) -> int:
    if int(value) != float(value):
        raise ValueError(f"size {value} is not a whole number")
    return int(value)


_PREPROCESSING_TYPES = {
    "size": _whole, "colour": str, "resize": str, "scale": float, "mean": _numbers, "std": _numbers,
}  # fmt: skip


def _known(values: dict[str, Any], kind: type, what: str) -> None:
    valid = [item.name for item in fields(kind)]
    for key in values:
        if key not in valid:
            near = difflib.get_close_matches(str(key), valid, n=1)
            hint = f", did you mean {near[0]!r}?" if near else f"; valid keys: {', '.join(valid)}"
            raise UserError(f"unknown key {key!r} of {what}{hint}")


def _complete(kind: type, values: dict[str, Any], what: str) -> Any:
    missing = [item.name for item in fields(kind) if item.default is MISSING and item.name not in values]
    if missing:
        raise UserError(f"{what} lacks {', '.join(missing)} (in a file, `like: NAME` takes over another entry's)")
    return kind(**values)


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)
