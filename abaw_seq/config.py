"""Strict configuration: YAML and `key=value` overrides into frozen dataclasses.

An unknown key fails and names the nearest valid one; a value of the wrong type fails with its key;
`1e-5` is a number. Cross-field rules belong in the dataclass' `__post_init__` as `ValueError`s.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from abaw_seq.errors import UserError

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-5` as text; people mean a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)$"),
    list("-+.0123456789"),
)


def load(cls: type[T], path: str | Path | None = None, overrides: list[str] | tuple[str, ...] = ()) -> T:
    """Read a config: defaults, then the YAML file, then dotted overrides such as `optim.lr=1e-4`.

    Raises UserError naming the file and key for anything that does not fit.
    """
    mapping = read_yaml(path) if path is not None else {}
    where = str(path) if path is not None else "defaults"
    for override in overrides:
        _apply(mapping, override)
    return from_dict(cls, mapping, where=where if not overrides else f"{where} with --set")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; UserError with the line if it does not parse."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such config file")
    try:
        found = _parse(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected `key: value` lines, found a {type(found).__name__}")
    return found


def _parse(text: str) -> Any:
    """Plain values only, as yaml.safe_load gives them."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def from_dict(cls: type[T], mapping: dict[str, Any], *, where: str = "config") -> T:
    """Build a dataclass (nested ones too) from a mapping, strictly."""
    return _build(cls, mapping, where, "")


def to_dict(config: Any) -> dict[str, Any]:
    """The plain mapping of a config, ready for YAML or JSON."""
    return _plain(dataclasses.asdict(config))


def dump(config: Any) -> str:
    """The resolved config as YAML."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _apply(mapping: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f"--set {override}: expected key=value, such as optim.lr=1e-4")
    try:
        value = _parse(text)
    except yaml.YAMLError:
        raise UserError(f"--set {override}: the value is not valid YAML") from None
    for part in parts[:-1]:
        inner = mapping.setdefault(part, {})
        if not isinstance(inner, dict):
            raise UserError(f"--set {override}: {part} is a value, not a section")
        mapping = inner
    mapping[parts[-1]] = value


def _build(cls: type[T], mapping: Any, where: str, prefix: str) -> T:
    if not isinstance(mapping, dict):
        raise UserError(f"{where}: {prefix.rstrip('.') or 'the file'} must be a section, not {mapping!r}")
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]
    values = {}
    for key, value in mapping.items():
        if key not in known:
            close = difflib.get_close_matches(str(key), known, 1, 0.4)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"valid keys: {', '.join(known)}"
            raise UserError(f"{where}: unknown key {prefix}{key}; {hint}")
        values[key] = _convert(hints[key], value, where, f"{prefix}{key}")
    required = [
        f.name
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing := [name for name in required if name not in values]:
        raise UserError(f"{where}: {prefix}{missing[0]} is missing")
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(f"{where}: {prefix}{error}" if prefix else f"{where}: {error}") from None


def _convert(hint: Any, value: Any, where: str, key: str) -> Any:
    """`value` as the type of the field, or a UserError naming the key."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    wrong = UserError(f"{where}: {key} must be {_describe(hint)}, not {value!r}")
    if origin in (typing.Union, types.UnionType):
        return _convert_union(inner, value, where, key, wrong)
    if origin is typing.Literal:
        if value not in inner:
            close = difflib.get_close_matches(str(value), [str(i) for i in inner], 1, 0.5)
            extra = f"; did you mean {close[0]}?" if close else ""
            raise UserError(f"{where}: {key} must be {_describe(hint)}, not {value!r}{extra}")
        return value
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where, f"{key}.")
    if origin in (list, tuple):
        if not isinstance(value, (list, tuple)):
            raise wrong
        kinds = inner if origin is tuple and Ellipsis not in inner else [inner[0]] * len(value)
        if len(kinds) != len(value):
            raise wrong
        return origin(_convert(k, v, where, f"{key}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if origin is dict:
        if not isinstance(value, dict):
            raise wrong
        return {_convert(inner[0], k, where, key): _convert(inner[1], v, where, f"{key}.{k}") for k, v in value.items()}
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = origin or hint
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        raise wrong
    return value


def _convert_union(kinds: tuple, value: Any, where: str, key: str, wrong: UserError) -> Any:
    if value is None and type(None) in kinds:
        return None
    present = [kind for kind in kinds if kind is not type(None)]
    if len(present) == 1:
        return _convert(present[0], value, where, key)
    for kind in present:
        try:
            return _convert(kind, value, where, key)
        except UserError:
            continue
    raise wrong


def _describe(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(str(i) for i in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("empty" if i is type(None) else _describe(i) for i in inner)
    if origin is None:
        return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(
            hint, getattr(hint, "__name__", str(hint))
        )
    return {list: "a list", tuple: "a list", dict: "a mapping"}.get(origin, str(hint))
