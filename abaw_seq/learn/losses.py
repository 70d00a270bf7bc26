"""Losses over the frames that carry a label.

Every function takes a boolean mask of the labelled entries, averages over these alone, and returns a
differentiable zero when there are none, so that a batch without labels of a task leaves that task's weights
unchanged. Nothing here waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from abaw_seq.config.ranges import Checked, NotNegative, Positive, ShareBelowOne
from abaw_seq.models.outputs import BINS, bin_expectation
from abaw_seq.tasks import AU, EXPRESSION, TASKS


@dataclass(frozen=True)
class LossConfig(Checked):
    """The loss of each task: cross-entropy for expressions, binary cross-entropy for action units."""

    valence_arousal: Literal["mse", "ccc", "mse+ccc", "bins"] = "mse+ccc"
    """Loss of valence and of arousal: mean squared error, 1 - CCC, their sum, or classification into 20 bins
    (cross-entropy on the bin, plus 1 - CCC of the expectation; Vu et al., ABAW 2021)."""
    ccc_weight: NotNegative = 1.0
    """Factor on each 1 - CCC in the loss of valence and arousal."""
    balance: bool = True
    """Weigh rare expressions and rarely active action units more, by their counts in the training split, where
    `class_weights` or `positive_weights` do not say how."""
    class_weights: tuple[Positive, ...] = ()
    """8 weights, one per expression in the official order; [] for those of `balance`."""
    positive_weights: tuple[Positive, ...] = ()
    """12 weights of active action units in the official order; [] for those of `balance`."""
    label_smoothing: ShareBelowOne = 0.0
    """Share of an expression's label that is spread over all expressions."""
    focal: NotNegative = 0.0
    """Exponent e of the focal factor (1 - p)^e on expressions and action units, which weighs what is already
    predicted well less (Lin et al., ICCV 2017); 0 for none."""
    au_negative_focal: NotNegative | None = None
    """The exponent for inactive action units, where it differs from `focal`: the asymmetric loss (Ridnik et al.,
    ICCV 2021)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, count in (("class_weights", EXPRESSION.outputs), ("positive_weights", AU.outputs)):
            weights = getattr(self, name)
            if weights and len(weights) != count:
                raise ValueError(f"{name} must be {count} positive numbers, not {len(weights)}")


def outputs_of(task: str, config: LossConfig) -> int:
    """Width of a task's output layer."""
    return BINS if config.valence_arousal == "bins" and task in ("valence", "arousal") else TASKS[task].outputs


def task_losses(
    outputs: dict[str, Tensor],
    labels: Tensor,
    config: LossConfig,
    *,
    class_weight: Tensor | None = None,
    positive_weight: Tensor | None = None,
) -> dict[str, Tensor]:
    """One scalar per task of `outputs`.

    outputs: {task: (..., width)}, raw; labels: (..., 15) float, NaN where there is no label.
    """
    losses = {}
    for name, output in outputs.items():
        target = labels[..., TASKS[name].columns]
        mask = ~torch.isnan(target)
        output = output.float()
        if name == EXPRESSION.name:
            losses[name] = masked_cross_entropy(
                output, target[..., 0], mask[..., 0],
                weight=class_weight, smoothing=config.label_smoothing, focal=config.focal,
            )  # fmt: skip
        elif name == AU.name:
            losses[name] = masked_bce(
                output, target, mask, positive_weight=positive_weight,
                focal=config.focal, negative_focal=config.au_negative_focal,
            )  # fmt: skip
        else:
            losses[name] = _dimension_loss(output, target[..., 0], mask[..., 0], config)
    return losses


