"""The config of a fine-tuning run: what `--config FILE` and `--set key=value` fill in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from abaw_feats.learning.augment import AugmentConfig
from abaw_feats.learning.distillation import TeacherConfig
from abaw_feats.learning.labelled_frames import SourceConfig
from abaw_feats.learning.sequence import SequenceConfig
from abaw_feats.learning.task_network import HeadConfig
from abaw_seq.config.ranges import Checked, Count, LargestNorm, NotNegative, Positive, Range, ShareBelowOne
from abaw_seq.learn.losses import LossConfig
from abaw_seq.tasks import TASKS


@dataclass(frozen=True)
class FinetuneConfig(Checked):
    """Everything a fine-tuning run depends on besides its frames and labels."""

    backbone: str | dict[str, Any] = "iresnet18"
    """The network to train: a name of `abaw-feats backbones`, timm:MODEL, a YAML file, the folder of a run, or a
    variation of one of these such as {like: iresnet18, name: small, options: {dim: 128}}."""
    weights: str | None = None
    """Where training starts: a weight file, `random`, or null for the backbone's own weights."""
    normalisation: Literal["own", "measured"] = "own"
    """Mean and deviation of the input: the backbone's own, or measured on the training frames."""
    tasks: tuple[str, ...] = tuple(TASKS)
    """Tasks to learn: some of valence, arousal, expression, au."""
    sources: tuple[SourceConfig, ...] = ()
    """The data sets to train on, several at once if you like; the command line can name one instead."""
    share_labels: bool = False
    """Give a frame that several sources contain the labels of all of them."""
    balance: NotNegative = 0.0
    """How much more often frames of rare expressions, valence and arousal are drawn: 0 all frames alike, 1 all values
    equally often."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """The heads on top of the encoder, one per task."""
    sequence: SequenceConfig | None = None
    """Learn from windows of frames, through a temporal module; null for single frames."""
    freeze: bool = False
    """Leave the encoder as it is and train the heads only: a probe of its features."""
    drop_path: ShareBelowOne = 0.0
    """Share of residual branches that are skipped in training: 0 in the first block, this share in the last (vit)."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The loss of each task."""
    task_weights: dict[str, NotNegative] = field(default_factory=dict)
    """Weight of each task's loss; 1 where not named."""
    teacher: TeacherConfig | None = None
    """An earlier run whose predictions are learned from as well; null for none."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random changes of the images in training."""
    epochs: Count = 20
    """Number of epochs."""
    epoch_images: Annotated[int, Range("[1, 1000000000000]")] | None = None
    """Images per epoch; null for as many as there are training frames."""
    patience: Count | None = None
    """Stop after this many epochs without a better validation score; null to train all epochs."""
    batch_size: Count = 64
    """Images per process and step; with a sequence as many windows as these fill, at least one."""
    accumulate: Count = 1
    """Steps whose gradients are summed into one update."""
    base_lr: Positive = 1e-3
    """Highest learning rate per 256 images of the effective batch (batch_size x accumulate x processes)."""
    head_lr: NotNegative = 1.0
    """Factor on the learning rate of the heads."""
    temporal_lr: NotNegative = 1.0
    """Factor on the learning rate of what lies between encoder and heads (sequence)."""
    layer_decay: Positive = 1.0
    """Factor on the learning rate from each layer of the encoder to the one below it; 1 for one rate everywhere."""
    warmup_epochs: NotNegative = 1.0
    """Epochs over which the learning rate rises linearly; then it falls to 0 along half a cosine."""
    weight_decay: NotNegative = 0.05
    """Weight decay (AdamW) of matrices; vectors and embeddings have none."""
    clip: LargestNorm | None = 5.0
    """Largest norm of the gradient of all weights; null for no limit."""
    ema: ShareBelowOne = 0.0
    """Decay per update of the running average of the weights. Above 0 this average is what is validated
    and saved; 0 uses the weights themselves."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the products; auto: bf16 where the hardware has it, else fp32."""
    memory_gb: NotNegative = 8.0
    """Decoded images are kept in memory up to this size, in GiB."""
    seed: Annotated[int, Range("[-9000000000, 9000000000]")] = 0
    """Seed of the initial weights and of all random choices."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("tasks", self.tasks), ("task_weights", self.task_weights)):
            if unknown := set(value) - set(TASKS):
                raise ValueError(f"{name}: {sorted(unknown)[0]!r} is not one of {', '.join(TASKS)}")
        if not self.tasks:
            raise ValueError("tasks: name at least one")
