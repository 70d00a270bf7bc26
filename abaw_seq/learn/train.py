"""Training a multi-task head on cached features: one program, from top to bottom."""

from __future__ import annotations

import copy
import json
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from abaw_seq import config as configs
from abaw_seq.cpu.products import fast_products, keep_freed_memory, size_of
from abaw_seq.data.corpus import Corpus
from abaw_seq.engine.checkpoint import load_checkpoint, save_checkpoint, write_text_atomic
from abaw_seq.engine.optim import averaging_decay, build_optimizer, learning_rate, set_rate, update_average
from abaw_seq.engine.provenance import provenance
from abaw_seq.errors import AbawError, UserError
from abaw_seq.learn.batches import training_batches
from abaw_seq.learn.losses import loss_weights, outputs_of, task_losses
from abaw_seq.learn.settings import AugmentConfig, TrainConfig
from abaw_seq.learn.weighting import TaskWeighting
from abaw_seq.metrics import score
from abaw_seq.models.frameworks import MultiTaskModel
from abaw_seq.models.inference import CarriedState, predict_videos
from abaw_seq.tasks import LABEL_COLUMNS, TASKS
from abaw_seq.terminal import progress, say


@dataclass(frozen=True)
class TrainResult:
    """The best epoch's model, and what it scores on the validation split (None without one)."""

    model: MultiTaskModel
    epoch: int
    scores: dict[str, Any] | None


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
    """Train on the training split, validate each epoch, keep the best and the last state in `run`.

    `train_videos`, `val_videos`: indices into the corpus (default: by split). With `resume` an
    interrupted run goes on from its last whole epoch, bit for bit on the same device.
    Raises UserError where the corpus cannot serve the config, AbawError if the loss is not finite.
    """
    # Data: everything on the device, windows by index.
    corpus = corpus.standardised_per_video(_columns(config, corpus, "video")).to(device)
    train_videos = corpus.in_split("train") if train_videos is None else train_videos
    val_videos = corpus.in_split("val") if val_videos is None else val_videos
    train_rows = corpus.rows(train_videos)
    _check_labels(config, corpus, train_rows)
    truth = corpus.labels[corpus.rows(val_videos)].cpu().numpy()
    if reach := {task: frames for task, frames in config.label_reach.items() if frames}:
        corpus, given = corpus.with_nearest_labels(train_videos, reach)
        counts = ", ".join(f"{task} {count:,}" for task, count in given.items())
        say(f"{run.name}: training frames with the label of the nearest labelled frame: {counts}")

    if place := corpus.elsewhere():
        say(f"{run.name}: {place}")

    # Model, optimiser, loss.
    torch.manual_seed(config.seed)
    model = MultiTaskModel(corpus.dim, config.model, {t: outputs_of(t, config.loss) for t in config.tasks}).to(device)
    model.standardise.fit(corpus.gather_features, train_rows, _columns(config, corpus, "train"))
    weighting = TaskWeighting(config.tasks, config.weighting).to(device)
    average = copy.deepcopy(model) if config.optim.ema else model
    optimizer = build_optimizer(model, list(weighting.parameters()), config.optim)
    balance = {name: weight.to(device) for name, weight in loss_weights(config.loss, corpus.labels[train_rows]).items()}

    # Start afresh, or from the last whole epoch.
    run.mkdir(parents=True, exist_ok=True)
    log = run / "metrics.jsonl"
    first, best, best_per_task = 0, {"criterion": None, "epoch": 0, "scores": None}, {}
    if resume and (run / "last.pt").exists():
        check_same_config(run, config)
        state = load_checkpoint(run / "last.pt", device)
        first, best, best_per_task = state["epoch"], state["best"], state["best_per_task"]
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        weighting.load_state_dict(state["weighting"])
        optimizer.load_state_dict(state["optimizer"])
        _keep_lines(log, first)
    else:
        per_task = (f"best_{task}.pt" for task in TASKS)
        for name in ("last.pt", "best.pt", *per_task, "metrics.jsonl", "scores.json", "predictions.h5"):
            (run / name).unlink(missing_ok=True)
        write_text_atomic(run / "config.yaml", configs.dump(config))
        write_text_atomic(run / "provenance.json", json.dumps(provenance(corpus, config.seed, device), indent=1))

    # Epochs.
    if device.type == "cpu":
        keep_freed_memory()
    bar = progress(f"train {run.name}", config.epochs - first, "epochs")
    with bar as advance, fast_products(device, size_of(model)):
        for epoch in range(first, config.epochs):
            if config.patience is not None and epoch - best["epoch"] >= config.patience:
                say(f"{run.name}: no better score for {config.patience} epochs, stopped after epoch {epoch}")
                break
            started = time.monotonic()
            rng = np.random.default_rng([config.seed, epoch])
            torch.manual_seed(int(rng.integers(2**31)))
            rate, losses, steps = train_epoch(
                model, weighting, corpus, train_videos, config,
                rng=rng, epoch=epoch, optimizer=optimizer, average=average, balance=balance,
            )  # fmt: skip
            if not np.isfinite(losses).all():
                raise AbawError(f"{run.name}: the loss is not finite in epoch {epoch + 1}; lower optim.lr")
            scores = evaluate(average, corpus, val_videos, truth, config) if val_videos else None
            seconds = time.monotonic() - started
            criterion = selection_criterion(scores) if _any_score(scores) else float(epoch)
            if best["criterion"] is None or criterion > best["criterion"]:
                best = {"criterion": criterion, "epoch": epoch + 1, "scores": scores}
                save_checkpoint(run / "best.pt", _portable(average, corpus, config))
            for task in config.tasks if config.keep_best_per_task and scores else ():
                if scores[task] is not None and scores[task] > best_per_task.get(task, float("-inf")):
                    best_per_task[task] = scores[task]
                    save_checkpoint(run / f"best_{task}.pt", _portable(average, corpus, config))
            named = {"loss": float(losses.sum()), **dict(zip(config.tasks, losses.tolist(), strict=True))}
            line = {
                "epoch": epoch + 1,
                "steps": steps,
                "lr": rate,
                "seconds": seconds,
                "train": named,
                "val": scores,
            }
            with open(log, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(line) + "\n")
            save_checkpoint(
                run / "last.pt",
                {
                    "epoch": epoch + 1,
                    "best": best,
                    "best_per_task": best_per_task,
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "weighting": weighting.state_dict(),
                    "optimizer": optimizer.state_dict(),
                },
            )
            advance(1, f"best {best['criterion']:.3f} (epoch {best['epoch']})" if scores else "")

    if rate := corpus.gather_rate():
        say(f"{run.name}: features were gathered at {rate}")

    # The best epoch is the result.
    average.load_state_dict(load_checkpoint(run / "best.pt", device)["model"])
    return TrainResult(average.eval(), best["epoch"], best["scores"])


