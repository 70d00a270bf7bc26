"""What is done to predictions after the model: smoothing, AU thresholds, expression biases.

They are fitted on labelled predictions (validation, or out-of-fold), stored in the run folder as `postprocess.yaml`,
and applied as stored to other predictions of the run. Applying them gives probabilities again: a unit's threshold has
become 0.5, and the biases are part of the expressions' probabilities, so that whatever reads them decides as always.
`predictions.h5` of a run stays as the model made it.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from abaw_seq import config as configs
from abaw_seq.config.ranges import Checked, Range
from abaw_seq.data.prediction_file import VideoPredictions, Videos, concatenated, read_predictions, score_videos
from abaw_seq.errors import UserError
from abaw_seq.files import write_text
from abaw_seq.metrics import USUAL_THRESHOLD
from abaw_seq.results.decisions import best_biases, best_thresholds, shift_action_units, shift_expressions
from abaw_seq.results.objective import GAIN, cross_fitted, labelled_videos, task_score
from abaw_seq.results.reading import read_current
from abaw_seq.results.smooth import KINDS, Smoothing, smooth
from abaw_seq.run_folder import POSTPROCESS, held_run, read_scores, write_scores
from abaw_seq.tasks import ACTION_UNITS, AU, EXPRESSION, EXPRESSIONS, TASKS

log = logging.getLogger(__name__)

WINDOWS = (3, 5, 9, 15, 25, 41, 65, 101, 161, 251, 401)


@dataclass(frozen=True)
class Postprocess(Checked):
    """What is done to the predictions of a run: smoothing, thresholds and biases."""

    smoothing: dict[str, Smoothing] = field(default_factory=dict)
    """Smoothing of each task; a task that is not named is not smoothed."""
    au_thresholds: tuple[Annotated[float, Range("(0, 1)")], ...] = (USUAL_THRESHOLD,) * len(ACTION_UNITS)
    """Probability above which an action unit is active, for the 12 units in the official order."""
    expression_biases: tuple[Annotated[float, Range("(-inf, inf)")], ...] = (0.0,) * len(EXPRESSIONS)
    """Added to the log-probabilities of the 8 expressions, in the official order, before the largest is chosen."""
    fitted_on: str = ""
    """The predictions that these values were fitted on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := set(self.smoothing) - set(TASKS):
            raise ValueError(f"smoothing: unknown task {sorted(unknown)[0]!r} (tasks: {', '.join(TASKS)})")
        if len(self.au_thresholds) != len(ACTION_UNITS):
            raise ValueError(f"au_thresholds must be {len(ACTION_UNITS)} numbers between 0 and 1")
        if len(self.expression_biases) != len(EXPRESSIONS):
            raise ValueError(f"expression_biases must be {len(EXPRESSIONS)} finite numbers")

    def apply(self, videos: Videos) -> Videos:
        """New predictions, smoothed and with thresholds and biases folded in; labels stay."""
        return {name: self._apply(name, video) for name, video in videos.items()}

    def _apply(self, name: str, video: VideoPredictions) -> VideoPredictions:
        if (np.diff(video.frames) <= 0).any():
            raise UserError(f"video {name}: frame numbers must rise to be smoothed; sort the prediction file")
        outputs = {}
        for task, values in video.outputs.items():
            values = smooth(values, video.frames, self.smoothing.get(task, Smoothing()))
            outputs[task] = self.decide(task, values)
        return dataclasses.replace(video, outputs=outputs)

    def decide(self, task: str, values: np.ndarray) -> np.ndarray:
        """One task's values (N, ...) with the thresholds or biases folded in."""
        if task == AU.name and set(self.au_thresholds) != {USUAL_THRESHOLD}:
            return shift_action_units(values, np.array(self.au_thresholds))
        if task == EXPRESSION.name and any(self.expression_biases):
            return shift_expressions(values, np.array(self.expression_biases))
        return values


def fit_postprocess(videos: Videos, *, fitted_on: str = "", decisions: bool = True) -> Postprocess:
    """Fit each task's smoothing and decisions (thresholds or biases) to its official score on labelled predictions.

    A task keeps what was fitted only if that helps other videos: each half of the videos is scored with what was
    fitted on the other half. (A single source video has no halves, and everything is kept.) Without `decisions` only
    the smoothing is fitted.
    """
    fitted = fit_in_sample(videos, decisions=decisions)
    trial = cross_fitted(videos, lambda part: fit_in_sample(part, decisions=decisions).apply)
    if trial is not None:
        (before, labels), (after, _) = concatenated(videos), concatenated(trial)
        for task in before:
            scores = [task_score(task, outputs[task], labels) for outputs in (before, after)]
            if scores[1] <= scores[0]:
                fitted = _without(fitted, task)
    return dataclasses.replace(fitted, fitted_on=fitted_on)


def fit_in_sample(videos: Videos, *, decisions: bool = True) -> Postprocess:
    """Fit to the score on these very videos: decisions, then smoothing under them, then decisions again."""
    outputs, labels = concatenated(videos)
    frames = np.concatenate([video.frames for video in videos.values()])
    codes = np.repeat(np.arange(len(videos)), [len(video.frames) for video in videos.values()])
    fitted = Postprocess()
    for task, values in outputs.items():
        if np.isnan(labels[:, TASKS[task].columns]).all():
            continue
        if decisions:
            fitted = _with_decisions(fitted, task, values, labels)
        fitted = _with_smoothing(fitted, task, values, labels, frames, codes)
        if decisions and task in fitted.smoothing:
            smoothed = smooth(values, frames, fitted.smoothing[task], videos=codes)
            fitted = _with_decisions(fitted, task, smoothed, labels)
    return fitted


