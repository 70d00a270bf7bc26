"""Scores as the header and the rows of a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from abaw_seq.tasks import ACTION_UNITS, EXPRESSIONS

Table = tuple[list[str], list[list[str]]]

SCORE_NAMES = {
    "p_mtl": "P_MTL",
    "valence": "CCC valence",
    "arousal": "CCC arousal",
    "expression": "F1 expression",
    "au": "F1 action units",
}
SUMMARIES = {
    "mtl": SCORE_NAMES,
    "va": {"score": "mean CCC", "valence": "CCC valence", "arousal": "CCC arousal"},
    "expr": {"expression": "F1 expression"},
    "au": {"au": "F1 action units"},
    "expr2020": {
        "score": "0.67 F1 + 0.33 accuracy", "expression": "F1 expression", "expression_accuracy": "accuracy",
    },
    "au2020": {"score": "0.5 F1 + 0.5 accuracy", "au": "F1 action units", "au_accuracy": "accuracy"},
}  # fmt: skip
"""For each edition its total, and the scores that are part of it: {key: name}."""


def comparison(scores: dict[str, dict[str, Any]]) -> Table:
    """One row per run, one column per summary score; scores: {run: what `metrics.score` returns}."""
    summary = _summary(scores)
    rows = [[name, *(_cell(row, key, "\n") for key in summary)] for name, row in scores.items()]
    return ["", *summary.values()], rows


def all_scores(scores: dict[str, dict[str, Any]]) -> Table:
    """One column per run, one row per score, with every expression and action unit that counts."""
    summary = _summary(scores)
    rows = [[name, *(_cell(column, key, " ") for column in scores.values())] for key, name in summary.items()]
    for task, parts in (("expression", EXPRESSIONS), ("au", ACTION_UNITS)):
        if task not in summary:
            continue
        classes = [column.get(f"{task}_f1") or {} for column in scores.values()]
        counted = [part for part in parts if any(part in f1 for f1 in classes)]
        rows += [[f"  F1 {part}", *(number(f1.get(part)) for f1 in classes)] for part in counted]
    return ["", *scores], rows


def is_number(value: object) -> bool:
    """Whether a value, perhaps from a file, is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def number(value: object) -> str:
    """Three decimals, or n/a for what is not a finite number."""
    return f"{value:.3f}" if is_number(value) else "n/a"


def spread(values: Sequence[float | None]) -> str:
    """Mean and, of several numbers, deviation (that of a sample); n/a where one is missing."""
    if None in values:
        return number(None)
    numbers = [value for value in values if value is not None]
    deviation = f" ± {statistics.stdev(numbers):.3f}" if len(numbers) > 1 else ""
    return number(statistics.fmean(numbers)) + deviation


def _summary(scores: dict[str, dict[str, Any]]) -> dict[str, str]:
    return SUMMARIES[next((one["edition"] for one in scores.values() if "edition" in one), "mtl")]


def _cell(scores: dict[str, Any], key: str, between: str) -> str:
    """A score, and its interval where there is one."""
    interval = (scores.get("intervals") or {}).get(key)
    return number(scores.get(key)) + (f"{between}[{number(interval[0])}, {number(interval[1])}]" if interval else "")
