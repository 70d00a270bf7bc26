"""Which videos a job of a job array, or a process of torchrun, extracts."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from abaw_feats.reading.frames import VideoSource
from abaw_seq.errors import UserError


def parse_shard(text: str) -> tuple[int, int]:
    """(index, count) of a shard written as I/N, I from 1 to N.

    >>> parse_shard("2/8")
    (2, 8)
    """
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UserError(f"shard {text!r}: expected I/N with I from 1 to N, such as 1/8")
    return int(index), int(count)


def balanced_shards(videos: Sequence[VideoSource], count: int) -> list[list[VideoSource]]:
    """Divide videos into `count` shards with about the same number of frames.

    From the longest video to the shortest, each goes to the shard with the fewest frames so far. The result depends
    on names and frame counts alone, so that it is the same in every process. Within a shard, videos keep their order.
    """
    order = sorted(videos, key=lambda video: (-video.frame_count, video.name))
    loads = [(0, shard) for shard in range(count)]
    owner = {}
    for video in order:
        load, shard = heapq.heappop(loads)
        owner[video.name] = shard
        heapq.heappush(loads, (load + max(video.frame_count, 1), shard))
    return [[video for video in videos if owner[video.name] == shard] for shard in range(count)]
