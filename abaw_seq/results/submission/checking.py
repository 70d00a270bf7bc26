"""Submission files read back as predictions, and checked against a test list or template."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from abaw_seq.data.annotation_formats import Layout, is_video_list, recognise_header
from abaw_seq.data.label_text import Block, first_filled_line, line_error, read_blocks
from abaw_seq.data.prediction_file import VideoPredictions
from abaw_seq.errors import UserError
from abaw_seq.results.submission.writing import FILE_HEADERS, VIDEO_HEADERS, read_image_list
from abaw_seq.tasks import ACTION_UNITS, EXPRESSIONS

_INTEGER = re.compile(r"[0-9]{1,3}")


def read_submission(path: str | os.PathLike[str]) -> dict[str, VideoPredictions]:
    """Read a submission file, or a folder of one file per video, as predictions.

    An expression becomes a 1 among zeros (N, 8); units that a file does not list are NaN, units
    that have no column (AU20) are left out. A frame that comes twice keeps its first row.

    Raises UserError naming the line of the first value that no submission may hold.
    """
    path = Path(path)
    if not path.is_dir():
        return _read_file(path)
    files = sorted(path.glob("*.txt"))
    if not files:
        raise UserError(f"{path}: holds no submission files (<video>.txt)")
    return {video: predicted for file in files for video, predicted in _read_file(file).items()}


def _read_file(path: Path) -> dict[str, VideoPredictions]:
    header_line, header = first_filled_line(path)
    layout = recognise_header(header)
    if layout is None:
        raise UserError(f"{path}: no submission, its first line {header[:80]!r} is no known header")
    names: dict[str, int] | None = {} if layout.image else None
    blocks = []
    for block in read_blocks(path, first_line=header_line + 1, numbers=layout.numbers, names=names):
        _check_values(path, block, layout)
        blocks.append(block)
    if not blocks:
        raise UserError(f"{path}: holds no predictions")
    values = np.concatenate([block.values for block in blocks])
    if not layout.image:
        return {path.stem: _video(np.arange(1, len(values) + 1), values, layout)}
    codes = np.concatenate([block.codes for block in blocks])
    frames = np.concatenate([block.frames for block in blocks])
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(names) + 1))
    parts = zip(names, bounds[:-1], bounds[1:], strict=True)
    return {video: _video(frames[order[a:b]], values[order[a:b]], layout) for video, a, b in parts}


def _check_values(path: Path, block: Block, layout: Layout) -> None:
    places = np.array([-1 if column is None else column for column in layout.columns])
    values = block.values
    real = (places == 0) | (places == 1)
    most = np.where(places == 2, len(layout.classes) - 1, 1)
    wrong = np.where(real, np.abs(values) > 1, (values < 0) | (values > most) | (values != np.floor(values)))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise line_error(path, int(block.line_numbers[row]), f"{values[row, column]:g} is no prediction of this kind")


def _video(frames: np.ndarray, values: np.ndarray, layout: Layout) -> VideoPredictions:
    frames, first = np.unique(frames, return_index=True)
    values = values[first]
    outputs = {}
    if layout.task in ("mtl", "va"):
        outputs = {"valence": values[:, 0].astype(np.float32), "arousal": values[:, 1].astype(np.float32)}
    if layout.task in ("mtl", "expr"):
        index = np.array([EXPRESSIONS.index(name) for name in layout.classes])
        chosen = index[values[:, 2 if layout.task == "mtl" else 0].astype(int)]
        outputs["expression"] = np.eye(len(EXPRESSIONS), dtype=np.float32)[chosen]
    if layout.task in ("mtl", "au"):
        units = values[:, len(layout.columns) - len(layout.units) :]
        outputs["au"] = np.full((len(values), len(ACTION_UNITS)), np.nan, np.float32)
        for unit, column in zip(layout.units, units.T, strict=True):
            if unit in ACTION_UNITS:
                outputs["au"][:, ACTION_UNITS.index(unit)] = column
    return VideoPredictions(frames.astype(np.int32), outputs)


def check_submission(path: str | os.PathLike[str], reference: str | os.PathLike[str]) -> int:
    """Check a submission file against its test list or template; how many rows it holds.

    Raises UserError that names the first fault: header, a line that is missing, out of order or
    too much, a value of the wrong type or out of range.
    """
    template = read_image_list(reference)
    rows = Path(path).read_text(encoding="utf-8").split("\n")
    expected = ",".join(FILE_HEADERS[template.kind])
    _check_header(path, rows, expected)
    layout = recognise_header(expected)
    rows = _without_last_newline(rows[1:])
    for number, (row, image) in enumerate(zip(rows, template.images, strict=False), 2):
        fields = row.rstrip("\r").split(",")
        if fields[0] != image:
            raise UserError(f"{path}, line {number}: image {image} expected, {fields[0][:80]!r} found")
        _check_fields(path, number, fields[1:], layout)
    _check_count(path, len(rows), len(template.images), f"of {reference}")
    return len(rows)


def check_video_submissions(
    folder: str | os.PathLike[str], kind: str, videos: str | os.PathLike[str] | Mapping[str, int]
) -> int:
    """Check a folder of one file per video; how many rows the files hold together.

    `videos` is the list of the test set's videos, or maps each to its number of frames, which is
    then checked as well. Raises UserError that names the first fault; a file of no listed video is one.
    """
    folder = Path(folder)
    if kind not in VIDEO_HEADERS:
        raise UserError(f"no files per video of {kind!r}: one of {', '.join(VIDEO_HEADERS)}")
    lengths = videos if isinstance(videos, Mapping) else dict.fromkeys(read_video_list(videos))
    header = ",".join(VIDEO_HEADERS[kind])
    layout = recognise_header(header)
    total = 0
    for video, length in lengths.items():
        path = folder / f"{video}.txt"
        if not path.is_file():
            raise UserError(f"{path}: missing, video {video} is in the test set")
        rows = path.read_text(encoding="utf-8").split("\n")
        _check_header(path, rows, header)
        rows = _without_last_newline(rows[1:])
        for number, row in enumerate(rows, 2):
            _check_fields(path, number, row.rstrip("\r").split(","), layout)
        _check_count(path, len(rows), len(rows) if length is None else length, f"of video {video}")
        total += len(rows)
    extra = sorted({file.stem for file in folder.glob("*.txt")} - set(lengths))
    if extra:
        raise UserError(f"{folder / extra[0]}.txt: its video is not in the test set; remove the file")
    return total


def read_video_list(path: str | os.PathLike[str]) -> list[str]:
    """The names of a test set's videos, one per line."""
    text = Path(path).read_text(encoding="utf-8-sig")
    if not is_video_list(text):
        raise UserError(f"{path}: no list of videos, one name per line expected")
    return [name.rstrip(",") for name in text.split()]