def _dimension_loss(output: Tensor, target: Tensor, mask: Tensor, config: LossConfig) -> Tensor:
    """Loss of valence or arousal; output: (..., 1) values or (..., 20) bin logits."""
    if config.valence_arousal == "bins":
        bins = ((target + 1) / 2 * BINS).floor().clamp(0, BINS - 1)
        on_bin = masked_cross_entropy(output, bins, mask)
        return on_bin + config.ccc_weight * ccc_loss(bin_expectation(output), target, mask)
    value = torch.tanh(output[..., 0])
    loss = output.new_zeros(())
    if "mse" in config.valence_arousal:
        loss = loss + masked_mse(value, target, mask)
    if "ccc" in config.valence_arousal:
        loss = loss + config.ccc_weight * ccc_loss(value, target, mask)
    return loss


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` is true; 0 if it is nowhere."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error; all arguments have one shape."""
    return masked_mean((prediction - torch.where(mask, target, 0.0)) ** 2, mask)


def ccc_loss(prediction: Tensor, target: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """1 - concordance correlation coefficient of all labelled entries (Lin, Biometrics 1989)."""
    count = mask.sum().clamp(min=1)
    x, y = torch.where(mask, prediction, 0.0), torch.where(mask, target, 0.0)
    mean_x, mean_y = x.sum() / count, y.sum() / count
    dx, dy = torch.where(mask, x - mean_x, 0.0), torch.where(mask, y - mean_y, 0.0)
    denominator = (dx * dx).sum() + (dy * dy).sum() + count * (mean_x - mean_y) ** 2
    loss = 1 - 2 * (dx * dy).sum() / (denominator + eps)
    return torch.where(mask.any(), loss, prediction.sum() * 0.0)


def masked_cross_entropy(
    logits: Tensor,
    target: Tensor,
    mask: Tensor,
    weight: Tensor | None = None,
    smoothing: float = 0.0,
    focal: float = 0.0,
) -> Tensor:
    """Cross-entropy over labelled frames; logits: (..., classes), target and mask: (...).

    weight: (classes,); the sum is then divided by the weights of the labelled frames.
    """
    classes = torch.where(mask, target, 0.0).long()
    log_p = F.log_softmax(logits, -1)
    picked = log_p.gather(-1, classes[..., None])[..., 0]
    loss = -(1 - smoothing) * picked - smoothing * log_p.mean(-1)
    if focal:
        loss = loss * (1 - picked.exp()) ** focal
    frame_weight = mask.to(loss.dtype) if weight is None else weight[classes] * mask
    return (torch.where(mask, loss, 0.0) * frame_weight).sum() / frame_weight.sum().clamp(min=1e-6)


def masked_bce(
    logits: Tensor,
    target: Tensor,
    mask: Tensor,
    positive_weight: Tensor | None = None,
    focal: float = 0.0,
    negative_focal: float | None = None,
) -> Tensor:
    """Binary cross-entropy over labelled entries; logits, target, mask: (..., units), positive_weight: (units,)."""
    truth = torch.where(mask, target, 0.0)
    loss = F.binary_cross_entropy_with_logits(logits, truth, pos_weight=positive_weight, reduction="none")
    if focal or negative_focal:
        exponent = torch.where(truth > 0.5, focal, focal if negative_focal is None else negative_focal)
        p_true = torch.sigmoid(torch.where(truth > 0.5, logits, -logits))
        loss = loss * (1 - p_true) ** exponent
    return masked_mean(loss, mask)


def loss_weights(config: LossConfig, labels: Tensor) -> dict[str, Tensor]:
    """The weights that `task_losses` takes: those of the config, else balanced by labels (n, 15), else none."""
    weights = {}
    for name, fixed, balanced in (
        ("class_weight", config.class_weights, class_weights),
        ("positive_weight", config.positive_weights, positive_weights),
    ):
        if fixed or config.balance:
            weights[name] = torch.tensor(fixed) if fixed else balanced(labels)
    return weights


def class_weights(labels: Tensor, power: float = 0.5) -> Tensor:
    """Weights (8,) of the expressions, (1 / frequency)^power, scaled to a mean of 1 over the frames.

    labels: (n, 15). An expression without a frame gets the weight of the rarest that has one.
    """
    column = labels[:, EXPRESSION.columns][:, 0]
    counts = torch.bincount(column[~torch.isnan(column)].long(), minlength=EXPRESSION.outputs).double()
    if counts.sum() == 0:
        return torch.ones(EXPRESSION.outputs)
    rarest = counts[counts > 0].min()
    weight = counts.clamp(min=rarest.item()) ** -power
    return (weight * counts.sum() / (weight * counts).sum()).float()


def positive_weights(labels: Tensor, power: float = 0.5, most: float = 10.0) -> Tensor:
    """Weights (12,) of active action units, (inactive / active)^power, at most `most`; labels: (n, 15)."""
    cells = labels[:, AU.columns]
    positives = (cells == 1).sum(0).double().clamp(min=1)
    negatives = (cells == 0).sum(0).double()
    return ((negatives / positives) ** power).clamp(1e-2, most).float()


def with_teacher(
    supervised: dict[str, Tensor],
    outputs: dict[str, Tensor],
    teacher: dict[str, Tensor],
    labels: Tensor,
    *,
    weight: float,
    temperature: float,
    values: Literal["mse", "ccc"] = "mse",
) -> dict[str, Tensor]:
    """Mix every task's loss with the distance from a teacher's outputs (Vu et al., ABAW 2021).

    The loss of a labelled frame is (1 - weight) x that of its label + weight x the distance; without a label it is the
    distance. The result is the mean over the frames that have a label or a teacher. Tasks that the teacher lacks keep
    their loss. values: how plain valence and arousal are compared, frame by frame or by 1 - CCC over the batch.

    supervised: {task: scalar}, means over the labelled frames; outputs, teacher: {task: (..., width)}, raw, NaN where
    there is no teacher; labels: (..., 15), NaN where there is none.
    """
    mixed = dict(supervised)
    for task in supervised.keys() & teacher.keys():
        target = teacher[task]
        labelled = ~torch.isnan(labels[..., TASKS[task].columns]).all(-1)
        taught = ~torch.isnan(target).any(-1)
        output, target = outputs[task].float(), torch.nan_to_num(target)
        share = torch.where(labelled, weight, 1.0) * taught
        count = (labelled | taught).sum().clamp(min=1)
        if values == "ccc" and task not in (EXPRESSION.name, AU.name) and not _both_bins(output, target):
            distance = share.sum() * ccc_loss(_value(output), _value(target), taught)
        else:
            distance = (share * torch.where(taught, teacher_distance(task, output, target, temperature), 0.0)).sum()
        # A labelled frame without a teacher has its label's loss alone.
        own = torch.where(labelled, torch.where(taught, 1 - weight, 1.0), 0.0).sum()
        mixed[task] = own / count * supervised[task] + distance / count
    return mixed


def teacher_distance(task: str, output: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Distance per frame (...) between raw outputs (..., width) of student and teacher.

    Classes and bins: Kullback-Leibler divergence of the distributions at `temperature`; action units: the
    mean of each one's divergence; valence and arousal as values: squared difference.
    """
    soft = temperature**2
    if task == AU.name:
        p, q = torch.sigmoid(teacher / temperature), output / temperature
        entropy = F.binary_cross_entropy_with_logits(teacher / temperature, p, reduction="none")
        return soft * (F.binary_cross_entropy_with_logits(q, p, reduction="none") - entropy).mean(dim=-1)
    if task == EXPRESSION.name or _both_bins(output, teacher):
        p = F.log_softmax(teacher / temperature, -1)
        q = F.log_softmax(output / temperature, -1)
        return soft * F.kl_div(q, p, reduction="none", log_target=True).sum(dim=-1)
    return (_value(output) - _value(teacher)) ** 2


def _both_bins(output: Tensor, teacher: Tensor) -> bool:
    return output.shape[-1] == teacher.shape[-1] == BINS


def _value(output: Tensor) -> Tensor:
    return bin_expectation(output) if output.shape[-1] == BINS else torch.tanh(output[..., 0])
