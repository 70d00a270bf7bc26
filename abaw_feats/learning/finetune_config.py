"""The config of a fine-tuning run: what `--config FILE` and `--set key=value` fill in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from abaw_feats.learning.augment import AugmentConfig
from abaw_feats.learning.distillation import TeacherConfig
from abaw_feats.learning.labelled_frames import SourceConfig
from abaw_feats.learning.task_network import HeadConfig
from abaw_seq.learn.losses import LossConfig
from abaw_seq.tasks import TASKS


@dataclass(frozen=True)
class FinetuneConfig:
    """Everything a fine-tuning run depends on besides its frames and labels."""

    backbone: str | dict[str, Any] = "iresnet18"
    """A name, a YAML file, the folder of a run, or a mapping `{like: iresnet18, options: {...}}`."""
    weights: str | None = None
    """Where to start: a file, "random", or empty for the backbone's own weights."""
    normalisation: Literal["own", "measured"] = "own"
    """Mean and deviation of the input: the backbone's, or measured on the training frames."""
    tasks: tuple[str, ...] = tuple(TASKS)
    sources: tuple[SourceConfig, ...] = ()
    share_labels: bool = False
    """A frame that is in several sources has the labels of all of them in each."""
    balance: float = 0.0
    """Draw rare expressions and rare valence and arousal more often: 0 never, 1 all alike."""
    head: HeadConfig = field(default_factory=HeadConfig)
    freeze: bool = False
    """Train the heads only: a probe of the features."""
    drop_path: float = 0.0
    loss: LossConfig = field(default_factory=LossConfig)
    task_weights: dict[str, float] = field(default_factory=dict)
    teacher: TeacherConfig | None = None
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    epochs: int = 20
    epoch_images: int | None = None
    """Images that make an epoch; empty for as many as there are training frames."""
    patience: int | None = None
    """Stop after so many epochs without a better validation score."""
    batch_size: int = 64
    accumulate: int = 1
    base_lr: float = 1e-3
    """Learning rate per 256 images of the effective batch (batch_size x accumulate x processes)."""
    head_lr: float = 1.0
    """The heads' learning rate relative to the encoder's."""
    layer_decay: float = 1.0
    """Each layer's learning rate relative to that of the layer above it."""
    warmup_epochs: float = 1.0
    weight_decay: float = 0.05
    clip: float | None = 5.0
    ema: float = 0.0
    """Decay of the running average of weights that is validated and kept; 0 for none."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    memory_gb: float = 8.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        for name, value in (("tasks", self.tasks), ("task_weights", self.task_weights)):
            if unknown := set(value) - set(TASKS):
                raise ValueError(f"{name}: {sorted(unknown)[0]!r} is not one of {', '.join(TASKS)}")
        if not self.tasks:
            raise ValueError("tasks: name at least one")
        if not 0 <= self.ema < 1:
            raise ValueError("ema must be at least 0 and below 1")
