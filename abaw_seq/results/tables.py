"""Scores as the header and the rows of a table."""

from __future__ import annotations

from typing import Any

from abaw_seq.tasks import ACTION_UNITS, EXPRESSIONS

Table = tuple[list[str], list[list[str]]]

DIMENSIONS = (("CCC valence", "valence"), ("CCC arousal", "arousal"))
EXPRESSION = (("F1 expression", "expression"),)
UNITS = (("F1 action units", "au"),)
SUMMARIES = {
    "mtl": (("P_MTL", "p_mtl"), *DIMENSIONS, *EXPRESSION, *UNITS),
    "va": (("mean CCC", "score"), *DIMENSIONS),
    "expr": EXPRESSION,
    "au": UNITS,
    "expr2020": (("0.67 F1 + 0.33 accuracy", "score"), *EXPRESSION, ("accuracy", "expression_accuracy")),
    "au2020": (("0.5 F1 + 0.5 accuracy", "score"), *UNITS, ("accuracy", "au_accuracy")),
}


def comparison(scores: dict[str, dict[str, Any]]) -> Table:
    """One row per run, one column per summary score; scores: {run: what `metrics.score` returns}."""
    summary = _summary(scores)
    rows = [[name, *(_cell(run, key, "\n") for _, key in summary)] for name, run in scores.items()]
    return ["", *(label for label, _ in summary)], rows


def all_scores(scores: dict[str, dict[str, Any]]) -> Table:
    """One column per run, one row per score, with every expression and action unit that counts."""
    summary = _summary(scores)
    rows = [[label, *(_cell(run, key, " ") for run in scores.values())] for label, key in summary]
    for task, parts in (("expression", EXPRESSIONS), ("au", ACTION_UNITS)):
        if task not in (key for _, key in summary):
            continue
        classes = [run.get(f"{task}_f1") or {} for run in scores.values()]
        counted = [part for part in parts if any(part in f1 for f1 in classes)]
        rows += [[f"  F1 {part}", *(number(f1.get(part)) for f1 in classes)] for part in counted]
    return ["", *scores], rows


def number(value: float | None) -> str:
    """Three decimals, or n/a where there is nothing to score."""
    return "n/a" if value is None else f"{value:.3f}"


def _summary(scores: dict[str, dict[str, Any]]) -> tuple[tuple[str, str], ...]:
    return SUMMARIES[next((run["edition"] for run in scores.values() if "edition" in run), "mtl")]


def _cell(scores: dict[str, Any], key: str, between: str) -> str:
    """A score, and its interval where there is one."""
    interval = (scores.get("intervals") or {}).get(key)
    return number(scores.get(key)) + (f"{between}[{number(interval[0])}, {number(interval[1])}]" if interval else "")
