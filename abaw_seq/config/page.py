"""What `abaw-seq config` and `abaw-feats config` print: every setting, and the configs that are shipped."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
import textwrap
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from abaw_seq.config.fields import plain, required
from abaw_seq.config.ranges import hints_of
from abaw_seq.config.reading import find, shipped
from abaw_seq.config.words import type_in_words

WIDTH = 110
# The second line of a shipped config is the command that uses it: `#   abaw-seq train --config ...`.
COMMAND = re.compile(r"^#\s+abaw-\S+ (?:--)?(\w+)", re.MULTILINE)


def show(name: str | None, kinds: Mapping[str, Callable[[Path | None], Any]]) -> str:
    """The text that the verb `config` prints.

    `kinds`: for each kind of config what reads it from a file, or gives its defaults for None. Without a name
    all kinds and shipped configs are listed; the name of a kind gives its defaults, explained; another name
    gives that config's file, then every value that results from it.
    """
    texts = {shipped_name: path.read_text(encoding="utf-8") for shipped_name, path in shipped().items()}
    if name is None:
        rows = {kind: "every setting with its default and meaning" for kind in kinds}
        rows |= {other: text.splitlines()[0].strip("# ") for other, text in texts.items() if _kind(text) in kinds}
        width = max(map(len, rows))
        return "\n".join(f"{other:{width}}  {what}" for other, what in rows.items())
    if name in kinds:
        return (
            "# Every setting with its default, or with an example where it is required. A config needs only the\n"
            "# lines that differ, be it from the defaults or from another config that it names with `like: NAME`.\n"
            f"{page(kinds[name](None))}"
        )
    path = find(name, others=kinds)
    text = path.read_text(encoding="utf-8")
    if _kind(text) not in kinds:
        return text.rstrip()
    values = page(kinds[str(_kind(text))](path), explained=False)
    if name in texts:
        text = _with_full_names(text, path)
    return f"{text.rstrip()}\n\n# Every value that results:\n{textwrap.indent(values, '# ')}"


def page(config: Any, *, explained: bool = True) -> str:
    """Every value of a config as YAML, one a line, with its meaning above it and its type behind it."""
    return "\n".join(_lines(type(config), vars(config), explained))


def meanings(cls: type) -> dict[str, str]:
    """{field: its meaning} of a dataclass: the string below each field in the source."""
    definition: Any = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    return {
        ast.unparse(field.target): inspect.cleandoc(str(below.value.value)).replace("\n", " ")
        for field, below in itertools.pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    }


def _lines(cls: type, values: Mapping[str, Any], explained: bool) -> Iterator[str]:
    hints = hints_of(cls)
    meaning = meanings(cls)
    for field in dataclasses.fields(cls):
        name, hint, value = field.name, hints[field.name], values.get(field.name)
        if explained:
            yield from textwrap.wrap(meaning[name], WIDTH, initial_indent="# ", subsequent_indent="# ")
        if dataclasses.is_dataclass(value):
            yield f"{name}:"
            yield from _indented(_lines(type(value), vars(value), explained), "  ")
            continue
        kind = f"  # {type_in_words(hint)}{', required' * required(field)}" if explained else ""
        yield f"{name}: {_on_one_line(value) if name in values else ''}{kind}"
        if explained and not value and (inner := _section_type(hint)):
            # A section that is not there by default is shown as a comment.
            listed = typing.get_origin(hint) is tuple
            yield from (f"# {name}:", "#   -") if listed else (f"# {name}:",)
            defaults = {inner_field.name: _default(inner_field) for inner_field in dataclasses.fields(inner)}
            given = {key: value for key, value in defaults.items() if value is not dataclasses.MISSING}
            yield from _indented(_lines(inner, given, explained), "#     " if listed else "#   ")


def _section_type(hint: Any) -> Any:
    """The dataclass of an optional section, or of a list of sections."""
    kinds = (kind for kind in typing.get_args(hint) if isinstance(kind, type))
    return next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _indented(lines: Iterator[str], indent: str) -> Iterator[str]:
    return (indent + line for line in lines)


def _on_one_line(value: Any) -> str:
    text = yaml.safe_dump(plain(value), default_flow_style=True, width=10**6, sort_keys=False, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _kind(text: str) -> str | None:
    command = COMMAND.search(text)
    return command and command[1]


def _with_full_names(text: str, path: Path) -> str:
    """A shipped config's text with its neighbours' full names, so that a copy elsewhere means the same."""
    neighbour = rf"\b({'|'.join(file.stem for file in path.parent.glob('*.yaml'))})(?:\.yaml)?\b"
    return re.sub(
        r"^(?:like|members|baselines):.*",
        lambda line: re.sub(neighbour, rf"{path.parent.name}/\1", line[0]),
        text,
        flags=re.MULTILINE,
    )
