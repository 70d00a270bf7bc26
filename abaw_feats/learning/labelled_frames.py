"""Frames of several data sets, joined with the labels that each data set has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from abaw_feats.learning.sampling import Pool, balancing_weights
from abaw_feats.reading.image_index import ImageIndex, index_videos, join_indexes
from abaw_seq.config.ranges import Checked, Count, Positive
from abaw_seq.data.annotations import read_annotations
from abaw_seq.data.matching import log_matches
from abaw_seq.errors import UserError
from abaw_seq.tasks import LABEL_COLUMNS, TASKS


@dataclass(frozen=True)
class SourceConfig(Checked):
    """One data set: frames, their annotations, and its share of the training."""

    videos: tuple[str, ...]
    """Folders of video folders, video folders, video files, or text files of such paths."""
    annotations: tuple[str, ...]
    """Files or folders in the official formats; they also give the split of each video."""
    share: Positive = 1.0
    """Its share of every batch, relative to the shares of the other sources."""
    tasks: tuple[str, ...] = ()
    """The tasks whose labels are used; [] for all there are."""
    every: Count = 1
    """Use only every n-th frame of a training video; neighbouring frames are much alike."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := set(self.tasks) - set(TASKS):
            raise ValueError(f"tasks: {sorted(unknown)[0]!r} is not one of {', '.join(TASKS)}")


@dataclass(frozen=True)
class LabelledFrames:
    """Images with labels, and which of them train and which validate."""

    index: ImageIndex
    labels: Tensor
    """float32 (rows, 15), NaN where there is no label or its task is not trained."""
    source: Tensor
    """int64 (rows,): the number of each image's source."""
    training: Tensor
    """int64: the rows that train, rising."""
    validation: Tensor
    """int64: the rows that validate, rising."""

    def pools(self, sources: Sequence[SourceConfig], readable: np.ndarray, balance: float) -> list[Pool]:
        """The readable training rows of each source, for `sampling.batches`.

        readable: bool (rows,); balance: the power of `balancing_weights`, 0 for none.
        """
        rows = self.training[torch.from_numpy(readable[self.training.numpy()])]
        pools = []
        for number, config in enumerate(sources):
            own = rows[self.source[rows] == number]
            if not len(own):
                raise UserError(f"{config.videos[0]}: none of the training frames of this source can be read")
            weights = balancing_weights(self.labels[own], balance) if balance else None
            pools.append(Pool(own, config.share, weights))
        return pools


def gather_frames(
    sources: Sequence[SourceConfig], tasks: Sequence[str], *, unlabelled: bool = False, share_labels: bool = False
) -> LabelledFrames:
    """Join the frames of every source with its labels for `tasks`.

    Videos of the training split train, and so do labelled videos without a split; those of the validation
    split validate; those of the test split are left out. With `unlabelled`, frames of training videos
    train without a label too, from a teacher. With `share_labels`, a frame that is in several sources
    (same video, same number) has the labels of all of them.
    Raises UserError if a source has no training frame with a label, or a task has no label at all.
    """
    parts = [_source_frames(source, tasks, unlabelled) for source in sources]
    index = join_indexes([part[0] for part in parts])
    labels = np.concatenate([part[1] for part in parts])
    training = np.concatenate([part[2] for part in parts])
    number = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    if share_labels:
        labels = _shared(index, labels)
    for task in tasks:
        if np.isnan(labels[training][:, TASKS[task].columns]).all():
            raise UserError(f"no training frame has a label for {task}; give annotations for it or drop the task")
    return LabelledFrames(
        index,
        torch.from_numpy(labels),
        torch.from_numpy(number),
        torch.from_numpy(np.flatnonzero(training)),
        torch.from_numpy(np.flatnonzero(~training)),
    )


def _source_frames(
    source: SourceConfig, tasks: Sequence[str], unlabelled: bool
) -> tuple[ImageIndex, np.ndarray, np.ndarray]:
    """(index, labels float32 (rows, 15), training bool (rows,)) of the frames that train or validate."""
    where = ", ".join(source.annotations) or source.videos[0]
    index = index_videos(source.videos)
    annotations = read_annotations(*source.annotations)
    used = [task for task in tasks if not source.tasks or task in source.tasks]
    if not used:
        raise UserError(f"{where}: used for {', '.join(source.tasks)} only, but none of these tasks is trained")
    labels = np.full((len(index), len(LABEL_COLUMNS)), np.nan, np.float32)
    frames = {video.name: index.number[index.source == number] for number, video in enumerate(index.sources)}
    for number, (video, numbers) in enumerate(frames.items()):
        labels[index.source == number] = annotations.for_frames(video, numbers)
    log_matches(frames, annotations)
    for task in set(TASKS) - set(used):
        labels[:, TASKS[task].columns] = np.nan

    annotated = [annotations.videos.get(video.name) for video in index.sources]
    splits = np.array([video.split or "train" if video else "none" for video in annotated])[index.source]
    labelled = ~np.isnan(labels).all(axis=1)
    training = (splits == "train") & (labelled | unlabelled)
    if source.every > 1:
        position = np.arange(len(index)) - np.searchsorted(index.source, index.source)  # of each frame in its video
        training &= position % source.every == 0
    validation = (splits == "val") & labelled
    if not (training & labelled).any():
        raise UserError(
            f"{where}: no frame of {source.videos[0]} has a training label for {', '.join(used)}; "
            "check that folder names and frame numbers are those of the annotations"
        )
    useful = np.flatnonzero(training | validation)
    return index.select(useful), labels[useful], training[useful]


def _shared(index: ImageIndex, labels: np.ndarray) -> np.ndarray:
    """Labels, with missing ones filled in from other rows of the same video name and frame number."""
    _, video = np.unique([source.name for source in index.sources], return_inverse=True)
    _, frame = np.unique(np.stack([video[index.source], index.number]), axis=1, return_inverse=True)
    known = np.full((len(labels), labels.shape[1]), np.nan, labels.dtype)
    rows, columns = np.nonzero(~np.isnan(labels[::-1]))  # backwards, so that of several labels the first row's stays
    known[frame[::-1][rows], columns] = labels[::-1][rows, columns]
    return np.where(np.isnan(labels), known[frame], labels)
