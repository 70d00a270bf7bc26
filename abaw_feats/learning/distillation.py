"""Learning from a teacher's outputs: instead of labels where they are missing, else beside them.

After Vu et al., "Multitask Multi-database Emotion Recognition" (ABAW 2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from abaw_feats.learning.frame_store import read_frames
from abaw_feats.learning.task_network import read_network, suit_device
from abaw_feats.reading.image_index import ImageIndex
from abaw_feats.reading.images import normalise
from abaw_seq.engine.device import autocast
from abaw_seq.models.outputs import BINS, bin_expectation
from abaw_seq.tasks import AU, EXPRESSION, TASKS
from abaw_seq.terminal import progress


@dataclass(frozen=True)
class TeacherConfig:
    """A fine-tuned run whose predictions stand in for missing labels and are mixed with those that exist."""

    run: str
    """Folder of an `abaw-feats finetune` run."""
    weight: float = 0.4
    """The teacher's share of the loss of a labelled frame, 0 to 1; without a label it is all of the loss."""
    temperature: float = 1.5
    """Logits of teacher and student are divided by this, above 0, before they are compared."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1 or self.temperature <= 0:
            raise ValueError("weight must lie between 0 and 1, temperature above 0")


@torch.no_grad()
def teacher_outputs(
    folder: str | Path, index: ImageIndex, rows: Tensor, *, device: torch.device, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Raw outputs of a fine-tuned network for rows of an index, whose images it sees as in extraction.

    Returns {task: float32 (len(index), width)} on the CPU, NaN in all other rows.
    """
    spec, network = read_network(folder)
    network = suit_device(network, device)
    tables: dict[str, Tensor] = {}
    with progress("teacher", len(rows), "images") as advance:
        for pixels, read in read_frames(index, rows, spec.preprocessing, device=device):
            images = normalise(pixels, spec.preprocessing)
            with autocast(dtype, device):
                outputs = network(images)
            for task, output in outputs.items():
                table = tables.setdefault(task, torch.full((len(index), output.shape[-1]), torch.nan))
                table[read] = output.float().cpu()
            advance(len(read))
    return tables


def with_teacher(
    supervised: dict[str, Tensor],
    outputs: dict[str, Tensor],
    teacher: dict[str, Tensor],
    labels: Tensor,
    *,
    weight: float,
    temperature: float,
) -> dict[str, Tensor]:
    """Mix every task's loss with the distance from the teacher's outputs.

    The loss of a labelled frame is (1 - weight) x that of its label + weight x the distance; without a label it is the
    distance. The result is the mean over all frames of the batch. Tasks that the teacher lacks keep their loss.

    supervised: {task: scalar}, means over the labelled frames; outputs, teacher: {task: (batch, width)},
    raw; labels: (batch, 15), NaN where there is none.
    """
    mixed = dict(supervised)
    for task in supervised.keys() & teacher.keys():
        labelled = ~torch.isnan(labels[:, TASKS[task].columns]).all(dim=1)
        distance = teacher_distance(task, outputs[task].float(), teacher[task], temperature)
        share = torch.where(labelled, weight, 1.0)
        mixed[task] = (1 - weight) * labelled.float().mean() * supervised[task] + (share * distance).mean()
    return mixed


def teacher_distance(task: str, output: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Distance per frame, (batch,), between raw outputs (batch, width) of student and teacher.

    Classes and bins: Kullback-Leibler divergence of the distributions at `temperature`; action units: the
    mean of each one's divergence; valence and arousal as values: squared difference.
    """
    soft = temperature**2
    if task == AU.name:
        p, q = torch.sigmoid(teacher / temperature), output / temperature
        entropy = F.binary_cross_entropy_with_logits(teacher / temperature, p, reduction="none")
        return soft * (F.binary_cross_entropy_with_logits(q, p, reduction="none") - entropy).mean(dim=-1)
    if task == EXPRESSION.name or output.shape[-1] == teacher.shape[-1] == BINS:
        p = F.log_softmax(teacher / temperature, -1)
        q = F.log_softmax(output / temperature, -1)
        return soft * F.kl_div(q, p, reduction="none", log_target=True).sum(dim=-1)
    return (_value(output) - _value(teacher)) ** 2


def _value(output: Tensor) -> Tensor:
    return bin_expectation(output) if output.shape[-1] == BINS else torch.tanh(output[..., 0])
