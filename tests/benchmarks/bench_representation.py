"""Training encoders: images per second of the programs' steps beside forward and backward alone.

Both use the same network, settings and batch size, of the demo and of the published encoders, and run in turn
within one process. The programs' steps gather uint8 images by row, change and normalise them, compute all
losses, clip and update.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from abaw_feats.backbones import Preprocessing
from abaw_feats.learning import finetune, pretrain
from abaw_feats.learning.augment import AugmentConfig, size_before_crop, training_views
from abaw_feats.learning.finetune_config import FinetuneConfig
from abaw_feats.learning.frame_store import FrameStore
from abaw_feats.learning.masked_autoencoder import MaskedAutoencoder
from abaw_feats.learning.pretrain import PretrainConfig
from abaw_feats.learning.sampling import Pool, batches
from abaw_feats.learning.task_network import TaskHeads, TaskNetwork, encoder_spec, starting_encoder, suit_device
from abaw_feats.reading.image_index import ImageIndex
from abaw_seq.config import load
from abaw_seq.engine.device import autocast_dtype, find_device
from abaw_seq.engine.epoch import train_epoch
from abaw_seq.engine.schedule import parameter_groups
from abaw_seq.engine.update import Update
from abaw_seq.learn.losses import outputs_of, task_losses

CONFIGS = Path(__file__).parents[2] / "configs" / "demo"
FULL_SIZE_STEPS = 2
IMAGES = 512


def run(steps: int = 8, rounds: int = 5) -> Iterator[str]:
    """A Markdown table with one row per encoder of the demo, and per published one."""
    device = find_device("auto")
    lines = [
        f"### Training encoders on {device}, {torch.get_num_threads()} threads, {IMAGES} images of 112 x 112",
        "",
        "| encoder | batch | training step (images/s) | forward + backward alone (images/s) | step / bound |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    cases = [
        ("mae of the demo", load(PretrainConfig, CONFIGS / "mae.yaml"), steps),
        ("iresnet of the demo", load(FinetuneConfig, CONFIGS / "iresnet.yaml"), steps),
        ("densenet of the demo", load(FinetuneConfig, CONFIGS / "densenet.yaml"), steps),
        ("mae", PretrainConfig(batch_size=16), FULL_SIZE_STEPS),
        ("iresnet100", FinetuneConfig("iresnet100", batch_size=16), FULL_SIZE_STEPS),
        ("densenet", FinetuneConfig("densenet", batch_size=64), FULL_SIZE_STEPS),
    ]
    for name, config, count in cases:
        compare = pretraining if isinstance(config, PretrainConfig) else finetuning
        batch, ours, bare = compare(config, device, count)
        ours(), bare()
        seconds = [(_timed(ours, device), _timed(bare, device)) for _ in range(rounds)]
        step, bound = (batch * count / statistics.median(column) for column in zip(*seconds, strict=True))
        ratio = statistics.median(alone / whole for whole, alone in seconds)
        lines.append(f"| {name} | {batch} | {step:.1f} | {bound:.1f} | {ratio:.2f} |")
    yield "\n".join(lines)


Comparison = tuple[int, Callable[[], object], Callable[[], object]]


def made_up_store(preprocessing: Preprocessing, changes: AugmentConfig, device: torch.device) -> FrameStore:
    """Noise instead of faces: the time does not depend on what an image shows."""
    index = ImageIndex((), np.zeros(IMAGES, np.int32), np.arange(IMAGES, dtype=np.int32), ("",) * IMAGES)
    size = size_before_crop(preprocessing.size, changes, frame_side=112)
    shape = (min(size, 112), min(size, 112), 3 if size > 112 else preprocessing.channels)
    pixels = torch.randint(0, 256, (IMAGES, *shape), dtype=torch.uint8).to(device)
    return FrameStore(index, torch.arange(IMAGES), replace(preprocessing, size=size), device, pixels)


def pretraining(config: PretrainConfig, device: torch.device, steps: int) -> Comparison:
    """(batch size, steps of pre-training, as many forward and backward passes)."""
    spec = encoder_spec(config.backbone)
    store = made_up_store(spec.preprocessing, config.augment, device)
    torch.manual_seed(0)
    model = MaskedAutoencoder(size=spec.preprocessing.size, decoder=config.decoder, **spec.options)
    model = suit_device(model, device)
    dtype = autocast_dtype(config.precision, device)
    generator = torch.Generator().manual_seed(0)
    losses_of = pretrain.batch_losses(model, spec, config, device=device, generator=generator)
    step = _program(losses_of, model, config, steps, dtype=dtype)
    images, _ = _one_batch(store, config.batch_size, spec.preprocessing, config.augment)
    noise = torch.rand(len(images), model.grid**2, device=device)
    bare = copy.deepcopy(model)
    return (
        config.batch_size,
        lambda: step(store),
        lambda: _forward_backward(bare, lambda: bare(images, noise), steps, device, dtype),
    )


def finetuning(config: FinetuneConfig, device: torch.device, steps: int) -> Comparison:
    """The same for fine-tuning, with labels for all tasks."""
    spec, encoder = starting_encoder(encoder_spec(config.backbone), "random", frozen=False)
    store = made_up_store(spec.preprocessing, config.augment, device)
    widths = {task: outputs_of(task, config.loss) for task in config.tasks}
    network = suit_device(TaskNetwork(encoder, TaskHeads(encoder.dim, widths, config.head)), device)
    dtype = autocast_dtype(config.precision, device)
    labels = torch.rand(IMAGES, 15, device=device).round()

    def objective(outputs: dict[str, Tensor], rows: Tensor) -> Tensor:
        losses = task_losses(outputs, labels[rows.to(device)], config.loss)
        return torch.stack([sum(losses.values()), *losses.values()])

    losses_of = finetune.batch_losses(
        network, objective, spec.preprocessing, config.augment, device=device, dtype=dtype,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    step = _program(losses_of, network, config, steps, dtype=dtype)
    images, _ = _one_batch(store, config.batch_size, spec.preprocessing, config.augment)
    bare = copy.deepcopy(network)

    def forward() -> Tensor:
        return sum(output.float().square().mean() for output in bare(images).values())

    return (
        config.batch_size,
        lambda: step(store),
        lambda: _forward_backward(bare, forward, steps, device, dtype),
    )


def _program(losses_of, module, config, steps: int, *, dtype) -> Callable[[FrameStore], None]:
    """The program's own epoch of `steps` updates on random rows."""
    optimizer = torch.optim.AdamW(parameter_groups(module, weight_decay=config.weight_decay), fused=True)
    update = Update(module, optimizer, clip=config.clip, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    module.train()

    def step(store: FrameStore) -> None:
        rows = batches(
            [Pool(torch.arange(IMAGES))], batch_size=config.batch_size, steps=steps, generator=generator
        )  # fmt: skip
        train_epoch(store.batches(rows), losses_of, update, rates=[1e-6] * steps, advance=lambda count, note: None)

    return step


def _one_batch(store: FrameStore, size: int, preprocessing: Preprocessing, changes) -> tuple[Tensor, Tensor]:
    pixels, rows = next(iter(store.batches([torch.arange(size)])))
    return training_views(pixels, preprocessing, changes, generator=torch.Generator().manual_seed(0)), rows


def _forward_backward(module: nn.Module, loss: Callable[[], Tensor], steps: int, device, dtype) -> None:
    for _ in range(steps):
        module.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            value = loss()
        value.backward()


def _timed(work: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
