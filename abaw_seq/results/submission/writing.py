"""The official submission files, written from predictions.

| kind | file | header |
| --- | --- | --- |
| `mtl` | one file in the order of the test list | `image,valence,arousal,expression,aus` |
| `va`, `expr`, `au` | one file in the order of the template (editions 5 on) | `image_location`, names |
| the same, `expr2020`, `au2020` | one `<video>.txt` per video (editions 1 to 3) | the names |

A frame that is asked for and has no prediction (no image, no face) is filled from the nearest predicted frame of its
video, the earlier of two; with `fill="interpolate"` its valence and arousal are on the line between the predicted
frames around it instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from abaw_seq.data.annotation_formats import ACTION_UNITS_2020, MTL_HEADER, recognise_header
from abaw_seq.data.label_text import first_filled_line, read_blocks
from abaw_seq.data.nearest import nearest_rows
from abaw_seq.data.prediction_file import VideoPredictions
from abaw_seq.errors import UserError
from abaw_seq.files import write_lines
from abaw_seq.metrics import CLASSES_2020, USUAL_THRESHOLD
from abaw_seq.tasks import ACTION_UNITS, EXPRESSIONS

FILLS = {
    "nearest": "from the nearest predicted frame",
    "interpolate": "from the nearest predicted frame, valence and arousal on the line between its neighbours",
}
VIDEO_HEADERS = {
    "va": ("valence", "arousal"),
    "expr": EXPRESSIONS,
    "au": ACTION_UNITS,
    "expr2020": EXPRESSIONS[:CLASSES_2020],
    "au2020": ACTION_UNITS_2020,
}
FILE_HEADERS = {"mtl": MTL_HEADER} | {kind: ("image_location", *VIDEO_HEADERS[kind]) for kind in ("va", "expr", "au")}


@dataclass(frozen=True)
class Written:
    """How many rows a submission has, and how many of them were filled from other frames."""

    rows: int
    filled: int


@dataclass(frozen=True)
class ImageList:
    """A test list or template."""

    path: Path
    kind: str
    """The key of its header in `FILE_HEADERS`."""
    images: list[str]
    """The image path of each line, as written."""
    frames: np.ndarray
    """The frame number of each line."""
    places: dict[str, np.ndarray]
    """{video: indices of its lines}."""


def read_image_list(path: str | os.PathLike[str]) -> ImageList:
    """Read a test list or template; what follows the image path on a line does not matter."""
    path = Path(path)
    header_line, header = first_filled_line(path)
    layout = recognise_header(header)
    if layout is None or not layout.image:
        raise UserError(f"{path}: not a test list or template: its first line is {header[:80]!r}")
    names: dict[str, int] = {}
    blocks = list(read_blocks(path, first_line=header_line + 1, numbers=0, names=names))
    if not blocks:
        raise UserError(f"{path}: lists no images")
    rows = path.read_bytes().decode("utf-8-sig").split("\n")[header_line:]
    images = [row.split(",")[0].strip() for row in rows if row.strip(" \t\r,")]
    codes, frames = (np.concatenate([getattr(b, part) for b in blocks]) for part in ("codes", "frames"))
    return ImageList(path, layout.task, images, frames, places_of(names, codes))


def places_of(names: Iterable[str], codes: np.ndarray) -> dict[str, np.ndarray]:
    """{name: indices of its rows, rising}, from the rows' codes (N,), which are positions in the names."""
    names = list(names)
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(1, len(names)))
    return dict(zip(names, np.split(order, bounds), strict=True))


def write_submission(
    path: str | os.PathLike[str],
    template: ImageList,
    predictions: Mapping[str, VideoPredictions],
    *,
    thresholds: float | Sequence[float] = USUAL_THRESHOLD,
    fill: str = "nearest",
) -> Written:
    """Write the file for a test list or template: a row for each of its lines, in its order, duplicates too.

    Action units are active from the threshold on, one for all or one per unit. Raises UserError for a video without
    predictions, or without those of the task.
    """
    rows = np.empty(len(template.images), object)
    filled = 0
    for video, places in template.places.items():
        predicted = _predictions_of(video, predictions, f"which {template.path} asks for")
        rows[places] = _rows(template.kind, video, predicted, template.frames[places], thresholds, fill)
        filled += int(np.isin(template.frames[places], predicted.frames, invert=True).sum())
    text = (f"{image},{row}" for image, row in zip(template.images, rows, strict=True))
    write_lines(path, [",".join(FILE_HEADERS[template.kind]), *text])
    return Written(len(rows), filled)


def write_video_submissions(
    folder: str | os.PathLike[str],
    kind: str,
    lengths: Mapping[str, int],
    predictions: Mapping[str, VideoPredictions],
    *,
    thresholds: float | Sequence[float] = USUAL_THRESHOLD,
    fill: str = "nearest",
) -> Written:
    """Write one `<video>.txt` for each video of `lengths`, with a row for each frame from 1 to its length.

    `kind` is one of `VIDEO_HEADERS`. An edition of 7 classes gets the likeliest of these; AU20 of `au2020`, which is
    not among the twelve units, is written as not active.
    """
    check_kind(kind)
    filled = 0
    for video, length in lengths.items():
        if Path(video).name != video or video in ("", ".", ".."):
            raise UserError(f"video name {video!r} cannot be a file name")
        predicted = _predictions_of(video, predictions, "which was asked for")
        wanted = np.arange(1, length + 1)
        rows = _rows(kind, video, predicted, wanted, thresholds, fill)
        write_lines(Path(folder) / f"{video}.txt", [",".join(VIDEO_HEADERS[kind]), *rows])
        filled += int(np.isin(wanted, predicted.frames, invert=True).sum())
    return Written(sum(lengths.values()), filled)


def check_kind(kind: str) -> None:
    """UserError unless there are submissions of one file per video of this kind."""
    if kind not in VIDEO_HEADERS:
        raise UserError(f"no files per video of {kind!r}: one of {', '.join(VIDEO_HEADERS)}")


def _predictions_of(video: str, predictions: Mapping[str, VideoPredictions], why: str) -> VideoPredictions:
    if video not in predictions or not len(predictions[video].frames):
        raise UserError(f"no predictions of video {video}, {why}: predict it first")
    return predictions[video]


def _rows(
    kind: str,
    video: str,
    predicted: VideoPredictions,
    wanted: np.ndarray,
    thresholds: float | Sequence[float],
    fill: str,
) -> list[str]:
    """The numbers of each wanted frame as text."""
    if fill not in FILLS:
        raise UserError(f"unknown fill {fill!r}: one of {', '.join(FILLS)}")
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
        active = output("au")[nearest] >= np.asarray(thresholds)
        units = dict(zip(ACTION_UNITS, active.T, strict=True))
        inactive = np.zeros(len(wanted), bool)
        listed = ACTION_UNITS_2020 if kind == "au2020" else ACTION_UNITS
        columns += [["1" if on else "0" for on in units.get(unit, inactive)] for unit in listed]
    return [",".join(row) for row in zip(*columns, strict=True)]
