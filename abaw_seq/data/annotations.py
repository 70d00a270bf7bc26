"""Official label files <-> arrays with NaN where there is no label.

Every edition's files are recognised by their content and joined by video and frame number. This
is the one file that knows how the data set writes "no label": -5 for valence and arousal, -1 for
expressions and action units.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from abaw_seq.data.annotation_formats import (
    MTL_HEADER,
    TEXT_SUFFIXES,
    Layout,
    is_video_list,
    recognise_header,
    split_of_file,
    split_of_folder,
    starts_with_image,
)
from abaw_seq.data.annotation_join import Part, join_parts, unique_frames
from abaw_seq.data.folder import has_suffix, log_passed_over, on_disk, video_name, walk
from abaw_seq.data.label_text import Block, first_filled_line, line_error, read_blocks
from abaw_seq.data.video_labels import Annotations, VideoLabels
from abaw_seq.errors import UserError
from abaw_seq.files import write_lines
from abaw_seq.tasks import EXPRESSION, EXPRESSIONS, LABEL_COLUMNS

log = logging.getLogger(__name__)

Parts = Iterator[tuple[str, Part]]
"""Names of videos and their rows of one file."""

NO_VALENCE_AROUSAL = -5.0
NO_CLASS = -1.0
NO_UNIT = -1.0


class _Reading:
    """The parts of every video in the order in which they were read, and the counts."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Part]] = {}
        self.counts: Counter[str] = Counter()
        self.seen: set[Path] = set()
        self.passed_over: list[Path] = []

    def add(self, video: str, part: Part) -> None:
        self.parts.setdefault(video_name(video), []).append(part)

    def count_lines(self, block: Block) -> None:
        self.counts["lines that end with a comma"] += block.trailing_commas
        self.counts["blank lines skipped"] += block.blank_lines


def read_annotations(*paths: str | os.PathLike[str]) -> Annotations:
    """Read label files, or folders of them, of any edition and join them by video and frame number.

    Multi-task files, per-task folders, lists and templates of test sets are recognised by their
    content; `annotation_formats` says how, and `folder.is_dropping` what counts for nothing in a folder. A
    frame that comes twice keeps, column by column, the first label that was read, in the order of the
    arguments. Files of one folder must not disagree about a frame.

    A video that is in several splits counts as val before train, and as test only if no file has
    labels for it. Labels from another split than the video's are left out, so that a validation score
    covers the official validation labels and nothing else.

    Raises UserError for a path that does not exist, for a file that holds no annotations, for a line that
    cannot be read, with its number and text, and for two files of a folder that disagree about a frame.

    >>> annotations = read_annotations("annotations")
    >>> annotations.videos["video1"].split, annotations.videos["video1"].labels.shape
    ('val', (120, 15))
    """
    reading = _Reading()
    for argument, path in enumerate(map(Path, paths)):
        for file in _files(on_disk(path), reading):
            _read_file(file, path if path != file else path.parent, argument, path == file, reading)
    if not reading.parts:
        where = ", ".join(str(path) for path in paths) or "nothing"
        raise UserError(f"no annotations in {where}: give a multi-task file, or a folder of VA, EXPR or AU files")
    log_passed_over(reading.passed_over, "annotations")
    joined = {video: join_parts(video, parts, reading.counts) for video, parts in sorted(reading.parts.items())}
    if disagreements := [one.disagreement for one in joined.values() if one.disagreement]:
        log.warning(f"{disagreements[0]}: the first file's labels are kept ({len(disagreements)} such videos)")
    videos = {video: VideoLabels(one.frames, one.labels, one.split, one.by_line) for video, one in joined.items()}
    return Annotations(videos, +reading.counts, tuple(map(str, paths)))


