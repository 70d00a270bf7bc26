"""What a search tries: settings of a config and their values, and which values the next trial gets.

The values of a trial depend on the seed, on its number and on the results of earlier generations alone: not on how many
workers compute, nor on which trial of a generation ends first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import optuna

KINDS = ("choice", "int", "float", "log")
Scalar = str | int | float | bool | None
# Within Range the names int and float are those of its fields.
Whole: TypeAlias = int
Number: TypeAlias = float


@dataclass(frozen=True)
class Range:
    """The values of one setting; exactly one of choice, int, float and log."""

    choice: list[Any] | None = None
    """Values to choose from, of any kind: text, numbers, null, lists, sections."""
    int: tuple[Whole, Whole] | None = None
    """Whole numbers from the first to the second."""
    float: tuple[Number, Number] | None = None
    """Numbers from the first to the second."""
    log: tuple[Number, Number] | None = None
    """Numbers from the first to the second, on a logarithmic scale."""
    step: Number | None = None
    """Distance between the values of `int` or `float`; null for 1, or for any number."""

    def __post_init__(self) -> None:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of {', '.join(KINDS)} must be given, not {' and '.join(given) or 'none'}")
        if self.choice is not None:
            if not self.choice:
                raise ValueError("choice must name at least one value")
        else:
            low, high = getattr(self, given[0])
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"{given[0]} must go from a number to a larger one, not from {low} to {high}")
            if self.log is not None and low <= 0:
                raise ValueError(f"log must begin above 0, not at {low}")
        if self.step is not None and (given[0] not in ("int", "float") or not 0 < self.step < math.inf):
            raise ValueError("step must be above 0, and belongs to int or float")
        if self.int is not None and self.step is not None:
            if self.step != round(self.step) or (self.int[1] - self.int[0]) % self.step:
                raise ValueError(f"int must go from {self.int[0]} to {self.int[1]} in whole steps, not of {self.step}")

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """As Optuna describes it; a value that is not a scalar is stored as JSON."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choice is not None:
            return CategoricalDistribution([as_scalar(value) for value in self.choice])
        if self.int is not None:
            return IntDistribution(*self.int, step=round(self.step or 1))
        if self.float is not None:
            return FloatDistribution(*self.float, step=self.step)
        assert self.log is not None
        return FloatDistribution(*self.log, log=True)

    def value(self, stored: Scalar) -> Any:
        """The value of the setting for what Optuna stores."""
        if self.choice is None:
            return stored
        alike = (value for value in self.choice if as_scalar(value) == stored)
        return next(value for value in alike if type(as_scalar(value)) is type(stored))


def as_scalar(value: Any) -> Scalar:
    """A value that Optuna can store: lists and sections as JSON."""
    return value if isinstance(value, Scalar) else json.dumps(value, sort_keys=True)


def changes(space: Mapping[str, Range], params: Mapping[str, Scalar]) -> list[str]:
    """The settings of a trial as `key=value` changes of a config."""
    return [f"{key}={json.dumps(space[key].value(params[key]))}" for key in space]


Sampler = Literal["tpe", "random"]


@dataclass(frozen=True)
class Proposals:
    """Where the values of trials come from."""

    space: dict[str, Range]
    objectives: int
    seed: int
    sampler: Sampler
    generation: int
    """Trials that are proposed from the same earlier results."""
    prune_after: int | None
    """Epochs before which no trial is stopped; None for never stopping one."""

    def first_of_generation(self, number: int) -> int:
        """The number of the first trial in the generation of trial `number`."""
        return number // self.generation * self.generation

    def earlier(self, number: int, trials: Iterable[optuna.trial.FrozenTrial]) -> list[optuna.trial.FrozenTrial]:
        """The trials of earlier generations."""
        return [trial for trial in trials if trial.number < self.first_of_generation(number)]

    def propose(self, number: int, trials: Sequence[optuna.trial.FrozenTrial]) -> dict[str, Scalar]:
        """The values of trial `number`, from the results of earlier generations among `trials`."""
        import optuna

        seed = (self.seed * 1_000_003 + number) % 2**32
        sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=seed)
        if self.sampler == "tpe":
            # The other trials of the generation are not known: draws differ by their seeds.
            sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=self.generation)
        study = self._study(self.earlier(number, trials), sampler)
        return study.ask({key: values.distribution() for key, values in self.space.items()}).params

    def is_hopeless(self, number: int, curve: Mapping[int, float], trials: Sequence[optuna.trial.FrozenTrial]) -> bool:
        """Whether the best value so far is below the median of earlier generations at the same epoch.

        curve: {epoch: value} of the trial so far.
        """
        last = max(curve, default=0)
        if self.prune_after is None or last < max(self.prune_after, 1):
            return False
        reached = [
            max(value for epoch, value in trial.intermediate_values.items() if epoch <= last)
            for trial in self.earlier(number, trials)
            if last in trial.intermediate_values
        ]
        if len(reached) < max(self.generation // 2, 1):
            return False
        reached.sort()
        middle = len(reached) // 2
        median = reached[middle] if len(reached) % 2 else (reached[middle - 1] + reached[middle]) / 2
        return max(curve.values()) < median

    def _study(self, trials: list[Any], sampler: Any) -> Any:
        import optuna

        study = optuna.create_study(directions=["maximize"] * self.objectives, sampler=sampler)
        study.add_trials([trial for trial in trials if trial.state.is_finished()])
        return study


def given_sampler(values: Callable[[int], Mapping[str, Scalar]]) -> Any:
    """An Optuna sampler that takes the values of each trial from `values(number)`."""
    import optuna

    class Given(optuna.samplers.BaseSampler):
        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {}

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            return {}

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            return values(trial.number)[param_name]

    return Given()
