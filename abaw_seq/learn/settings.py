"""The config of a training run: what `--config FILE` and `--set key=value` fill in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from abaw_seq.learn.batches import WindowConfig
from abaw_seq.learn.losses import LossConfig
from abaw_seq.learn.optim import OptimConfig
from abaw_seq.learn.weighting import WeightingConfig
from abaw_seq.models.frameworks import ModelConfig
from abaw_seq.tasks import TASKS


@dataclass(frozen=True)
class AugmentConfig:
    """Noise on the features during training: Gaussian `noise` in units of each feature's deviation,
    `time_mask` share of the frames hidden, `feature_dropout` share of the features hidden."""

    noise: float = 0.0
    time_mask: float = 0.0
    feature_dropout: float = 0.0

    def __post_init__(self):
        if not (self.noise >= 0 and 0 <= self.time_mask < 1 and 0 <= self.feature_dropout < 1):
            raise ValueError("noise must not be negative, time_mask and feature_dropout must be in [0, 1)")


@dataclass(frozen=True)
class TrainConfig:
    """Everything a run depends on besides its feature files.

    `backbones`: which features, in order (empty: all). `standardise`: by the training split's
    statistics, per video, or not; one word for all or a mapping by backbone.
    """

    tasks: tuple[str, ...] = tuple(TASKS)
    backbones: tuple[str, ...] = ()
    standardise: Literal["train", "video", "none"] | dict[str, Literal["train", "video", "none"]] = "train"
    model: ModelConfig = field(default_factory=ModelConfig)
    windows: WindowConfig = field(default_factory=WindowConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    weighting: WeightingConfig = field(default_factory=WeightingConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    epochs: int = 30
    patience: int | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0

    def __post_init__(self):
        if not self.tasks or (unknown := set(self.tasks) - set(TASKS)):
            raise ValueError(f"tasks must be some of {', '.join(TASKS)}, not {sorted(unknown) if self.tasks else '[]'}")
        if self.windows.carry and not self.model.encoder.recurrent:
            raise ValueError(f"windows.carry needs a recurrent encoder, not {self.model.encoder.kind}")
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, not {self.epochs}")
