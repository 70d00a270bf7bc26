"""The built-in backbones, as data, and the spec behind a name, a YAML file or a folder."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path
from typing import Any

from abaw_feats.backbones import iresnet
from abaw_feats.backbones.spec import BackboneSpec, Preprocessing, spec_from_dict
from abaw_feats.backbones.timm_models import PREFIX, timm_spec
from abaw_seq import config as configs
from abaw_seq.errors import UserError
from abaw_seq.run_folder import BACKBONE as SPEC_FILE

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_FACE_RGB = Preprocessing(112, "rgb", "bilinear", 1.0, (127.5,) * 3, (127.5,) * 3)
_FER_PLUS = Preprocessing(64, "grey", "bilinear", 1.0, (63.987095,), (43.00519,))


def _mae(name: str, *, pooling: str, patch: int, width: int, depth: int, heads: int, hub: str) -> BackboneSpec:
    return BackboneSpec(
        name=name,
        arch="vit",
        options={"patch": patch, "width": width, "depth": depth, "heads": heads},
        pooling=pooling,
        preprocessing=Preprocessing(224, "rgb", "bicubic", 255.0, IMAGENET_MEAN, IMAGENET_STD),
        hub=hub,
        licence="CC-BY-NC-4.0",
        source="https://github.com/facebookresearch/mae",
    )


def _iresnet(name: str) -> BackboneSpec:
    return BackboneSpec(
        name=name,
        arch="iresnet",
        options={"blocks": list(iresnet.BLOCKS[name])},
        pooling="fc",
        preprocessing=_FACE_RGB,
        licence="non-commercial research",
        source="https://github.com/deepinsight/insightface",
    )


_BASE: dict[str, Any] = {"patch": 16, "width": 768, "depth": 12, "heads": 12, "hub": "timm/vit_base_patch16_224.mae"}
_LARGE: dict[str, Any] = {"patch": 16, "width": 1024, "depth": 24, "heads": 16, "hub": "timm/vit_large_patch16_224.mae"}
_HUGE: dict[str, Any] = {"patch": 14, "width": 1280, "depth": 32, "heads": 16, "hub": "timm/vit_huge_patch14_224.mae"}
_ENTRIES = (
    _mae("mae", pooling="cls", **_BASE),
    _mae("mae_gap", pooling="gap", **_BASE),
    _mae("mae_large", pooling="cls", **_LARGE),
    _mae("mae_large_gap", pooling="gap", **_LARGE),
    _mae("mae_huge", pooling="cls", **_HUGE),
    _mae("mae_huge_gap", pooling="gap", **_HUGE),
    *(_iresnet(name) for name in iresnet.BLOCKS),
    BackboneSpec(
        name="densenet100bc",
        arch="densenet",
        options={"blocks": [16, 16, 16], "growth": 12},
        pooling="gap",
        preprocessing=_FER_PLUS,
        licence="not stated",
        source="https://github.com/JinmingZhao/MEmoConv",
    ),
)
ALIASES = {"iresnet": "iresnet100", "densenet": "densenet100bc"}
BUILT_IN = {entry.name: entry for entry in _ENTRIES}


def find_spec(name_or_path: str | Path) -> BackboneSpec:
    """The spec behind a built-in name, "timm:<model>", a YAML file, a folder with backbone.yaml, or a shipped config.

    Raises UserError that names the file and key at fault, or the nearest name.
    """
    text, path = str(name_or_path), Path(name_or_path)
    if path.is_dir() and text not in (*BUILT_IN, *ALIASES):
        path = path / SPEC_FILE
    return _read(path) if path.suffix in (".yaml", ".yml") else _named(text)


def _named(text: str) -> BackboneSpec:
    if text in BUILT_IN:
        return BUILT_IN[text]
    if text in ALIASES:
        return replace(BUILT_IN[ALIASES[text]], name=text)
    if text.startswith(PREFIX):
        return timm_spec(text)
    shipped = {name: path for name, path in configs.shipped().items() if name.startswith("backbones/")}
    if text in shipped:
        return _read(shipped[text])
    near = difflib.get_close_matches(text, [*BUILT_IN, *ALIASES, *shipped], n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"built in: {', '.join([*BUILT_IN, *ALIASES])}"
    raise UserError(f"unknown backbone {text!r}: {hint} (or timm:<model>, a YAML file, a folder with {SPEC_FILE})")


def _read(path: Path) -> BackboneSpec:
    values = {"name": path.stem, **configs.read_yaml(path)}
    try:
        start = _named(str(values.pop("like"))) if "like" in values else None
    except UserError as error:
        raise UserError(f"{path}: like: {error}") from None
    spec = spec_from_dict(values, start=start, where=str(path))
    if values.get("weights"):
        spec = replace(spec, weights=str(path.parent / Path(values["weights"]).expanduser()))
    return spec
