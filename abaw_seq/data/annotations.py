"""Official label files <-> arrays with NaN where there is no label.

Every edition's files are recognised by their content and joined by video and frame number. This
is the one file that knows how the data set writes "no label": -5 for valence and arousal, -1 for
expressions and action units.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
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
from abaw_seq.data.label_text import Block, first_filled_line, line_error, read_blocks
from abaw_seq.errors import UserError
from abaw_seq.files import write_lines
from abaw_seq.tasks import AU, EXPRESSION, EXPRESSIONS, LABEL_COLUMNS, SPLITS

NO_VALENCE_AROUSAL = -5.0
NO_CLASS = -1.0
NO_UNIT = -1.0
SUMMARY_HEADER = ["", "videos", "rows", "valence-arousal", "expression", "action units", "no label at all"]


@dataclass(frozen=True)
class VideoLabels:
    """The annotation of one video."""

    frames: np.ndarray
    """int32 (frames,): frame numbers, rising"""
    labels: np.ndarray
    """float32 (frames, 15) in the order of `LABEL_COLUMNS`, NaN where there is no label"""
    split: str | None
    """one of "train", "val" and "test", or None where no file name says it"""


@dataclass
class Annotations:
    """The annotations of many videos."""

    videos: dict[str, VideoLabels]
    counts: Counter[str] = field(default_factory=Counter)
    """how often something was joined, skipped or left out in reading, by what it was"""
    sources: tuple[str, ...] = ()
    """The files and folders that were read."""

    def for_frames(self, video: str, frames: np.ndarray) -> np.ndarray:
        """Labels float32 (frames, 15) of these frame numbers, NaN where there is none."""
        frames = np.asarray(frames)
        labels = np.full((len(frames), len(LABEL_COLUMNS)), np.nan, np.float32)
        known = self.videos.get(video)
        if known is not None and len(known.frames):
            row = np.minimum(np.searchsorted(known.frames, frames), len(known.frames) - 1)
            annotated = known.frames[row] == frames
            labels[annotated] = known.labels[row[annotated]]
        return labels

    def summary_rows(self) -> list[list[str]]:
        """Rows of the summary table under `SUMMARY_HEADER`: labels per split, then every count."""
        rows = []
        for split in (*SPLITS, None):
            videos = [video for video in self.videos.values() if video.split == split]
            if videos:
                valid = np.sum([_valid_rows(video.labels) for video in videos], 0)
                frames = sum(len(video.frames) for video in videos)
                rows.append([split or "no split", *(f"{n:,}" for n in (len(videos), frames, *valid))])
        blank = [""] * (len(SUMMARY_HEADER) - 3)
        return rows + [[name, "", f"{count:,}", *blank] for name, count in self.counts.items()]


def _valid_rows(labels: np.ndarray) -> np.ndarray:
    """int64 (4,): how many rows have labels of valence and arousal, the expression, action units, and none at all."""
    valid = ~np.isnan(labels)
    units = valid[:, AU.columns].any(1)
    none = ~(valid[:, :3].any(1) | units)
    return np.array([(valid[:, 0] & valid[:, 1]).sum(), valid[:, 2].sum(), units.sum(), none.sum()])


class _Reading:
    """The parts of every video in the order in which they were read, and the counts."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Part]] = {}
        self.counts: Counter[str] = Counter()

    def add(self, video: str, part: Part) -> None:
        self.parts.setdefault(video, []).append(part)

    def count_lines(self, block: Block) -> None:
        self.counts["lines that end with a comma"] += block.trailing_commas
        self.counts["blank lines skipped"] += block.blank_lines


def read_annotations(*paths: str | os.PathLike[str]) -> Annotations:
    """Read label files, or folders of them, of any edition and join them by video and frame number.

    Multi-task files, per-task folders, lists and templates of test sets are recognised by their
    content; `annotation_formats` says how. A frame that comes twice keeps, column by column, the
    first label that was read: in the order of the arguments, in a folder by the files' names.

    A video that is in several splits counts as val before train, and as test only if no file has
    labels for it. Labels from another split than the video's are left out, so that a validation score
    covers the official validation labels and nothing else.

    Raises UserError for a path that does not exist, for a file that holds no annotations, and for
    a line that cannot be read, with its number and text.

    >>> annotations = read_annotations("annotations")
    >>> annotations.videos["video1"].split, annotations.videos["video1"].labels.shape
    ('val', (120, 15))
    """
    reading = _Reading()
    for file, root, named in _files(paths):
        _read_file(file, root, named, reading)
    if not reading.parts:
        where = ", ".join(str(path) for path in paths) or "nothing"
        raise UserError(f"no annotations in {where}: give a multi-task file, or a folder of VA, EXPR or AU files")
    videos = {video: VideoLabels(*join_parts(parts, reading.counts)) for video, parts in sorted(reading.parts.items())}
    return Annotations(videos, +reading.counts, tuple(map(str, paths)))


def _files(paths: Iterable[str | os.PathLike[str]]) -> Iterable[tuple[Path, Path, bool]]:
    """(file, topmost folder whose name may be a split, True if the file itself was given), each file once."""
    seen = set()
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"{path}: no such file or folder of annotations")
        files = sorted(p for p in path.rglob("*") if p.suffix in TEXT_SUFFIXES) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and file.resolve() not in seen:
                seen.add(file.resolve())
                yield file, path if path.is_dir() else path.parent, path == file


def _read_file(path: Path, root: Path, named: bool, reading: _Reading) -> None:
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
        _read_images(path, header_line + 1, layout, split, reading)
    else:
        _read_frames(path, header_line + 1, layout, split_of_folder(path, root), reading)


def _read_images(path: Path, first_line: int, layout: Layout, split: str | None, reading: _Reading) -> None:
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
        reading.add(video, Part(*unique, columns, split or ("test" if listed else None)))


def _is_list(path: Path, header_line: int) -> bool:
    """True if the first row under a multi-task header is an image path and nothing else."""
    _, row = first_filled_line(path, after=header_line)
    return "," not in row.rstrip(", ")


def _read_frames(path: Path, first_line: int, layout: Layout, split: str | None, reading: _Reading) -> None:
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
    reading.add(path.stem, Part(np.arange(1, len(table) + 1, dtype=np.int32), table, columns, split))


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
