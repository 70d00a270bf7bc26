"""The packages of the extra `feats`, which reading a feature file and training on it do without."""

from __future__ import annotations

import importlib.util

from abaw_seq.errors import UserError

NEEDED = ("timm", "torchvision", "simplejpeg", "av", "PIL", "safetensors")


def require_feats() -> None:
    """Raise UserError, with the command to type, if the vision packages are not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{', '.join(missing)} not installed; type: pip install 'abaw[feats]'")
