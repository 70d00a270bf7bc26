"""Ranges of settings, declared in the type of a field: `lr: Annotated[float, Range("(0, inf)")] = 1e-3`."""

from __future__ import annotations

import functools
import operator
import typing
from dataclasses import dataclass
from typing import Annotated, Any

from abaw_seq.config.words import shortened, type_in_words


@dataclass(frozen=True)
class Range:
    """An interval as mathematics writes it: `[0, 1)` holds 0 and not 1, `(0, inf)` every finite number above 0."""

    text: str

    def __contains__(self, value: float) -> bool:
        low, high = (float(end) for end in self.text[1:-1].split(","))
        above = operator.gt if self.text[0] == "(" else operator.ge
        below = operator.lt if self.text[-1] == ")" else operator.le
        return above(value, low) and below(value, high)


# Ranges that many settings share. The upper ends are far above what anybody uses, and far below what hangs.
Share = Annotated[float, Range("[0, 1]")]
ShareBelowOne = Annotated[float, Range("[0, 1)")]
Positive = Annotated[float, Range("(0, inf)")]
NotNegative = Annotated[float, Range("[0, inf)")]
LargestNorm = Annotated[float, Range("(0, inf]")]
Count = Annotated[int, Range("[1, 1000000]")]
Layers = Annotated[int, Range("[1, 256]")]
Heads = Annotated[int, Range("[1, 1024]")]
Width = Annotated[int, Range("[1, 65536]")]
Seed = Annotated[int, Range("[0, 18446744073709551615]")]


class Checked:
    """What the dataclasses of settings inherit: each number must lie in the range of its field.

    A subclass with rules of its own calls `super().__post_init__()` first.
    """

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for name, hint in hints_of(kind).items():
            check_range(hint, getattr(self, name), name)


@functools.cache
def hints_of(cls: Any) -> dict[str, Any]:
    """{field: its type with its ranges} of a dataclass."""
    return typing.get_type_hints(cls, include_extras=True)


def bare(hint: Any) -> Any:
    """A type without its range."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def check_range(hint: Any, value: Any, key: str) -> None:
    """ValueError that begins with `key` for a number in `value` out of its range; other types are let pass."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        if isinstance(value, (int, float)) and not all(value in limits for limits in inner[1:]):
            raise ValueError(f"{key} must be {type_in_words(hint)}, not {shortened(repr(value))}")
    elif origin in (list, tuple) and isinstance(value, (list, tuple)):
        kinds = inner if origin is tuple and Ellipsis not in inner else [inner[0]] * len(value)
        for place, (kind, item) in enumerate(zip(kinds, value, strict=False)):
            check_range(kind, item, f"{key}[{place}]")
    elif origin is dict and isinstance(value, dict):
        for name, item in value.items():
            check_range(inner[1], item, f"{key}.{name}")
    elif origin is not None:  # a union
        for kind in inner:
            check_range(kind, value, key)
