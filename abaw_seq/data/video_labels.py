"""The annotations of videos, as arrays, and how they meet frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from abaw_seq.data.annotation_join import counted_from_zero
from abaw_seq.data.folder import video_name
from abaw_seq.tasks import AU, LABEL_COLUMNS, SPLITS

SUMMARY_HEADER = ["", "videos", "rows", "valence-arousal", "expression", "action units", "no label at all"]


@dataclass(frozen=True)
class VideoLabels:
    """The annotation of one video."""

    frames: np.ndarray
    """int32 (frames,): frame numbers, rising"""
    labels: np.ndarray
    """float32 (frames, 15) in the order of `LABEL_COLUMNS`, NaN where there is no label"""
    split: str | None
    """one of "train", "val" and "test", or None where no file name says it"""
    by_line: bool | None = False
    """True if line k of the video's files is frame k, None if so in some of them, False if names say the frame"""


@dataclass
class Annotations:
    """The annotations of many videos."""

    videos: dict[str, VideoLabels]
    counts: Counter[str] = field(default_factory=Counter)
    """how often something was joined, skipped or left out in reading, by what it was"""
    sources: tuple[str, ...] = ()
    """The files and folders that were read."""

    def for_frames(self, video: str, frames: np.ndarray) -> np.ndarray:
        """Labels float32 (frames, 15) of these frame numbers, NaN where there is none.

        They are all the frames of the video: if these are counted from 0, line k of a per-video file belongs to frame
        k - 1; see `annotated_numbers`.
        """
        frames = self.annotated_numbers(video, frames)
        labels = np.full((len(frames), len(LABEL_COLUMNS)), np.nan, np.float32)
        known = self.videos.get(video_name(video))
        if known is not None and len(known.frames):
            row = np.minimum(np.searchsorted(known.frames, frames), len(known.frames) - 1)
            annotated = known.frames[row] == frames
            labels[annotated] = known.labels[row[annotated]]
        return labels

    def counts_from_zero(self, video: str, frames: np.ndarray) -> bool | None:
        """Whether a video's frame numbers are counted from 0 and its labels are lines; None if that is not certain."""
        if not self.is_by_line(video):
            return False
        known = self.videos[video_name(video)]
        from_zero = counted_from_zero(np.asarray(frames), len(known.frames))
        return None if from_zero and known.by_line is None else from_zero

    def is_by_line(self, video: str) -> bool:
        """Whether a video has labels of files in which line k is frame k."""
        known = self.videos.get(video_name(video))
        return known is not None and known.by_line is not False

    def annotated_numbers(self, video: str, frames: np.ndarray) -> np.ndarray:
        """The numbers (frames,) that the annotation has for all the frames of a video; -1 where that is not certain."""
        frames, from_zero = np.asarray(frames), self.counts_from_zero(video, frames)
        return np.full_like(frames, -1) if from_zero is None else frames + 1 if from_zero else frames

    def without_labels(self, videos: Iterable[str]) -> Annotations:
        """The same annotations, in which these videos have a split but no labels."""
        none = np.zeros(0, np.int32), np.zeros((0, len(LABEL_COLUMNS)), np.float32)
        known = {name: self.videos[name] for name in map(video_name, videos) if name in self.videos}
        blank = {name: VideoLabels(*none, video.split) for name, video in known.items()}
        return Annotations({**self.videos, **blank}, self.counts, self.sources)

    def summary_rows(self) -> list[list[str]]:
        """Rows of the summary table under `SUMMARY_HEADER`: labels per split, then every count."""
        rows = []
        for split in (*SPLITS, None):
            videos = [video for video in self.videos.values() if video.split == split]
            if videos:
                valid = np.sum([_valid_rows(video.labels) for video in videos], 0)
                frames = sum(len(video.frames) for video in videos)
                rows.append([split or "no split", *(f"{n:,}" for n in (len(videos), frames, *valid))])
        blank = [""] * (len(SUMMARY_HEADER) - 3)
        return rows + [[name, "", f"{count:,}", *blank] for name, count in self.counts.items()]


def _valid_rows(labels: np.ndarray) -> np.ndarray:
    """int64 (4,): how many rows have labels of valence and arousal, the expression, action units, and none at all."""
    valid = ~np.isnan(labels)
    units = valid[:, AU.columns].any(1)
    none = ~(valid[:, :3].any(1) | units)
    return np.array([(valid[:, 0] & valid[:, 1]).sum(), valid[:, 2].sum(), units.sum(), none.sum()])
