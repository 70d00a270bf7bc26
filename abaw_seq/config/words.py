"""Types and values in words, for errors and for the pages of settings."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

TYPE_NAMES = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "text"),
    bool: ("true or false", "true or false"),
    types.NoneType: ("null", "null"),
}


def type_in_words(hint: Any, *, several: bool = False) -> str:
    """What a field of this type takes, such as "a list of 2 numbers"; `several`: in the plural."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        limits = " and ".join(limits.text for limits in inner[1:])
        return f"{type_in_words(inner[0], several=several)} in {limits}"
    if origin is typing.Literal:
        return "one of " + ", ".join(str(choice) for choice in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_in_words(kind) for kind in inner)
    if origin in (list, tuple):
        count = "" if origin is list or Ellipsis in inner else f"{len(inner)} "
        return f"a list of {count}{type_in_words(inner[0], several=True)}"
    if dataclasses.is_dataclass(hint):
        return "sections" if several else "a section"
    return "a mapping" if origin is dict else TYPE_NAMES.get(hint, (str(hint), str(hint)))[several]


def shortened(text: object, most: int = 120) -> str:
    """A text of no more than `most` characters, its middle left out where it is longer."""
    text = str(text)
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 3 :]}"
