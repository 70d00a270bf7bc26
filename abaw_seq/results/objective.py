"""The score that fitting on labelled predictions maximises, and the split in halves on which a fit is judged."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from abaw_seq.data.annotations import VideoLabels
from abaw_seq.data.folds import make_folds, source_video
from abaw_seq.data.prediction_file import Videos
from abaw_seq.errors import UserError
from abaw_seq.metrics import score
from abaw_seq.tasks import AU, TASKS

GAIN = 1e-9


def task_score(task: str, values: np.ndarray, labels: np.ndarray) -> float:
    """The official score of one task's predictions (N, ...) against labels (N, 15); NaN without labels.

    Action units without a labelled frame are left out of the mean.
    """
    scores = score({task: values}, labels)
    if scores[task] is not None:
        return scores[task]
    known = [f1 for f1 in scores["au_f1"].values() if f1 is not None]
    return float(np.mean(known)) if task == AU.name and known else np.nan


def labelled_videos(videos: Videos, where: str) -> Videos:
    """The videos that have a label of a task they predict; UserError naming `where` if there is none."""
    labelled = {
        name: video
        for name, video in videos.items()
        if video.labels is not None
        and any(not np.isnan(video.labels[:, TASKS[task].columns]).all() for task in video.outputs)
    }
    if not labelled:
        raise UserError(f"{where}: holds no labels to fit on; name labelled predictions")
    return labelled


def halves(videos: Videos) -> tuple[list[str], list[str]] | None:
    """The names of labelled videos in two parts with similar counts of frames and labels; None for one source video.

    The two sides of a two-person video stay together.
    """
    if len({source_video(name) for name in videos}) < 2:
        return None
    known = {name: VideoLabels(video.frames, video.truth, None) for name, video in videos.items()}
    first, second = make_folds(known, 2)
    return list(first.val), list(second.val)


def cross_fitted(videos: Videos, fit: Callable[[Videos], Callable[[Videos], Videos]]) -> Videos | None:
    """Each half of the videos, changed by what was fitted on the other half; None for too few videos.

    `fit` takes labelled videos and returns a function that changes videos.
    """
    parts = halves(videos)
    if parts is None:
        return None
    one, other = ({name: videos[name] for name in part} for part in parts)
    changed = {**fit(one)(other), **fit(other)(one)}
    return {name: changed[name] for name in videos}