def _with_decisions(fitted: Postprocess, task: str, values: np.ndarray, labels: np.ndarray) -> Postprocess:
    truth = labels[:, TASKS[task].columns]
    if task == AU.name:
        thresholds = best_thresholds(values, truth, np.array(fitted.au_thresholds))
        return dataclasses.replace(fitted, au_thresholds=tuple(thresholds.tolist()))
    if task == EXPRESSION.name:
        biases = best_biases(values, truth[:, 0], np.array(fitted.expression_biases))
        return dataclasses.replace(fitted, expression_biases=tuple(biases.tolist()))
    return fitted


def _with_smoothing(
    fitted: Postprocess, task: str, values: np.ndarray, labels: np.ndarray, frames: np.ndarray, codes: np.ndarray
) -> Postprocess:
    best, chosen = task_score(task, fitted.decide(task, values), labels), None
    for kind in KINDS:
        top, falling = -np.inf, 0
        for window in WINDOWS:
            smoothing = Smoothing(kind, window)
            smoothed = fitted.decide(task, smooth(values, frames, smoothing, videos=codes))
            reached = task_score(task, smoothed, labels)
            if reached > best + GAIN:
                best, chosen = reached, smoothing
            top, falling = max(top, reached), falling + 1 if reached < top - GAIN else 0
            if falling == 2:  # wider windows only blur more
                break
    return fitted if chosen is None else dataclasses.replace(fitted, smoothing={**fitted.smoothing, task: chosen})


def _without(fitted: Postprocess, task: str) -> Postprocess:
    """The same with nothing done to one task."""
    usual = {AU.name: "au_thresholds", EXPRESSION.name: "expression_biases"}
    changes = {usual[task]: getattr(Postprocess(), usual[task])} if task in usual else {}
    smoothing = {name: kept for name, kept in fitted.smoothing.items() if name != task}
    return dataclasses.replace(fitted, smoothing=smoothing, **changes)


def save_postprocess(run: Path, postprocess: Postprocess) -> None:
    """Write `postprocess.yaml` of a run folder."""
    write_text(run / POSTPROCESS, configs.dump(postprocess))


def load_postprocess(run: Path) -> Postprocess | None:
    """Read `postprocess.yaml` of a run folder, None where there is none; UserError naming the key that does not fit."""
    path = run / POSTPROCESS
    return configs.load(Postprocess, path) if path.is_file() else None


def postprocessed(run: Path, videos: Videos) -> Videos:
    """Predictions of a run, changed as its `postprocess.yaml` says; the same where it has none."""
    stored = load_postprocess(run)
    return videos if stored is None else stored.apply(videos)


def read_postprocessed(path: Path) -> Videos:
    """A prediction file as it is; a run's predictions with the smoothing, thresholds and biases stored there."""
    if load_postprocess(path) is not None:
        log.info(f"{path}: smoothing, thresholds and biases as stored in the run")
    return postprocessed(path, read_predictions(path))


def fit_run(run: Path, fit_on: Path | None = None) -> dict[str, Any]:
    """Fit a run's postprocessing, store it, and add its scores to `scores.json`; returns the new content of that.

    Fitted on the run's own labelled predictions, or on those of `fit_on` (such as out-of-fold ones). `tuned` are the
    scores of the run's predictions with it, and `tuned_on` says whether on the labels it was fitted on. Then
    `cross_fitted` are the scores with each half of the videos changed by what was fitted on the other half.
    """
    if not run.is_dir():
        raise UserError(f"{run}: not a run folder, in which the postprocessing could be stored")
    with held_run(run):
        return fit_held_run(run, fit_on)


def fit_held_run(run: Path, fit_on: Path | None = None) -> dict[str, Any]:
    """`fit_run` for a program that holds the run folder already."""
    videos = labelled_videos(read_current(run), str(run))
    source = videos if fit_on is None else labelled_videos(read_current(fit_on), str(fit_on))
    fitted = fit_postprocess(source, fitted_on=_described(fit_on or run, source))
    by_halves = cross_fitted(videos, lambda part: fit_postprocess(part).apply) if fit_on is None else None
    scores = read_scores(run) or {"edition": "mtl", "split": "val", "best_epoch": None}
    scores |= {
        "untuned": score_videos(videos),
        "tuned": score_videos(fitted.apply(videos)),
        "tuned_on": f"other videos ({fit_on})" if source.keys().isdisjoint(videos) else "the labels scored here",
        "cross_fitted": None if by_halves is None else score_videos(by_halves),
    }
    save_postprocess(run, fitted)
    write_scores(run, scores)
    return scores


def _described(path: Path, videos: Videos) -> str:
    splits = sorted({str(video.split) for video in videos.values() if video.split})
    frames = sum(len(video.frames) for video in videos.values())
    return f"{path}: {len(videos)} videos, {frames} frames ({', '.join(splits) or 'no split'})"
