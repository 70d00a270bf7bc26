"""One model in training and its run folder: what a program that trains one model, or many, does before and after each
epoch.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abaw_seq import config as configs
from abaw_seq.data.corpus import Corpus
from abaw_seq.data.prediction_file import VideoPredictions, by_video, save_scored
from abaw_seq.engine.best import BestEpoch
from abaw_seq.engine.memory import TRAINING_COPIES, check_fits
from abaw_seq.engine.provenance import provenance
from abaw_seq.engine.update import RunningAverage, Update
from abaw_seq.errors import AbawError, UserError
from abaw_seq.files import load_tensors, save_tensors
from abaw_seq.learn.batches import Batch, training_batches
from abaw_seq.learn.losses import loss_weights, outputs_of
from abaw_seq.learn.optim import build_optimizer, learning_rate
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.learn.weighting import TaskWeighting
from abaw_seq.metrics import score
from abaw_seq.models.inference import predict_videos
from abaw_seq.models.joint import SequenceModel, build_model
from abaw_seq.run_folder import BEST, best_of, open_run, read_scores, save_epoch, write_provenance
from abaw_seq.tasks import LABEL_COLUMNS, TASKS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """The best epoch of a run."""

    model: SequenceModel
    epoch: int
    predictions: dict[str, VideoPredictions]
    """Of the validation videos, by name; empty without any."""
    scores: dict[str, Any]
    """The content of `scores.json`."""


@dataclass(frozen=True)
class Epoch:
    """What an epoch of one model will be, drawn from its seed."""

    number: int
    """From 0."""
    seed: int
    """Of the random numbers drawn while it trains: noise and dropout."""
    batches: list[Batch]
    """Its training batches, in order."""
    rates: list[float]
    """The learning rate of each."""
    started: float
    """When it began, on the monotonic clock."""


class Member:
    """A model, its losses, optimiser and history, begun or resumed in a run folder; arguments as for `train`."""

    def __init__(
        self,
        config: TrainConfig,
        corpus: Corpus,
        run: Path,
        *,
        device: torch.device,
        resume: bool = False,
        train_videos: list[int] | None = None,
        val_videos: list[int] | None = None,
        taught: dict[str, Tensor] | None = None,
        start: dict[str, Path] | None = None,
    ):
        # Data: everything on the device, windows by index.
        self.config, self.run = config, run
        corpus = config.as_seen(corpus).to(device)
        self.train_videos = corpus.training_videos() if train_videos is None else train_videos
        self.val_videos = corpus.in_split("val") if val_videos is None else val_videos
        train_rows = corpus.rows(self.train_videos)
        if (config.teacher is None) != (taught is None):
            raise UserError("teacher: this config learns from a teacher, whom abaw-seq distill --teacher RUN names")
        self.taught = taught or {}
        _check_labels(config, corpus, train_rows, self.taught)
        self._truth = corpus.labels[corpus.rows(self.val_videos)].cpu().numpy()
        if reach := {task: frames for task, frames in config.label_reach.items() if frames}:
            corpus, filled = corpus.with_nearest_labels(self.train_videos, reach)
            counts = ", ".join(f"{task} {count:,}" for task, count in filled.items())
            log.info(f"{run.name}: training frames with the label of the nearest labelled frame: {counts}")
        if place := corpus.elsewhere():
            log.info(f"{run.name}: {place}")
        if device.type == "cuda" and config.precision == "bf16" and config.model.encoder.recurrent:
            log.warning(f"{run.name}: on a GPU lstm and gru train slower in bf16 than in fp32; set precision=fp32")
        self.corpus, self.device = corpus, device

        # Model, loss, optimiser.
        torch.manual_seed(config.seed)
        widths = {task: outputs_of(task, config.loss) for task in config.tasks}
        dims = {name: info.dim for name, info in corpus.backbone_info.items()}
        build = partial(build_model, dims, config.model, config.joint, widths)
        check_fits(build, "this model", copies=TRAINING_COPIES)
        self.model = build().to(device)
        self.model.standardise.fit(corpus.gather_features, train_rows, config.standardised(corpus, "train"))
        for part, trained in (start or {}).items():
            self.model.get_submodule(part).load_state_dict(load_tensors(trained / BEST, device)["model"])
        self.weighting = TaskWeighting(config.tasks, config.weighting).to(device)
        weights = loss_weights(config.loss, corpus.labels[train_rows])
        self.balance = {name: weight.to(device) for name, weight in weights.items()}
        self.average = RunningAverage(self.model, config.optim.ema, random_start=True)
        optimizer = build_optimizer((self.model, self.weighting), config.optim)
        self.update = Update(
            self.model, optimizer, extra=(self.weighting,), clip=config.optim.clip, average=self.average
        )

        # Begin, or go on from the last whole epoch.
        state = open_run(run, config, resume=resume)
        self.history: list[dict[str, Any]] = []
        self.best, self._best_of_task = BestEpoch(), {}
        self._predicted: dict[str, np.ndarray] | None = None  # by the best epoch
        self._stored = len(state["history"]) if state else 0
        if state:
            self.model.load_state_dict(state["model"])
            self.average.model.load_state_dict(state["average"])
            self.weighting.load_state_dict(state["weighting"])
            self.update.load_state_dict(state)
            self.history, self.best = state["history"], BestEpoch(state["best"])
            self._best_of_task = state["best_per_task"]
            self.update.done = sum(line["steps"] for line in self.history)
        else:
            write_provenance(run, provenance(seed=config.seed, device=device, **corpus.described()))

    @property
    def left(self) -> int:
        """Epochs that are left, if none ends the run early."""
        return self.config.epochs - len(self.history)

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done, or patience is at its end."""
        return self.best.is_over(len(self.history), epochs=self.config.epochs, patience=self.config.patience)

    def next_epoch(self) -> Epoch:
        """Draw the next epoch, and set the model to training."""
        number, started = len(self.history), time.monotonic()
        rng = np.random.default_rng([self.config.seed, number])
        seed = int(rng.integers(2**31))
        self.model.train()
        batches = list(training_batches(self.corpus, self.train_videos, self.config.windows, rng))
        moments = (number + k / len(batches) for k in range(len(batches)))
        rates = [learning_rate(self.config.optim, moment, self.config.epochs) for moment in moments]
        return Epoch(number, seed, batches, rates, started)

    def end_epoch(self, epoch: Epoch, means: Tensor) -> None:
        """Validate after an epoch of mean losses (1 + tasks,), and leave its state, and what is best, in the folder."""
        config, run, model = self.config, self.run, self.average.model
        means = means[1:]
        self.weighting.end_epoch(means)
        losses = means.cpu().numpy()
        if not np.isfinite(losses).all():
            raise AbawError(f"{run.name}: the loss is not finite in epoch {epoch.number + 1}; lower optim.lr")
        outputs = predict_frames(model, self.corpus, self.val_videos, config) if self.val_videos else {}
        scores = score(outputs, self._truth) if self.val_videos else None
        self.history.append(
            {
                "epoch": epoch.number + 1,
                "steps": len(epoch.batches),
                "lr": epoch.rates[-1],
                "seconds": time.monotonic() - epoch.started,
                "train": {"loss": float(losses.sum()), **dict(zip(config.tasks, losses.tolist(), strict=True))},
                "val": scores,
            }
        )
        if self.best.improves(epoch.number + 1, scores):
            self._predicted = outputs
            save_tensors(run / BEST, _portable(model, self.corpus, config))
        for task in config.tasks if config.keep_best_per_task and scores else ():
            if scores and scores[task] is not None and scores[task] > self._best_of_task.get(task, float("-inf")):
                self._best_of_task[task] = scores[task]
                save_tensors(run / best_of(task), _portable(model, self.corpus, config))
        save_epoch(
            run,
            {
                "epoch": epoch.number + 1,
                "history": self.history,
                "best": self.best.state(),
                "best_per_task": self._best_of_task,
                "model": self.model.state_dict(),
                "average": model.state_dict(),
                "weighting": self.weighting.state_dict(),
                **self.update.state_dict(),
            },
        )

    def result(self) -> TrainResult:
        """End the run: the best epoch's predictions and scores."""
        config, run, model = self.config, self.run, self.average.model
        if len(self.history) < config.epochs and self.is_over:
            stopped = f"stopped after epoch {len(self.history)}"
            log.info(f"{run.name}: no better score for {config.patience} epochs, {stopped}")
        if rate := self.corpus.gather_rate():
            log.info(f"{run.name}: features were gathered at {rate}")
        model.load_state_dict(load_tensors(run / BEST, self.device)["model"])
        if self._predicted is None and self.val_videos:  # the best epoch was before the run was resumed
            self._predicted = predict_frames(model, self.corpus, self.val_videos, config)
        predictions = by_video(self.corpus, self.val_videos, self._predicted or {})
        scores = read_scores(run) if self._stored == len(self.history) else None
        if scores is None:
            scores = save_scored(run, predictions, best_epoch=self.best.epoch)
        return TrainResult(model.eval(), self.best.epoch, predictions, scores)


def predict_frames(
    model: SequenceModel, corpus: Corpus, videos: list[int], config: TrainConfig
) -> dict[str, np.ndarray]:
    """{task: (frames, ...)} probabilities of the given videos, one after the other."""
    outputs = predict_videos(model, corpus, videos, length=config.windows.length, carry=config.windows.carry)
    return {task: values.cpu().numpy() for task, values in outputs.items()}


def _portable(model: SequenceModel, corpus: Corpus, config: TrainConfig) -> dict[str, Any]:
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


def _check_labels(config: TrainConfig, corpus: Corpus, rows: Tensor, taught: dict[str, Tensor]) -> None:
    if not len(rows):
        raise UserError("no training videos: attach labels and splits to the features, or give annotations")
    known = (~torch.isnan(corpus.labels[rows])).any(0).cpu()
    for task in config.tasks:
        if not known[TASKS[task].columns].any() and task not in taught:
            columns = ", ".join(LABEL_COLUMNS[TASKS[task].columns])
            raise UserError(f"no training frame has a label for {task} ({columns}); attach labels or drop the task")
