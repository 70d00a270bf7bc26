"""The table of predictions that `predict` writes beside its HDF5 file, read back.

A line per frame: `video,frame`, then for each task its value or values, as `table_columns` names them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from abaw_seq.data.folder import video_name
from abaw_seq.data.text_file import line_error, table_rows
from abaw_seq.errors import UserError
from abaw_seq.tasks import ACTION_UNITS, EXPRESSIONS, TASKS

PLACE_COLUMNS = ["video", "frame"]
ROWS_AT_ONCE = 8192
_FRAME = re.compile(r"[0-9]{1,9}")

Table = tuple[np.ndarray, dict[str, np.ndarray]]
"""Frame numbers int32 (N,) and {task: float32 (N, ...)} of one video."""


def table_columns(task: str) -> list[str]:
    """The names of a task's columns; the expression has its class before its probabilities."""
    names = {"expression": ["expression", *(f"p_{e}" for e in EXPRESSIONS)], "au": list(ACTION_UNITS)}
    return names.get(task, [task])


def is_prediction_table(path: Path) -> bool:
    """True for a text file whose first line that is not blank starts with `video,frame`."""
    return [name.lower() for name in _header(path)[1][:2]] == PLACE_COLUMNS


def _header(path: Path) -> tuple[int, list[str]]:
    filled = ((number, fields) for number, fields in islice(table_rows(path), 100) if any(fields))
    return next(filled, (0, []))


def read_table(path: Path) -> dict[str, Table]:
    """{video: frame numbers and outputs} of a table of predictions; the columns of its tasks may stand in any order.

    Raises UserError naming the column that is missing, or the line that is not a video, its frame and finite numbers.
    """
    first, names = _header(path)
    places = {name.lower(): k for k, name in enumerate(names)}
    tasks = {task: table_columns(task) for task in TASKS}
    tasks = {task: columns for task, columns in tasks.items() if any(name.lower() in places for name in columns)}
    wanted = [name for columns in tasks.values() for name in columns]
    if missing := [name for name in wanted if name.lower() not in places]:
        raise UserError(f"{path}, line {first}: column {missing[0]} is missing; predict again, or name the HDF5 file")
    if not wanted:
        raise UserError(f"{path}, line {first}: holds no predictions of {', '.join(TASKS)}")
    codes, frames, values = _numbers(path, first, len(names), [places[name.lower()] for name in wanted])
    tables = {}
    bounds = np.cumsum([0, *map(len, tasks.values())])
    for video, code in codes.items():
        rows = np.flatnonzero(frames[:, 0] == code)
        parts = (values[rows, a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True))
        outputs = {task: _output(task, part) for task, part in zip(tasks, parts, strict=True)}
        tables[video] = frames[rows, 1].astype(np.int32), outputs
    return tables


def _numbers(path: Path, first: int, fields: int, columns: list[int]) -> tuple[dict[str, int], np.ndarray, np.ndarray]:
    """({video: its code}, code and frame number of each row int64 (N, 2), its numbers float32 (N, columns))."""
    codes: dict[str, int] = {}
    places, values = [], []
    rows = ((n, row) for n, row in table_rows(path) if n > first and any(row))
    while chunk := list(islice(rows, ROWS_AT_ONCE)):
        for number, row in chunk:
            if row[fields:] and not any(row[fields:]):
                del row[fields:]
            if len(row) != fields:
                raise line_error(path, number, f"{fields} fields expected, not {len(row)}")
            name = video_name(row[0])
            if not name or not name.isprintable() or not _FRAME.fullmatch(row[1]):
                raise line_error(path, number, "does not start with a video and the number of a frame")
            places.append((codes.setdefault(name, len(codes)), int(row[1])))
        values.append(np.array(list(_floats(path, chunk, columns)), np.float32))
    if not places:
        raise UserError(f"{path}: holds no predictions below its header")
    return codes, np.array(places, np.int64), np.concatenate(values)


def _floats(path: Path, chunk: list[tuple[int, list[str]]], columns: list[int]) -> Iterator[list[float]]:
    for number, row in chunk:
        try:
            numbers = [float(row[k]) for k in columns]
        except ValueError:
            raise line_error(path, number, "holds a field that is not a number") from None
        if not all(abs(n) < 1e6 for n in numbers):
            raise line_error(path, number, "holds NaN, infinity or a number too large")
        yield numbers


def _output(task: str, values: np.ndarray) -> np.ndarray:
    """A task's values as a prediction file has them; the class decides between probabilities that are rounded alike."""
    if task != "expression":
        return values if task == "au" else values[:, 0]
    probabilities = np.ascontiguousarray(values[:, 1:])
    top, rows = probabilities.max(1), np.arange(len(values))
    chosen = np.clip(values[:, 0], 0, len(EXPRESSIONS) - 1).astype(int)
    tied = probabilities[rows, chosen] == top
    probabilities[rows[tied], chosen[tied]] = np.nextafter(top[tied], np.float32(np.inf))
    return probabilities
