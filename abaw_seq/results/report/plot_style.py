"""How the report's figures look: colours for a light and a dark page, margins, axes, PNG.

Figures are built on `matplotlib.figure.Figure` directly: pyplot and its global state are not touched.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

WIDTH = 10.2
"""Inches: the width of the page's column."""
DPI = 140
RUN_STYLES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Ink:
    """The colours of a figure, the same as those of the page around it (page.css)."""

    paper: str
    text: str
    muted: str
    line: str
    accent: str
    cycle: tuple[str, ...] = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8a8f98")
    """One colour per run: Okabe and Ito's colour-blind-safe set, in an order in which the first few differ most."""


LIGHT = Ink(paper="#ffffff", text="#1b1f24", muted="#5f6875", line="#dfe3e8", accent="#0072b2")
DARK = Ink(
    paper="#14171c", text="#e6e9ee", muted="#9aa4b2", line="#2f3640", accent="#56b4e9",
    cycle=("#56b4e9", "#e69f00", "#2bbd92", "#f07a35", "#cc79a7", "#5f93ff", "#a8adb5"),
)  # fmt: skip


def png(figure: Figure) -> bytes:
    """The figure as a PNG file of at most 256 colours, which is much smaller than one of all colours."""
    from PIL import Image  # a dependency of matplotlib

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    height, width = canvas.get_width_height()[::-1]
    rgba = np.asarray(canvas.buffer_rgba()).reshape(height, width, 4)
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgba[..., :3])).quantize(256).save(out, "PNG", optimize=True)
    return out.getvalue()


def figure_grid(
    rows: int,
    columns: int,
    *,
    panel: float,
    ink: Ink,
    width: float = WIDTH,
    left: float = 0.5,
    top: float = 0.3,
    bottom: float = 0.5,
    handles: Sequence[Artist] = (),
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes (rows, columns), each `panel` inches high, under a legend of the handles.

    Margins are given in inches, because matplotlib's own layout takes as long to compute as the drawing.
    """
    legend_columns = min(len(handles), 6 if all(len(str(h.get_label())) <= 30 for h in handles) else 3)
    legend = 0.08 + 0.2 * math.ceil(len(handles) / legend_columns) if handles else 0
    gap_x, gap_y, right = 0.55, 0.6, 0.22
    height = legend + top + rows * panel + (rows - 1) * gap_y + bottom
    panel_width = (width - left - right - (columns - 1) * gap_x) / columns
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=ink.paper)
    figure.subplots_adjust(
        left=left / width,
        right=1 - right / width,
        bottom=bottom / height,
        top=1 - (legend + top) / height,
        wspace=gap_x / panel_width,
        hspace=gap_y / panel,
    )
    if handles:
        shown = figure.legend(
            handles=list(handles), loc="upper left", ncols=legend_columns, frameon=False, fontsize=9,
            labelcolor=ink.text, borderaxespad=0.1,
        )  # fmt: skip
        for text in shown.get_texts():
            text.set_parse_math(False)
    return figure, figure.subplots(rows, columns, squeeze=False)


def style_axis(axis: Axes, ink: Ink, title: str, *, grid: bool = True, pad: float = 5) -> None:
    axis.set_facecolor(ink.paper)
    axis.set_title(title, loc="left", fontsize=9.5, color=ink.text, pad=pad, parse_math=False)
    axis.tick_params(colors=ink.text, labelsize=8.5, length=0)
    axis.set_axisbelow(True)
    if grid:
        axis.grid(color=ink.line, linewidth=0.8)
    for spine in axis.spines.values():
        spine.set_visible(False)


def note(axis: Axes, text: str, ink: Ink) -> None:
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", color=ink.muted, fontsize=9)


def run_colour(ink: Ink, k: int) -> str:
    return ink.cycle[k % len(ink.cycle)]


def run_line_style(ink: Ink, k: int) -> str:
    return RUN_STYLES[k // len(ink.cycle) % len(RUN_STYLES)]


def plain(name: str, longest: int = 44) -> str:
    """A name from a file as one printable line of bounded length."""
    text = "".join(c if c.isprintable() else "?" for c in name)
    return text if len(text) <= longest else text[: longest - 1] + "…"
