"""The frozen encoders: a registry of specs, and what builds, loads, saves and speeds them up.

>>> loaded = load(find_spec("densenet"), "random")
>>> loaded.dim
342
"""

from abaw_feats.backbones.architectures import ARCHITECTURES, FeatureNetwork
from abaw_feats.backbones.describe import BackboneRow, describe_backbones
from abaw_feats.backbones.inference import Prepared, prepare_for_inference
from abaw_feats.backbones.loading import LoadedBackbone, build, load, save
from abaw_feats.backbones.registry import ALIASES, BUILT_IN, find_spec
from abaw_feats.backbones.spec import BackboneSpec, Preprocessing, spec_from_dict

__all__ = [
    "ALIASES",
    "ARCHITECTURES",
    "BUILT_IN",
    "BackboneRow",
    "BackboneSpec",
    "FeatureNetwork",
    "LoadedBackbone",
    "Prepared",
    "Preprocessing",
    "build",
    "describe_backbones",
    "find_spec",
    "load",
    "prepare_for_inference",
    "save",
    "spec_from_dict",
]
