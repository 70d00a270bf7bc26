"""Plain values into the fields of a dataclass, strictly, and back."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from typing import Any, TypeVar

import yaml

from abaw_seq.config.ranges import bare, check_range, hints_of
from abaw_seq.config.words import shortened, type_in_words
from abaw_seq.errors import UserError

T = TypeVar("T")


def from_dict(cls: type[T], mapping: dict[str, Any], *, where: str = "config") -> T:
    """Build a dataclass, nested ones included, from a mapping.

    Raises UserError that begins with `where` and names the key that is unknown, missing or of the wrong type.
    """
    return _build(cls, mapping, where, "")


def to_dict(config: Any) -> dict[str, Any]:
    """The plain mapping of a config, ready for YAML or JSON."""
    return plain(dataclasses.asdict(config))


def dump(config: Any) -> str:
    """Every value of a config as YAML."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def plain(value: Any) -> Any:
    """The same value with lists for tuples."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def required(field: dataclasses.Field) -> bool:
    """True for a field without a default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _build(cls: Any, mapping: Any, where: str, prefix: str) -> Any:
    if not isinstance(mapping, dict):
        raise UserError(
            f"{where}: {prefix.rstrip('.') or 'the file'} must be a section, not {shortened(repr(mapping))}"
        )
    hints = hints_of(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    values = {}
    for key, value in mapping.items():
        if key not in fields:
            close = difflib.get_close_matches(shortened(key), fields, 1, 0.4)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"valid keys: {', '.join(fields)}"
            raise UserError(f"{where}: unknown key {prefix}{shortened(key)}; {hint}")
        values[key] = convert(hints[key], value, where, f"{prefix}{key}")
    if missing := [prefix + name for name, field in fields.items() if required(field) and name not in values]:
        raise UserError(
            f"{where}: {', '.join(missing)} missing; add {'it' if len(missing) == 1 else 'them'}, or a line "
            "`like: NAME` to take over what another config says"
        )
    try:
        return cls(**values)
    except (ValueError, UserError) as error:
        raise UserError(f"{where}: {prefix}{error}") from None


def checked(hint: Any, value: Any, where: str, key: str) -> Any:
    """`value` as a type, and in its range, or a UserError that begins with `where` and names the key."""
    value = convert(hint, value, where, key)
    try:
        check_range(hint, value, key)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    return value


def convert(hint: Any, value: Any, where: str, key: str) -> Any:
    """`value` as the type of the field, or a UserError naming the key; the dataclass checks ranges."""
    hint = bare(hint)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    wrong = UserError(f"{where}: {key} must be {type_in_words(hint)}, not {shortened(repr(value))}")
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(inner, value, where, key, wrong)
    if origin is typing.Literal:
        if value not in inner:
            close = difflib.get_close_matches(shortened(value), [str(choice) for choice in inner], 1, 0.5)
            raise UserError(f"{wrong}; did you mean {close[0]}?") if close else wrong
        return value
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where, f"{key}.")
    if origin in (list, tuple):
        if number and inner and bare(inner[0]) is float and inner[1:] == (...,):
            value = [value]  # one value for one channel
        if not isinstance(value, (list, tuple)):
            raise wrong
        kinds = inner if origin is tuple and Ellipsis not in inner else [inner[0]] * len(value)
        if len(kinds) != len(value):
            raise wrong
        return origin(convert(k, v, where, f"{key}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if origin is dict:
        if not isinstance(value, dict):
            raise wrong
        return {
            convert(inner[0], k, where, key): convert(inner[1], v, where, f"{key}.{shortened(k)}")
            for k, v in value.items()
        }
    if hint is Any:
        return value
    if hint is float and number:
        return float(value) if isinstance(value, float) or abs(value) < 1e300 else math.inf
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise wrong
    return value


def _convert_union(kinds: tuple, value: Any, where: str, key: str, wrong: UserError) -> Any:
    if value is None and type(None) in kinds:
        return None
    present = [kind for kind in kinds if kind is not type(None)]
    if len(present) == 1:
        return convert(present[0], value, where, key)
    for kind in present:
        try:
            return convert(kind, value, where, key)
        except UserError:
            continue
    raise wrong
