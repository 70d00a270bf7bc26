"""Self-supervised pre-training of a vision transformer as a masked autoencoder: one program.

    abaw-feats pretrain --config configs/demo/mae.yaml --videos FACES --run runs/mae
    torchrun --nproc-per-node 8 -m abaw_feats pretrain --config ... --videos ... --run ...

The run folder is a backbone that `abaw-extract --backbone runs/mae` takes as it is; `checkpoint.pth` in
it has the public MAE format, decoder included.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from abaw_feats.backbones import BackboneSpec, Preprocessing, load, save
from abaw_feats.learning.augment import AugmentConfig, training_views
from abaw_feats.learning.frame_store import open_frames, read_frames
from abaw_feats.learning.masked_autoencoder import DecoderConfig, MaskedAutoencoder, load_public
from abaw_feats.learning.reconstruction import write_grid
from abaw_feats.learning.sampling import Pool, batches
from abaw_feats.learning.task_network import encoder_spec, suit_device
from abaw_feats.reading.image_index import ImageIndex, index_images
from abaw_feats.reading.images import normalise
from abaw_seq.config.ranges import Checked, Count, LargestNorm, NotNegative, Positive, Range, ShareBelowOne
from abaw_seq.engine.device import autocast, autocast_dtype, full_speed
from abaw_seq.engine.epoch import train_epoch
from abaw_seq.engine.memory import TRAINING_COPIES, check_fits
from abaw_seq.engine.processes import process_group
from abaw_seq.engine.provenance import provenance
from abaw_seq.engine.schedule import epoch_rates, parameter_groups
from abaw_seq.engine.update import Update
from abaw_seq.errors import AbawError, UserError
from abaw_seq.files import save_tensors
from abaw_seq.run_folder import PUBLIC_CHECKPOINT, held_run, open_run, save_epoch, write_provenance

log = logging.getLogger(__name__)

GRID_IMAGES = 8


@dataclass(frozen=True)
class PretrainConfig(Checked):
    """Everything a pre-training run depends on besides its images; the defaults are those published for ViT-B."""

    backbone: str | dict[str, Any] = "mae"
    """The encoder, a vit: a name of `abaw-feats backbones`, a YAML file, the folder of a run, or a variation of one of
    these such as {like: mae, name: small, options: {depth: 4}}."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """The decoder, which is only needed for pre-training."""
    weights: str | None = None
    """Where training starts: a checkpoint in the public MAE format, with or without its decoder; null for random."""
    mask_ratio: Annotated[float, Range("(0, 1)")] = 0.75
    """Share of the patches that are hidden."""
    normalise_target: bool = True
    """Predict pixels that are standardised within their patch."""
    augment: AugmentConfig = field(
        default_factory=lambda: AugmentConfig(
            scale=(0.2, 1.0), aspect=1 / 3, rotation=0.0, brightness=0.0, contrast=0.0, saturation=0.0
        )
    )
    """Random changes of the images in training."""
    epochs: Count = 400
    """Passes over the images."""
    batch_size: Count = 64
    """Images per process and step."""
    accumulate: Count = 1
    """Steps whose gradients are summed into one update."""
    base_lr: Positive = 1.5e-4
    """Highest learning rate per 256 images of the effective batch (batch_size x accumulate x processes)."""
    warmup_epochs: NotNegative = 40.0
    """Epochs over which the learning rate rises linearly; then it falls to 0 along half a cosine."""
    weight_decay: NotNegative = 0.05
    """Weight decay (AdamW) of matrices; vectors and embeddings have none."""
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.95)
    """Decay of the running averages of the gradient and of its square."""
    clip: LargestNorm | None = None
    """Largest norm of the gradient of all weights; null for no limit."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the products; auto: bf16 where the hardware has it, else fp32."""
    save_every: Count = 20
    """Epochs from one checkpoint and picture of reconstructions to the next; the last epoch always has one."""
    memory_gb: NotNegative = 8.0
    """Decoded images are kept in memory up to this size, in GiB."""
    seed: Annotated[int, Range("[-9000000000, 9000000000]")] = 0
    """Seed of the initial weights and of all random choices."""


