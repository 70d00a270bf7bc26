"""Training a multi-task head on cached features: one program, from top to bottom."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abaw_seq import config as configs
from abaw_seq.data.corpus import Corpus
from abaw_seq.data.prediction_file import VideoPredictions, by_video, save_scored
from abaw_seq.engine.best import BestEpoch
from abaw_seq.engine.device import autocast, autocast_dtype, full_speed
from abaw_seq.engine.epoch import train_epoch
from abaw_seq.engine.provenance import provenance
from abaw_seq.engine.update import RunningAverage, Update
from abaw_seq.errors import AbawError, UserError
from abaw_seq.files import load_tensors, save_tensors
from abaw_seq.learn.batches import Batch, training_batches
from abaw_seq.learn.losses import loss_weights, outputs_of, task_losses
from abaw_seq.learn.optim import build_optimizer, learning_rate
from abaw_seq.learn.settings import AugmentConfig, TrainConfig
from abaw_seq.learn.weighting import TaskWeighting
from abaw_seq.metrics import score
from abaw_seq.models.frameworks import MultiTaskModel
from abaw_seq.models.heads import Standardise
from abaw_seq.models.inference import CarriedState, predict_videos
from abaw_seq.run_folder import BEST, best_of, open_run, read_scores, save_epoch, write_provenance
from abaw_seq.tasks import LABEL_COLUMNS, TASKS
from abaw_seq.terminal import progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """The best epoch of a run."""

    model: MultiTaskModel
    epoch: int
    predictions: dict[str, VideoPredictions]
    """Of the validation videos, by name; empty without any."""
    scores: dict[str, Any]
    """The content of `scores.json`."""


def train(
    config: TrainConfig,
    corpus: Corpus,
    run: Path,
    *,
    device: torch.device,
    resume: bool = False,
    train_videos: list[int] | None = None,
    val_videos: list[int] | None = None,
) -> TrainResult:
    """Train, validate each epoch, and leave the best epoch's weights, predictions and scores in `run`.

    `train_videos`, `val_videos`: indices into the corpus. By default those of the training split and labelled ones
    without a split train, those of the validation split validate. With `resume` an interrupted run goes on from its
    last whole epoch, bit for bit on the same device.
    Raises UserError where the corpus cannot serve the config, AbawError if the loss is not finite.
    """
    # Data: everything on the device, windows by index.
    corpus = config.as_seen(corpus).to(device)
    train_videos = corpus.training_videos() if train_videos is None else train_videos
    val_videos = corpus.in_split("val") if val_videos is None else val_videos
    train_rows = corpus.rows(train_videos)
    _check_labels(config, corpus, train_rows)
    truth = corpus.labels[corpus.rows(val_videos)].cpu().numpy()
    if reach := {task: frames for task, frames in config.label_reach.items() if frames}:
        corpus, filled = corpus.with_nearest_labels(train_videos, reach)
        counts = ", ".join(f"{task} {count:,}" for task, count in filled.items())
        log.info(f"{run.name}: training frames with the label of the nearest labelled frame: {counts}")
    if place := corpus.elsewhere():
        log.info(f"{run.name}: {place}")
    if device.type == "cuda" and config.precision == "bf16" and config.model.encoder.recurrent:
        log.warning(f"{run.name}: on a GPU lstm and gru train slower in bf16 than in fp32; set precision=fp32")

    # Model, loss, optimiser.
    torch.manual_seed(config.seed)
    model = MultiTaskModel(corpus.dim, config.model, {t: outputs_of(t, config.loss) for t in config.tasks}).to(device)
    model.standardise.fit(corpus.gather_features, train_rows, config.standardised(corpus, "train"))
    weighting = TaskWeighting(config.tasks, config.weighting).to(device)
    balance = {name: weight.to(device) for name, weight in loss_weights(config.loss, corpus.labels[train_rows]).items()}
    average = RunningAverage(model, config.optim.ema, random_start=True)
    optimizer = build_optimizer((model, weighting), config.optim)
    update = Update(model, optimizer, extra=(weighting,), clip=config.optim.clip, average=average)

    # Begin, or go on from the last whole epoch.
    state = open_run(run, config, resume=resume)
    history: list[dict[str, Any]] = []
    best, best_of_task = BestEpoch(), {}
    if state:
        model.load_state_dict(state["model"])
        average.model.load_state_dict(state["average"])
        weighting.load_state_dict(state["weighting"])
        update.load_state_dict(state)
        history, best, best_of_task = state["history"], BestEpoch(state["best"]), state["best_per_task"]
        update.done = sum(line["steps"] for line in history)
    else:
        write_provenance(run, provenance(seed=config.seed, device=device, **corpus.described()))

    # Epochs.
    predicted: dict[str, np.ndarray] | None = None  # by the best epoch
    bar = progress(f"train {run.name}", config.epochs - len(history), "epochs")
    with bar as advance, full_speed(device, model):
        while not best.is_over(len(history), epochs=config.epochs, patience=config.patience):
            epoch, started = len(history), time.monotonic()
            rng = np.random.default_rng([config.seed, epoch])
            torch.manual_seed(int(rng.integers(2**31)))
            model.train()
            batches = list(training_batches(corpus, train_videos, config.windows, rng))
            moments = (epoch + k / len(batches) for k in range(len(batches)))
            rates = [learning_rate(config.optim, moment, config.epochs) for moment in moments]
            losses_of = batch_losses(model, weighting, corpus, config, balance=balance, epoch=epoch)
            gathered = corpus.gathered((batch, batch.rows) for batch in batches)
            means = train_epoch(gathered, losses_of, update, rates=rates)[1:]
            weighting.end_epoch(means)
            losses = means.cpu().numpy()
            if not np.isfinite(losses).all():
                raise AbawError(f"{run.name}: the loss is not finite in epoch {epoch + 1}; lower optim.lr")
            outputs = predict_frames(average.model, corpus, val_videos, config) if val_videos else {}
            scores = score(outputs, truth) if val_videos else None
            history.append(
                {
                    "epoch": epoch + 1,
                    "steps": len(batches),
                    "lr": rates[-1],
                    "seconds": time.monotonic() - started,
                    "train": {"loss": float(losses.sum()), **dict(zip(config.tasks, losses.tolist(), strict=True))},
                    "val": scores,
                }
            )
            if best.improves(epoch + 1, scores):
                predicted = outputs
                save_tensors(run / BEST, _portable(average.model, corpus, config))
            for task in config.tasks if config.keep_best_per_task and scores else ():
                if scores and scores[task] is not None and scores[task] > best_of_task.get(task, float("-inf")):
                    best_of_task[task] = scores[task]
                    save_tensors(run / best_of(task), _portable(average.model, corpus, config))
            save_epoch(
                run,
                {
                    "epoch": epoch + 1,
                    "history": history,
                    "best": best.state(),
                    "best_per_task": best_of_task,
                    "model": model.state_dict(),
                    "average": average.model.state_dict(),
                    "weighting": weighting.state_dict(),
                    **update.state_dict(),
                },
            )
            advance(1, str(best) if scores else "")
    if len(history) < config.epochs:
        log.info(f"{run.name}: no better score for {config.patience} epochs, stopped after epoch {len(history)}")
    if rate := corpus.gather_rate():
        log.info(f"{run.name}: features were gathered at {rate}")

    # The best epoch is the result.
    average.model.load_state_dict(load_tensors(run / BEST, device)["model"])
    if predicted is None and val_videos:  # the best epoch was before the run was resumed
        predicted = predict_frames(average.model, corpus, val_videos, config)
    predictions = by_video(corpus, val_videos, predicted or {})
    scores = read_scores(run) if state and state["epoch"] == len(history) else None
    if scores is None:
        scores = save_scored(run, predictions, best_epoch=best.epoch)
    return TrainResult(average.model.eval(), best.epoch, predictions, scores)


def batch_losses(
    model: MultiTaskModel,
    weighting: TaskWeighting,
    corpus: Corpus,
    config: TrainConfig,
    *,
    balance: dict[str, Tensor],
    epoch: int,
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
        losses = torch.stack([by_task[task] for task in config.tasks])
        return torch.cat([weighting(losses)[None], losses])

    return losses_of


def ground_truth_share(config: TrainConfig, epoch: int) -> float:
    """Share of the frames whose feedback is the ground truth; with `gt_decay` it is 0 in the last epoch."""
    decay = epoch / max(config.epochs - 1, 1) if config.model.gt_decay else 0.0
    return config.model.gt_rate * (1 - decay)


def augmented(features: Tensor, standardise: Standardise, config: AugmentConfig) -> Tensor:
    """Features (batch, time, dim) with training noise; a hidden value becomes the training split's mean."""
    if config.noise:
        features = features + torch.randn_like(features, dtype=torch.float32) * (config.noise / standardise.scale)
    if config.time_mask:
        hidden = torch.rand(features.shape[:2], device=features.device) < config.time_mask
        features = torch.where(hidden[..., None], standardise.mean.to(features.dtype), features)
    if config.feature_dropout:
        hidden = torch.rand(features.shape[0], 1, features.shape[2], device=features.device) < config.feature_dropout
        features = torch.where(hidden, standardise.mean.to(features.dtype), features)
    return features


