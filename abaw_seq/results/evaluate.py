"""Scoring runs, prediction files and submissions, with or without a model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from abaw_seq.data.annotations import Annotations, read_annotations
from abaw_seq.data.matching import log_counting
from abaw_seq.data.prediction_file import VideoPredictions, Videos, common_tasks, score_videos
from abaw_seq.errors import UserError
from abaw_seq.metrics import EDITIONS, PARTS, bootstrap, score
from abaw_seq.results.reading import distinct_names, read_scorable, with_current_labels
from abaw_seq.run_folder import read_provenance
from abaw_seq.tasks import ACTION_UNITS, AU, EXPRESSIONS, LABEL_COLUMNS, SPLITS, TASKS


@dataclass
class Evaluation:
    """Scores of several runs and files, and what they do not cover."""

    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What `metrics.score` returns, by the name of the run or file."""
    notes: list[str] = field(default_factory=list)
    """One line for each fact that the scores alone do not show."""


def score_files(
    paths: list[Path],
    annotations: tuple[Path, ...] = (),
    *,
    edition: str = "mtl",
    split: str | None = None,
    resamples: int = 0,
    constant: bool = False,
) -> Evaluation:
    """Score run folders, prediction files and submissions (a file, or a folder of one per video).

    They are scored against `annotations` where given, else against their own labels, which are read afresh where the
    feature files of a run have other ones by now. `split` takes its videos alone. `resamples` > 0 adds "intervals" to
    each scores: 95 % intervals, from so many resamples of the videos. `constant` adds the scores of the best constant
    prediction on the labels of the first file.
    Raises UserError for an unknown edition or split, and for a file without labels when there are no annotations.
    """
    if edition not in EDITIONS:
        raise UserError(f"edition {edition} is unknown; one of {', '.join(EDITIONS)}")
    if split not in (None, *SPLITS):
        raise UserError(f"split {split} is unknown; one of {', '.join(SPLITS)}")
    if not paths:
        raise UserError("nothing to score: name run folders, prediction files or submissions")
    truth = read_annotations(*annotations) if annotations else None
    paths = list(dict.fromkeys(paths))
    result = Evaluation()
    for path, name in zip(paths, distinct_names(paths), strict=True):
        notes = []
        videos = read_scorable(path)
        if truth is not None:
            log_counting({video: one.frames for video, one in videos.items()}, truth)
            notes.append(coverage(videos, truth, edition, split))
            videos = _relabelled(path, videos, truth)
        else:
            videos, note = with_current_labels(videos, path)
            notes += [note] if note else []
        videos = _of_split(path, videos, split)
        videos, absent = _without_absent_units(videos)
        if absent and "au" in PARTS[edition]:
            notes.append(f"holds no {', '.join(absent)}, which are not scored")
        splits = sorted({video.split or "no split" for video in videos.values() if video.labels is not None})
        if len(splits) > 1:
            notes.append(f"scores the videos of {' and '.join(splits)} together; give a split to score one")
        scores = score_videos(videos, edition=edition)
        if resamples:
            scores["intervals"] = _intervals(videos, edition, resamples)
        if scores["missing"]:
            notes.append(f"no total, {'; '.join(scores['missing'])}")
        result.scores[name] = scores
        result.notes += [f"{name}: {note}" for note in notes]
        if constant and path == paths[0]:
            labels = np.concatenate([video.truth for video in videos.values()])
    if constant:
        result.scores["best constant"] = best_constant_scores(labels, edition)
    return result


def coverage(videos: Videos, truth: Annotations, edition: str, split: str | None = None) -> str:
    """How many labelled frames have no prediction, and how many predictions no label, per split in one line."""
    columns = np.r_[tuple(np.arange(len(LABEL_COLUMNS))[TASKS[task].columns] for task in PARTS[edition])]
    unpredicted, unlabelled = [], []
    for name in (*SPLITS, None):
        known = {video: one for video, one in truth.videos.items() if one.split == name}
        labelled = {video: one.frames[~np.isnan(one.labels[:, columns]).all(1)] for video, one in known.items()}
        predicted: dict[str, Any] = {
            video: truth.annotated_numbers(video, videos[video].frames) if video in videos else [] for video in known
        }
        hits = sum(int(np.isin(frames, predicted[video]).sum()) for video, frames in labelled.items())
        total = sum(map(len, labelled.values()))
        if split not in (None, name) or not (total or any(map(len, predicted.values()))):
            continue
        unpredicted.append(f"{total - hits:,} of {total:,} in {name or 'no split'}")
        unlabelled.append(f"{sum(map(len, predicted.values())) - hits:,} in {name or 'no split'}")
    others = [video.frames for name, video in videos.items() if name not in truth.videos]
    if others:
        unlabelled.append(f"{sum(map(len, others)):,} in {len(others)} videos that the annotations do not name")
    return (
        f"labelled frames without a prediction: {', '.join(unpredicted) or 'none'}; "
        f"predictions without a label: {', '.join(unlabelled) or 'none'}"
    )


