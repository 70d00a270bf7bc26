"""Which frames make up the batches of an epoch: plain, mixed from several sources, or balanced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from abaw_seq.tasks import AROUSAL, EXPRESSION, VALENCE

DIMENSION_BINS = 20


@dataclass(frozen=True)
class Pool:
    """The frames of one source, its share of every batch, and how often each frame is drawn.

    `rows` int64 [n] rows of the frame store; `weights` float64 [n] or None for every frame equally
    often (each once, in random order, before any comes a second time).
    """

    rows: Tensor
    share: float = 1.0
    weights: Tensor | None = None


def batches(
    pools: Sequence[Pool],
    *,
    batch_size: int,
    steps: int,
    generator: torch.Generator,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Tensor]:
    """Yield `steps` batches of rows, each with the same number of frames from every pool's share.

    All processes of a distributed run draw the same global batches of `batch_size * world` rows and
    take every `world`-th row of them.
    """
    counts = split_batch(batch_size * world, [pool.share for pool in pools])
    streams = [_stream(pool, count, generator) for pool, count in zip(pools, counts, strict=True)]
    for _ in range(steps):
        rows = torch.cat([next(stream) for stream in streams])
        yield rows[rank::world]


def split_batch(batch_size: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to `shares` that sum to `batch_size` (largest remainders first)."""
    exact = [batch_size * share / sum(shares) for share in shares]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda k: counts[k] - exact[k])
    for k in by_remainder[: batch_size - sum(counts)]:
        counts[k] += 1
    return counts


def balancing_weights(labels: Tensor, power: float) -> Tensor:
    """How often each frame should be drawn so that rare expressions and rare affect come up more.

    labels: (N, 15), NaN where there is no label. A frame's weight is the mean, over the labels it has
    among expression, valence bin and arousal bin, of (1 / share of that value)^power; a frame without
    any has weight 1. `power` 0 draws all alike, 1 draws all values equally often.
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
    """Endless draws of `count` rows from one pool."""
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
