"""Which process extracts which videos: shards of a job array and the processes of torchrun."""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from abaw_feats.reading.frames import VideoSource
from abaw_seq.errors import AbawError, UserError

LONGEST_WAIT = timedelta(days=14)
T = TypeVar("T")


def parse_shard(text: str) -> tuple[int, int]:
    """(index, count) of a shard written as I/N, I from 1 to N.

    >>> parse_shard("2/8")
    (2, 8)
    """
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UserError(f"--shard {text}: expected I/N with I from 1 to N, such as 1/8")
    return int(index), int(count)


def balanced_shards(videos: Sequence[VideoSource], count: int) -> list[list[VideoSource]]:
    """Deal videos into `count` shards with about as many frames each.

    The longest video first, each to the shard with the fewest frames so far. The outcome depends on
    names and frame counts alone, so that every process finds the same; within a shard videos keep
    the order given.
    """
    order = sorted(videos, key=lambda video: (-video.frame_count, video.name))
    loads = [(0, shard) for shard in range(count)]
    owner = {}
    for video in order:
        load, shard = heapq.heappop(loads)
        owner[video.name] = shard
        heapq.heappush(loads, (load + max(video.frame_count, 1), shard))
    return [[video for video in videos if owner[video.name] == shard] for shard in range(count)]


@dataclass(frozen=True)
class World:
    """The processes that work on one output together: this one's rank, and how many there are."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process plans, joins and reports."""
        return self.rank == 0

    def share(self, plan: Callable[[], T]) -> T:
        """What the first process's `plan()` returns, in every process; its error ends all of them."""
        if self.size == 1:
            return plan()
        from torch import distributed

        answer: list[Any] = [None, None]
        if self.is_first:
            try:
                answer = [plan(), None]
            except AbawError as error:
                answer = [None, error]
        distributed.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def gather(self, value: T) -> list[T]:
        """Every process's value, in every process, by rank; all have arrived here when it returns."""
        if self.size == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values


@contextmanager
def joined_world() -> Iterator[World]:
    """The processes that torchrun started, connected; without torchrun, this process alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    from torch import distributed

    distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
    try:
        yield World(distributed.get_rank(), size, int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        distributed.destroy_process_group()
