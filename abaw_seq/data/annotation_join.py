"""Rows of labels from many files, joined by frame number: pure functions on arrays."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

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
        conflicts = _fill(kept, group[rows], values[rows])
        counts["duplicate rows of a file joined"] += len(rows)
        counts["duplicate rows with another label, the first kept"] += conflicts
    return frames[kept_rows], kept


def _fill(labels: np.ndarray, rows: np.ndarray | slice, new: np.ndarray) -> int:
    """Fill labels (frames, columns) that are missing in these rows; how many rows have another label already."""
    old = labels[rows]
    labelled = ~np.isnan(old)
    labels[rows] = np.where(labelled, old, new)
    return int((labelled & ~np.isnan(new) & (old != new)).any(1).sum())


def join_parts(parts: list[Part], counts: Counter[str]) -> tuple[np.ndarray, np.ndarray, str | None]:
    """One video's parts as one table: frame numbers (frames,), labels (frames, 15), split."""
    splits = {part.split for part in parts} - {None}
    labelled = {part.split for part in parts if part.columns} - {None}
    split = next((name for name in SPLIT_ORDER if name in (labelled or splits)), None)
    if len(splits) > 1:
        counts["videos in several splits, val before train before test"] += 1
    kept = [part for part in parts if not part.columns or part.split in (split, None)]
    counts["rows left out, of another split than their video"] += sum(len(p.frames) for p in parts) - sum(
        len(p.frames) for p in kept
    )
    if len(kept) == 1 and kept[0].columns == tuple(range(len(LABEL_COLUMNS))):
        return kept[0].frames, kept[0].values, split

    frames = kept[0].frames
    if any(not np.array_equal(frames, part.frames) for part in kept[1:]):
        frames = np.unique(np.concatenate([part.frames for part in kept]))
    labels = np.full((len(frames), len(LABEL_COLUMNS)), np.nan, np.float32)
    for part in kept:
        rows = np.searchsorted(frames, part.frames)
        table = labels[:, list(part.columns)]
        conflicts = _fill(table, rows, part.values)
        counts["rows of two files with another label, the first kept"] += conflicts
        labels[:, list(part.columns)] = table
    return frames, labels, split
