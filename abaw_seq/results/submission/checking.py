"""Submission files read back as predictions, and checked as strictly as the organisers may.

Reading takes whatever can be scored: headers in any case, commas at the end of a line, label files. A check looks at
the text itself: it refuses these, and class numbers such as `7.0`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from abaw_seq.data.annotation_formats import Layout, recognise_header
from abaw_seq.data.folder import has_suffix, list_folder, video_name
from abaw_seq.data.label_text import Block, first_filled_line, line_error, read_blocks
from abaw_seq.data.prediction_file import VideoPredictions, Videos
from abaw_seq.errors import UserError
from abaw_seq.metrics import PARTS
from abaw_seq.results.submission.wanted import Rows, Wanted, places_of
from abaw_seq.tasks import EXPRESSIONS, LABEL_COLUMNS, TASKS

_INTEGER = re.compile(r"[0-9]{1,3}")


def read_submission(path: str | os.PathLike[str]) -> Videos:
    """Read a submission file, or a folder of one file per video, as predictions.

    An expression becomes a 1 among zeros (N, 8). Units that a file does not list are NaN; AU20 of the 2020 edition is
    left out. A frame that comes twice keeps its first row.

    Raises UserError naming the line of the first value that is not a prediction.
    """
    path = Path(path)
    files = submission_files(path) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path}: holds no submission files (<video>.txt)")
    return {video: predictions for file in files for video, predictions in _read_file(file).items()}


def submission_files(folder: Path) -> list[Path]:
    """The files of a folder that has one submission file per video, by name."""
    return [folder / name for name in list_folder(folder).files if has_suffix(name, (".txt",))]


def _read_file(path: Path) -> Videos:
    header_line, header = first_filled_line(path)
    layout = recognise_header(header)
    if layout is None:
        raise UserError(f"{path}: not a submission: its first line {header[:80]!r} is not a known header")
    names: dict[str, int] | None = {} if layout.image else None
    blocks = []
    for block in read_blocks(path, first_line=header_line + 1, numbers=layout.numbers, names=names):
        _check_values(path, block, layout)
        blocks.append(block)
    if not blocks:
        raise UserError(f"{path}: holds no predictions")
    codes, frames, values = map(np.concatenate, zip(*[(b.codes, b.frames, b.values) for b in blocks], strict=True))
    if names is None:  # line k is frame k of the video that the file is named for
        names, frames = {video_name(path.stem): 0}, np.arange(1, len(values) + 1)
    return {video: _video(frames[rows], values[rows], layout) for video, rows in places_of(names, codes).items()}


def _largest(layout: Layout) -> list[int | None]:
    """The largest whole number of each column; None for valence and arousal, which are numbers from -1 to 1."""
    largest: dict[int | None, int | None] = {0: None, 1: None, 2: len(layout.classes) - 1}
    return [largest.get(column, 1) for column in layout.columns]


def _check_values(path: Path, block: Block, layout: Layout) -> None:
    largest, values = np.array(_largest(layout), float), block.values
    whole = (values >= 0) & (values <= largest) & (values == np.floor(values))
    wrong = ~np.where(np.isnan(largest), np.abs(values) <= 1, whole)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        reason = f"{values[row, column]:g} is not a prediction of this kind"
        raise line_error(path, int(block.line_numbers[row]), reason)


def _video(frames: np.ndarray, values: np.ndarray, layout: Layout) -> VideoPredictions:
    frames, first = np.unique(frames, return_index=True)
    table = np.full((len(frames), len(LABEL_COLUMNS)), np.nan, np.float32)
    for column, numbers in zip(layout.columns, values[first].T, strict=True):
        if column is not None:
            table[:, column] = numbers
    outputs = {task: table[:, TASKS[task].columns] for task in PARTS[layout.task]}
    if "expression" in outputs:
        one_hot = np.eye(len(EXPRESSIONS), dtype=np.float32)[[EXPRESSIONS.index(name) for name in layout.classes]]
        outputs["expression"] = one_hot[outputs["expression"][:, 0].astype(int)]
    for task in outputs.keys() & {"valence", "arousal"}:
        outputs[task] = outputs[task][:, 0]
    return VideoPredictions(frames.astype(np.int32), outputs)


def check_submission(path: str | os.PathLike[str], wanted: Wanted) -> int:
    """Check a submission file, or a folder of one file per video; returns the number of rows.

    Raises UserError for the first fault: a file that is missing or superfluous, its header, a line that is missing,
    superfluous or out of order, a value of the wrong type or out of range.
    """
    files = {Path(path) / name: rows for name, rows in wanted.files.items()}
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: no such submission file, and {wanted.source} asks for it")
    total = sum(_check_file(file, wanted, rows) for file, rows in files.items())
    for file in sorted(set(submission_files(Path(path)) if Path(path).is_dir() else ()) - files.keys()):
        raise UserError(f"{file}: its video is not in the test set; remove the file")
    return total


def _check_file(path: Path, wanted: Wanted, rows: Rows) -> int:
    first, *lines = path.read_text(encoding="utf-8").split("\n")
    header = ",".join(wanted.header)
    if first.rstrip("\r") != header:
        raise UserError(f"{path}, line 1: header {header!r} expected, not {first[:120]!r}")
    if lines and not lines[-1]:
        lines.pop()
    layout = recognise_header(header)
    assert layout is not None, f"{header} is a header of the challenge"
    largest = _largest(layout)
    expected = len(lines) if rows.frames is None else len(rows.frames)
    for k, line in enumerate(lines[:expected]):
        fields = line.rstrip("\r").split(",")
        if rows.images is not None and (image := fields.pop(0)) != rows.images[k]:
            raise UserError(f"{path}, line {k + 2}: image {rows.images[k]} expected, not {image[:80]!r}")
        if len(fields) != layout.numbers:
            raise UserError(f"{path}, line {k + 2}: {layout.numbers} values expected, not {len(fields)}")
        for text, most in zip(fields, largest, strict=True):
            if most is None and not _in_range(text):
                raise UserError(f"{path}, line {k + 2}: {text[:40]!r} is not a number from -1 to 1")
            if most is not None and not (_INTEGER.fullmatch(text) and int(text) <= most):
                raise UserError(f"{path}, line {k + 2}: {text[:40]!r} is not a whole number from 0 to {most}")
    if len(lines) != expected:
        kind = "missing" if len(lines) < expected else "too many"
        line = min(len(lines), expected) + 2
        raise UserError(f"{path}, line {line}: {abs(len(lines) - expected)} rows {kind}, {expected} are expected")
    return len(lines)


def _in_range(text: str) -> bool:
    try:
        return abs(float(text)) <= 1  # false for NaN
    except ValueError:
        return False
