"""Scoring runs, prediction files and submissions, with or without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from abaw_seq.data.annotations import Annotations, read_annotations
from abaw_seq.errors import UserError
from abaw_seq.metrics import score
from abaw_seq.results.prediction_file import VideoPredictions, concatenated, read_predictions
from abaw_seq.tasks import ACTION_UNITS, EXPRESSIONS


def score_files(paths: list[Path], annotations: tuple[Path, ...], *, edition: str) -> dict[str, dict[str, Any]]:
    """{name: scores} of run folders and prediction files.

    Against `annotations` where given, else against the labels that the files carry.
    Raises UserError for a file without labels when there are no annotations.
    """
    if not paths:
        raise UserError("nothing to score: name run folders, or --predictions FILE")
    truth = read_annotations(*annotations) if annotations else None
    scores = {}
    for path in paths:
        videos = read_predictions(path)
        if truth is not None:
            videos = relabelled(path, videos, truth)
        if all(video.labels is None for video in videos.values()):
            raise UserError(f"{path}: holds no labels; add --annotations PATH")
        scores[_unused_name(path, scores)] = score(*concatenated(videos), edition=edition)
    return scores


def best_constant_scores(path: Path) -> dict[str, Any]:
    """What the best constant prediction scores on the labels of a prediction file.

    CCC is 0 for any constant; the expression is the one with the highest macro-F1; all action units
    are active, which no other constant beats.
    """
    _, labels = concatenated(read_predictions(path))
    rows = len(labels)
    scored = [
        score(
            {
                "valence": np.zeros(rows),
                "arousal": np.zeros(rows),
                "expression": np.full(rows, expression),
                "au": np.ones((rows, len(ACTION_UNITS))),
            },
            labels,
        )
        for expression in range(len(EXPRESSIONS))
    ]
    return max(scored, key=lambda found: found["expression"] or 0.0)


def features_of(paths: list[Path]) -> list[str]:
    """One line per set of features that the given runs used, from their `provenance.json`."""
    found = []
    for path in paths:
        if (record := path / "provenance.json").is_file():
            made = json.loads(record.read_text())
            parts = " + ".join(f"{name} ({info['dim']})" for name, info in made["backbones"].items())
            line = f"features: {parts} from {', '.join(made['features'])}"
            if line not in found:
                found.append(line)
    return found


def relabelled(path: Path, videos: dict[str, VideoPredictions], truth: Annotations) -> dict[str, VideoPredictions]:
    """The videos that the annotations name, with labels from there."""
    common = {name: video for name, video in videos.items() if name in truth.videos}
    if not common:
        raise UserError(f"{path}: the annotations name none of its videos (such as {next(iter(videos))})")
    return {
        name: VideoPredictions(v.frames, v.outputs, truth.for_frames(name, v.frames), truth.videos[name].split)
        for name, v in common.items()
    }


def _unused_name(path: Path, taken: dict) -> str:
    name = path.stem if path.is_file() and path.stem != "predictions" else (path if path.is_dir() else path.parent).name
    return name if name not in taken else str(path)
