"""Multi-task frameworks around a temporal encoder (Zhang et al., ABAW4, arXiv 2207.09373, section 3).

One module covers them all. The trunk is shared; each task may have layers of its own on top; these may
receive feedback from source tasks besides the output of the trunk:

- se (share encoder): no task layers;
- sbe (share bottom of encoder): `task_layers` layers per task;
- sbe_hsf (hidden-state feedback): sbe, with the detached hidden states of the source tasks;
- prediction_feedback: sbe, with embeddings of the source tasks' predictions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor, nn

from abaw_seq.config.ranges import Checked, Range, Share, Width
from abaw_seq.models.encoders import EncoderConfig, State, stack
from abaw_seq.models.heads import PredictionEmbedding, Standardise, TaskHead
from abaw_seq.models.outputs import probabilities, unit_range, unit_truth
from abaw_seq.tasks import TASKS


@dataclass(frozen=True)
class ModelConfig(Checked):
    """A multi-task model: temporal encoder, how the tasks share it, and one head per task."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The temporal encoder."""
    framework: Literal["se", "sbe", "sbe_hsf", "prediction_feedback"] = "se"
    """How the tasks share the encoder: `se`, all of it; `sbe`, its lower layers, with `task_layers` layers of its own
    for each task; `sbe_hsf`, as sbe, and the hidden states of source tasks are fed to other tasks;
    `prediction_feedback`, as sbe, and embeddings of the source tasks' predictions are fed to other tasks."""
    task_layers: Annotated[int, Range("[0, 1000]")] = 0
    """How many of the encoder's layers each task has for itself: 0 with se, at least 1 with the others."""
    feedback: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The source tasks that each fed task gets, such as {arousal: [valence, au]} (sbe_hsf, prediction_feedback)."""
    embedding: Width = 256
    """Width of the embedding of a prediction (prediction_feedback)."""
    gt_rate: Share = 0.0
    """Share of the labelled training frames whose label is fed instead of the prediction
    (prediction_feedback)."""
    gt_decay: bool = False
    """Let `gt_rate` fall linearly to 0 in the last epoch."""
    head: tuple[Width, ...] = (256,)
    """Widths of the hidden layers of each task's head; [] for a linear head."""
    head_dropout: Share = 0.3
    """Dropout in front of each layer of the heads."""

    def __post_init__(self) -> None:
        super().__post_init__()
        needs_feedback = self.framework in ("sbe_hsf", "prediction_feedback")
        if self.framework == "se" and self.task_layers:
            raise ValueError("task_layers needs another framework than se, which shares the whole encoder")
        if self.framework != "se" and not 0 < self.task_layers <= self.encoder.layers:
            raise ValueError(
                f"task_layers must be between 1 and the encoder's {self.encoder.layers} layers, not {self.task_layers}"
            )
        if self.framework != "se" and self.encoder.kind == "none":
            raise ValueError(f"framework {self.framework} needs an encoder with layers, not none")
        if needs_feedback != bool(self.feedback):
            fault = "is missing for" if needs_feedback else "has no meaning in"
            raise ValueError(f"feedback {fault} framework {self.framework}")
        dependency_order(tuple(TASKS), self.feedback)


def dependency_order(tasks: tuple[str, ...], feedback: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The tasks, each after its sources; ValueError for unknown names or cycles."""
    for target, sources in feedback.items():
        for name in (target, *sources):
            if name not in tasks:
                raise ValueError(f"feedback: unknown or unused task {name!r} (tasks: {', '.join(tasks)})")
    graph = {task: feedback.get(task, ()) for task in tasks}
    try:
        return tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise ValueError(f"feedback goes in a circle: {' <- '.join(error.args[1])}") from None


class Predicted(NamedTuple):
    """What a model computes for a batch of windows."""

    outputs: dict[str, Tensor]
    """{task: (batch, time, width)}, raw."""
    hidden: dict[str, Tensor]
    """{task: (batch, time, dim)}, each head's last hidden layer."""
    state: dict[str, State]
    """{"trunk" or task: final state} of the recurrent layers."""


class MultiTaskModel(nn.Module):
    """Standardisation, shared trunk, task layers with optional feedback, heads."""

    def __init__(self, in_dim: int, config: ModelConfig, outputs: dict[str, int]):
        """outputs: {task: width of its output layer}, for every task of the model."""
        super().__init__()
        own, shared = config.task_layers, config.encoder.layers - config.task_layers
        self.order = dependency_order(tuple(outputs), config.feedback)
        self.sources = {task: config.feedback.get(task, ()) for task in outputs}
        self.by_prediction = config.framework == "prediction_feedback"
        self.recurrent = config.encoder.recurrent
        self.standardise = Standardise(in_dim)
        self.trunk = stack(in_dim, config.encoder, shared)
        self.tops, self.heads, self.embeddings = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        hidden: dict[str, int] = {}
        for task in self.order:
            width = self.trunk.out_dim
            for source in self.sources[task]:
                width += config.embedding if self.by_prediction else hidden[source]
                if self.by_prediction and source not in self.embeddings:
                    self.embeddings[source] = PredictionEmbedding(TASKS[source].outputs, config.embedding)
            top = stack(width, config.encoder, own, first=shared)
            head = TaskHead(top.out_dim, config.head, outputs[task], config.head_dropout)
            self.tops[task], self.heads[task], hidden[task] = top, head, head.hidden_dim
        self.widths = hidden
        """{task: width of its last hidden layer}"""

    def forward(
        self,
        x: Tensor,
        state: dict[str, State] | None = None,
        used: Tensor | None = None,
        labels: Tensor | None = None,
        gt_rate: float = 0.0,
    ) -> Predicted:
        # x: (batch, time, dim); used: (batch,) number of frames of each window; labels: (batch, time, 15)
        state = state or {}
        final: dict[str, State | None] = {}
        shared, final["trunk"] = self.trunk(self.standardise(x), state.get("trunk"), used)
        outputs: dict[str, Tensor] = {}
        hidden: dict[str, Tensor] = {}
        for task in self.order:
            feedback = [self._feedback(source, outputs, hidden, labels, gt_rate) for source in self.sources[task]]
            y, final[task] = self.tops[task](torch.cat([shared, *feedback], -1), state.get(task), used)
            outputs[task], hidden[task] = self.heads[task](y)
        return Predicted(outputs, hidden, {name: part for name, part in final.items() if part is not None})

    def _feedback(self, source: str, outputs: dict, hidden: dict, labels: Tensor | None, gt_rate: float) -> Tensor:
        """A source task's feedback (batch, time, dim), detached."""
        if not self.by_prediction:
            return hidden[source].detach()
        prediction = unit_range(source, probabilities({source: outputs[source].detach()})[source])
        truth = None if labels is None or not self.training else unit_truth(source, labels)
        return self.embeddings[source](prediction, truth, gt_rate)
