"""YAML as plain values, within bounds: what is large, deep, endless or ambiguous is refused before it is built."""

from __future__ import annotations

import re
from typing import Any

import yaml

MOST_CHARACTERS = 2**20
MOST_DEPTH = 40
MOST_VALUES = 100_000
"""Values of a text, those behind an alias counted wherever the alias stands."""
MOST_DIGITS = 100

_TAG = "tag:yaml.org,2002:"
_TAGS = {f"{_TAG}{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map")}
_NUMBERS = {
    # Without 010 (8 to some, 10 to others) and 1:30 (90 to some): these stay text.
    "int": r"[-+]?(0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)",
    # YAML 1.1 reads `1e-5` as text; people mean a number.
    "float": r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|"
    r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}


class _Loader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        tag = getattr(event, "tag", None) or "!"
        if tag not in ("!", *_TAGS):
            raise _refused(f"the tag {tag.replace(_TAG, '!!')}; write plain values", event.start_mark)
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise _refused(f"nested deeper than {MOST_DEPTH} levels", event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


# Dates stay text as well.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.removeprefix(_TAG) not in (*_NUMBERS, "timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(rf"(?:{_pattern})\Z"), list("-+.0123456789"))


def parse(text: str, reader: type[yaml.SafeLoader] = _Loader) -> Any:
    """The plain values that YAML text describes; no other objects are built.

    Raises yaml.YAMLError, with the line, for what does not parse, has a key twice, or is beyond the bounds above.
    """
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(f"{len(text)} characters, more than {MOST_CHARACTERS}")
    loader = reader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, {})
        return loader.construct_document(node)
    except (ValueError, LookupError) as error:  # from tags that do not fit, such as `!!int x`
        raise yaml.YAMLError(f"a value that its tag does not fit: {error}") from None
    finally:
        loader.dispose()


def _check(node: yaml.Node, counts: dict[int, int]) -> int:
    """How many values a node stands for, aliases followed; YAMLError where they are too many."""
    if isinstance(node, yaml.ScalarNode):
        if node.tag in (f"{_TAG}int", f"{_TAG}float") and len(node.value) > MOST_DIGITS:
            raise _refused(f"a number of {len(node.value)} characters", node.start_mark)
        return 1
    if id(node) not in counts:
        counts[id(node)] = MOST_VALUES  # stays so while the node is looked into: an alias of itself is endless
        children = node.value
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            children = [child for pair in node.value for child in pair]
        counts[id(node)] = 1 + sum(_check(child, counts) for child in children)
    if counts[id(node)] > MOST_VALUES:
        raise _refused(f"more than {MOST_VALUES} values, aliases followed", node.start_mark)
    return counts[id(node)]


def _check_keys(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if key.tag != f"{_TAG}merge" and isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in seen:
                raise _refused(f"the key {key.value[:80]} a second time", key.start_mark)
            seen.add((key.tag, key.value))


def _refused(problem: str, mark: yaml.Mark) -> yaml.YAMLError:
    return yaml.YAMLError(f"line {mark.line + 1}, column {mark.column + 1}: {problem}")
