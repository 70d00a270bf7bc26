"""The figures of a search: scores in the order of the trials, importances, and which values went together.

They are drawn from the content of `search.json`, in the colours (`Ink`) of a light or a dark page.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from abaw_seq.results.report.plot_style import Ink, figure_grid, note, plain, run_colour, style_axis
from abaw_seq.results.tables import SCORE_NAMES, is_number


def search_history(searched: dict[str, Any], ink: Ink) -> Figure:
    """The score of each trial and the best so far, one panel per objective."""
    objectives = searched["objectives"]
    handles = [
        Line2D([], [], color=ink.accent, marker="o", linestyle="", markersize=5, label="complete"),
        Line2D([], [], color=ink.muted, marker="x", linestyle="", markersize=5, label="stopped early"),
        Line2D([], [], color=ink.text, label="best so far"),
    ]
    figure, axes = figure_grid(len(objectives), 1, panel=1.8, ink=ink, handles=handles)
    for axis, key in zip(axes[:, 0], objectives, strict=True):
        style_axis(axis, ink, SCORE_NAMES.get(key, plain(key)))
        for state, colour, marker in (("COMPLETE", ink.accent, "o"), ("PRUNED", ink.muted, "x")):
            points = [(t["number"], v) for t, v in _scored(searched, key) if t["state"] == state]
            axis.plot([n for n, _ in points], [v for _, v in points], marker, color=colour, markersize=5)
        points = [(t["number"], v) for t, v in _scored(searched, key) if t["state"] == "COMPLETE"]
        if points:
            best = np.maximum.accumulate([value for _, value in points])
            axis.step([n for n, _ in points], best, where="post", color=ink.text, linewidth=1.3)
        else:
            note(axis, "no trial has this score", ink)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[-1, 0].set_xlabel("trial", color=ink.muted, fontsize=9)
    return figure


def search_importances(searched: dict[str, Any], ink: Ink) -> Figure:
    """How much of the variance of each objective a setting explains (fANOVA), one bar per objective."""
    importances = {key: values for key, values in searched["importances"].items() if values}
    handles = [
        Patch(color=run_colour(ink, k), label=SCORE_NAMES.get(key, plain(key))) for k, key in enumerate(importances)
    ]
    settings = sorted(searched["space"], key=lambda name: sum(v.get(name, 0) for v in importances.values()))
    figure, axes = figure_grid(
        1, 1, panel=max(0.3 * len(settings), 1.0), left=2.6, ink=ink, handles=handles if len(handles) > 1 else ()
    )
    axis = axes[0, 0]
    style_axis(axis, ink, "share of the variance that a setting explains")
    height = 0.8 / max(len(importances), 1)
    for k, values in enumerate(importances.values()):
        places = np.arange(len(settings)) - 0.4 + (k + 0.5) * height
        axis.barh(places, [values.get(name, 0) for name in settings], height * 0.9, color=run_colour(ink, k), zorder=2)
    axis.set_yticks(range(len(settings)), [plain(name) for name in settings], parse_math=False)
    axis.set_xlim(0, 1)
    axis.grid(axis="y", visible=False)
    return figure


def parallel_coordinates(searched: dict[str, Any], ink: Ink) -> Figure:
    """A line per trial through the values of its settings, the darker the better by the first objective."""
    key, settings = searched["objectives"][0], searched["space"]
    ranked = sorted(_scored(searched, key), key=lambda pair: pair[1])
    figure, axes = figure_grid(1, 1, panel=3.4, left=0.9, top=0.45, bottom=0.75, ink=ink)
    axis = axes[0, 0]
    style_axis(axis, ink, f"the strongest lines are the best trials by {SCORE_NAMES.get(key, plain(key))}", pad=18)
    axis.grid(axis="y", visible=False)
    colours = LinearSegmentedColormap.from_list("rank", [ink.line, ink.accent, ink.text])
    scales = [_scale([trial["params"].get(name) for trial, _ in ranked]) for name in settings]
    for k, (trial, _) in enumerate(ranked):
        heights = [scale[_label(trial["params"].get(name))][0] for name, scale in zip(settings, scales, strict=True)]
        shade = k / max(len(ranked) - 1, 1)
        axis.plot(range(len(settings)), heights, color=colours(shade), linewidth=0.8 + 1.2 * shade, zorder=2 + shade)
    for k, scale in enumerate(scales):
        ends = sorted(scale.values())
        shown = ends if len(ends) <= 6 else [ends[0], ends[len(ends) // 2], ends[-1]]
        for height, text in shown:
            axis.text(
                k + 0.03, height, plain(text, 18), fontsize=7.5, color=ink.text, va="center", zorder=5,
                parse_math=False, bbox={"facecolor": ink.paper, "edgecolor": "none", "pad": 0.6, "alpha": 0.8},
            )  # fmt: skip
    names = [plain(name, 26).replace(".", ".\n", 1) for name in settings]
    axis.set_xticks(range(len(settings)), names, parse_math=False)
    axis.set_xlim(-0.1, len(settings) - 0.6)
    axis.set_yticks([])
    if not ranked:
        note(axis, "no trial has a score", ink)
    return figure


def _scored(searched: dict[str, Any], key: str) -> list[tuple[dict[str, Any], float]]:
    """The trials that have a score, with it."""
    pairs = [(trial, (trial.get("scores") or {}).get(key)) for trial in searched["trials"]]
    return [(trial, float(value)) for trial, value in pairs if value is not None and is_number(value)]


def _label(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _scale(values: list[Any]) -> dict[str, tuple[float, str]]:
    """{value: its height in [0, 1], its text}: numbers by size or, over a factor of 10, by order of magnitude."""
    distinct = {_label(value): value for value in values}
    numbers = [float(value) for value in distinct.values() if is_number(value)]
    if len(numbers) < len(distinct):
        steps = max(len(distinct) - 1, 1)
        return {label: (k / steps, label.strip('"')) for k, label in enumerate(sorted(distinct))}
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    logarithmic = low > 0 and high / low > 10
    place = math.log if logarithmic else float
    width = (place(high) - place(low)) or 1.0
    return {
        label: ((place(float(value)) - place(low)) / width, f"{float(value):.3g}") for label, value in distinct.items()
    }
