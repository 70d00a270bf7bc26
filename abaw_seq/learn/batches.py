"""Training batches as frame numbers: windows in random order, or videos side by side whose state is carried."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from abaw_seq.config.ranges import Checked, Count
from abaw_seq.data.corpus import Corpus
from abaw_seq.data.windows import batches_of_windows, lane_steps


@dataclass(frozen=True)
class WindowConfig(Checked):
    """How videos are cut into training batches."""

    length: Count = 64
    """Frames per window; predictions are made with windows of this length as well."""
    step: Count | None = None
    """Frames from one training window to the next, at most `length`; null for the fewest windows that cover a video."""
    batch: Count = 16
    """Windows per training step; with `carry`, videos that advance side by side."""
    carry: bool = False
    """Cut each video into consecutive windows and hand the recurrent encoder's state on from one to the next, as
    published for ABAW4 (lstm, gru). Otherwise windows come in random order and cover every frame."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step is not None and (self.carry or self.step > self.length):
            raise ValueError(f"step must be at most the length {self.length}, and has no meaning with carry")


@dataclass(frozen=True)
class Batch:
    """The windows of one step, as rows of the corpus."""

    rows: Tensor
    """(batch, time)"""
    used: Tensor | None = None
    """(batch,) number of frames of each window; None if all are full."""
    lanes: np.ndarray | None = None
    """(batch,) where state is carried: the lane that each window continues."""
    fresh: np.ndarray | None = None
    """(batch,) where state is carried: true where a window starts a new video."""


def training_batches(
    corpus: Corpus, videos: list[int], config: WindowConfig, rng: np.random.Generator
) -> Iterator[Batch]:
    """One epoch over the given videos."""
    lengths = [corpus.lengths[v] for v in videos]
    if config.carry:
        order = rng.permutation(len(videos))
        lengths, videos = [lengths[k] for k in order], [videos[k] for k in order]
        for step in lane_steps(lengths, config.length, config.batch, rng):
            size = step.window[:, 2]
            used = torch.from_numpy(size).to(corpus.device) if (size < size.max()).any() else None
            yield Batch(corpus.window_rows(step.window, videos), used, step.lane, step.fresh)
    else:
        for windows in batches_of_windows(lengths, config.length, config.batch, rng, step=config.step):
            yield Batch(corpus.window_rows(windows, videos))