def _check_header(path: str | os.PathLike[str], rows: list[str], expected: str) -> None:
    if rows[0].rstrip("\r") != expected:
        raise UserError(f"{path}, line 1: header {expected!r} expected, {rows[0][:120]!r} found")


def _without_last_newline(rows: list[str]) -> list[str]:
    return rows[:-1] if rows and not rows[-1] else rows


def _check_count(path: str | os.PathLike[str], found: int, expected: int, of: str) -> None:
    if found != expected:
        kind = "missing" if found < expected else "too many"
        line = min(found, expected) + 2
        raise UserError(f"{path}, line {line}: {abs(found - expected)} rows {kind}, {expected} {of} expected")


def _check_fields(path: str | os.PathLike[str], number: int, fields: list[str], layout: Layout) -> None:
    if len(fields) != layout.numbers:
        raise UserError(f"{path}, line {number}: {layout.numbers} values expected, {len(fields)} found")
    for text, column in zip(fields, layout.columns, strict=True):
        if column in (0, 1):
            if not _in_range(text):
                raise UserError(f"{path}, line {number}: {text[:40]!r} is no number from -1 to 1")
            continue
        most = len(layout.classes) - 1 if column == 2 else 1
        if not _INTEGER.fullmatch(text) or int(text) > most:
            raise UserError(f"{path}, line {number}: {text[:40]!r} is no whole number from 0 to {most}")


def _in_range(text: str) -> bool:
    try:
        return abs(float(text)) <= 1  # false for NaN
    except ValueError:
        return False
