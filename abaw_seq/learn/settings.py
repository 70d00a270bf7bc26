"""The config of a training run: what `--config FILE` and `--set key=value` fill in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from abaw_seq.config.ranges import Checked, Count, NotNegative, Positive, Range, Seed, Share, ShareBelowOne
from abaw_seq.data.corpus import Corpus
from abaw_seq.errors import UserError
from abaw_seq.learn.batches import WindowConfig
from abaw_seq.learn.losses import LossConfig
from abaw_seq.learn.optim import OptimConfig
from abaw_seq.learn.weighting import WeightingConfig
from abaw_seq.models.encoders import MAX_LEARNED_POSITIONS
from abaw_seq.models.frameworks import ModelConfig, dependency_order
from abaw_seq.models.joint import JointConfig
from abaw_seq.tasks import TASKS

Reach = Annotated[int, Range("[0, 1000000000]")]


@dataclass(frozen=True)
class AugmentConfig(Checked):
    """Random changes of the features in training."""

    noise: NotNegative = 0.0
    """Gaussian noise, in standard deviations of each feature."""
    time_mask: ShareBelowOne = 0.0
    """Share of the frames that are hidden (set to the mean)."""
    feature_dropout: ShareBelowOne = 0.0
    """Share of the features that are hidden throughout a window (set to the mean)."""


@dataclass(frozen=True)
class TeacherConfig(Checked):
    """How a run learns from the outputs of a teacher (`abaw-seq distill`), beside labels and where there are none."""

    weight: Share = 0.4
    """The teacher's share of the loss of a labelled frame; without a label it is all of the loss."""
    temperature: Positive = 1.5
    """Logits of teacher and student are divided by this before they are compared."""
    values: Literal["mse", "ccc"] = "mse"
    """How valence and arousal are compared unless both are in bins: squared difference, or 1 - CCC over the batch."""


@dataclass(frozen=True)
class TrainConfig(Checked):
    """Everything a training run depends on besides its feature files."""

    tasks: tuple[str, ...] = tuple(TASKS)
    """Tasks to learn: some of valence, arousal, expression, au."""
    backbones: tuple[str, ...] = ()
    """Backbones whose features are joined, in this order; [] for all in the feature files."""
    standardise: Literal["train", "video", "none"] | dict[str, Literal["train", "video", "none"]] = "train"
    """Bring features to mean 0 and deviation 1: by the statistics of the training split, of each video, or not at
    all. One word for all backbones, or one per backbone ({mae: train, iresnet: video}; train where not named)."""
    nearest_label: Reach | dict[str, Reach] = 0
    """A training frame without a label takes that of the nearest labelled frame of its video, up to this many frames
    away; 0 for never. One number for all tasks, or one per task ({expression: 5}; 0 where not named)."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The multi-task model; of a joint model its `encoder` is the temporal module, and `head` that of each task."""
    joint: JointConfig | None = None
    """Which task features are fused into which task, before the temporal module (`abaw-seq progressive` writes it);
    null for none."""
    windows: WindowConfig = field(default_factory=WindowConfig)
    """Training batches."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random changes of the features in training."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The loss of each task."""
    teacher: TeacherConfig | None = None
    """Learning from a teacher, which `abaw-seq distill` names; null for labels alone."""
    weighting: WeightingConfig = field(default_factory=WeightingConfig)
    """How the losses of the tasks become one."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser and learning rate."""
    epochs: Count = 30
    """Passes over the training split."""
    patience: Count | None = None
    """Stop after this many epochs without a better validation score (P_MTL); null to train all epochs."""
    keep_best_per_task: bool = False
    """Also save each task's own best epoch as `best_<task>.pt`, for ensembles; `best.pt` is the epoch of the best
    P_MTL."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of the products. On a GPU lstm and gru are slower in bf16 than in fp32."""
    seed: Seed = 0
    """Seed of the initial weights and of all random choices."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tasks or (unknown := set(self.tasks) - set(TASKS)):
            raise ValueError(f"tasks must be some of {', '.join(TASKS)}, not {sorted(unknown) if self.tasks else '[]'}")
        if self.windows.carry and not self.model.encoder.recurrent:
            raise ValueError(f"windows.carry needs a recurrent encoder, not {self.model.encoder.kind}")
        if unknown := set(self.label_reach) - set(TASKS):
            raise ValueError(f"nearest_label: no task {sorted(unknown)[0]!r}, one of {', '.join(TASKS)}")
        dependency_order(self.tasks, self.model.feedback)
        if self.joint is not None:
            if missing := set(self.tasks) - set(self.joint.graph):
                raise ValueError(f"joint.graph names no sources of {sorted(missing)[0]}")
            if self.model.framework != "se":
                raise ValueError(f"a joint model has the framework se, not {self.model.framework}")
        encoder = self.model.encoder
        learned = encoder.kind == "transformer" and encoder.positions == "learned"
        if learned and self.windows.length > MAX_LEARNED_POSITIONS:
            raise ValueError(f"windows.length must be at most {MAX_LEARNED_POSITIONS} with learned positions")

    @property
    def label_reach(self) -> dict[str, int]:
        """`nearest_label` as {task: frames}."""
        chosen = self.nearest_label
        return dict(chosen) if isinstance(chosen, dict) else dict.fromkeys(TASKS, chosen)

    def standardised(self, corpus: Corpus, kind: Literal["train", "video"]) -> list[slice]:
        """Columns of the backbones that `standardise` names for this way; UserError for an unknown backbone."""
        chosen = self.standardise
        if isinstance(chosen, dict):
            if unknown := set(chosen) - set(corpus.backbones):
                names = ", ".join(corpus.backbones)
                raise UserError(f"standardise: no backbone {sorted(unknown)[0]!r} (the features have: {names})")
            return [columns for name, columns in corpus.backbones.items() if chosen.get(name, "train") == kind]
        return list(corpus.backbones.values()) if chosen == kind else []

    def as_seen(self, corpus: Corpus) -> Corpus:
        """The corpus as a model of this config sees it: features standardised per video where that is wanted."""
        return corpus.standardised_per_video(self.standardised(corpus, "video"))
