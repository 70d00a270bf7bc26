"""The report's figures: training curves, confusion matrix, action-unit bars, timelines, densities.

Each function draws one figure from plain values, in the colours (`Ink`) of a light or a dark page. Names come from
files, so every text that shows one goes through `plain`, and `parse_math=False` keeps matplotlib from reading a `$` as
the start of a formula.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from abaw_seq.data.prediction_file import Videos
from abaw_seq.results.report.plot_style import (
    WIDTH,
    Ink,
    figure_grid,
    note,
    plain,
    run_colour,
    run_line_style,
    style_axis,
)
from abaw_seq.results.tables import is_number
from abaw_seq.tasks import ACTION_UNITS, EXPRESSIONS

LONGEST_BRIDGE = 30
"""A line goes on over a gap of this many frame numbers, about a second."""


def training_curves(histories: dict[str, list[dict]], best: dict[str, int | None], ink: Ink) -> Figure:
    """Loss and validation scores per epoch, one panel each, one line per run.

    `histories`: {run: lines of metrics.jsonl}; `best`: {run: the epoch whose weights were kept}, marked by a dot.
    """
    panels = (
        ("training loss", "train", "loss"),
        ("validation P_MTL", "val", "p_mtl"),
        ("validation CCC, valence", "val", "valence"),
        ("validation CCC, arousal", "val", "arousal"),
        ("validation F1, expression", "val", "expression"),
        ("validation F1, action units", "val", "au"),
    )
    names = histories if len(histories) > 1 else ()
    handles = [
        Line2D([], [], color=run_colour(ink, k), linestyle=run_line_style(ink, k), label=plain(run))
        for k, run in enumerate(names)
    ]
    figure, axes = figure_grid(2, 3, panel=2.1, ink=ink, handles=handles)
    for axis, (title, part, key) in zip(axes.flat, panels, strict=True):
        style_axis(axis, ink, title)
        for k, (run, epochs) in enumerate(histories.items()):
            x, y = _curve(epochs, part, key)
            look = {"color": run_colour(ink, k), "linestyle": run_line_style(ink, k)}
            # A single epoch makes no line, so it gets a marker.
            axis.plot(x, y, marker="o" if len(x) == 1 else None, markersize=4, linewidth=1.6, **look)
            if (epoch := best.get(run)) in x and epoch is not None and part == "val":
                axis.plot(epoch, y[x.index(epoch)], "o", color=run_colour(ink, k), markersize=5)
        if not any(len(line.get_xdata()) for line in axis.lines):
            note(axis, "not recorded", ink)
            axis.set_yticks([])
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for axis in axes[1]:
        axis.set_xlabel("epoch", color=ink.muted, fontsize=9)
    return figure


def confusion_matrix(counts: np.ndarray, ink: Ink) -> Figure:
    """Confusion of expressions; `counts`: frames (8, 8) by true and predicted class."""
    totals = counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(totals, 1)
    figure, axes = figure_grid(1, 1, panel=4.9, width=8.2, left=1.0, top=0.55, bottom=0.1, ink=ink)
    axis = axes[0, 0]
    title = "rows: true expression, columns: predicted; share of the row, frames below"
    style_axis(axis, ink, title, grid=False, pad=22)
    colours = LinearSegmentedColormap.from_list("share", [ink.paper, ink.accent])
    axis.imshow(share, cmap=colours, vmin=0, vmax=1, aspect="auto")
    for row in range(len(EXPRESSIONS)):
        for column in range(len(EXPRESSIONS)):
            if totals[row, 0] == 0:
                continue
            strong = share[row, column] > 0.55
            right = row == column
            axis.text(
                column, row, f"{share[row, column]:.2f}\n{counts[row, column]:,}",
                ha="center", va="center", fontsize=8.5, linespacing=1.25,
                color=(ink.paper if strong else ink.text if right or counts[row, column] else ink.muted),
                fontweight="bold" if right else "normal",
            )  # fmt: skip
    ticks = range(len(EXPRESSIONS))
    axis.set_xticks(ticks, EXPRESSIONS, fontsize=9)
    names = [f"{name}\n{int(count):,}" for name, count in zip(EXPRESSIONS, totals[:, 0], strict=True)]
    axis.set_yticks(ticks, names, fontsize=9)
    axis.tick_params(length=0, labeltop=True, labelbottom=False)
    axis.set_xticks(np.arange(-0.5, 8), minor=True)
    axis.set_yticks(np.arange(-0.5, 8), minor=True)
    axis.grid(which="minor", color=ink.line, linewidth=0.8)
    axis.tick_params(which="minor", length=0)
    return figure


def action_unit_bars(
    scores: dict[str, dict], tuned: dict[str, dict], base_rates: np.ndarray | None, ink: Ink
) -> Figure:
    """F1 of each action unit, one bar per run, over the unit's base rate.

    `scores`, `tuned`: {run: {action unit: F1}}, the inner one empty if absent; `base_rates`: (12,), NaN where unknown.
    """
    handles: list[Any] = [
        Patch(color=run_colour(ink, k), label=plain(run) if len(scores) > 1 else "F1, as predicted")
        for k, run in enumerate(scores)
    ]
    if any(tuned.values()):
        look: dict[str, Any] = {"color": ink.paper, "markeredgecolor": ink.text}
        handles.append(Line2D([], [], marker="D", linestyle="", label="F1, tuned", **look))
    if base_rates is not None:
        handles.append(Line2D([], [], color=ink.text, linewidth=1.8, label="base rate (share of frames)"))
    figure, axes = figure_grid(1, 1, panel=2.9, bottom=0.35, ink=ink, handles=handles)
    axis = axes[0, 0]
    style_axis(axis, ink, "F1 of each action unit")
    x = np.arange(len(ACTION_UNITS))
    width = 0.8 / max(len(scores), 1)
    for k, (run, values) in enumerate(scores.items()):
        left = x - 0.4 + (k + 0.5) * width
        axis.bar(left, _heights(values), width * 0.92, color=run_colour(ink, k), zorder=2)
        axis.plot(
            left, _heights(tuned[run]), "D", markersize=4.5, color=ink.paper, zorder=4,
            markeredgecolor=ink.text, markeredgewidth=1.1,
        )  # fmt: skip
    if base_rates is not None:
        axis.hlines(base_rates, x - 0.44, x + 0.44, color=ink.text, linewidth=1.8, zorder=3)
    axis.set_xticks(x, ACTION_UNITS, fontsize=9)
    axis.set_ylim(0, 1)
    axis.set_xlim(-0.6, len(ACTION_UNITS) - 0.4)
    axis.grid(axis="x", visible=False)
    return figure


def timelines(videos: Videos, ink: Ink) -> Figure:
    """Valence and arousal over time, truth beside prediction, one row per video."""
    labelled = any(np.isfinite(video.truth[:, :2]).any() for video in videos.values())
    handles = [Line2D([], [], color=ink.text, label="annotated")] if labelled else []
    handles.append(Line2D([], [], color=ink.accent, label="predicted"))
    figure, axes = figure_grid(len(videos), 2, panel=1.0, ink=ink, handles=handles)
    for row, (name, video) in enumerate(videos.items()):
        for column, task in enumerate(("valence", "arousal")):
            axis = axes[row, column]
            true, predicted = video.truth[:, column], video.valence_arousal[:, column]
            error = np.abs(predicted - true)
            title = f"{task} · {plain(name)}"
            style_axis(axis, ink, f"{title} · off by {np.nanmean(error):.2f}" if np.isfinite(error).any() else title)
            frames, true, predicted = _cut_at_gaps(video.frames, true, predicted)
            axis.axhline(0, color=ink.muted, linewidth=0.6)
            # A single frame between two gaps makes no line, so it gets a marker.
            for values, colour, width in ((true, ink.text, 1.5), (predicted, ink.accent, 1.3)):
                single = _single(values)
                axis.plot(frames, values, color=colour, linewidth=width)
                axis.plot(frames[single], values[single], ".", color=colour, markersize=3)
            axis.fill_between(frames, true, predicted, color=ink.accent, alpha=0.18, linewidth=0)
            axis.set_ylim(-1.05, 1.05)
            axis.set_yticks([-1, 0, 1])
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for axis in axes[-1]:
        axis.set_xlabel("frame number", color=ink.muted, fontsize=9)
    return figure


def valence_arousal_density(true: np.ndarray, predicted: np.ndarray, ink: Ink) -> Figure:
    """How many frames have which values: predicted by annotated, and both in the valence-arousal plane.

    `true`, `predicted`: (N, 2) valence and arousal, NaN where unknown.
    """
    labelled = np.isfinite(true).any()
    panels = [("predicted frames", predicted[:, 0], predicted[:, 1], "valence", "arousal")]
    if labelled:
        panels = [
            ("valence", true[:, 0], predicted[:, 0], "annotated", "predicted"),
            ("arousal", true[:, 1], predicted[:, 1], "annotated", "predicted"),
            ("annotated frames", true[:, 0], true[:, 1], "valence", "arousal"),
            *panels,
        ]
    figure, axes = figure_grid(1, len(panels), panel=2.2, width=WIDTH if labelled else 3.0, ink=ink)
    colours = LinearSegmentedColormap.from_list("count", [ink.line, ink.accent, ink.text])
    for axis, (title, x, y, x_name, y_name) in zip(axes[0], panels, strict=True):
        style_axis(axis, ink, title)
        known = np.isfinite(x) & np.isfinite(y)
        if x_name == "annotated":
            axis.plot([-1, 1], [-1, 1], color=ink.muted, linewidth=0.9, zorder=3)
        if known.any():
            inside = [np.clip(values[known], -1, 1) for values in (x, y)]
            axis.hexbin(
                *inside, gridsize=36, extent=(-1, 1, -1, 1), mincnt=1, cmap=colours, norm=LogNorm(1),
                linewidths=0.1, zorder=2,
            )  # fmt: skip
        else:
            note(axis, "no frames", ink)
        axis.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal")
        axis.set_xticks([-1, 0, 1])
        axis.set_yticks([-1, 0, 1])
        axis.set_xlabel(x_name, color=ink.muted, fontsize=9)
        axis.set_ylabel(y_name, color=ink.muted, fontsize=9, labelpad=0)
    return figure


def _curve(epochs: list[dict], part: str, key: str) -> tuple[list[int], list[float]]:
    """Epochs and values of one recorded number; epochs without it are left out."""
    pairs: list[tuple[Any, Any]] = [(line.get("epoch"), (line.get(part) or {}).get(key)) for line in epochs]
    known = [(x, y) for x, y in pairs if is_number(x) and is_number(y)]
    return [x for x, _ in known], [y for _, y in known]


def _heights(values: dict) -> list[float]:
    return [values[name] if is_number(values.get(name)) else math.nan for name in ACTION_UNITS]


def _cut_at_gaps(frames: np.ndarray, *columns: np.ndarray) -> list[np.ndarray]:
    """Frame numbers and values, with a NaN in every gap of the frame numbers longer than `LONGEST_BRIDGE`."""
    ends = np.flatnonzero(np.diff(frames) > LONGEST_BRIDGE)
    cut = [np.insert(frames.astype(float), ends + 1, frames[ends] + 0.5)]
    return cut + [np.insert(values.astype(float), ends + 1, np.nan) for values in columns]


def _single(values: np.ndarray) -> np.ndarray:
    """Mask (N,) of known values between two unknown ones."""
    known = np.isfinite(values)
    before, after = np.roll(known, 1), np.roll(known, -1)
    before[:1] = after[-1:] = False
    return known & ~before & ~after