def _files(path: Path, reading: _Reading) -> Iterator[Path]:
    """The text files at a path, each file once."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder of annotations")
    files = [path]
    if path.is_dir():
        folders = list(walk(path))
        entries = sorted(one.path / name for one in folders for name in one.files)
        files = [file for file in entries if has_suffix(file.name, TEXT_SUFFIXES)]
        reading.passed_over += [file for file in entries if not has_suffix(file.name, TEXT_SUFFIXES)]
        reading.passed_over += [one.path / name for one in folders for name in one.dangling]
    for file in files:
        if file.is_file() and (place := file.resolve()) not in reading.seen:
            reading.seen.add(place)
            yield file


def _read_file(path: Path, root: Path, argument: int, named: bool, reading: _Reading) -> None:
    header_line, header = first_filled_line(path)
    layout = recognise_header(header)
    if layout is None and starts_with_image(header):
        layout, header_line = recognise_header(",".join(MTL_HEADER)), header_line - 1
    split = split_of_file(path, root)
    if layout is None:
        text = path.read_bytes().decode("utf-8-sig", "replace")
        if (named or split == "test") and is_video_list(text):
            for name in text.split():
                nothing = np.zeros((0, 0), np.float32)
                reading.add(name.rstrip(","), Part(np.zeros(0, np.int32), nothing, (), split or "test"))
            reading.counts["video lists read"] += 1
        elif named:
            raise UserError(f"{path}: no annotations: its first line {header[:80]!r} is not a header of the challenge")
        else:
            reading.counts["text files skipped, not annotations"] += 1
        return
    reading.counts["label files read"] += 1
    if layout.image:
        parts = _read_images(path, header_line + 1, layout, split, reading)
    else:
        parts = _read_frames(path, header_line + 1, layout, split_of_folder(path, root), reading)
    for video, part in parts:
        reading.add(video, replace(part, source=str(path), argument=argument))


def _read_images(
    path: Path, first_line: int, layout: Layout, split: str | None, reading: _Reading
) -> Iterable[tuple[str, Part]]:
    """Read a file whose rows start with an image path: multi-task, or the list or template of a test set."""
    listed = layout.task != "mtl" or _is_list(path, first_line - 1)
    numbers = 0 if listed else layout.numbers
    names: dict[str, int] = {}
    codes, frames, values = [], [], []
    for block in read_blocks(path, first_line=first_line, numbers=numbers, names=names):
        reading.count_lines(block)
        codes.append(block.codes)
        frames.append(block.frames)
        values.append(block.values if listed else _labels(path, block, layout, reading.counts))
    if not codes:
        return
    codes, frames, values = np.concatenate(codes), np.concatenate(frames), np.concatenate(values)
    if (np.diff(codes) < 0).any():
        order = np.argsort(codes, kind="stable")
        codes, frames, values = codes[order], frames[order], values[order]
    columns = tuple(column for column in layout.columns if column is not None) if numbers else ()
    bounds = np.searchsorted(codes, np.arange(len(names) + 1))
    for video, begin, end in zip(names, bounds[:-1], bounds[1:], strict=True):
        unique = unique_frames(frames[begin:end], values[begin:end], reading.counts)
        yield video, Part(*unique, columns, split or ("test" if listed else None))


def _is_list(path: Path, header_line: int) -> bool:
    """True if the first row under a multi-task header is an image path and nothing else."""
    _, row = first_filled_line(path, after=header_line)
    return "," not in row.rstrip(", ")


def _read_frames(
    path: Path, first_line: int, layout: Layout, split: str | None, reading: _Reading
) -> Iterable[tuple[str, Part]]:
    """Read a file of one video, in which line k under the header belongs to frame k."""
    values = []
    for block in read_blocks(path, first_line=first_line, numbers=layout.numbers):
        expected = np.arange(first_line, first_line + len(block.line_numbers))
        shifted = block.line_numbers != expected
        if shifted.any():
            empty = int(expected[np.argmax(shifted)])
            raise line_error(path, empty, f"empty, but line k under the header is frame k of {path.stem}")
        first_line += len(expected)
        reading.count_lines(block)
        values.append(_labels(path, block, layout, reading.counts))
    columns = tuple(column for column in layout.columns if column is not None)
    table = np.concatenate(values) if values else np.zeros((0, len(columns)), np.float32)
    yield path.stem, Part(np.arange(1, len(table) + 1, dtype=np.int32), table, columns, split, by_line=True)


def _labels(path: Path, block: Block, layout: Layout, counts: Counter[str]) -> np.ndarray:
    """Labels float32 (lines, columns) of a block, NaN where there is none, for the columns of the label array.

    Raises UserError naming the first line with a value that is neither a label nor the mark for "no label".
    """
    values = block.values
    labels = np.empty(values.shape, np.float32)
    faulty = np.zeros(values.shape, bool)
    units = 3 if layout.task == "mtl" else 0
    if layout.task in ("mtl", "va"):
        pair = values[:, :2]
        none = pair == NO_VALENCE_AROUSAL
        faulty[:, :2] = ~none & (np.abs(pair) > 1)
        labels[:, :2] = np.where(none.any(1, keepdims=True), np.nan, pair)
    if layout.task in ("mtl", "expr"):
        column = 2 if layout.task == "mtl" else 0
        index = np.array([EXPRESSIONS.index(name) for name in layout.classes], np.float32)
        none = values[:, column] == NO_CLASS
        known = np.isin(values[:, column], np.arange(len(index)))
        faulty[:, column] = ~none & ~known
        labels[:, column] = np.where(known, index[np.where(known, values[:, column], 0).astype(int)], np.nan)
    if layout.task in ("mtl", "au"):
        cells = values[:, units:]
        none = cells == NO_UNIT
        faulty[:, units:] = ~none & (cells != 0) & (cells != 1)
        labels[:, units:] = np.where(none, np.nan, cells)
    if faulty.any():
        row, column = np.argwhere(faulty)[0]
        raise line_error(path, int(block.line_numbers[row]), _range_fault(values[row, column], column, layout))

    for column, place in enumerate(layout.columns):
        if place is None:
            name = layout.units[column - units]
            counts[f"{name} labels left out, not one of the twelve units"] += int((~none[:, column - units]).sum())
    return labels[:, [place is not None for place in layout.columns]]


def _range_fault(value: float, column: int, layout: Layout) -> str:
    place = layout.columns[column]
    if place in (0, 1):
        return f"{value:g} is not valid for {LABEL_COLUMNS[place]} (-1 to 1, or {NO_VALENCE_AROUSAL:g} for no label)"
    if place == EXPRESSION.columns.start:
        return f"{value:g} is not valid for expression (0 to {len(layout.classes) - 1}, or {NO_CLASS:g} for no label)"
    name = layout.units[column - (3 if layout.task == "mtl" else 0)]
    return f"{value:g} is not valid for {name} (0 or 1, or {NO_UNIT:g} for no label)"


def write_mtl_annotations(path: str | os.PathLike[str], rows: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write a multi-task file of rows (image path `<video>/<frame>.jpg`, labels (15,) with NaN for none).

    Rows keep their order, and rows that come twice are written twice.
    """
    text = [",".join(MTL_HEADER)]
    text += [f"{image},{_fields(labels, range(len(LABEL_COLUMNS)))}" for image, labels in rows]
    write_lines(path, text)


