"""Supervised training of any backbone on any mixture of labels: one program.

    abaw-feats finetune --config configs/demo/iresnet.yaml --videos FACES --annotations LABELS --run runs/iresnet
    torchrun --nproc-per-node 8 -m abaw_feats finetune --config ... --run ...

The run folder is a backbone that `abaw-extract --backbone runs/iresnet` takes as it is; its heads are
beside it, so that it can also teach another run.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from abaw_feats.backbones import Preprocessing, save
from abaw_feats.learning.augment import AugmentConfig, training_views
from abaw_feats.learning.distillation import teacher_outputs
from abaw_feats.learning.finetune_config import FinetuneConfig
from abaw_feats.learning.frame_store import open_frames, read_frames
from abaw_feats.learning.labelled_frames import LabelledFrames, SourceConfig, gather_frames
from abaw_feats.learning.sampling import batches
from abaw_feats.learning.sequence import (
    SequenceNetwork,
    Windows,
    cached_features,
    validate_windows,
    window_losses,
    windows_of,
)
from abaw_feats.learning.task_network import (
    TaskHeads,
    TaskNetwork,
    encoder_spec,
    read_encoder,
    set_drop_path,
    starting_encoder,
    stored_network,
    suit_device,
    validate,
)
from abaw_feats.reading.images import measure_normalisation
from abaw_seq.config import to_dict
from abaw_seq.engine.best import BestEpoch
from abaw_seq.engine.device import autocast, autocast_dtype, full_speed
from abaw_seq.engine.epoch import train_epoch
from abaw_seq.engine.processes import process_group
from abaw_seq.engine.provenance import provenance
from abaw_seq.engine.schedule import epoch_rates, layer_scale, parameter_groups
from abaw_seq.engine.update import RunningAverage, Update
from abaw_seq.errors import AbawError, UserError
from abaw_seq.files import save_tensors
from abaw_seq.learn.losses import loss_weights, outputs_of, task_losses, with_teacher
from abaw_seq.run_folder import BEST, held_run, open_run, save_epoch, write_provenance, write_scores

log = logging.getLogger(__name__)

NORMALISATION_IMAGES = 2000


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
    with process_group(device) as group, group.holding(held_run(out)):
        dtype = autocast_dtype(config.precision, group.device)
        spec = encoder_spec(config.backbone)
        state = open_run(out, config, resume=resume, writes=group.first, free=("memory_gb",))

        # Frames and labels.
        frames = gather_frames(
            config.sources, config.tasks, unlabelled=config.teacher is not None, share_labels=config.share_labels
        )
        if state and state["frames"] != frames.index.sha256:
            raise UserError(f"{out}: was made from other frames; resume with those or name another folder")
        history: list[dict[str, Any]] = state["history"] if state else []
        best = BestEpoch(state["best"] if state else None)
        if state and best.is_over(len(history), epochs=config.epochs, patience=config.patience):
            log.info(f"{out}: finished, nothing to do")
            if group.first:
                _publish(out, best)
            return out
        store = open_frames(
            frames.index, frames.training, spec.preprocessing, augment=config.augment,
            memory_gb=config.memory_gb, device=group.device,
        )  # fmt: skip
        validation = None
        if group.first and len(frames.validation):
            validation = open_frames(
                frames.index, frames.validation, spec.preprocessing,
                memory_gb=config.memory_gb - store.gigabytes, device=group.device,
            )  # fmt: skip
        pools = frames.pools(config.sources, store.readable, config.balance)
        count = sum(len(pool.rows) for pool in pools)
        batch_size = min(config.batch_size, max(count // group.size, 1))
        windows, drawn_at_once = None, batch_size
        if config.sequence is not None:
            length, step = config.sequence.length, config.sequence.step or config.sequence.length
            windows = Windows(
                windows_of(frames.index, torch.cat([pool.rows for pool in pools]).sort()[0], length, step)
            )
            pools, drawn_at_once = windows.pools(pools), max(batch_size // length, 1)
            batch_size = drawn_at_once * length
        effective = batch_size * config.accumulate * group.size
        updates = max((config.epoch_images or count) // effective, 1)

        # Model, optimiser, teacher.
        if config.normalisation == "measured":
            sample = store.readable_rows[:: max(len(store.readable_rows) // NORMALISATION_IMAGES, 1)]
            read = read_frames(frames.index, sample, spec.preprocessing, device=group.device)
            preprocessing = measure_normalisation((images for images, _ in read), spec.preprocessing)
            spec = replace(spec, preprocessing=preprocessing)
        torch.manual_seed(config.seed)
        spec, encoder = starting_encoder(spec, config.weights, frozen=config.freeze)
        if config.drop_path:
            set_drop_path(encoder, config.drop_path)
        widths = {task: outputs_of(task, config.loss) for task in config.tasks}
        cached: Tensor | None = None
        network: TaskNetwork | SequenceNetwork
        if config.sequence is None:
            network = TaskNetwork(encoder, TaskHeads(encoder.dim, widths, config.head), frozen=config.freeze)
        else:
            cached, extra = cached_features(config.sequence, frames.index)
            network = SequenceNetwork(
                encoder, lambda dim: TaskHeads(dim, widths, config.head), config.sequence, extra=extra,
                frozen=config.freeze,
            )  # fmt: skip
        network = suit_device(network, group.device)
        average = RunningAverage(network, config.ema, random_start=False)
        lr = config.base_lr * effective / 256
        depth = layer_scale(encoder, config.layer_decay)
        parameters = parameter_groups(encoder, weight_decay=config.weight_decay, scale=depth)
        parameters += parameter_groups(
            network.heads, weight_decay=config.weight_decay, scale=lambda name: config.head_lr
        )
        for part in (network.fusion, network.temporal) if isinstance(network, SequenceNetwork) else ():
            parameters += parameter_groups(
                part, weight_decay=config.weight_decay, scale=lambda name: config.temporal_lr
            )
        optimizer = torch.optim.AdamW(parameters, lr=lr, fused=True)
        objective = _objective(config, frames, store.readable_rows, device=group.device, dtype=dtype)

        # Begin, or go on after the last whole epoch.
        if state:
            network.load_state_dict(state["network"])
            average.model.load_state_dict(state["average"])
        elif group.first:
            write_provenance(out, provenance(
                seed=config.seed, device=group.device, processes=group.size, frames_sha256=frames.index.sha256,
                training_frames=len(frames.training), validation_frames=len(frames.validation), batch=effective,
            ))  # fmt: skip
        trained = group.spread(network)
        update = Update(
            trained, optimizer, accumulate=config.accumulate, clip=config.clip, dtype=dtype, average=average,
            done=len(history) * updates,
        )  # fmt: skip
        if state:
            update.load_state_dict(state)

        # Epochs. Each starts from seeds of its own, so that none depends on where a run was resumed.
        bar = group.progress(f"finetune {out.name}", (config.epochs - len(history)) * updates * effective, "images")
        with bar as advance, full_speed(group.device, network):
            while not group.any(
                group.first and best.is_over(len(history), epochs=config.epochs, patience=config.patience)
            ):
                epoch, started = len(history), time.monotonic()
                seed = config.seed * 1_000_003 + epoch
                torch.manual_seed(seed * 1009 + group.rank)
                drawn = batches(
                    pools, batch_size=drawn_at_once, steps=updates * config.accumulate, rank=group.rank,
                    world=group.size, generator=torch.Generator().manual_seed(seed),
                )  # fmt: skip
                generator = torch.Generator().manual_seed(seed * 1009 + group.rank + 1)
                changed = spec.preprocessing, config.augment
                if windows is None:
                    losses_of = batch_losses(
                        trained, objective, *changed, device=group.device, dtype=dtype, generator=generator
                    )
                else:
                    drawn = windows.rows(drawn)
                    losses_of = window_losses(
                        trained, objective, windows, cached, *changed, device=group.device, dtype=dtype,
                        generator=generator,
                    )  # fmt: skip
                rates = epoch_rates(
                    epoch, lr, epochs=config.epochs, updates=updates, warmup_epochs=config.warmup_epochs
                )
                network.train()
                means = train_epoch(
                    store.batches(drawn), losses_of, update, rates=rates, advance=advance, label=f"epoch {epoch + 1}"
                )
                means = group.mean(means).tolist()
                if not all(math.isfinite(value) for value in means):
                    raise AbawError(f"{out}: the loss is not finite in epoch {epoch + 1}; lower base_lr")
                seconds = time.monotonic() - started

                # Validate; keep what the epoch brought.
                scores = None
                if validation is not None:
                    scored = functools.partial(
                        validate if windows is None else functools.partial(validate_windows, cached=cached),
                        average.model, validation, frames.validation, labels=frames.labels,
                    )  # fmt: skip
                    scores = scored(preprocessing=spec.preprocessing, device=group.device, dtype=dtype)
                history.append({
                    "epoch": epoch + 1, "steps": updates, "lr": rates[-1], "seconds": seconds,
                    "images_per_second": updates * effective / seconds,
                    "train": {"loss": means[0], **dict(zip(config.tasks, means[1:], strict=True))}, "val": scores,
                })  # fmt: skip
                if not group.first:
                    continue
                if best.improves(epoch + 1, scores):
                    sequence = {} if config.sequence is None else {"sequence": to_dict(config.sequence)}
                    save_tensors(out / BEST, stored_network(spec, average.model, widths, config.head) | sequence)
                save_epoch(out, {
                    "epoch": epoch + 1, "frames": frames.index.sha256, "history": history, "best": best.state(),
                    "network": network.state_dict(), "average": average.model.state_dict(), **update.state_dict(),
                })  # fmt: skip
                advance(0, str(best) if scores else "")

        if group.first:
            _publish(out, best)
        group.wait()
    return out


def batch_losses(
    trained: nn.Module,
    objective: Callable[[dict[str, Tensor], Tensor], Tensor],
    preprocessing: Preprocessing,
    augment: AugmentConfig,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
    generator: torch.Generator,
) -> Callable[[Tensor, Tensor], Tensor]:
    """For an epoch's `train_epoch`: pixels and rows of a batch -> its losses.

    trained: the network as the group's training steps call it; objective: (outputs, rows) -> (losses,).
    """
    cast = autocast(dtype, device)

    def losses_of(pixels: Tensor, rows: Tensor) -> Tensor:
        images = training_views(pixels.to(device, non_blocking=True), preprocessing, augment, generator=generator)
        with cast:
            outputs = trained(images)
        return objective(outputs, rows)

    return losses_of


def _objective(
    config: FinetuneConfig,
    frames: LabelledFrames,
    readable: Tensor,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    """(outputs of a batch, its rows) -> (1 + tasks,): the weighted sum of the tasks' losses, then each of them.

    readable: the training rows that a teacher labels.
    """
    labels, teacher = frames.labels.to(device), {}
    weights = loss_weights(config.loss, frames.labels[frames.training])
    balance = {name: weight.to(device) for name, weight in weights.items()}
    if config.teacher:
        teacher = teacher_outputs(config.teacher.run, frames.index, readable, device=device, dtype=dtype)

    def objective(outputs: dict[str, Tensor], rows: Tensor) -> Tensor:
        target = labels[rows.to(device)]
        losses = task_losses(outputs, target, config.loss, **balance)
        if config.teacher:
            soft = {task: table[rows].to(device) for task, table in teacher.items()}
            losses = with_teacher(
                losses, outputs, soft, target, weight=config.teacher.weight, temperature=config.teacher.temperature
            )
        each = [losses[task] for task in config.tasks]
        weighted = sum(config.task_weights.get(task, 1.0) * losses[task] for task in config.tasks)
        return torch.stack([torch.as_tensor(weighted), *each])

    return objective


def _with_sources(
    config: FinetuneConfig, videos: Sequence[str | Path], annotations: Sequence[str | Path]
) -> FinetuneConfig:
    if bool(videos) != bool(annotations):
        raise UserError("give both videos and annotations, or neither and list sources in the config")
    if videos:
        source = SourceConfig(tuple(map(str, videos)), tuple(map(str, annotations)))
        config = replace(config, sources=(source,))
    if not config.sources:
        raise UserError("nothing to train on: give videos and annotations, or list sources in the config")
    return config


def _publish(out: Path, best: BestEpoch) -> None:
    """Write the scores of the best epoch, and its encoder as a backbone."""
    spec, encoder = read_encoder(out)
    scores = {"edition": "mtl", "split": "val", "untuned": best.scores, "tuned": None, "best_epoch": best.epoch}
    write_scores(out, scores)
    save(out, spec, encoder)
