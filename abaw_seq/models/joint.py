"""A joint model: the features of separately trained tasks, fused, and read over time (Liu et al., ABAW7, 2407.16945).

Task features come from backbones of the feature file, as `abaw-seq progressive` writes them, or from the separate
models themselves, which are then parts of the joint model and go on learning. Each task, or each group of tasks that
asks for the same, has a branch: fusion - LeakyReLU - temporal module; then comes one head per task.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from abaw_seq.config.ranges import Checked, Width
from abaw_seq.models.encoders import State, Transformer, stack
from abaw_seq.models.frameworks import ModelConfig, MultiTaskModel, Predicted
from abaw_seq.models.fusion import Fusion, FusionConfig, FusionKind
from abaw_seq.models.heads import Standardise, TaskHead
from abaw_seq.tasks import TASKS


@dataclass(frozen=True)
class PartConfig(Checked):
    """A separate model as a part of a joint one."""

    backbones: tuple[str, ...]
    """Backbones that it reads, in this order."""
    outputs: dict[str, Width]
    """{task: width of its output layer}."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The separate model."""


@dataclass(frozen=True)
class JointConfig(Checked):
    """Which task features are fused into which task, and how."""

    graph: dict[str, tuple[str, ...]]
    """The sources of each task's features, its own first, such as {au: [p7_au, p7_expr]}: names of `parts`, or else of
    backbones."""
    parts: dict[str, PartConfig] = field(default_factory=dict)
    """Separate models that are part of this one, by name, and learn with it; {} where all sources are backbones."""
    fusion: FusionKind | dict[str, FusionKind] = "sum"
    """How a task's sources are fused: `none`, its first alone; `sum`, `concat`, `gate` (a mean whose weights are
    learned) or `attention` (of its first to all), each followed by two linear layers. One word for all tasks, or one
    per task (sum where not named)."""
    layers: FusionConfig = field(default_factory=FusionConfig)
    """The layers of a fusion."""
    shared: bool = True
    """Let tasks of the same sources and fusion share their fusion and temporal module."""

    def __post_init__(self) -> None:
        super().__post_init__()
        named = self.fusion if isinstance(self.fusion, dict) else {}
        for key, tasks in (("graph", self.graph), ("fusion", named)):
            if unknown := set(tasks) - set(TASKS):
                raise ValueError(f"{key}: no task {sorted(unknown)[0]!r}, one of {', '.join(TASKS)}")
        for task, sources in self.graph.items():
            if not sources or len(set(sources)) < len(sources):
                raise ValueError(f"graph: {task} needs at least one source, each once, not {list(sources)}")

    def fusion_of(self, task: str) -> str:
        return self.fusion.get(task, "sum") if isinstance(self.fusion, dict) else self.fusion

    def sources_of(self, task: str) -> tuple[str, ...]:
        """The sources that a task's branch reads."""
        return self.graph[task][:1] if self.fusion_of(task) == "none" else self.graph[task]


