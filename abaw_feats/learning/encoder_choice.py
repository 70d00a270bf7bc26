"""The network that a training config asks for: a built-in backbone, a saved one, or a variant of either."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from abaw_feats.backbones import BackboneSpec, find_spec, spec_from_dict
from abaw_seq.errors import UserError


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
