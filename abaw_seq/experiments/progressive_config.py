"""The config of `abaw-seq progressive`, and the training configs that follow from it."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from abaw_seq import config as configs
from abaw_seq.config.ranges import Checked, Seed
from abaw_seq.errors import UserError
from abaw_seq.learn.losses import outputs_of
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.models.fusion import FusionConfig, FusionKind
from abaw_seq.models.joint import JointConfig, PartConfig
from abaw_seq.tasks import TASKS

Start = Literal["frozen", "trained", "scratch"]
Variant = tuple[Start, FusionKind]


@dataclass(frozen=True)
class ProgressiveConfig(Checked):
    """Progressive training: a model per task, then joint models on what these have learned."""

    separate: dict[str, dict[str, Any]]
    """Step 1: the settings of each separate model, over those of `common`, by its name: {au: {tasks: [au]}, ...}. Each
    task belongs to one model, which may have several. Any key of a training config may stand here, backbones, windows,
    loss and optimiser among them."""
    joint: dict[str, Any] = field(default_factory=dict)
    """Step 3: the settings of the joint models, over those of `common`: tasks (by default all), windows, loss; `model`
    says what the temporal module and the heads are. `standardise` is that of the task features."""
    common: dict[str, Any] = field(default_factory=dict)
    """Settings of all models; `like: NAME` takes over those of a training config."""
    graph: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The separate models whose features go into each task, its own first, such as {au: [au, expr]}; all models, the
    task's own first, where a task is not named."""
    fusion: FusionKind = "sum"
    """How they are fused: none, sum, concat, gate or attention."""
    layers: FusionConfig = field(default_factory=FusionConfig)
    """The layers of the fusion."""
    shared: bool = True
    """Let tasks with the same graph share their fusion and temporal module."""
    start: Start = "frozen"
    """What joint models begin with: `frozen`, the task features of step 2; `trained`, the separate models as parts that
    learn on, at the rate that `optim.group_lr: {parts: FACTOR}` says; `scratch`, the same parts with random weights and
    the full rate."""
    compare_starts: tuple[Start, ...] = ("frozen", "trained", "scratch")
    """Step 4: starts that are compared, each with `fusion`."""
    compare_fusions: tuple[FusionKind, ...] = ("none", "sum", "concat", "gate", "attention")
    """Fusions that are compared, each with `start`."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Seeds: all steps are done with each."""
    prefix: str = "p7"
    """Beginning of the names of the task features: p7_au are those of the model au."""
    set: tuple[str, ...] = ()
    """Changes to all training configs, such as [epochs=10, optim.lr=1e-4]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.separate or not self.seeds or len({*self.seeds}) < len(self.seeds):
            raise ValueError("separate and seeds must name at least one each, no seed twice")
        for key, names in (("separate", self.separate), ("prefix", (self.prefix,))):
            if wrong := [name for name in names if not name.isidentifier()]:
                raise ValueError(f"{key}: {wrong[0]!r} cannot be part of a name; use letters, digits and _")
        owners: dict[str, str] = {}
        for name in self.separate:
            config = self.separate_config(name)
            if config.joint is not None:
                raise ValueError(f"separate.{name}: joint belongs in the joint models")
            for task in config.tasks:
                if (other := owners.setdefault(task, name)) != name:
                    raise ValueError(f"separate: {other} and {name} both learn {task}; give it to one")
        for task, sources in self.graph.items():
            if task not in owners:
                raise ValueError(f"graph: no separate model learns {task!r} (tasks: {', '.join(owners)})")
            if unknown := [name for name in sources if name not in self.separate]:
                raise ValueError(f"graph: no separate model {unknown[0]!r} (there are: {', '.join(self.separate)})")
            if sources[:1] != (owners[task],):
                raise ValueError(f"graph: the first source of {task} is its own model, {owners[task]}")
        base = self._joint_base()
        if base.joint is not None or base.model.framework != "se":
            raise ValueError("joint: model.framework must be se; graph, fusion and layers stand beside this section")
        for task in base.tasks:
            if task not in owners:
                raise ValueError(f"joint.tasks: no separate model learns {task} (tasks: {', '.join(owners)})")

    @property
    def owners(self) -> dict[str, str]:
        """{task: the separate model that learns it}, in the order of all tasks."""
        owner = {task: name for name in self.separate for task in self.separate_config(name).tasks}
        return {task: owner[task] for task in TASKS if task in owner}

    @property
    def variants(self) -> list[Variant]:
        """The joint models: the main one first, then those that it is compared with."""
        wanted = [(self.start, self.fusion)]
        wanted += [(start, self.fusion) for start in self.compare_starts]
        wanted += [(self.start, fusion) for fusion in self.compare_fusions]
        return list(dict.fromkeys(wanted))

    def backbone(self, name: str) -> str:
        """The name of a separate model's features in a feature file."""
        return f"{self.prefix}_{name}"

    def separate_config(self, name: str, seed: int = 0) -> TrainConfig:
        """Training config of a separate model."""
        return self._settings(f"separate.{name}", self.separate[name], seed)

    def joint_config(self, variant: Variant, seed: int, backbones: tuple[str, ...]) -> TrainConfig:
        """Training config of a joint model; `backbones`: all in the feature files, in their order."""
        start, fusion = variant
        base = dataclasses.replace(self._joint_base(), seed=seed)
        owners = self.owners
        graph = {t: self.graph.get(t, tuple(dict.fromkeys([owners[t], *self.separate]))) for t in base.tasks}
        if start == "frozen":
            graph = {task: tuple(map(self.backbone, sources)) for task, sources in graph.items()}
            joint = JointConfig(graph, fusion=fusion, layers=self.layers, shared=self.shared)
            return dataclasses.replace(base, joint=joint, backbones=tuple(map(self.backbone, self.separate)))
        separate = {name: self.separate_config(name) for name in self.separate}
        parts = {
            name: PartConfig(
                config.backbones or backbones, {t: outputs_of(t, config.loss) for t in config.tasks}, config.model
            )
            for name, config in separate.items()
        }
        used = tuple(name for name in backbones if any(name in part.backbones for part in parts.values()))
        optim = base.optim
        if start == "scratch":
            group_lr = {part: factor for part, factor in optim.group_lr.items() if part != "parts"}
            optim = dataclasses.replace(optim, group_lr=group_lr)
        return dataclasses.replace(
            base,
            joint=JointConfig(graph, parts, fusion, self.layers, self.shared),
            backbones=used,
            standardise=_same_standardise(separate, parts),
            optim=optim,
        )

    def _joint_base(self) -> TrainConfig:
        return self._settings("joint", {"tasks": list(self.owners)} | self.joint, 0)

    def _settings(self, where: str, own: dict[str, Any], seed: int) -> TrainConfig:
        mapping = configs.merged(copy.deepcopy(self.common), copy.deepcopy(own))
        try:
            return dataclasses.replace(configs.load(TrainConfig, mapping, self.set), seed=seed)
        except UserError as error:
            raise ValueError(f"{where}: {str(error).removeprefix('config: ')}") from None


def load_progressive(path: str | Path, overrides: tuple[str, ...] = ()) -> ProgressiveConfig:
    """Read a config; an override that is not one of its own settings, such as `epochs=2`, changes all its models."""
    own = {field.name for field in dataclasses.fields(ProgressiveConfig)}
    is_own = {change: change.partition("=")[0].partition(".")[0].strip() in own for change in overrides}
    config = configs.load(ProgressiveConfig, path, [change for change in overrides if is_own[change]])
    others = tuple(change for change in overrides if not is_own[change])
    try:
        return dataclasses.replace(config, set=(*config.set, *others))
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _same_standardise(separate: dict[str, TrainConfig], parts: dict[str, PartConfig]) -> dict[str, Any]:
    """How each backbone is standardised; UserError where two separate models differ in it."""
    chosen: dict[str, Any] = {}
    for name, config in separate.items():
        for backbone in parts[name].backbones:
            own = config.standardise
            own = own.get(backbone, "train") if isinstance(own, dict) else own
            if chosen.setdefault(backbone, own) != own:
                raise UserError(
                    f"separate.{name}: standardise is {own} for {backbone}, another model has {chosen[backbone]}; "
                    "parts of one joint model need the same (or compare_starts without trained and scratch)"
                )
    return chosen
