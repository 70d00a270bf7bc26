"""The config of a search: which settings are tried, how often, and by which scores they are judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from abaw_seq import config as configs
from abaw_seq.config.ranges import Checked, Count, Positive, Seed
from abaw_seq.config.ranges import Range as Interval
from abaw_seq.experiments.search_space import Proposals, Range, Sampler
from abaw_seq.tasks import TASKS

OBJECTIVES = ("p_mtl", *TASKS)


@dataclass(frozen=True)
class SearchConfig(Checked):
    """What is searched: settings of a training config, and the scores that they are judged by."""

    base: str
    """The training config that trials change: a file, named from the folder of this one, or a shipped config."""
    space: dict[str, dict[str, Any]] = field(default_factory=dict)
    """{key of the training config: its values}, such as optim.lr: {log: [1e-4, 1e-2]}, windows.length:
    {int: [32, 128], step: 32}, model.head: {choice: [[], [128]]}."""
    objectives: tuple[str, ...] = ("p_mtl",)
    """The scores to maximise: p_mtl, or several of p_mtl, valence, arousal, expression, au, whose Pareto front is
    reported. A task that a trial does not learn counts 0."""
    trials: Count = 40
    """How many trials there are."""
    hours: Positive | None = None
    """No trial begins after so many hours of this command; null for no limit."""
    generation: Count = 8
    """Trials that are proposed from the results of the same earlier ones; so many may run at a time."""
    sampler: Sampler = "tpe"
    """How values are proposed: tpe (tree-structured Parzen estimators) after a first random generation, or random."""
    prune_after: Annotated[int, Interval("[0, 1000000]")] | None = 5
    """From this epoch on, stop a trial whose best score so far is below the median of earlier generations at the same
    epoch; null for never. Without effect when there are several objectives."""
    seeds: tuple[Seed, ...] = (0,)
    """Seeds with which each trial trains; its score is the mean."""
    folds: Annotated[int, Interval("[0, 1000]")] = 0
    """0: trials are scored on the validation split. K, at least 2: on K folds by source video."""
    set: tuple[str, ...] = ()
    """Changes to the training config that all trials share."""
    seed: Seed = 0
    """Seed of the proposals."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.space:
            raise ValueError("space must name at least one setting")
        for key, values in self.space.items():
            configs.from_dict(Range, values, where=f"space.{key}")
        named = set(self.objectives)
        if not named or named - set(OBJECTIVES) or len(named) < len(self.objectives):
            raise ValueError(f"objectives must be some of {', '.join(OBJECTIVES)}, not {list(self.objectives)}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must name at least one, and none twice")
        if self.folds == 1:
            raise ValueError(f"folds must be 0 or at least 2, not {self.folds}")

    @property
    def proposals(self) -> Proposals:
        """Where the values of trials come from."""
        space = {key: configs.from_dict(Range, values, where=f"space.{key}") for key, values in self.space.items()}
        prune_after = self.prune_after if len(self.objectives) == 1 else None
        return Proposals(space, len(self.objectives), self.seed, self.sampler, self.generation, prune_after)
