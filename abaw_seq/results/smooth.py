"""Smoothing predictions along a video's own clock: its frame numbers, which may have gaps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

KINDS = ("moving", "gaussian", "exponential")


@dataclass(frozen=True)
class Smoothing:
    """A weighted mean over the frames whose numbers lie in a window centred on each frame."""

    kind: Literal["moving", "gaussian", "exponential"] = "moving"
    """How weights fall with the distance from the centre: `moving`, not at all; `gaussian`, with a standard deviation
    of a quarter of the window; `exponential`, by a factor of e for each sixth of the window, on both sides."""
    window: int = 1
    """Width of the window in frame numbers, odd; 1 changes nothing."""

    def __post_init__(self):
        if self.window < 1 or self.window % 2 == 0:
            raise ValueError(f"window must be odd and positive, not {self.window}")

    @property
    def reach(self) -> int:
        """The largest distance, in frame numbers, at which a frame still counts."""
        return self.window // 2


def distance_weights(smoothing: Smoothing) -> np.ndarray:
    """(window,) positive weights for the distances -reach .. reach; 1 at distance 0.

    >>> distance_weights(Smoothing("moving", 3))
    array([1., 1., 1.])
    """
    distance = np.abs(np.arange(-smoothing.reach, smoothing.reach + 1)).astype(np.float64)
    if smoothing.kind == "moving":
        return np.ones_like(distance)
    scale = max(smoothing.reach, 1)
    if smoothing.kind == "gaussian":
        return np.exp(-0.5 * (distance / (scale / 2)) ** 2)
    return np.exp(-distance / (scale / 3))


def smooth(
    values: np.ndarray, frames: np.ndarray, smoothing: Smoothing, *, videos: np.ndarray | None = None
) -> np.ndarray:
    """Smooth `values` (N, ...) over the distance between their frame numbers (N,).

    `videos` (N,) tells which video each row belongs to, the rows of one video in a block (default:
    all one video); nothing is mixed between videos. Frames that do not exist have no weight, so that
    the weights of those that do sum to one. Raises ValueError if the frame numbers do not rise
    within each video. Returns an array of the same shape and type.
    """
    values = np.asarray(values)
    clock = _clock(np.asarray(frames), videos, smoothing.reach)
    if smoothing.window == 1 or not len(values):
        return values.copy()
    weights = distance_weights(smoothing)
    total = _around(np.ones(len(clock)), clock, weights)
    columns = values.reshape(len(values), -1).astype(np.float64)
    means = [_around(column, clock, weights) / total for column in columns.T]
    return np.stack(means, 1).reshape(values.shape).astype(values.dtype)


def _clock(frames: np.ndarray, videos: np.ndarray | None, reach: int) -> np.ndarray:
    """(N,) places on one line, as far apart as the frame numbers, or just out of each other's reach.

    Gaps beyond the reach are closed to it, so that the line stays short whatever the numbers are.
    """
    step = np.diff(frames.astype(np.int64))
    other = np.zeros(len(step), bool) if videos is None else np.asarray(videos)[1:] != np.asarray(videos)[:-1]
    if (step[~other] <= 0).any():
        raise ValueError("frame numbers must rise within a video")
    step = np.where(other, reach + 1, np.minimum(step, reach + 1))
    return np.concatenate([[0], np.cumsum(step)])[: len(frames)]


def _around(column: np.ndarray, clock: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sum of `column` (N,) around each place of the clock."""
    line = np.zeros(clock[-1] + 1)
    line[clock] = column
    return np.convolve(line, weights)[clock + len(weights) // 2]
