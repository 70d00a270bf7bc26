"""Configs from YAML files: your own by path, shipped ones by name, one `like` another, with `key=value` changes."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml

from abaw_seq.config.fields import from_dict
from abaw_seq.config.plain_yaml import MOST_DEPTH, parse
from abaw_seq.config.words import shortened
from abaw_seq.errors import UserError

T = TypeVar("T")


def load(cls: type[T], source: str | Path | Mapping[str, Any] | None = None, overrides: Iterable[str] = ()) -> T:
    """Read a config: its defaults, then a file, shipped config or mapping, then changes such as `optim.lr=1e-4`.

    Raises UserError naming the file and key for anything that does not fit.
    """
    if isinstance(source, str | Path):
        mapping, where = _resolved(find(source)), [str(source)]
    else:
        mapping, where = _based(dict(source or {}), Path(), "config"), []
    overrides = list(overrides)
    for override in overrides:
        _apply(mapping, override)
    where += [shortened(", ".join(overrides), 300)] if overrides else []
    return from_dict(cls, mapping, where=" with ".join(where) or "config")


def find(name: str | Path, folder: Path = Path(), *, others: Iterable[str] = ()) -> Path:
    """The file of a config: its path, seen from `folder` and with or without .yaml, or a shipped config's name.

    Raises UserError that names the nearest config, or the nearest of `others`.
    """
    path = folder / os.path.expanduser(name)
    known = shipped()
    for file in (path, Path(f"{path}.yaml"), known.get(str(name))):
        if file is not None and os.path.isfile(file):  # unlike Path's, these two take any name
            return file
    namesakes = [other for other in known if Path(other).name == path.stem]
    beside = [file.stem for file in folder.glob("*.yaml")]
    near = namesakes or difflib.get_close_matches(str(name)[-100:], [*beside, *known, *others], 1)
    hint = f"; did you mean {' or '.join(near)}?" if near else ", and no config of this name is shipped"
    raise UserError(f"{shortened(name)}: no such config file{hint}")


def shipped() -> dict[str, Path]:
    """{name, such as abaw4/gru: file} of the configs that come with the package."""
    package = Path(str(resources.files("abaw_seq")))
    inside = package / "configs"  # as installed; in a checkout the folder is beside the package
    folder = inside if inside.is_dir() else package.parent / "configs"
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.glob("*/*.yaml"))}


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file as it stands; UserError with the line if it does not parse."""
    path = Path(path)
    if not os.path.isfile(path):
        raise UserError(f"{shortened(path)}: no such config file")
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected `key: value` lines, not a {type(content).__name__}")
    return content


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` on top of `base`: sections key by key, other values as a whole."""
    result = dict(base)
    for key, value in changes.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def _resolved(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The mapping in a file, on top of that of the config it is `like`, and so on."""
    return _based(read_yaml(path), path.parent, str(path), (*above, path.resolve()))


def _based(mapping: dict[str, Any], folder: Path, where: str, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A mapping on top of that of the config it is `like`, which is looked for beside `folder`'s files first."""
    if "like" not in mapping:
        return mapping
    like = str(mapping.pop("like"))
    try:
        base = find(like, folder)
    except UserError as error:
        raise UserError(f"{where}: like: {error}") from None
    if base.resolve() in above:
        raise UserError(f"{where}: like: {like} leads in a circle; a config cannot build on itself")
    return merged(_resolved(base, above), mapping)


def _apply(mapping: dict[str, Any], override: str) -> None:
    """Change one value of a mapping, as `key=value` says."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts) or len(parts) > MOST_DEPTH:
        raise UserError(f"{shortened(override)}: expected key=value, such as optim.lr=1e-4")
    try:
        value = parse(text)
    except yaml.YAMLError as error:
        raise UserError(f"{shortened(override)}: the value is not valid YAML: {' '.join(str(error).split())}") from None
    for part in parts[:-1]:
        mapping = mapping.setdefault(part, {})
        if not isinstance(mapping, dict):
            raise UserError(f"{shortened(override)}: {part} is a value, not a section")
    mapping[parts[-1]] = value
