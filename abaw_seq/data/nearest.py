"""Frames without a label take the label of the nearest labelled frame of their video."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from abaw_seq.tasks import TASKS


def nearest_rows(frames: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """For each wanted frame number (wanted,) the row of the nearest of `frames` (frames,), rising, at least one.

    Of two that are equally near the earlier one is taken.
    """
    after = np.clip(np.searchsorted(frames, wanted), 0, len(frames) - 1)
    before = np.maximum(after - 1, 0)
    to_before = np.abs(np.asarray(wanted, np.int64) - frames[before])
    to_after = np.abs(np.asarray(wanted, np.int64) - frames[after])
    return np.where(to_before <= to_after, before, after)


def fill_nearest_labels(
    frames: np.ndarray, labels: np.ndarray, *, max_distance: int | Mapping[str, int]
) -> tuple[np.ndarray, dict[str, int]]:
    """Fill missing labels of one video from its nearest labelled frame.

    `frames` int (frames,), rising; `labels` float32 (frames, 15), NaN where there is none;
    `max_distance` in frame numbers, one for all tasks or one for each task that is to be filled. Each
    column is filled by itself, and existing labels stay.

    Returns new labels (frames, 15), and for each task how many frames received a label.

    >>> labels = np.full((3, 15), np.nan, np.float32)
    >>> labels[0, 2] = 4
    >>> filled, counts = fill_nearest_labels(np.array([1, 3, 9]), labels, max_distance={"expression": 5})
    >>> filled[:, 2], counts
    (array([ 4.,  4., nan], dtype=float32), {'expression': 1})
    """
    if not isinstance(max_distance, Mapping):
        max_distance = dict.fromkeys(TASKS, max_distance)
    unknown = set(max_distance) - set(TASKS)
    if unknown:
        raise ValueError(f"no task {sorted(unknown)[0]!r}: one of {', '.join(TASKS)}")
    filled = np.array(labels, np.float32)
    counts = {}
    for name, reach in max_distance.items():
        columns = range(*TASKS[name].columns.indices(filled.shape[1]))
        for column in columns:
            known = np.flatnonzero(~np.isnan(labels[:, column]))
            if not len(known):
                continue
            source = known[nearest_rows(frames[known], frames)]
            near = np.abs(frames.astype(np.int64) - frames[source]) <= reach
            filled[near, column] = labels[source[near], column]
        given = np.isnan(labels[:, TASKS[name].columns]) & ~np.isnan(filled[:, TASKS[name].columns])
        counts[name] = int(given.any(1).sum())
    return filled, counts