class JointModel(nn.Module):
    """Sources, a branch of fusion and temporal module for each group of tasks, heads; called as MultiTaskModel is."""

    def __init__(self, dims: dict[str, int], config: ModelConfig, joint: JointConfig, outputs: dict[str, int]):
        """dims: {backbone: its width}, in the order of the columns; outputs: {task: width of its output layer}."""
        super().__init__()
        self.recurrent = config.encoder.recurrent
        self.branch_of = _branches(joint, tuple(outputs))
        self.sources = {branch: joint.sources_of(branch) for branch in self.branch_of.values()}
        used = {source for sources in self.sources.values() for source in sources}
        self.columns: dict[str, list[int]] = {}
        self.parts = nn.ModuleDict()
        widths: dict[str, int] = {}
        measured: list[tuple[Standardise, list[int]]] = []
        for name in sorted(used):
            part = joint.parts.get(name)
            self.columns[name] = _columns(dims, part.backbones if part else (name,))
            widths[name] = len(self.columns[name])
            if part:
                model = TaskFeatures(MultiTaskModel(widths[name], part.model, part.outputs))
                measured.append((model.model.standardise, self.columns[name]))
                self.parts[name], widths[name] = model, model.dim
        self.standardise = _Statistics(sum(dims.values()), measured)
        self.fusions, self.tops, self.heads = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        width = joint.layers.dim
        for branch, sources in self.sources.items():
            self.fusions[branch] = Fusion([widths[name] for name in sources], joint.fusion_of(branch), joint.layers)
            self.tops[branch] = top = stack(width, config.encoder, config.encoder.layers)
            out_dim = top.out_dim
            if isinstance(top, Transformer) and width == config.encoder.dim:
                top.project = nn.Identity()  # the fusion ends with a linear layer
        for task, size in outputs.items():
            self.heads[task] = TaskHead(out_dim, config.head, size, config.head_dropout)

    def forward(
        self,
        x: Tensor,
        state: dict[str, State] | None = None,
        used: Tensor | None = None,
        labels: Tensor | None = None,
        gt_rate: float = 0.0,
    ) -> Predicted:
        # x: (batch, time, dim); used: (batch,) number of frames of each window
        state = state or {}
        final: dict[str, State] = {}
        seen = self.standardise(x)
        features: dict[str, Tensor] = {}
        for name, columns in self.columns.items():
            if name not in self.parts:
                features[name] = seen[..., columns]
                continue
            own = {key.partition("/")[2]: value for key, value in state.items() if key.startswith(f"{name}/")}
            part = self.parts[name](x[..., columns], own, used)
            features[name] = part.outputs["features"]
            final |= {f"{name}/{key}": value for key, value in part.state.items()}
        read: dict[str, Tensor] = {}
        for branch, sources in self.sources.items():
            fused = self.fusions[branch]([features[name] for name in sources])
            read[branch], own_state = self.tops[branch](fused, state.get(branch), used)
            final |= {} if own_state is None else {branch: own_state}
        made = {task: head(read[self.branch_of[task]]) for task, head in self.heads.items()}
        return Predicted({t: out for t, (out, _) in made.items()}, {t: hid for t, (_, hid) in made.items()}, final)


class TaskFeatures(nn.Module):
    """A model whose one output is its penultimate features, those of its tasks side by side."""

    def __init__(self, model: MultiTaskModel):
        super().__init__()
        self.model, self.recurrent, self.dim = model, model.recurrent, sum(model.widths.values())

    def forward(self, x: Tensor, state: dict[str, State] | None = None, used: Tensor | None = None) -> Predicted:
        # x: (batch, time, dim)
        predicted = self.model(x, state, used)
        return Predicted({"features": torch.cat([*predicted.hidden.values()], -1)}, predicted.hidden, predicted.state)


SequenceModel = MultiTaskModel | JointModel


class _Statistics(Standardise):
    """The standardisation of all features; parts keep their own, which are measured with it."""

    def __init__(self, dim: int, parts: list[tuple[Standardise, list[int]]]):
        """parts: each one's standardisation, and the columns it reads."""
        super().__init__(dim)
        self._parts = parts  # a list, so that they are no modules of this one

    @torch.no_grad()
    def fit(self, take: Callable[[Tensor], Tensor], rows: Tensor, columns: list[slice]) -> None:
        super().fit(take, rows, columns)
        for part, own in self._parts:
            part.mean.copy_(self.mean[own])
            part.scale.copy_(self.scale[own])


def build_model(
    dims: dict[str, int], config: ModelConfig, joint: JointConfig | None, outputs: dict[str, int]
) -> SequenceModel:
    """The model of a run; dims: {backbone: its width}, in the order of the columns."""
    if joint is None:
        return MultiTaskModel(sum(dims.values()), config, outputs)
    return JointModel(dims, config, joint, outputs)


def _branches(joint: JointConfig, tasks: tuple[str, ...]) -> dict[str, str]:
    """{task: the first task of its branch}."""
    first: dict[tuple, str] = {}
    for task in tasks:
        asked = (joint.sources_of(task), joint.fusion_of(task)) if joint.shared else (task,)
        first.setdefault(asked, task)
    return {t: first[(joint.sources_of(t), joint.fusion_of(t)) if joint.shared else (t,)] for t in tasks}


def _columns(dims: dict[str, int], backbones: tuple[str, ...]) -> list[int]:
    """The columns of backbones; ValueError for one that is not in `dims`."""
    spans, start = {}, 0
    for name, dim in dims.items():
        spans[name], start = range(start, start + dim), start + dim
    for name in backbones:
        if name not in spans:
            raise ValueError(f"joint.graph: no part or backbone {name!r} (there are: {', '.join(dims)})")
    return [column for name in backbones for column in spans[name]]
