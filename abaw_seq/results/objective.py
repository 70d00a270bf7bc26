"""What fitting on labelled predictions maximises, and how it is judged: by videos it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from abaw_seq.data.annotations import VideoLabels
from abaw_seq.data.folds import make_folds, source_video
from abaw_seq.data.prediction_file import VideoPredictions
from abaw_seq.errors import UserError
from abaw_seq.metrics import score
from abaw_seq.tasks import AU, TASKS

GAIN = 1e-9
Videos = dict[str, VideoPredictions]


def task_score(task: str, values: np.ndarray, labels: np.ndarray) -> float | None:
    """The official score of one task's predictions (N, ...) against labels (N, 15), None without labels.

    Where some action units have no labelled frame it is the mean over the others.
    """
    found = score({task: values}, labels)
    if task != AU.name or found[task] is not None:
        return found[task]
    known = [f1 for f1 in found["au_f1"].values() if f1 is not None]
    return float(np.mean(known)) if known else None


def labelled_videos(videos: Mapping[str, VideoPredictions], where: str) -> Videos:
    """The videos that carry a label of a task they predict; UserError naming `where` if none does."""
    found = {
        name: video
        for name, video in videos.items()
        if video.labels is not None
        and any(not np.isnan(video.labels[:, TASKS[task].columns]).all() for task in video.outputs)
    }
    if not found:
        raise UserError(f"{where}: holds no labels to fit on; name labelled predictions")
    return found


def halves(videos: Mapping[str, VideoPredictions]) -> tuple[list[str], list[str]] | None:
    """Two parts of labelled videos, alike in frames and labels; None for a single source video.

    The two sides of a two-person video stay together.
    """
    if len({source_video(name) for name in videos}) < 2:
        return None
    known = {name: VideoLabels(video.frames, video.labels, None) for name, video in videos.items()}
    first, second = make_folds(known, 2)
    return list(first.val), list(second.val)


def cross_fitted(videos: Videos, fit: Callable[[Videos], Callable[[Videos], Videos]]) -> Videos | None:
    """Each half of the videos as changed by what was fitted on the other half.

    `fit` takes labelled videos and gives what to apply. None where there are too few videos.
    """
    parts = halves(videos)
    if parts is None:
        return None
    one, other = ({name: videos[name] for name in part} for part in parts)
    changed = {**fit(one)(other), **fit(other)(one)}
    return {name: changed[name] for name in videos}
