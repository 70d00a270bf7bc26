"""Which frames make up the batches of an epoch: from one or several sources, balanced or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from abaw_seq.tasks import AROUSAL, EXPRESSION, VALENCE

DIMENSION_BINS = 20


@dataclass(frozen=True)
class Pool:
    """The training frames of one source."""

    rows: Tensor
    """int64 (frames,): rows of the frame store."""
    share: float = 1.0
    """The source's share of every batch, relative to that of the other sources."""
    weights: Tensor | None = None
    """float64 (frames,): how often each frame is drawn. None: each once, in random order, before any is drawn again."""


def batches(
    pools: Sequence[Pool],
    *,
    batch_size: int,
    steps: int,
    generator: torch.Generator,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Tensor]:
    """Yield `steps` batches of rows, each with every pool's share of frames.

    All processes of a distributed run draw the same batches of `batch_size * world` rows and take every
    `world`-th row of them.
    """
    counts = split_batch(batch_size * world, [pool.share for pool in pools])
    streams = [_stream(pool, count, generator) for pool, count in zip(pools, counts, strict=True)]
    for _ in range(steps):
        rows = torch.cat([next(stream) for stream in streams])
        yield rows[rank::world]


def split_batch(batch_size: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to `shares` that sum to `batch_size`; what remains goes to the largest remainders."""
    exact = [batch_size * share / sum(shares) for share in shares]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda k: counts[k] - exact[k])
    for k in by_remainder[: batch_size - sum(counts)]:
        counts[k] += 1
    return counts


def balancing_weights(labels: Tensor, power: float) -> Tensor:
    """Weights, float64 (frames,), by which rare expressions, valence and arousal are drawn more often.

    labels: (frames, 15), NaN where there is no label. A label's weight is its rarity, 1 / (share of frames
    with that value x number of values that occur), to the power of `power`: with 0 all frames, with 1 all
    values are drawn equally often. Valence and arousal count by bin. A frame's weight is the mean over its
    labels among the three, or 1 without any.
    """
    total = torch.zeros(len(labels), dtype=torch.float64)
    present = torch.zeros(len(labels), dtype=torch.float64)
    for task in (EXPRESSION, VALENCE, AROUSAL):
        column = labels[:, task.columns][:, 0]
        labelled = ~torch.isnan(column)
        if not labelled.any():
            continue
        values = column[labelled]
        if task is not EXPRESSION:
            values = ((values + 1) / 2 * DIMENSION_BINS).floor().clamp(0, DIMENSION_BINS - 1)
        counts = torch.bincount(values.long()).double()
        rarity = (counts.sum() / counts.clamp(min=1) / (counts > 0).sum()) ** power
        total[labelled] += rarity[values.long()]
        present[labelled] += 1
    return torch.where(present > 0, total / present.clamp(min=1), 1.0)


def _stream(pool: Pool, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield `count` rows of a pool, without end."""
    if pool.weights is not None:
        cumulative = pool.weights.cumsum(0)
        while True:
            at = torch.rand(count, generator=generator, dtype=torch.float64) * cumulative[-1]
            yield pool.rows[torch.searchsorted(cumulative, at, right=True).clamp(max=len(pool.rows) - 1)]
    left = pool.rows[:0]
    while True:
        while len(left) < count:
            left = torch.cat([left, pool.rows[torch.randperm(len(pool.rows), generator=generator)]])
        yield left[:count]
        left = left[count:]