def train_epoch(
    model: MultiTaskModel,
    weighting: TaskWeighting,
    corpus: Corpus,
    videos: list[int],
    config: TrainConfig,
    *,
    rng: np.random.Generator,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    average: nn.Module,
    balance: dict[str, Tensor],
) -> tuple[float, np.ndarray, int]:
    """One pass over the videos; (last learning rate, mean loss per task, steps).

    Losses stay on the device until the epoch is over.
    """
    model.train()
    batches = list(training_batches(corpus, videos, config.windows, rng))
    carried = CarriedState()
    total = torch.zeros(len(config.tasks), device=corpus.device)
    parameters = [*model.parameters(), *weighting.parameters()]
    gt_rate = taught_share(config, epoch)
    cast = torch.autocast(corpus.device.type, torch.bfloat16) if config.precision == "bf16" else nullcontext()
    rate = config.optim.lr
    for k, (batch, features) in enumerate(corpus.gathered((batch, batch.rows) for batch in batches)):
        rate = learning_rate(config.optim, epoch + k / len(batches), config.epochs)
        set_rate(optimizer, rate)
        state = carried.take(batch.lanes, batch.fresh) if batch.lanes is not None else None
        labels = corpus.gather_labels(batch.rows, batch.used)
        features = augmented(features, model.standardise, config.augment)
        with cast:
            found = model(features, state, batch.used, labels=labels, gt_rate=gt_rate)
        by_task = task_losses(found.outputs, labels, config.loss, **balance)
        losses = torch.stack([by_task[task] for task in config.tasks])
        optimizer.zero_grad(set_to_none=True)
        weighting(losses).backward()
        nn.utils.clip_grad_norm_(parameters, config.optim.clip)
        optimizer.step()
        if average is not model:
            update_average(average, model, averaging_decay(config.optim.ema, epoch * len(batches) + k))
        if batch.lanes is not None:
            carried.put(batch.lanes, found.state)
        total += losses.detach()
    mean = total / max(len(batches), 1)
    weighting.end_epoch(mean)
    return rate, mean.cpu().numpy(), len(batches)