def write_task_annotations(path: str | os.PathLike[str], header: str, labels: np.ndarray) -> None:
    """Write one video's file of a per-task edition: labels (frames, 15) of the frames from 1, NaN for none.

    The header line says which task it is, and which classes or units the edition has. Raises ValueError
    for a label of another class.
    """
    layout = recognise_header(header)
    columns = [] if layout is None else [column for column in layout.columns if column is not None]
    if layout is None or layout.image or len(columns) < len(layout.columns):
        raise ValueError(f"{header!r} is not the header of a per-task file with columns of the label array")
    values = np.asarray(labels)[:, columns]
    if layout.task == "expr":
        if set(values[~np.isnan(values)]) - {float(EXPRESSIONS.index(name)) for name in layout.classes}:
            raise ValueError(f"the labels hold a class that {header!r} does not list")
        index = np.full(len(EXPRESSIONS), np.nan)
        index[[EXPRESSIONS.index(name) for name in layout.classes]] = range(len(layout.classes))
        values = np.where(np.isnan(values), np.nan, index[np.nan_to_num(values).astype(int)])
    write_lines(path, [header, *(_fields(row, columns) for row in values)])


def _fields(values: np.ndarray, columns: Iterable[int]) -> str:
    """One row as text from which the same float32 are read; NaN becomes the mark for no label."""
    return ",".join(_field(value, column) for value, column in zip(values, columns, strict=True))


def _field(value: float, column: int) -> str:
    if column < EXPRESSION.columns.start:
        number = NO_VALENCE_AROUSAL if np.isnan(value) else value
        return np.format_float_positional(np.float32(number), unique=True, trim="0")
    return str(int(NO_CLASS if np.isnan(value) else value))
