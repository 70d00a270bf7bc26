"""Training batches by index: windows in any order, or videos side by side with their state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from abaw_seq.data.corpus import Corpus
from abaw_seq.data.windows import batches_of_windows, lane_steps


@dataclass(frozen=True)
class WindowConfig:
    """How videos are cut into training batches."""

    length: int = 64
    """Frames per window; predictions are made with windows of this length as well."""
    batch: int = 16
    """Windows per training step; with `carry`, videos that advance side by side."""
    carry: bool = False
    """Cut each video into consecutive windows and hand the recurrent encoder's state on from one to the next, as
    published for ABAW4 (lstm, gru). Otherwise windows come in random order and cover every frame."""

    def __post_init__(self):
        if self.length < 1 or self.batch < 1:
            raise ValueError(f"length and batch must be positive, not {self.length} and {self.batch}")


@dataclass(frozen=True)
class Batch:
    """`rows` (B, T) of the corpus; `used` (B,) frames that count, or None if all do.

    `lanes` and `fresh` (B,) say which video lane each row continues, where state is carried.
    """

    rows: Tensor
    used: Tensor | None = None
    lanes: np.ndarray | None = None
    fresh: np.ndarray | None = None


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
        for windows in batches_of_windows(lengths, config.length, config.batch, rng):
            yield Batch(corpus.window_rows(windows, videos))
