"""Rows of labels from many files, joined by frame number: pure functions on arrays."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from abaw_seq.errors import UserError
from abaw_seq.tasks import LABEL_COLUMNS

SPLIT_ORDER = ("val", "train", "test")


@dataclass(frozen=True)
class Part:
    """One video's rows of one file."""

    frames: np.ndarray
    """int32 (frames,): frame numbers, rising"""
    values: np.ndarray
    """float32 (frames, columns), NaN where there is no label"""
    columns: tuple[int, ...]
    """the columns of the label array that the values belong to"""
    split: str | None
    by_line: bool = False
    """True if line k of the file is frame k, so that frames are counted from 1; False if names say the frame"""
    source: str = ""
    """the file"""
    argument: int = 0
    """the number of the argument that led to the file"""


def counted_from_zero(frames: np.ndarray, lines: int) -> bool | None:
    """Whether frame numbers (frames,) are counted from 0, where one line stands for each frame from the first one on.

    None if that is not certain: there is a frame 0, and also one for which there would be no line.

    >>> counted_from_zero(np.arange(10), 10), counted_from_zero(np.arange(1, 11), 10)
    (True, False)
    """
    if not len(frames) or frames.min() > 0:
        return False
    return True if frames.max() < lines else None


def unique_frames(frames: np.ndarray, values: np.ndarray, counts: Counter[str]) -> tuple[np.ndarray, np.ndarray]:
    """Rows in rising order of frame number; where a frame comes twice, its first label per column counts."""
    if (np.diff(frames) > 0).all():
        return frames, values
    order = np.argsort(frames, kind="stable")
    frames, values = frames[order], values[order]
    first = np.concatenate([[True], frames[1:] != frames[:-1]])
    if first.all():
        return frames, values
    kept_rows = np.flatnonzero(first)
    kept = values[kept_rows]
    group = np.cumsum(first) - 1
    repeats = np.flatnonzero(~first)
    turn = repeats - kept_rows[group[repeats]]
    repeats = repeats[np.argsort(turn, kind="stable")]
    for rows in np.split(repeats, np.cumsum(np.bincount(turn)[1:])[:-1]):
        conflicts = int(_fill(kept, group[rows], values[rows]).sum())
        counts["duplicate rows of a file joined"] += len(rows)
        counts["duplicate rows with another label, the first kept"] += conflicts
    return frames[kept_rows], kept


def _fill(labels: np.ndarray, rows: np.ndarray | slice, new: np.ndarray) -> np.ndarray:
    """Fill labels (frames, columns) that are missing in these rows; bool (rows,): which have another label already."""
    old = labels[rows]
    labelled = ~np.isnan(old)
    labels[rows] = np.where(labelled, old, new)
    return (labelled & ~np.isnan(new) & (old != new)).any(1)


@dataclass(frozen=True)
class Joined:
    """One video's parts as one table."""

    frames: np.ndarray
    """int32 (frames,): frame numbers, rising"""
    labels: np.ndarray
    """float32 (frames, 15), NaN where there is no label"""
    split: str | None
    by_line: bool | None
    """as for `Part`; None if it is true of some parts only"""
    disagreement: str = ""
    """the first frame about which files of several arguments disagree, in words"""


def join_parts(video: str, parts: list[Part], counts: Counter[str]) -> Joined:
    """One video's parts as one table.

    Where files of several arguments disagree, the first argument's label is kept. Raises UserError if files of one
    argument, a folder, disagree about a frame.
    """
    splits = {part.split for part in parts} - {None}
    labelled = {part.split for part in parts if part.columns} - {None}
    split = next((name for name in SPLIT_ORDER if name in (labelled or splits)), None)
    if len(splits) > 1:
        counts["videos in several splits, val before train before test"] += 1
    kept = [part for part in parts if not part.columns or part.split in (split, None)]
    counts["rows left out, of another split than their video"] += sum(len(p.frames) for p in parts) - sum(
        len(p.frames) for p in kept
    )
    kinds = {part.by_line for part in kept if part.columns}
    by_line = None if len(kinds) > 1 else True in kinds
    if len(kept) == 1 and kept[0].columns == tuple(range(len(LABEL_COLUMNS))):
        return Joined(kept[0].frames, kept[0].values, split, by_line)

    frames = kept[0].frames
    if any(not np.array_equal(frames, part.frames) for part in kept[1:]):
        frames = np.unique(np.concatenate([part.frames for part in kept]))
    labels = np.full((len(frames), len(LABEL_COLUMNS)), np.nan, np.float32)
    disagreement = ""
    for number, part in enumerate(kept):
        rows = np.searchsorted(frames, part.frames)
        table = labels[:, list(part.columns)]
        conflicts = _fill(table, rows, part.values)
        if conflicts.any():
            disagreement = disagreement or _disagreement(video, kept[:number], part, part.frames[conflicts])
            counts["rows of two files with another label, the first kept"] += int(conflicts.sum())
        labels[:, list(part.columns)] = table
    return Joined(frames, labels, split, by_line, disagreement)


def _disagreement(video: str, earlier: list[Part], part: Part, frames: np.ndarray) -> str:
    """In words how a part disagrees with earlier ones about frames (frames,); UserError within one argument."""
    said = ""
    for other in earlier:
        columns = [column for column in part.columns if column in other.columns]
        common = np.intersect1d(frames, other.frames)
        ours, theirs = (
            one.values[np.searchsorted(one.frames, common)][:, [one.columns.index(column) for column in columns]]
            for one in (part, other)
        )
        differing = common[(~np.isnan(ours) & ~np.isnan(theirs) & (ours != theirs)).any(1)]
        if not len(differing):
            continue
        said = said or f"{other.source} and {part.source} disagree about video {video}, frame {differing[0]}"
        if other.argument == part.argument:
            raise UserError(
                f"{other.source} and {part.source} disagree about video {video}, frame {differing[0]}; remove one "
                "of them, or name the one that is right before the folder that both are in"
            )
    return said