def best_constant_scores(labels: np.ndarray, edition: str = "mtl") -> dict[str, Any]:
    """The scores of the best constant prediction on labels (N, 15).

    CCC is 0 for any constant, and the expression is the one with the best total. All action units are active, which no
    other constant beats in F1; where accuracy counts as well (`au2020`), each is active or not, whichever is better.
    """
    rows = len(labels)
    units = np.ones(len(ACTION_UNITS))

    def scored(expression: int) -> dict[str, Any]:
        outputs = {
            "valence": np.zeros(rows),
            "arousal": np.zeros(rows),
            "expression": np.full(rows, expression),
            "au": np.tile(units, (rows, 1)),
        }
        return score(outputs, labels, edition=edition)

    if edition == "au2020":
        for unit in range(len(units)):  # each adds to the total by itself, so one pass finds the best
            before = scored(0)["score"] or 0.0
            units[unit] = 0
            if (scored(0)["score"] or 0.0) < before:
                units[unit] = 1
    return max(map(scored, range(len(EXPRESSIONS))), key=lambda one: one["score"] or one["expression"] or 0.0)


def features_of(paths: list[Path]) -> list[str]:
    """One line per set of features that the given runs used, from their `provenance.json`."""
    lines = []
    for path in paths:
        if (made := read_provenance(path)) is not None and "features" in made:
            parts = " + ".join(f"{name} ({info['dim']})" for name, info in made["backbones"].items())
            lines.append(f"features: {parts} from {', '.join(made['features'])}")
    return list(dict.fromkeys(lines))


def _relabelled(path: Path, videos: Videos, truth: Annotations) -> Videos:
    """The videos that the annotations name, with their labels."""
    common = {name: video for name, video in videos.items() if name in truth.videos}
    if not common:
        raise UserError(f"{path}: the annotations name none of its videos (such as {next(iter(videos))})")
    return {
        name: VideoPredictions(v.frames, v.outputs, truth.for_frames(name, v.frames), truth.videos[name].split)
        for name, v in common.items()
    }


def _of_split(path: Path, videos: Videos, split: str | None) -> Videos:
    chosen = {name: video for name, video in videos.items() if split is None or video.split == split}
    if not chosen:
        raise UserError(f"{path}: holds no video of the split {split}")
    if all(video.labels is None for video in chosen.values()):
        raise UserError(f"{path}: holds no labels; give annotations to score against")
    return chosen


def _without_absent_units(videos: Videos) -> tuple[Videos, list[str]]:
    """The videos without the labels of action units that are never predicted (NaN throughout), and these units."""
    with_units = [video.outputs["au"] for video in videos.values() if "au" in video.outputs]
    absent = np.all([np.isnan(values).all(0) for values in with_units], 0) if with_units else np.zeros(0, bool)
    if not absent.any():
        return videos, []
    result = {}
    for name, video in videos.items():
        labels = video.truth.copy()
        labels[:, AU.columns][:, absent] = np.nan
        result[name] = video if video.labels is None else replace(video, labels=labels)
    return result, [unit for unit, gone in zip(ACTION_UNITS, absent, strict=True) if gone]


def _intervals(videos: Videos, edition: str, resamples: int) -> dict[str, tuple[float, float] | None]:
    tasks = common_tasks(videos)
    predicted = {name: {task: video.outputs[task] for task in tasks} for name, video in videos.items()}
    labels = {name: video.truth for name, video in videos.items()}
    intervals = {}
    for part in ("score", *TASKS):
        intervals[part] = bootstrap(predicted, labels, edition=edition, part=part, resamples=resamples)
    return intervals | {"p_mtl": intervals["score"] if edition == "mtl" else None}
