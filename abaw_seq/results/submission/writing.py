"""The official submission files, written from predictions.

A frame that is asked for and has no prediction (no image, no face) is filled from the nearest predicted frame of its
video, the earlier of two; with `fill="interpolate"` its valence and arousal are on the line between the predicted
frames around it instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from abaw_seq.data.annotation_formats import ACTION_UNITS_2020
from abaw_seq.data.annotation_join import counted_from_zero
from abaw_seq.data.nearest import nearest_rows
from abaw_seq.data.prediction_file import VideoPredictions
from abaw_seq.errors import UserError
from abaw_seq.files import write_lines
from abaw_seq.metrics import CLASSES_2020, USUAL_THRESHOLD
from abaw_seq.results.submission.checking import check_submission
from abaw_seq.results.submission.wanted import Wanted
from abaw_seq.tasks import ACTION_UNITS, EXPRESSIONS

FILLS = {
    "nearest": "from the nearest predicted frame",
    "interpolate": "from the nearest predicted frame, valence and arousal on the line between its neighbours",
}


def write_checked(
    output: Path, wanted: Wanted, predictions: Mapping[str, VideoPredictions], *, fill: str = "nearest"
) -> str:
    """Write what is wanted to `output` (a file, or a folder for one file per video) and check it; one line about it."""
    filled = write_submission(output, wanted, predictions, fill=fill)
    rows = check_submission(output, wanted)
    return f"{output}: {rows:,} rows, checked against {wanted.source}; {filled:,} filled {FILLS[fill]}"


def write_submission(
    output: Path, wanted: Wanted, predictions: Mapping[str, VideoPredictions], *, fill: str = "nearest"
) -> int:
    """Write a row for each wanted one, in their order, duplicates too; returns how many were filled from other frames.

    An edition of 7 classes gets the likeliest of these; AU20 of `au2020`, which is not among the twelve units, is
    written as not active. Raises UserError for a video without predictions, or without those of the task.
    """
    if fill not in FILLS:
        raise UserError(f"unknown fill {fill!r}: one of {', '.join(FILLS)}")
    if unknown := [Path(name).stem for name, rows in wanted.files.items() if rows.frames is None]:
        raise UserError(f"{wanted.source}: the length of video {unknown[0]} is not known; name a file of lengths")
    filled = 0
    for name, rows in wanted.files.items():
        assert rows.frames is not None  # their number was checked above
        lines = np.empty(len(rows.frames), dtype="O")
        for video, places in rows.places.items():
            if video not in predictions or not len(predictions[video].frames):
                raise UserError(f"no predictions of video {video}, which {wanted.source} asks for: predict it first")
            frames, predicted = rows.frames[places], predictions[video]
            if rows.images is None:  # line k of the file is frame k
                predicted = replace(predicted, frames=_counted_from_one(video, predicted.frames, len(frames)))
            lines[places] = _numbers(wanted.kind, video, predicted, frames, fill)
            filled += int(np.isin(frames, predicted.frames, invert=True).sum())
        if rows.images is not None:
            lines = [f"{image},{line}" for image, line in zip(rows.images, lines, strict=True)]
        write_lines(Path(output) / name, [",".join(wanted.header), *lines])
    return filled


def _counted_from_one(video: str, frames: np.ndarray, length: int) -> np.ndarray:
    """Frame numbers (N,) as a file with a line per frame counts them; UserError where that is not certain."""
    from_zero = counted_from_zero(frames, length)
    if from_zero is None:
        raise UserError(
            f"the predictions of video {video} are of frames 0 to {frames.max()}, and it has {length} frames: which "
            "line is frame 0 is not certain; number the frames from 1 and predict again"
        )
    return frames + from_zero


def _numbers(kind: str, video: str, predicted: VideoPredictions, wanted: np.ndarray, fill: str) -> list[str]:
    """The numbers of each wanted frame as text."""
    columns: list[list[str]] = []
    order = np.argsort(predicted.frames, kind="stable")
    frames = predicted.frames[order]
    nearest = order[nearest_rows(frames, wanted)]

    def output(task: str) -> np.ndarray:
        if task not in predicted.outputs:
            raise UserError(f"the predictions of video {video} hold no {task}, which the submission needs")
        return np.asarray(predicted.outputs[task])

    if kind in ("mtl", "va"):
        for task in ("valence", "arousal"):
            values = output(task)
            line = np.interp(wanted, frames, values[order]) if fill == "interpolate" else values[nearest]
            columns.append([f"{value:.6f}" for value in np.clip(line, -1, 1)])
    if kind in ("mtl", "expr", "expr2020"):
        classes = CLASSES_2020 if kind == "expr2020" else len(EXPRESSIONS)
        columns.append([str(k) for k in output("expression")[nearest, :classes].argmax(1)])
    if kind in ("mtl", "au", "au2020"):
        active = output("au")[nearest] >= USUAL_THRESHOLD
        units = dict(zip(ACTION_UNITS, active.T, strict=True))
        inactive = np.zeros(len(wanted), bool)
        listed = ACTION_UNITS_2020 if kind == "au2020" else ACTION_UNITS
        columns += [["1" if on else "0" for on in units.get(unit, inactive)] for unit in listed]
    return [",".join(row) for row in zip(*columns, strict=True)]
