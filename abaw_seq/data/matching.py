"""Says which videos and frames annotations belong to, and which they do not."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Mapping

import numpy as np

from abaw_seq.data.folder import NAMES_SHOWN, a_few, video_name
from abaw_seq.data.video_labels import Annotations

log = logging.getLogger(__name__)


def log_matches(videos: Mapping[str, np.ndarray], annotations: Annotations) -> None:
    """Log how many videos and frames have labels, and what does not fit: a line for each kind.

    videos: {name: its frame numbers}.
    """
    labelled = {video: _labelled(annotations.for_frames(video, frames)) for video, frames in videos.items()}
    some = [video for video, count in labelled.items() if count]
    frames = sum(map(len, videos.values()))
    log.info(f"labels: {len(some)} of {len(videos)} videos, {sum(labelled.values()):,} of {frames:,} frames")
    names = {video_name(video): video for video in videos}
    unlabelled = sorted(names.keys() - annotations.videos.keys())
    absent = sorted(annotations.videos.keys() - names.keys())
    if unlabelled:
        log.warning(f"{len(unlabelled)} videos are not annotated: {_with_nearest(unlabelled, absent)}")
    if absent:
        log.info(f"{len(absent)} annotated videos are not among these: {_with_nearest(absent, unlabelled)}")
    apart = [
        f"{video} (frames {_span(videos[video])}, annotated {_span(annotations.videos[name].frames)})"
        for name, video in names.items()
        if not labelled[video] and name in annotations.videos and _labelled(annotations.videos[name].labels)
        if annotations.counts_from_zero(video, videos[video]) is not None
    ]
    if apart:
        log.warning(f"{len(apart)} annotated videos have no frame with a label: {a_few(apart)}")
    log_counting(videos, annotations)


def log_counting(videos: Mapping[str, np.ndarray], annotations: Annotations) -> None:
    """Log which videos count their frames from 0 although line k of their annotation is frame k."""
    counts = {video: annotations.counts_from_zero(video, frames) for video, frames in videos.items()}
    from_zero = [video for video, zero in counts.items() if zero]
    if from_zero:
        log.warning(
            f"frames counted from 0 in {len(from_zero)} videos ({a_few(from_zero)}): line k of their annotation is "
            "taken for frame k - 1"
        )
        by_line = [v for v, zero in counts.items() if zero is False and annotations.is_by_line(v) and len(videos[v])]
        if by_line:
            log.warning(f"{len(by_line)} other videos have no frame 0 and are taken to count from 1: {a_few(by_line)}")
    for video in [video for video, zero in counts.items() if zero is None][:NAMES_SHOWN]:
        lines = len(annotations.videos[video_name(video)].frames)
        log.warning(
            f"{video}: no labels, for its frames are {_span(videos[video])} and its annotation has {lines} lines: "
            "which line is which frame is not certain; number the frames from 1"
        )


def _with_nearest(names: list[str], others: Collection[str]) -> str:
    """The first names, each with the most similar one of the others."""
    shown = []
    for name in names[:NAMES_SHOWN]:
        near = difflib.get_close_matches(name, others, n=1)
        shown.append(f"{name} ({near[0]}?)" if near else name)
    return a_few(shown + names[NAMES_SHOWN:])


def _labelled(labels: np.ndarray) -> int:
    return int((~np.isnan(labels)).any(1).sum())


def _span(frames: np.ndarray) -> str:
    return f"{frames.min()} to {frames.max()}" if len(frames) else "none"
