"""Supervised training of any backbone on any mixture of labels: one program.

    abaw-feats finetune --config configs/demo/iresnet.yaml --videos FACES --annotations LABELS --out runs/iresnet
    torchrun --nproc-per-node 8 -m abaw_feats finetune --config ... --out ...

The run folder is a backbone that `abaw-extract --backbone runs/iresnet` takes as it is; its heads are
beside it, so that it can also teach another run.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from abaw_feats.backbones import Preprocessing, save
from abaw_feats.learning.augment import AugmentConfig, training_views
from abaw_feats.learning.distillation import teacher_outputs, with_teacher
from abaw_feats.learning.encoder_choice import encoder_spec
from abaw_feats.learning.finetune_config import FinetuneConfig
from abaw_feats.learning.frame_store import measured_normalisation, open_frames
from abaw_feats.learning.labelled_frames import SourceConfig, gather_frames
from abaw_feats.learning.sampling import batches
from abaw_feats.learning.schedule import autocast_dtype, epoch_rates, parameter_groups, set_learning_rate
from abaw_feats.learning.task_network import (
    BEST,
    TaskHeads,
    TaskNetwork,
    read_network,
    set_drop_path,
    starting_encoder,
    stored_network,
    suit_device,
)
from abaw_feats.learning.validation import criterion, validate
from abaw_seq.cpu.products import fast_products, size_of
from abaw_seq.engine.processes import process_group
from abaw_seq.errors import AbawError, UserError
from abaw_seq.learn.losses import class_weights, outputs_of, positive_weights, task_losses
from abaw_seq.run_folder import open_run, save_epoch, save_tensors, write_provenance, write_whole
from abaw_seq.terminal import say

SCORES = "scores.json"
LOSS_EVERY = 20


def finetune(
    config: FinetuneConfig,
    out: str | Path,
    *,
    videos: Sequence[str | Path] = (),
    annotations: Sequence[str | Path] = (),
    device: str = "auto",
    resume: bool = False,
) -> Path:
    """Train on the training split, validate every epoch, keep the best encoder in `out`; returns `out`.

    `videos` and `annotations`, if given, take the place of the config's sources. With `resume`, an
    interrupted run goes on after its last whole epoch, bit for bit on the same device; a finished one
    is left as it is. Without validation labels the last epoch is kept.
    Raises UserError for what cannot be read or does not fit, AbawError if the loss is not finite.
    """
    out = Path(out)
    config = _with_sources(config, videos, annotations)
    with process_group(device) as group:
        dtype = autocast_dtype(config.precision, group.device)
        spec = encoder_spec(config.backbone)
        state = open_run(out, config, resume=resume, writes=group.first)

        # Frames and labels.
        frames = gather_frames(
            config.sources, config.tasks, unlabelled=config.teacher is not None, share_labels=config.share_labels
        )
        if state and state["frames"] != frames.index.sha256:
            raise UserError(f"{out}: was made from other frames; resume with those or name another folder")
        if state and _finished(state["history"], state["best"], config):
            say(f"{out}: finished, nothing to do")
            if group.first:
                _publish(out, state["best"])
            return out
        size = spec.preprocessing.size
        store = open_frames(frames.index, side=size, memory_gb=config.memory_gb, device=group.device)
        pools = frames.pools(config.sources, store.readable, config.balance)
        count = sum(len(pool.rows) for pool in pools)
        batch_size = min(config.batch_size, max(count // group.world, 1))
        effective = batch_size * config.accumulate * group.world
        updates = max((config.epoch_images or count) // effective, 1)
        labels = frames.labels.to(group.device)
        balance = {}
        if config.loss.balance:
            training = frames.labels[frames.training]
            balance["class_weight"] = class_weights(training).to(group.device)
            balance["positive_weight"] = positive_weights(training).to(group.device)

        # Model, optimiser, teacher.
        if config.normalisation == "measured":
            mean, std = measured_normalisation(store, frames.training, spec.preprocessing)
            spec = replace(spec, preprocessing=replace(spec.preprocessing, mean=mean, std=std))
        torch.manual_seed(config.seed)
        spec, encoder = starting_encoder(spec, config.weights, frozen=config.freeze)
        if config.drop_path:
            set_drop_path(encoder, config.drop_path)
        widths = {task: outputs_of(task, config.loss) for task in config.tasks}
        network = TaskNetwork(encoder, TaskHeads(encoder.dim, widths, config.head), frozen=config.freeze)
        network = suit_device(network, group.device)
        average = copy.deepcopy(network) if config.ema else network
        lr = config.base_lr * effective / 256
        parameters = parameter_groups(encoder, weight_decay=config.weight_decay, layer_decay=config.layer_decay)
        parameters += parameter_groups(network.heads, weight_decay=config.weight_decay, scale=config.head_lr)
        optimizer = torch.optim.AdamW(parameters, lr=lr, fused=True)
        scaler = torch.amp.GradScaler(group.device.type, enabled=dtype is torch.float16)
        taught = {}
        if config.teacher:
            taught = teacher_outputs(config.teacher.run, store, frames.training, device=group.device, dtype=dtype)

        def objective(outputs: dict[str, Tensor], rows: Tensor) -> Tensor:
            """The weighted sum of the tasks' losses, then each of them, for the given rows."""
            target = labels[rows.to(group.device)]
            losses = task_losses(outputs, target, config.loss, **balance)
            if config.teacher:
                told = {task: table[rows].to(group.device) for task, table in taught.items()}
                losses = with_teacher(
                    losses, outputs, told, target,
                    weight=config.teacher.weight, temperature=config.teacher.temperature,
                )  # fmt: skip
            weighted = sum(config.task_weights.get(task, 1.0) * losses[task] for task in config.tasks)
            return torch.stack([weighted, *(losses[task] for task in config.tasks)])

        # Start afresh, or after the last whole epoch.
        history: list[dict[str, Any]] = []
        best: dict[str, Any] = {"criterion": -math.inf, "epoch": 0, "scores": None}
        if state:
            network.load_state_dict(state["network"])
            average.load_state_dict(state["average"])
            optimizer.load_state_dict(state["optimizer"])
            scaler.load_state_dict(state["scaler"])
            history, best = state["history"], state["best"]
        elif group.first:
            write_provenance(
                out, seed=config.seed, device=group.device, world=group.world, frames_sha256=frames.index.sha256,
                training_frames=len(frames.training), validation_frames=len(frames.validation), batch=effective,
            )  # fmt: skip
        trained = group.spread(network)

        # Epochs. Each starts from seeds of its own, so that none depends on where a run was resumed.
        remaining = 0 if _finished(history, best, config) else (config.epochs - len(history)) * updates * effective
        bar = group.progress(f"finetune {out.name}", remaining, "images")
        with bar as advance, fast_products(group.device, size_of(network)):
            while not group.any(group.first and _finished(history, best, config)):
                epoch, started = len(history), time.monotonic()
                seed = config.seed * 1_000_003 + epoch
                torch.manual_seed(seed * 1009 + group.rank)
                drawn = batches(
                    pools, batch_size=batch_size, steps=updates * config.accumulate, rank=group.rank,
                    world=group.world, generator=torch.Generator().manual_seed(seed),
                )  # fmt: skip
                rates = epoch_rates(
                    epoch, lr, epochs=config.epochs, updates=updates, warmup_epochs=config.warmup_epochs
                )
                network.train()
                means = train_epoch(
                    trained, store.batches(drawn), objective, spec.preprocessing, config.augment,
                    optimizer=optimizer, scaler=scaler, rates=rates, accumulate=config.accumulate, clip=config.clip,
                    device=group.device, dtype=dtype, average=average, decay=config.ema,
                    generator=torch.Generator().manual_seed(seed * 1009 + group.rank + 1),
                    advance=advance, label=f"epoch {epoch + 1}",
                )  # fmt: skip
                means = group.mean(means).tolist()
                if not all(math.isfinite(value) for value in means):
                    raise AbawError(f"{out}: the loss is not finite in epoch {epoch + 1}; lower base_lr")
                seconds = time.monotonic() - started

                # Validate; keep what the epoch brought.
                scores = None
                if group.first and len(frames.validation):
                    scores = validate(
                        average, store, frames.validation, labels=frames.labels, preprocessing=spec.preprocessing,
                        device=group.device, dtype=dtype,
                    )  # fmt: skip
                history.append({
                    "epoch": epoch + 1, "steps": updates, "lr": rates[-1], "seconds": seconds,
                    "images_per_second": updates * effective / seconds,
                    "train": {"loss": means[0], **dict(zip(config.tasks, means[1:], strict=True))}, "val": scores,
                })  # fmt: skip
                if not group.first:
                    continue
                if (found := criterion(scores, epoch)) > best["criterion"]:
                    best.update(criterion=found, epoch=epoch + 1, scores=scores)
                    save_tensors(out / BEST, stored_network(spec, average, widths, config.head))
                save_epoch(out, {
                    "epoch": epoch + 1, "frames": frames.index.sha256, "history": history, "best": best,
                    "network": network.state_dict(), "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict(),
                })  # fmt: skip
                advance(0, f"epoch {epoch + 1}, best validation {best['criterion']:.3f}" if scores else "")

        # A folder that holds backbone.yaml is finished.
        if group.first:
            _publish(out, best)
        group.wait()
    return out


