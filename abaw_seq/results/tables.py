"""Scores as tables for the terminal."""

from __future__ import annotations

from typing import Any

from abaw_seq.tasks import ACTION_UNITS, EXPRESSIONS
from abaw_seq.terminal import print_table

SUMMARY = (
    ("P_MTL", "p_mtl"),
    ("CCC valence", "valence"),
    ("CCC arousal", "arousal"),
    ("F1 expression", "expression"),
    ("F1 action units", "au"),
)


def print_comparison(title: str, scores: dict[str, dict[str, Any]]) -> None:
    """One row per run, one column per summary score."""
    rows = [[name, *(number(found.get(key)) for _, key in SUMMARY)] for name, found in scores.items()]
    print_table(title, ["", *(label for label, _ in SUMMARY)], rows)


def print_scores(title: str, scores: dict[str, dict[str, Any]]) -> None:
    """One column per run, one row per score, with every expression and action unit."""
    names = list(scores)
    rows = [[label, *(number(scores[n].get(key)) for n in names)] for label, key in SUMMARY]
    for key, parts in (("expression_f1", EXPRESSIONS), ("au_f1", ACTION_UNITS)):
        rows += [[f"  F1 {p}", *(number((scores[n].get(key) or {}).get(p)) for n in names)] for p in parts]
    print_table(title, ["", *names], rows)


def number(value: float | None) -> str:
    """Three decimals, or n/a where there is nothing to score."""
    return "n/a" if value is None else f"{value:.3f}"