def pretrain(
    config: PretrainConfig,
    images: Sequence[str | Path],
    out: str | Path,
    *,
    device: str = "auto",
    resume: bool = False,
) -> Path:
    """Pre-train on every image at `images` and return the run folder `out`.

    images: folder trees of image files (Aff-Wild2's `cropped_aligned` is one), video files, or text
    files of such paths. With `resume`, an interrupted run goes on after its last whole epoch, bit for
    bit on the same device; a finished one is left as it is.
    Raises UserError for what cannot be read or does not fit, AbawError if the loss is not finite.
    """
    out = Path(out)
    with process_group(device) as group, group.holding(held_run(out)):
        spec = _vit_spec(config)
        sizes = {"size": spec.preprocessing.size, "decoder": config.decoder, **spec.options}
        check_fits(lambda: MaskedAutoencoder(**sizes), "the autoencoder of this config", copies=TRAINING_COPIES)
        dtype = autocast_dtype(config.precision, group.device)
        state = open_run(out, config, resume=resume, writes=group.first, free=("memory_gb",))

        # Images.
        index = index_images(images)
        if state and state["images"] != index.sha256:
            raise UserError(f"{out}: was made from other images; resume with those or name another folder")
        if state and state["epoch"] == config.epochs:
            log.info(f"{out}: finished, nothing to do")
            if group.first:
                _publish(out, spec)
            return out
        store = open_frames(
            index, torch.arange(len(index)), spec.preprocessing, augment=config.augment,
            memory_gb=config.memory_gb, device=group.device,
        )  # fmt: skip
        pool = Pool(store.readable_rows)
        pictured = _pictured(index, pool.rows, spec.preprocessing, group.device) if group.first else None
        batch_size = min(config.batch_size, max(len(pool.rows) // group.size, 1))
        effective = batch_size * config.accumulate * group.size
        updates = max(len(pool.rows) // effective, 1)

        # Model, optimiser.
        torch.manual_seed(config.seed)
        model = MaskedAutoencoder(**sizes, normalise_target=config.normalise_target)
        if config.weights:
            load_public(model, config.weights)
        suit_device(model, group.device)
        lr = config.base_lr * effective / 256
        parameters = parameter_groups(model, weight_decay=config.weight_decay)
        optimizer = torch.optim.AdamW(parameters, lr=lr, betas=config.betas, fused=True)

        # Begin, or go on after the last whole epoch.
        history: list[dict[str, Any]] = []
        if state:
            model.load_state_dict(state["model"])
            history = state["history"]
        elif group.first:
            write_provenance(out, provenance(
                seed=config.seed, device=group.device, processes=group.size, images=[str(path) for path in images],
                image_count=len(index), images_sha256=index.sha256, start_weights=config.weights, batch=effective,
            ))  # fmt: skip
        trained = group.spread(model)
        update = Update(trained, optimizer, accumulate=config.accumulate, clip=config.clip, dtype=dtype)
        if state:
            update.load_state_dict(state)

        # Epochs. Each starts from seeds of its own, so that none depends on where a run was resumed.
        remaining = (config.epochs - len(history)) * updates * effective
        bar = group.progress(f"pretrain {out.name}", remaining, "images")
        with bar as advance, full_speed(group.device, model):
            for epoch in range(len(history), config.epochs):
                started = time.monotonic()
                seed = config.seed * 1_000_003 + epoch
                drawn = batches(
                    [pool], batch_size=batch_size, steps=updates * config.accumulate, rank=group.rank,
                    world=group.size, generator=torch.Generator().manual_seed(seed),
                )  # fmt: skip
                generator = torch.Generator().manual_seed(seed * 1009 + group.rank + 1)
                losses_of = batch_losses(trained, spec, config, device=group.device, generator=generator)
                rates = epoch_rates(
                    epoch, lr, epochs=config.epochs, updates=updates, warmup_epochs=config.warmup_epochs
                )
                means = train_epoch(
                    store.batches(drawn), losses_of, update, rates=rates, advance=advance, label=f"epoch {epoch + 1}"
                )
                loss = float(group.mean(means))
                if not math.isfinite(loss):
                    raise AbawError(f"{out}: the loss is not finite in epoch {epoch + 1}; lower base_lr or set clip")

                # Keep what the epoch brought.
                seconds = time.monotonic() - started
                history.append({
                    "epoch": epoch + 1, "steps": updates, "lr": rates[-1], "seconds": seconds,
                    "images_per_second": updates * effective / seconds, "train": {"loss": loss},
                })  # fmt: skip
                if not group.first or pictured is None:
                    continue
                if (epoch + 1) % config.save_every == 0 or epoch + 1 == config.epochs:
                    weights = {key: value.cpu() for key, value in model.state_dict().items()}
                    save_tensors(out / PUBLIC_CHECKPOINT, {"model": weights, "epoch": epoch + 1})
                    _picture(model, pictured, spec, config, out / f"reconstruction-{epoch + 1:04d}.png")
                save_epoch(out, {
                    "epoch": epoch + 1, "images": index.sha256, "history": history, "model": model.state_dict(),
                    **update.state_dict(),
                })  # fmt: skip

        if group.first:
            _publish(out, spec)
        group.wait()
    return out


def batch_losses(
    trained: nn.Module,
    spec: BackboneSpec,
    config: PretrainConfig,
    *,
    device: torch.device,
    generator: torch.Generator,
) -> Callable[[Tensor, Tensor], Tensor]:
    """For an epoch's `train_epoch`: pixels and rows of a batch -> its reconstruction loss (1,).

    trained: the model as the group's training steps call it; generator: of augmentation and hidden patches.
    """
    cast = autocast(autocast_dtype(config.precision, device), device)
    patches = (spec.preprocessing.size // spec.options["patch"]) ** 2

    def losses_of(pixels: Tensor, rows: Tensor) -> Tensor:
        pixels = pixels.to(device, non_blocking=True)
        faces = training_views(pixels, spec.preprocessing, config.augment, generator=generator)
        noise = torch.rand(len(faces), patches, generator=generator).to(device)
        with cast:
            return trained(faces, noise, config.mask_ratio)[None]

    return losses_of


def _vit_spec(config: PretrainConfig) -> BackboneSpec:
    spec = encoder_spec(config.backbone)
    if spec.arch != "vit":
        raise UserError(f"backbone {spec.name!r} is a {spec.arch}; a masked autoencoder needs a vit, such as mae")
    return replace(spec, weights=None)


def _publish(out: Path, spec: BackboneSpec) -> None:
    """Write the encoder of the last checkpoint as a backbone."""
    loaded = load(spec, out / PUBLIC_CHECKPOINT)
    save(out, loaded.spec, loaded.module)


def _pictured(index: ImageIndex, rows: Tensor, preprocessing: Preprocessing, device: torch.device) -> Tensor:
    """The same few images in every epoch: (images, 3, size, size), normalised."""
    rows = rows[torch.linspace(0, len(rows) - 1, GRID_IMAGES).long().unique()]
    read = read_frames(index, rows, preprocessing, device=device)
    return torch.cat([normalise(images, preprocessing) for images, _ in read])


def _picture(model: MaskedAutoencoder, faces: Tensor, spec: BackboneSpec, config: PretrainConfig, path: Path) -> None:
    """Write a grid of images whose hidden places do not depend on the epoch."""
    noise = torch.rand(len(faces), model.grid**2, generator=torch.Generator().manual_seed(config.seed))
    reconstructed, hidden = model.reconstruct(faces, noise.to(faces.device), config.mask_ratio)
    write_grid(path, faces, hidden, reconstructed, preprocessing=spec.preprocessing)
