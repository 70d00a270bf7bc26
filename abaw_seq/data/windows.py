"""Cutting videos into windows: pure functions on numbers.

A window is a row (video, start, length): `length` consecutive frames of a video from `start`, both
counted in stored frames from 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


def covering_windows(frames: int, length: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Start and length (windows, 2) of the fewest windows that cover a video.

    All have `length` frames, or all of the video's if it has fewer. Their overlap is spread evenly, or
    at random with `rng`, so that each epoch cuts differently.
    """
    if frames <= 0 or length <= 0:
        raise ValueError(f"frames and length must be positive, not {frames} and {length}")
    if frames <= length:
        return np.array([[0, frames]])
    count = -(-frames // length)
    overlap = count * length - frames
    if rng is None:
        shared = np.round(np.linspace(0, overlap, count)).astype(int)
    else:
        shared = np.sort(np.concatenate([[0], rng.integers(0, overlap + 1, count - 2), [overlap]]))
    starts = np.arange(count) * length - shared
    return np.stack([starts, np.full(count, length)], 1)


def overlapping_windows(frames: int, length: int, step: int) -> np.ndarray:
    """Start and length (windows, 2) of windows every `step` frames; the last one ends with the video."""
    if not 0 < step <= length:
        raise ValueError(f"step must be between 1 and the window length {length}, not {step}")
    if frames <= length:
        return np.array([[0, frames]])
    starts = np.append(np.arange(0, frames - length, step), frames - length)
    return np.stack([starts, np.full(len(starts), length)], 1)


def centre_weights(length: int) -> np.ndarray:
    """Positive weights (length,) that fall linearly from the middle of a window to its ends."""
    position = np.arange(length)
    return np.minimum(position + 1, length - position).astype(np.float64)


def batches_of_windows(
    lengths: list[int], length: int, batch: int, rng: np.random.Generator, *, step: int | None = None
) -> Iterator[np.ndarray]:
    """Shuffled batches (batch, 3) of windows that cover every video; those of a batch are equally long.

    The windows are the fewest that cover it, or with `step` one begins every `step` frames.
    """
    cut = [covering_windows(n, length, rng) if step is None else overlapping_windows(n, length, step) for n in lengths]
    windows = _with_video(cut)
    windows = rng.permutation(windows)
    groups = [windows[windows[:, 2] == n] for n in np.unique(windows[:, 2])]
    batches = [group[i : i + batch] for group in groups for i in range(0, len(group), batch)]
    for index in rng.permutation(len(batches)):
        yield batches[index]


def batches_of_overlapping(lengths: list[int], length: int, step: int, batch: int) -> Iterator[np.ndarray]:
    """Batches (batch, 3) of equally long windows for prediction, in order."""
    windows = _with_video([overlapping_windows(n, length, step) for n in lengths])
    for size in np.unique(windows[:, 2]):
        group = windows[windows[:, 2] == size]
        for i in range(0, len(group), batch):
            yield group[i : i + batch]


def _with_video(windows: list[np.ndarray]) -> np.ndarray:
    """Windows (windows, 3): each video's rows (start, length) with the video's index in front."""
    return np.concatenate([np.insert(rows, 0, video, axis=1) for video, rows in enumerate(windows)])


@dataclass(frozen=True)
class LaneStep:
    """One step of videos that advance side by side, each in a lane, segment by segment."""

    lane: np.ndarray
    """(batch,): the lanes that still have a video"""
    window: np.ndarray
    """(batch, 3): their segments, shorter than the others only at the end of a video"""
    fresh: np.ndarray
    """(batch,): true where a lane starts a new video"""


def lane_steps(
    lengths: list[int], length: int, lanes: int, rng: np.random.Generator | None = None
) -> Iterator[LaneStep]:
    """Segments of all videos, in order within each video, `lanes` videos at a time.

    A lane whose video has ended takes the next one at once. Longer videos start earlier, so that the
    lanes end at nearly the same time.
    """
    waiting = _lane_order(lengths, rng)
    position = {lane: [waiting.pop(0), 0] for lane in range(min(lanes, len(waiting)))}
    while position:
        alive = sorted(position)
        window = np.array([(v, start, min(length, lengths[v] - start)) for v, start in (position[k] for k in alive)])
        yield LaneStep(np.array(alive), window, window[:, 1] == 0)
        for lane in alive:
            position[lane][1] += length
            if position[lane][1] >= lengths[position[lane][0]]:
                if waiting:
                    position[lane] = [waiting.pop(0), 0]
                else:
                    del position[lane]


def _lane_order(lengths: list[int], rng: np.random.Generator | None) -> list[int]:
    """Longest videos first; with `rng`, videos within a factor of two in length change places in each epoch."""
    lengths = np.asarray(lengths, float)
    jitter = 1.0 if rng is None else rng.uniform(0.7, 1.4, len(lengths))
    return list(np.argsort(-lengths * jitter, kind="stable"))
