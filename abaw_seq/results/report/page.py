"""The report as one HTML file: scores, how they were made, figures, and a scrubber through the videos.

The file needs nothing beside it: style, scripts, figures and predictions are inside. Whatever came from
a file is escaped; the page's content policy runs only the script and style whose hashes it names, and
lets nothing reach a network.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from abaw_seq.data.prediction_file import Videos
from abaw_seq.results.report.page_data import VA_ERROR, scrubber_data
from abaw_seq.results.tables import SCORE_NAMES, is_number, number
from abaw_seq.run_folder import FIGURES
from abaw_seq.tasks import ACTION_UNITS, EXPRESSIONS
from abaw_seq.terminal import visible

SCRIPTS = ("page_data.js", "page_timeline.js", "page_panel.js", "page.js")
KINDS = ("untuned", "tuned")


@dataclass(frozen=True)
class ReportedRun:
    """What the report shows of one run; a part that is absent is None or empty."""

    name: str
    scores: dict | None = None
    """The content of `scores.json`."""
    epochs: list[dict] = field(default_factory=list)
    """The lines of `metrics.jsonl`."""
    predictions: Videos = field(default_factory=dict)
    documents: dict[str, str] = field(default_factory=dict)
    """{file name: text}, shown as it is."""
    note: str = ""
    """How its labels differ from those in training."""
    searched: dict | None = None
    """The content of `search.json`."""

    def score(self, kind: str) -> dict:
        """The `untuned` or `tuned` scores, empty if absent."""
        return (self.scores or {}).get(kind) or {}


@dataclass(frozen=True)
class Plot:
    """A figure in the inks of a light and a dark page."""

    file_name: str
    caption: str
    light: bytes
    dark: bytes
    run: str | None = None
    """The run that it shows; None if it shows all runs."""


def render_page(
    runs: list[ReportedRun], plots: list[Plot], *, image_base: str | None, images: Mapping[str, Any] | None = None
) -> str:
    """The whole page. `image_base`: URL of the folder of video folders, relative to the page, or None; `images`: what
    `image_names` says of them.
    """
    style, script = _asset("page.css"), _script()
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    data = scrubber_data({run.name: run.predictions for run in runs}, image_base) | {"imageNames": images or {}}
    parts = {
        "title": escape(title),
        "summary": escape(_summary(runs)),
        "style": style,
        "style_hash": _content_hash(style),
        "script": script,
        "script_hash": _content_hash(script),
        "scores": _score_table(runs),
        "score_note": _score_note(runs),
        "class_scores": _class_tables(runs),
        "documents": _documents(runs),
        "plots": _plot_sections(runs, plots),
        "va_error": f"{VA_ERROR:g}",
        "scrubber_title": "Where the model is wrong" if data["labelled"] else "What the model predicts",
        "data": _json(data),
    }
    # In one pass, so that a marker inside an inserted text stays text.
    return re.sub(r"\{\{(\w+)\}\}", lambda marker: parts[marker[1]], _asset("page.html"))


def _json(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _content_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _asset(name: str) -> str:
    return resources.files("abaw_seq.results.report").joinpath(name).read_text(encoding="utf-8")


def _script() -> str:
    """The page's scripts as one strict function, so that they share names with nothing else."""
    return '(() => {\n"use strict";\n' + "\n".join(_asset(name) for name in SCRIPTS) + "})();\n"


def _summary(runs: list[ReportedRun]) -> str:
    videos = {name: len(video.frames) for run in runs for name, video in run.predictions.items()}
    splits = sorted({str(run.scores["split"]) for run in runs if run.scores and "split" in run.scores})
    editions = sorted({str(run.scores["edition"]) for run in runs if run.scores and "edition" in run.scores})
    words = [f"{len(videos):,} videos, {sum(videos.values()):,} frames"] if videos else ["no predictions"]
    words += [f"split {', '.join(splits)}"] if splits else []
    words += [f"scored as edition {', '.join(editions)}"] if editions else []
    return " · ".join(words)


def _score_table(runs: list[ReportedRun]) -> str:
    rows = [(run.name, {kind: run.score(kind) for kind in KINDS}) for run in runs]
    if not any(values for _, kinds in rows for values in kinds.values()):
        return "<p>No labels, so no scores.</p>"
    columns = SCORE_NAMES
    if not any(is_number(run.score("untuned").get("p_mtl")) for run in runs):
        # Editions other than MTL have a total of their own.
        columns = {"score": "total"} | {key: title for key, title in SCORE_NAMES.items() if key != "p_mtl"}
    return _table("scores", columns, rows)


