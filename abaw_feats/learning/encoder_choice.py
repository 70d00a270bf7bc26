"""Which network a training config means: a known backbone, a saved one, or sizes of one's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from abaw_feats.backbones import BackboneSpec, find_spec, spec_from_dict
from abaw_seq.errors import UserError


def encoder_spec(backbone: str | dict[str, Any]) -> BackboneSpec:
    """The spec behind a config's `backbone`.

    A text is a name, a YAML file or a folder (see `find_spec`). A mapping holds what differs from the
    backbone it is `like`: `{like: iresnet18, name: small, options: {dim: 128}}`; it starts without
    weights, because other sizes need others.
    """
    if isinstance(backbone, str):
        return find_spec(backbone)
    if "like" not in backbone:
        raise UserError("backbone: a mapping needs `like`, the backbone that it varies, such as `like: mae`")
    values = dict(backbone)
    start = replace(find_spec(str(values.pop("like"))), weights=None, hub=None)
    return spec_from_dict(values, start=start)
