"""Smoothing predictions over time, measured in frame numbers, which may have gaps.

The filters of scipy.ndimage know no gaps: here missing frames get no weight, which takes two
convolutions of numpy's, one of the values and one of the frames that are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from abaw_seq.config.ranges import Checked, Count

Kind = Literal["moving", "gaussian", "exponential"]
KINDS: tuple[Kind, ...] = ("moving", "gaussian", "exponential")


@dataclass(frozen=True)
class Smoothing(Checked):
    """A weighted mean over the frames whose numbers lie in a window centred on each frame."""

    kind: Kind = "moving"
    """How weights fall with the distance from the centre: `moving`, not at all; `gaussian`, with a standard deviation
    of a quarter of the window; `exponential`, by a factor of e for each sixth of the window, on both sides."""
    window: Count = 1
    """Width of the window in frame numbers, odd; 1 changes nothing."""

    def __post_init__(self) -> None:
        if self.window < 1 or self.window % 2 == 0:
            raise ValueError(f"window must be odd and positive, not {self.window}")
        super().__post_init__()

    @property
    def reach(self) -> int:
        """The largest distance, in frame numbers, at which a frame still counts."""
        return self.window // 2


def distance_weights(smoothing: Smoothing) -> np.ndarray:
    """Positive weights (window,) for the distances -reach to reach; 1 at distance 0.

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
    """Smooth `values` (frames, ...) over the distance between their frame numbers (frames,).

    `videos` (frames,) gives the video of each row, the rows of one video in a block (default: all of
    one video); videos are never mixed. The weights of the frames that exist sum to one. Raises
    ValueError if the frame numbers do not rise within each video. Returns an array of the same shape
    and type.
    """
    values = np.asarray(values)
    places = _places(np.asarray(frames), videos, smoothing.reach)
    if smoothing.window == 1 or not len(values):
        return values.copy()
    weights = distance_weights(smoothing)
    total = _around(np.ones(len(places)), places, weights)
    columns = values.reshape(len(values), -1).astype(np.float64)
    means = [_around(column, places, weights) / total for column in columns.T]
    return np.stack(means, 1).reshape(values.shape).astype(values.dtype)


def _places(frames: np.ndarray, videos: np.ndarray | None, reach: int) -> np.ndarray:
    """Places (frames,) on one line, as far apart as the frame numbers, or just out of each other's reach.

    Longer gaps are shortened to that, so that the line stays short whatever the frame numbers are.
    """
    step = np.diff(frames.astype(np.int64))
    other = np.zeros(len(step), bool) if videos is None else np.asarray(videos)[1:] != np.asarray(videos)[:-1]
    if (step[~other] <= 0).any():
        raise ValueError("frame numbers must rise within a video")
    step = np.where(other, reach + 1, np.minimum(step, reach + 1))
    return np.concatenate([[0], np.cumsum(step)])[: len(frames)]


def _around(column: np.ndarray, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sum of `column` (frames,) around each place on the line."""
    line = np.zeros(places[-1] + 1)
    line[places] = column
    return np.convolve(line, weights)[places + len(weights) // 2]