def _class_tables(runs: list[ReportedRun]) -> str:
    tables = []
    for part, title, names in (
        ("expression_f1", "F1 of each expression", EXPRESSIONS),
        ("au_f1", "F1 of each action unit", ACTION_UNITS),
    ):
        rows = [(run.name, {kind: run.score(kind).get(part) or {} for kind in KINDS}) for run in runs]
        if any(values for _, kinds in rows for values in kinds.values()):
            columns = {name: name for name in names}
            tables.append(f"<h3>{title}</h3>" + _table(part, columns, rows))
    if not tables:
        return ""
    return f"<details><summary>Each expression and action unit</summary>{''.join(tables)}</details>"


def _table(name: str, columns: dict[str, str], rows: list[tuple[str, dict[str, dict]]]) -> str:
    """A table of scores; where any row has tuned ones, they stand beside the untuned in each column."""
    tuned = any(values["tuned"] for _, values in rows)
    kinds = KINDS if tuned else KINDS[:1]
    best = {(kind, key): _largest(row[kind].get(key) for _, row in rows) for kind in kinds for key in columns}
    head = "".join(f'<th scope="col" colspan="{len(kinds)}">{escape(title)}</th>' for title in columns.values())
    second = "".join(f'<th scope="col" class="{kind}">{kind}</th>' for _ in columns for kind in kinds)
    body = []
    for run, values in rows:
        cells = []
        for key in columns:
            for kind in kinds:
                value = values[kind].get(key)
                mark = " best" if len(rows) > 1 and value is not None and value == best[kind, key] else ""
                cells.append(f'<td class="{kind}{mark}" data-key="{escape(key)}">{number(value)}</td>')
        body.append(f'<tr><th scope="row" class="first">{escape(run)}</th>{"".join(cells)}</tr>')
    return (
        f'<div class="wide"><table class="numbers" id="table-{name}"><thead>'
        f'<tr><th scope="col" class="first" rowspan="{len(kinds)}">run</th>{head}</tr>'
        f"{'<tr>' + second + '</tr>' if tuned else ''}</thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _largest(values: Iterable[Any]) -> Any:
    return max(filter(is_number, values), default=None)


def _score_note(runs: list[ReportedRun]) -> str:
    recorded = "; scores per epoch are as recorded in training"
    notes = [f"{run.name}: {run.note}{recorded if run.epochs else ''}." for run in runs if run.note]
    frames = [run.score("untuned").get("frames") or {} for run in runs]
    if all(counts == frames[0] for counts in frames):
        counts = [f"{task} {n:,}" for task, n in frames[0].items() if isinstance(n, int) and n]
        notes += [f"Labelled frames: {', '.join(counts)}."] if counts else []
    tuned = [run.scores["split"] for run in runs if run.score("tuned") and run.scores and "split" in run.scores]
    if "val" in tuned:
        notes.append(
            "Tuned: smoothing, thresholds and biases fitted on the very labels scored here, which flatters; "
            "elsewhere they are applied as stored in the run."
        )
    elif tuned:
        notes.append("Tuned: with smoothing, thresholds and biases as stored in the run.")
    return escape(" ".join(notes))


def _documents(runs: list[ReportedRun]) -> str:
    sections = []
    for run in runs:
        best = (run.scores or {}).get("best_epoch")
        trained = f"{len(run.epochs)} epochs" + (f", best {best}" if isinstance(best, int) else "")
        texts = "".join(f"<h3>{escape(name)}</h3><pre>{escape(text)}</pre>" for name, text in run.documents.items())
        heading = escape(run.name) + (f" <span>{escape(trained)}</span>" if run.epochs else "")
        sections.append(f"<details><summary>{heading}</summary>{texts or '<p>Nothing recorded.</p>'}</details>")
    return "".join(sections)


def _plot_sections(runs: list[ReportedRun], plots: list[Plot]) -> str:
    shared = "".join(_figure(plot) for plot in plots if plot.run is None)
    sections = []
    for k, run in enumerate(runs):
        own = "".join(_figure(plot) for plot in plots if plot.run == run.name)
        if own and len(runs) == 1:
            sections.append(own)
        elif own:
            opened = " open" if k == 0 else ""
            sections.append(f"<details{opened}><summary>{escape(run.name)}</summary>{own}</details>")
    return shared + "".join(sections) or "<p>There is nothing to draw.</p>"


def _figure(plot: Plot) -> str:
    caption, file = escape(plot.caption), escape(plot.file_name)
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{_image(plot.dark)}">'
        f'<img alt="{caption}" src="{_image(plot.light)}"></picture>'
        f"<figcaption>{caption} <code>{FIGURES}/{file}</code></figcaption></figure>"
    )


def _image(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def escape(text: str) -> str:
    """A text from a run or a file as HTML that shows it, its control characters written out."""
    return html.escape(visible(text))
