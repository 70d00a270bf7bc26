"""The figures of a report: which there are, and what they show of the runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from abaw_seq.data.prediction_file import VideoPredictions, Videos, concatenated
from abaw_seq.results.report import plots, search_plots
from abaw_seq.results.report.page import Plot, ReportedRun
from abaw_seq.results.report.plot_style import DARK, LIGHT, Ink, png
from abaw_seq.tasks import AU, EXPRESSIONS
from abaw_seq.terminal import progress

TIMELINES = 4
SHORTEST_TIMELINE = 30
"""Frames; a shorter video shows little of a course over time."""


@dataclass(frozen=True)
class _Job:
    """A figure that is still to be drawn, in the colours of a light and a dark page."""

    name: str
    caption: str
    draw: Callable[[Ink], Figure]
    run: str | None = None


def draw_figures(runs: list[ReportedRun]) -> list[Plot]:
    """All figures for which the runs have data, those that compare runs first."""
    jobs = _shared_jobs(runs)
    chosen = _timeline_videos(runs)
    for run, slug in zip(runs, _slugs(runs), strict=True):
        jobs += _run_jobs(run, slug, chosen)
    drawn = []
    with progress("report", total=len(jobs), unit="figures") as advance:
        for job in jobs:
            light, dark = (png(job.draw(ink)) for ink in (LIGHT, DARK))
            drawn.append(Plot(f"{job.name}.png", job.caption, light, dark, job.run))
            advance()
    return drawn


def _shared_jobs(runs: list[ReportedRun]) -> list[_Job]:
    jobs = []
    histories = {run.name: run.epochs for run in runs if run.epochs}
    if histories:
        best = {run.name: (run.scores or {}).get("best_epoch") for run in runs}
        caption = "Training loss and validation scores per epoch; the dot is the epoch that was kept."
        jobs.append(_Job("curves", caption, lambda ink: plots.training_curves(histories, best, ink)))
    units = {run.name: run.score("untuned").get("au_f1") or {} for run in runs}
    if any(units.values()):
        tuned = {run.name: run.score("tuned").get("au_f1") or {} for run in runs}
        rates = _base_rates(runs)
        caption = "F1 of each action unit beside how often it is on: a rare unit is a hard one."
        jobs.append(_Job("action_units", caption, lambda ink: plots.action_unit_bars(units, tuned, rates, ink)))
    return jobs


def _run_jobs(run: ReportedRun, slug: str, chosen: list[str]) -> list[_Job]:
    """The figures of one run's predictions; `chosen`: the videos whose timeline is drawn."""
    jobs = []

    def add(kind: str, caption: str, draw: Callable[[Ink], Figure]) -> None:
        jobs.append(_Job(f"{kind}_{slug}", caption, draw, run.name))

    if (searched := run.searched) and searched.get("trials"):
        caption = f"Trials of the search {run.name} in their order."
        add("search", caption, lambda ink: search_plots.search_history(searched, ink))
        caption = f"Settings that matter most in the search {run.name}."
        add("importances", caption, lambda ink: search_plots.search_importances(searched, ink))
        caption = f"Trials of the search {run.name}, each a line through the values of its settings."
        add("coordinates", caption, lambda ink: search_plots.parallel_coordinates(searched, ink))
    counts = _confusion(run.predictions)
    if counts.any():
        add("confusion", f"Confusion of expressions, {run.name}.", lambda ink: plots.confusion_matrix(counts, ink))
    if not any({"valence", "arousal"} & video.outputs.keys() for video in run.predictions.values()):
        return jobs
    shown = {name: run.predictions[name] for name in chosen if name in run.predictions}
    if shown:
        caption = f"Valence and arousal over time, {run.name}: a few videos, chosen alike for every run."
        add("timeline", caption, lambda ink: plots.timelines(shown, ink))
    true = concatenated(run.predictions)[1][:, :2]
    predicted = np.concatenate([video.valence_arousal for video in run.predictions.values()])
    caption = f"Valence and arousal, {run.name}: a darker cell holds more frames (logarithmic)."
    add("valence_arousal", caption, lambda ink: plots.valence_arousal_density(true, predicted, ink))
    return jobs


def _timeline_videos(runs: list[ReportedRun]) -> list[str]:
    """A few videos, the same for all runs: from the first run's smallest to its largest valence and arousal error.

    Without labels, the longest videos.
    """
    videos = next((run.predictions for run in runs if run.predictions), {})
    long = {name: video for name, video in videos.items() if len(video.frames) >= SHORTEST_TIMELINE} or videos
    errors = {name: _mean_error(video) for name, video in long.items()}
    known = sorted((name for name in long if np.isfinite(errors[name])), key=errors.__getitem__)
    if not known:
        return sorted(long, key=lambda name: (-len(long[name].frames), name))[:TIMELINES]
    picks = np.unique(np.linspace(0, len(known) - 1, TIMELINES).round().astype(int))
    return [known[k] for k in picks]


def _mean_error(video: VideoPredictions) -> float:
    difference = np.abs(video.valence_arousal - video.truth[:, :2])
    known = np.isfinite(difference)
    return float(difference[known].mean()) if known.any() else np.nan


def _confusion(predictions: Videos) -> np.ndarray:
    """(8, 8) frames by true and predicted expression."""
    from sklearn.metrics import confusion_matrix  # takes a second to import

    videos = [video for video in predictions.values() if "expression" in video.outputs]
    true = np.concatenate([video.truth[:, 2] for video in videos] or [np.zeros(0)])
    predicted = np.concatenate([video.outputs["expression"].argmax(axis=1) for video in videos] or [np.zeros(0)])
    classes = np.arange(len(EXPRESSIONS))
    labelled = np.isin(true, classes)
    if not labelled.any():
        return np.zeros((len(classes), len(classes)), np.int64)
    return confusion_matrix(true[labelled], predicted[labelled], labels=classes)


def _base_rates(runs: list[ReportedRun]) -> np.ndarray | None:
    """(12,) share of labelled frames on which each action unit is on, from the first run with labels."""
    for run in runs:
        labels = [video.truth[:, AU.columns] for video in run.predictions.values()]
        if labels and np.isfinite(units := np.concatenate(labels)).any():
            counts = np.isfinite(units).sum(axis=0)
            return np.where(counts > 0, np.nansum(units, axis=0) / np.maximum(counts, 1), np.nan)
    return None


def _slugs(runs: list[ReportedRun]) -> list[str]:
    """A file name for each run, distinct, of characters that have no meaning in a path."""
    plain = [re.sub(r"[^A-Za-z0-9.-]+", "_", run.name).strip("._")[:60] or "run" for run in runs]
    return [slug if plain.count(slug) == 1 else f"{slug}_{k}" for k, slug in enumerate(plain, start=1)]