def taught_share(config: TrainConfig, epoch: int) -> float:
    """Share of the frames whose feedback is the ground truth; with `gt_decay` 0 in the last epoch."""
    decay = epoch / max(config.epochs - 1, 1) if config.model.gt_decay else 0.0
    return config.model.gt_rate * (1 - decay)


def augmented(features: Tensor, standardise: nn.Module, config: AugmentConfig) -> Tensor:
    """Features (B, T, D) with training noise; a hidden value becomes the training split's mean."""
    if config.noise:
        features = features + torch.randn_like(features, dtype=torch.float32) * (config.noise / standardise.scale)
    if config.time_mask:
        hidden = torch.rand(features.shape[:2], device=features.device) < config.time_mask
        features = torch.where(hidden[..., None], standardise.mean.to(features.dtype), features)
    if config.feature_dropout:
        hidden = torch.rand(features.shape[0], 1, features.shape[2], device=features.device) < config.feature_dropout
        features = torch.where(hidden, standardise.mean.to(features.dtype), features)
    return features


def evaluate(
    model: MultiTaskModel, corpus: Corpus, videos: list[int], truth: np.ndarray, config: TrainConfig
) -> dict[str, Any]:
    """Official scores of the given videos against `truth` (n, 15)."""
    found = predict_videos(model, corpus, videos, length=config.windows.length, carry=config.windows.carry)
    return score({task: values.cpu().numpy() for task, values in found.items()}, truth)


def selection_criterion(scores: dict[str, Any]) -> float:
    """What the best epoch is chosen by: P_MTL, or the sum of those of its parts that exist."""
    dimensions = [scores[task] for task in ("valence", "arousal") if scores.get(task) is not None]
    parts = [scores[task] for task in ("expression", "au") if scores.get(task) is not None]
    return sum(parts) + (sum(dimensions) / len(dimensions) if dimensions else 0.0)


def _any_score(scores: dict[str, Any] | None) -> bool:
    return scores is not None and any(scores.get(task) is not None for task in TASKS)


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


def _columns(config: TrainConfig, corpus: Corpus, kind: str) -> list[slice]:
    """Columns of the backbones that are standardised in the given way."""
    chosen = config.standardise
    if isinstance(chosen, dict):
        if unknown := set(chosen) - set(corpus.backbones):
            raise UserError(f"standardise: no backbone {sorted(unknown)[0]!r} (found: {', '.join(corpus.backbones)})")
        return [span for name, span in corpus.backbones.items() if chosen.get(name, "train") == kind]
    return list(corpus.backbones.values()) if chosen == kind else []


def _check_labels(config: TrainConfig, corpus: Corpus, rows: Tensor) -> None:
    if not len(rows):
        raise UserError("no training videos: attach labels and splits with abaw-seq label, or --labels PATH")
    known = (~torch.isnan(corpus.labels[rows])).any(0).cpu()
    for task in config.tasks:
        if not known[TASKS[task].columns].any():
            columns = ", ".join(LABEL_COLUMNS[TASKS[task].columns])
            raise UserError(f"no training frame has a label for {task} ({columns}); attach labels or drop the task")


def check_same_config(run: Path, config: TrainConfig) -> None:
    """UserError unless `config` is the one that the run was made with."""
    before = configs.read_yaml(run / "config.yaml")
    now = configs.to_dict(config)
    differing = [key for key in now if before.get(key) != now[key]]
    if differing:
        raise UserError(f"{run}: cannot resume, the config differs in {', '.join(differing)}; use another --run")


def _keep_lines(log: Path, count: int) -> None:
    lines = log.read_text(encoding="utf-8").splitlines()[:count] if log.exists() else []
    write_text_atomic(log, "".join(line + "\n" for line in lines))
