"""Learning from a teacher's outputs: instead of labels where they are missing, else beside them.

After Vu et al., "Multitask Multi-database Emotion Recognition" (ABAW 2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from abaw_feats.learning.frame_store import read_frames
from abaw_feats.learning.task_network import read_network, suit_device
from abaw_feats.reading.image_index import ImageIndex
from abaw_feats.reading.images import normalise
from abaw_seq.config.ranges import Checked, Positive, Share
from abaw_seq.engine.device import autocast
from abaw_seq.terminal import progress


@dataclass(frozen=True)
class TeacherConfig(Checked):
    """A fine-tuned run whose predictions stand in for missing labels and are mixed with those that exist."""

    run: str
    """Folder of an `abaw-feats finetune` run."""
    weight: Share = 0.4
    """The teacher's share of the loss of a labelled frame; without a label it is all of the loss."""
    temperature: Positive = 1.5
    """Logits of teacher and student are divided by this before they are compared."""


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