def predict_frames(
    model: MultiTaskModel, corpus: Corpus, videos: list[int], config: TrainConfig
) -> dict[str, np.ndarray]:
    """{task: (frames, ...)} probabilities of the given videos, one after the other."""
    outputs = predict_videos(model, corpus, videos, length=config.windows.length, carry=config.windows.carry)
    return {task: values.cpu().numpy() for task, values in outputs.items()}


def _portable(model: MultiTaskModel, corpus: Corpus, config: TrainConfig) -> dict[str, Any]:
    """Weights and all that is needed to use them on other feature files."""
    return {
        "model": model.state_dict(),
        "config": configs.to_dict(config),
        "dim": corpus.dim,
        "backbones": {
            name: {"dim": info.dim, "weights_sha256": info.weights_sha256, "pooling": info.pooling}
            for name, info in corpus.backbone_info.items()
        },
    }


def _check_labels(config: TrainConfig, corpus: Corpus, rows: Tensor) -> None:
    if not len(rows):
        raise UserError("no training videos: attach labels and splits to the features, or give annotations")
    known = (~torch.isnan(corpus.labels[rows])).any(0).cpu()
    for task in config.tasks:
        if not known[TASKS[task].columns].any():
            columns = ", ".join(LABEL_COLUMNS[TASKS[task].columns])
            raise UserError(f"no training frame has a label for {task} ({columns}); attach labels or drop the task")