def train_epoch(
    trained: nn.Module,
    frames: Iterable[tuple[Tensor, Tensor]],
    objective: Callable[[dict[str, Tensor], Tensor], Tensor],
    preprocessing: Preprocessing,
    changes: AugmentConfig,
    *,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    rates: Sequence[float],
    accumulate: int,
    clip: float | None,
    device: torch.device,
    dtype: torch.dtype | None,
    average: nn.Module,
    decay: float,
    generator: torch.Generator,
    advance: Callable[[int, str], None],
    label: str,
) -> Tensor:
    """One update per learning rate in `rates`, each from `accumulate` batches of (pixels, rows).

    objective(outputs, rows) gives the losses of a batch, the first of which is minimised. Returns their
    means over the epoch, on the device: nothing here waits for it but the note every few steps.
    """
    network = trained.module if isinstance(trained, DistributedDataParallel) else trained
    total = 0.0
    for step, (pixels, rows) in enumerate(frames):
        update, part = divmod(step, accumulate)
        last_part = part == accumulate - 1
        set_learning_rate(optimizer, rates[update])
        images = training_views(pixels.to(device, non_blocking=True), preprocessing, changes, generator=generator)
        with nullcontext() if last_part or network is trained else trained.no_sync():
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                outputs = trained(images)
            losses = objective(outputs, rows)
            scaler.scale(losses[0] / accumulate).backward()
        total = total + losses.detach()
        if last_part:
            scaler.unscale_(optimizer)
            if clip:
                nn.utils.clip_grad_norm_(network.parameters(), clip)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            if average is not network:
                update_average(average, network, decay)
        advance(len(rows), f"{label}, loss {float(losses[0].detach()):.3f}" if step % LOSS_EVERY == 0 else "")
    return total / (len(rates) * accumulate)


def _with_sources(
    config: FinetuneConfig, videos: Sequence[str | Path], annotations: Sequence[str | Path]
) -> FinetuneConfig:
    if bool(videos) != bool(annotations):
        raise UserError("give both --videos and --annotations, or neither and list sources in the config")
    if videos:
        source = SourceConfig(tuple(map(str, videos)), tuple(map(str, annotations)))
        config = replace(config, sources=(source,))
    if not config.sources:
        raise UserError("nothing to train on: give --videos and --annotations, or list sources in the config")
    return config


def _finished(history: list, best: dict[str, Any], config: FinetuneConfig) -> bool:
    waited = len(history) - best["epoch"]
    return len(history) == config.epochs or (config.patience is not None and waited >= config.patience)


def _publish(out: Path, best: dict[str, Any]) -> None:
    """Write the best network as a backbone, and its scores."""
    spec, network = read_network(out)
    scores = {"edition": "mtl", "split": "val", "untuned": best["scores"], "tuned": None, "best_epoch": best["epoch"]}
    write_whole(out / SCORES, json.dumps(scores, indent=2) + "\n")
    save(out, spec, network.encoder)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the running average of weights towards the network's; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    for kept, current in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(current)
