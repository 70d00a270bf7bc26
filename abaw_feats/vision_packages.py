"""The packages of the extra `feats`, which reading a feature file and training on it do without."""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import PackageNotFoundError, version

from abaw_seq.errors import UserError

NEEDED = {
    "timm": ("timm", "1.0.23"),
    "torchvision": ("torchvision", "0.24"),
    "simplejpeg": ("simplejpeg", "1.8"),
    "av": ("av", "14"),
    "PIL": ("pillow", "10.3"),
    "safetensors": ("safetensors", "0.4.3"),
}
"""{module: (its package, the lowest version that works)}, as in pyproject.toml."""
INSTALL = "type: pip install 'abaw[feats]'"


def require_feats() -> None:
    """Raise UserError, with the command to type, if vision packages are not installed or too old."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{', '.join(missing)} not installed; {INSTALL}")
    for package, lowest in NEEDED.values():
        try:
            installed = version(package)
        except PackageNotFoundError:  # not installed by an installer, which alone knows the version
            continue
        if _numbers(installed) < _numbers(lowest):
            raise UserError(f"{package} {installed} is too old, {lowest} or newer is needed; {INSTALL}")


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]
