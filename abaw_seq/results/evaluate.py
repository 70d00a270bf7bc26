"""Scoring runs, prediction files and submissions, with or without a model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from abaw_seq.data.annotations import Annotations, read_annotations
from abaw_seq.data.prediction_file import VideoPredictions, concatenated, read_predictions
from abaw_seq.errors import UserError
from abaw_seq.metrics import EDITIONS, PARTS, bootstrap, score
from abaw_seq.results.submission.checking import read_submission
from abaw_seq.run_folder import PREDICTIONS, read_provenance
from abaw_seq.tasks import ACTION_UNITS, AU, EXPRESSIONS, LABEL_COLUMNS, SPLITS, TASKS

HDF5_SUFFIXES = (".h5", ".hdf5")
INTERVAL_OF = ("score", "valence", "arousal", "expression", "au")


@dataclass
class Evaluation:
    """`scores` by name; `notes`: one line for everything that a score does not cover."""

    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


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

    Against `annotations` where given, else against the labels that the files carry; `split`
    restricts to its videos. `resamples` > 0 adds to each scores "intervals", the 95 % intervals over
    videos. `constant` adds what the best constant scores on the labels of the first file.
    Raises UserError for an unknown edition, and for a file without labels when there are no annotations.
    """
    if edition not in EDITIONS:
        raise UserError(f"--edition {edition}: unknown; one of {', '.join(EDITIONS)}")
    if split not in (None, *SPLITS):
        raise UserError(f"--split {split}: unknown; one of {', '.join(SPLITS)}")
    if not paths:
        raise UserError("nothing to score: name run folders, or --predictions FILE")
    truth = read_annotations(*annotations) if annotations else None
    found = Evaluation()
    for path in paths:
        name = _unused_name(path, found.scores)
        videos = read_scorable(path)
        if truth is not None:
            found.notes.append(f"{name}: {coverage(videos, truth, edition, split)}")
            videos = _relabelled(path, videos, truth)
        videos = _of_split(path, videos, split)
        videos, absent = _without_absent_units(videos)
        if absent and "au" in PARTS[edition]:
            found.notes.append(f"{name}: holds no {', '.join(absent)}, which are not scored")
        splits = sorted({video.split or "no split" for video in videos.values() if video.labels is not None})
        if len(splits) > 1:
            found.notes.append(f"{name}: scores the videos of {' and '.join(splits)} together; --split takes one")
        scores = score(*concatenated(videos), edition=edition)
        if resamples:
            scores["intervals"] = _intervals(videos, edition, resamples)
        if scores["missing"]:
            found.notes.append(f"{name}: no total, {'; '.join(scores['missing'])}")
        found.scores[name] = scores
        if constant and path == paths[0]:
            labels = concatenated(videos)[1]
    if constant:
        found.scores["best constant"] = best_constant_scores(labels, edition)
    return found


def read_scorable(path: Path) -> dict[str, VideoPredictions]:
    """The predictions of a run folder, a prediction file, or a submission, told apart by their content."""
    if path.is_dir() and not (path / PREDICTIONS).exists() and any(path.glob("*.txt")):
        return read_submission(path)
    if path.is_file() and path.suffix not in HDF5_SUFFIXES and not h5py.is_hdf5(path):
        return read_submission(path)
    return read_predictions(path)


def coverage(videos: dict[str, VideoPredictions], truth: Annotations, edition: str, split: str | None = None) -> str:
    """How labelled and predicted frames meet, per split, in one line: what is on one side only is not scored."""
    columns = np.r_[tuple(np.arange(len(LABEL_COLUMNS))[TASKS[task].columns] for task in PARTS[edition])]
    unpredicted, unlabelled = [], []
    for name in (*SPLITS, None):
        known = {video: one for video, one in truth.videos.items() if one.split == name}
        labelled = {video: one.frames[~np.isnan(one.labels[:, columns]).all(1)] for video, one in known.items()}
        predicted = {video: videos[video].frames if video in videos else [] for video in known}
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
    """What the best constant prediction scores on labels (N, 15).

    CCC is 0 for any constant; the expression is the one with the best total. All action units
    are active, which no other constant beats in F1; where accuracy counts as well (`au2020`), each
    is as suits it.
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
        for unit in range(len(units)):  # they add to the total one by one, so this order finds the best
            before = scored(0)["score"] or 0.0
            units[unit] = 0
            if (scored(0)["score"] or 0.0) < before:
                units[unit] = 1
    return max(map(scored, range(len(EXPRESSIONS))), key=lambda found: found["score"] or found["expression"] or 0.0)


def features_of(paths: list[Path]) -> list[str]:
    """One line per set of features that the given runs used, from their `provenance.json`."""
    found = []
    for path in paths:
        if (made := read_provenance(path)) is not None and "features" in made:
            parts = " + ".join(f"{name} ({info['dim']})" for name, info in made["backbones"].items())
            line = f"features: {parts} from {', '.join(made['features'])}"
            if line not in found:
                found.append(line)
    return found


def _relabelled(path: Path, videos: dict[str, VideoPredictions], truth: Annotations) -> dict[str, VideoPredictions]:
    """The videos that the annotations name, with labels from there."""
    common = {name: video for name, video in videos.items() if name in truth.videos}
    if not common:
        raise UserError(f"{path}: the annotations name none of its videos (such as {next(iter(videos))})")
    return {
        name: VideoPredictions(v.frames, v.outputs, truth.for_frames(name, v.frames), truth.videos[name].split)
        for name, v in common.items()
    }


def _of_split(path: Path, videos: dict[str, VideoPredictions], split: str | None) -> dict[str, VideoPredictions]:
    chosen = {name: video for name, video in videos.items() if split is None or video.split == split}
    if not chosen:
        raise UserError(f"{path}: holds no video of the split {split}")
    if all(video.labels is None for video in chosen.values()):
        raise UserError(f"{path}: holds no labels; add --annotations PATH")
    return chosen


def _without_absent_units(
    videos: dict[str, VideoPredictions],
) -> tuple[dict[str, VideoPredictions], list[str]]:
    """The videos without the labels of action units that are never predicted (NaN throughout), and these units."""
    with_units = [video.outputs["au"] for video in videos.values() if "au" in video.outputs]
    absent = np.all([np.isnan(values).all(0) for values in with_units], 0) if with_units else np.zeros(0, bool)
    if not absent.any():
        return videos, []
    result = {}
    for name, video in videos.items():
        labels = None if video.labels is None else video.labels.copy()
        if labels is not None:
            labels[:, AU.columns][:, absent] = np.nan
        result[name] = replace(video, labels=labels)
    return result, [unit for unit, gone in zip(ACTION_UNITS, absent, strict=True) if gone]


def _intervals(
    videos: dict[str, VideoPredictions], edition: str, resamples: int
) -> dict[str, tuple[float, float] | None]:
    tasks = concatenated(videos)[0].keys()
    predicted = {name: {task: video.outputs[task] for task in tasks} for name, video in videos.items()}
    blank = {name: np.full((len(v.frames), len(LABEL_COLUMNS)), np.nan, np.float32) for name, v in videos.items()}
    labels = {name: blank[name] if video.labels is None else video.labels for name, video in videos.items()}
    found = {
        part: bootstrap(predicted, labels, edition=edition, part=part, resamples=resamples) for part in INTERVAL_OF
    }
    return found | {"p_mtl": found["score"] if edition == "mtl" else None}


def _unused_name(path: Path, taken: dict) -> str:
    name = path.stem if path.is_file() and path.stem != "predictions" else (path if path.is_dir() else path.parent).name
    return name if name not in taken else str(path)
