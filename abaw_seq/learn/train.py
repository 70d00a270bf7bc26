"""Training a multi-task head on cached features: one program, from top to bottom."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from abaw_seq.data.corpus import Corpus
from abaw_seq.engine.device import autocast, autocast_dtype, full_speed
from abaw_seq.engine.epoch import train_epoch
from abaw_seq.learn.batches import Batch
from abaw_seq.learn.losses import task_losses, with_teacher
from abaw_seq.learn.member import Epoch, Member, TrainResult, predict_frames
from abaw_seq.learn.settings import AugmentConfig, TrainConfig
from abaw_seq.learn.weighting import TaskWeighting
from abaw_seq.models.heads import Standardise
from abaw_seq.models.inference import CarriedState
from abaw_seq.models.joint import SequenceModel
from abaw_seq.run_folder import holds_run_folder
from abaw_seq.terminal import progress

__all__ = ["TrainResult", "augmented", "batch_losses", "ground_truth_share", "predict_frames", "train"]

log = logging.getLogger(__name__)


@holds_run_folder("run")
def train(
    config: TrainConfig,
    corpus: Corpus,
    run: Path,
    *,
    device: torch.device,
    resume: bool = False,
    train_videos: list[int] | None = None,
    val_videos: list[int] | None = None,
    proceed: Callable[[list[dict[str, Any]]], bool] | None = None,
    taught: dict[str, Tensor] | None = None,
    start: dict[str, Path] | None = None,
) -> TrainResult:
    """Train, validate each epoch, and leave the best epoch's weights, predictions and scores in `run`.

    `train_videos`, `val_videos`: indices into the corpus. By default those of the training split and labelled ones
    without a split train, those of the validation split validate. With `resume` an interrupted run goes on from its
    last whole epoch, bit for bit on the same device. `proceed` is asked after each epoch, with the lines of
    `metrics.jsonl`, whether to train on. `taught`: a teacher's raw outputs {task: (frames of the corpus, width)}, NaN
    where it has none, of which the config's `teacher` says how they are used. `start`: {part of the model, such as
    parts.au.model: run whose best weights it begins with}.
    Raises UserError where the corpus cannot serve the config or another process writes `run`, AbawError if the
    loss is not finite.
    """
    member = Member(
        config, corpus, run, device=device, resume=resume, train_videos=train_videos, val_videos=val_videos,
        taught=taught, start=start,
    )  # fmt: skip
    with progress(f"train {run.name}", member.left, "epochs") as advance, full_speed(device, member.model):
        while not member.is_over:
            if proceed is not None and member.history and not proceed(member.history):
                log.info(f"{run.name}: stopped after epoch {len(member.history)}")
                break
            epoch = member.next_epoch()
            member.end_epoch(epoch, train_member(member, epoch))
            advance(1, str(member.best) if member.best.scores else "")
    return member.result()


def train_member(member: Member, epoch: Epoch) -> Tensor:
    """Train a model by itself for an epoch; its mean losses (1 + tasks,)."""
    torch.manual_seed(epoch.seed)
    losses_of = batch_losses(
        member.model, member.weighting, member.corpus, member.config, balance=member.balance, epoch=epoch.number,
        taught=member.taught,
    )  # fmt: skip
    gathered = member.corpus.gathered((batch, batch.rows) for batch in epoch.batches)
    return train_epoch(gathered, losses_of, member.update, rates=epoch.rates)


def batch_losses(
    model: SequenceModel,
    weighting: TaskWeighting,
    corpus: Corpus,
    config: TrainConfig,
    *,
    balance: dict[str, Tensor],
    epoch: int,
    taught: dict[str, Tensor] | None = None,
) -> Callable[[Batch, Tensor], Tensor]:
    """For an epoch's `train_epoch`: a batch and its features -> the weighted loss, then that of each task."""
    carried = CarriedState()
    truth_share = ground_truth_share(config, epoch)
    cast = autocast(autocast_dtype(config.precision, corpus.device), corpus.device)

    def losses_of(batch: Batch, features: Tensor) -> Tensor:
        state = None
        if batch.lanes is not None and batch.fresh is not None:
            state = carried.take(batch.lanes, batch.fresh)
        labels = corpus.gather_labels(batch.rows, batch.used)
        features = augmented(features, model.standardise, config.augment)
        with cast:
            predicted = model(features, state, batch.used, labels=labels, gt_rate=truth_share)
        if batch.lanes is not None:
            carried.put(batch.lanes, predicted.state)
        by_task = task_losses(predicted.outputs, labels, config.loss, **balance)
        if config.teacher is not None and taught:
            teacher = {task: corpus.gather_rows(table, batch.rows, batch.used) for task, table in taught.items()}
            by_task = with_teacher(by_task, predicted.outputs, teacher, labels, **vars(config.teacher))
        losses = torch.stack([by_task[task] for task in config.tasks])
        return torch.cat([weighting(losses)[None], losses])

    return losses_of


def ground_truth_share(config: TrainConfig, epoch: int) -> float:
    """Share of the frames whose feedback is the ground truth; with `gt_decay` it is 0 in the last epoch."""
    decay = epoch / max(config.epochs - 1, 1) if config.model.gt_decay else 0.0
    return config.model.gt_rate * (1 - decay)


def augmented(
    features: Tensor, standardise: Standardise, config: AugmentConfig, generator: torch.Generator | None = None
) -> Tensor:
    """Features (batch, time, dim) with training noise; a hidden value becomes the training split's mean.

    `generator` is where random numbers come from, torch's own one by default.
    """
    device = features.device
    if config.noise:
        noise = torch.randn(features.shape, generator=generator, device=device)
        features = noise.mul_(config.noise / standardise.scale).add_(features)
    if config.time_mask:
        hidden = torch.rand(features.shape[:2], generator=generator, device=device) < config.time_mask
        features = torch.where(hidden[..., None], standardise.mean.to(features.dtype), features)
    if config.feature_dropout:
        shape = (features.shape[0], 1, features.shape[2])
        hidden = torch.rand(shape, generator=generator, device=device) < config.feature_dropout
        features = torch.where(hidden, standardise.mean.to(features.dtype), features)
    return features
