"""Which videos have changed since their features were computed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from abaw_feats.extraction.join import Holdings
from abaw_feats.reading.frames import VideoSource
from abaw_feats.reading.state import content_now, stamp_now
from abaw_seq.data.source_record import SourceRecord
from abaw_seq.terminal import progress


@dataclass
class Changes:
    """How the videos of a command compare with what is stored of them."""

    changed: dict[str, list[Path]] = field(default_factory=dict)
    """{video to extract again: the files in which its features are outdated}"""
    refused: dict[str, str] = field(default_factory=dict)
    """{video that has changed but is not extracted again: why}"""
    stamps: dict[str, str] = field(default_factory=dict)
    """{video with the content it had, in files of other times of change: its stamp now}"""


def find_changes(sources: Sequence[VideoSource], stored: Holdings, backbones: Collection[str]) -> Changes:
    """Compare the videos with their records: by names, sizes and times, and where these differ by content.

    A video that has changed is extracted again if `backbones` are all that there is of it. Of a video without a
    record, which older versions wrote, the number of images is compared.
    """
    changes = Changes()
    other_stamp: dict[str, tuple[VideoSource, str]] = {}
    for video in sources:
        records = [copy.record for copy in stored.copies.get(video.name, {}).values()]
        now = _stamp(video) if any(record.stamp for record in records) else ""
        if any(record.stamp and record.stamp != now for record in records):
            other_stamp[video.name] = (video, now)
        elif records and not now and not video.is_file and stored.rows[video.name] != video.frame_count:
            changes.refused[video.name] = (
                f"{video.path} has {video.frame_count} frames now but had {stored.rows[video.name]} when it was "
                "extracted; extract it into a new file"
            )
    if other_stamp:
        with progress("compare", len(other_stamp), "videos") as advance:
            for video, now in other_stamp.values():
                _compare_content(video, now, stored, backbones, changes)
                advance()
    return changes


def _compare_content(
    video: VideoSource, now: str, stored: Holdings, backbones: Collection[str], changes: Changes
) -> None:
    copies = stored.copies[video.name]
    content = _content(video)
    outdated = [path for path, copy in copies.items() if not _agrees(copy.record, now, content)]
    held = {name for path in outdated for name in copies[path].backbones}
    if not outdated:
        changes.stamps[video.name] = now
    elif held.issubset(backbones):
        changes.changed[video.name] = outdated
    else:
        changes.refused[video.name] = (
            f"{video.path} has changed since it was extracted; name all backbones that there are of it "
            f"({', '.join(sorted(held))}), or extract it into a new file"
        )


def _agrees(record: SourceRecord, stamp: str, content: str) -> bool:
    return not record.stamp or record.stamp == stamp or bool(content) and record.content == content


def _stamp(video: VideoSource) -> str:
    try:
        return stamp_now(video)
    except (ValueError, OSError):
        return "unreadable"  # whoever extracts the video reports why


def _content(video: VideoSource) -> str:
    try:
        return content_now(video)
    except (ValueError, OSError):
        return ""
