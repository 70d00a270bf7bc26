from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abaw_feats.extraction.shard import balanced_shards, parse_shard
from abaw_feats.reading.frames import VideoSource
from abaw_seq.errors import UserError


def videos_of(counts):
    return [VideoSource(f"v{k}", Path(f"v{k}"), False, count) for k, count in enumerate(counts)]


@given(st.lists(st.integers(0, 5000), max_size=40), st.integers(1, 9))
def test_shards_hold_every_video_once_and_differ_by_no_more_than_one_video(counts, count):
    videos = videos_of(counts)
    shards = balanced_shards(videos, count)
    assert len(shards) == count
    assert sorted(video.name for shard in shards for video in shard) == sorted(video.name for video in videos)
    loads = [sum(max(video.frame_count, 1) for video in shard) for shard in shards]
    assert max(loads) - min(loads) <= max([*counts, 1])


def test_shards_do_not_depend_on_the_order_of_the_videos():
    videos = videos_of([50, 20, 20, 70, 5, 5, 5, 90])
    shards = balanced_shards(videos, 3)
    assert [sum(video.frame_count for video in shard) for shard in shards] == [90, 90, 85]
    again = balanced_shards(videos[::-1], 3)
    assert [{video.name for video in shard} for shard in shards] == [{v.name for v in s} for s in again]


def test_parse_shard():
    assert parse_shard("1/1") == (1, 1) and parse_shard("12/300") == (12, 300)
    for text in ("0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/4/2", ""):
        with pytest.raises(UserError, match="expected I/N"):
            parse_shard(text)
