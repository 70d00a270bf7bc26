"""Weights with which the predictions of several runs are joined: equal ones, or fitted ones for each task.

Weights are fitted on labelled predictions (validation, or out-of-fold), stored in the run folder as `ensemble.yaml`,
and applied as stored to other predictions of the same members.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from abaw_seq import config as configs
from abaw_seq.config.ranges import Checked, NotNegative
from abaw_seq.data.prediction_file import Videos, concatenated
from abaw_seq.errors import UserError
from abaw_seq.files import write_text
from abaw_seq.results.objective import GAIN, cross_fitted, labelled_videos, task_score
from abaw_seq.run_folder import ENSEMBLE
from abaw_seq.tasks import TASKS

STEPS = (0.5, 0.25, 0.1, 0.05, 0.02)
MOST_PASSES = 10
GREEDY_ROUNDS = 30


Method = Literal["mean", "weighted", "greedy"]


@dataclass(frozen=True)
class Ensemble(Checked):
    """Weights with which the predictions of several members are joined, task by task."""

    members: tuple[str, ...]
    """Names of the members, in the order of the weights."""
    method: Method
    """How the weights were chosen: equal, fitted, or by greedy selection."""
    weights: dict[str, tuple[NotNegative, ...]] = field(default_factory=dict)
    """For each task one weight per member, with a sum of 1."""
    fitted_on: str = ""
    """The predictions that the weights were fitted on; empty for equal weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for task, weights in self.weights.items():
            if task not in TASKS:
                raise ValueError(f"weights: unknown task {task!r} (tasks: {', '.join(TASKS)})")
            if len(weights) != len(self.members):
                raise ValueError(f"weights of {task}: {len(weights)} for {len(self.members)} members")
            if abs(sum(weights) - 1) >= 1e-3:
                raise ValueError(f"weights of {task} must have a sum of 1")

    def apply(self, members: dict[str, Videos]) -> Videos:
        """The weighted mean of predictions of these members, in their order.

        Raises UserError where a member that has a weight lacks the task, or the number of members differs.
        """
        if len(members) != len(self.members):
            raise UserError(f"the ensemble has {len(self.members)} members, {len(members)} predictions were given")
        check_alike(members)
        result = {}
        for video, known in _first_labelled(members).items():
            outputs = {}
            for task, weights in self.weights.items():
                used = [(weight, name) for weight, name in zip(weights, members, strict=True) if weight]
                for _, name in used:
                    if task not in members[name][video].outputs:
                        raise UserError(f"{name}: video {video} has no {task}, for which the member has a weight")
                parts = (weight * members[name][video].outputs[task].astype(np.float64) for weight, name in used)
                outputs[task] = np.asarray(sum(parts)).astype(np.float32)
            result[video] = dataclasses.replace(known, outputs=outputs)
        return result


def check_alike(members: dict[str, Videos]) -> None:
    """Raise UserError for the first member whose videos or frames differ from those of the first one."""
    (first_name, first), *rest = members.items()
    for name, other in rest:
        if differing := set(first) ^ set(other):
            raise UserError(f"{name} and {first_name} hold different videos (such as {sorted(differing)[0]})")
        for video, predictions in other.items():
            if not np.array_equal(predictions.frames, first[video].frames):
                raise UserError(f"{name} and {first_name} hold different frames of video {video}")


def fit_ensemble(members: dict[str, Videos], method: Method, *, fitted_on: str = "") -> Ensemble:
    """Weights of the members for each task.

    `mean`: equal for the members that predict the task; needs no labels. `weighted`: from equal weights, steps
    towards one member or away from it, ever smaller, as long as the task's official score rises. `greedy`: one member
    after the other is added to a bag, each time the one with which the bag's mean scores best, and the best bag is kept
    (forward selection with replacement; Caruana et al., ICML 2004). A task without labels gets equal weights.
    """
    check_alike(members)
    known = {} if method == "mean" else labelled_videos(_first_labelled(members), next(iter(members)))
    weights = {}
    for task in TASKS:
        having = np.array([all(task in video.outputs for video in member.values()) for member in members.values()])
        if not having.any():
            continue
        fitted = None if method == "mean" else _fit_task(task, members, having, known, method)
        weights[task] = tuple((having / having.sum() if fitted is None else fitted).tolist())
    return Ensemble(tuple(members), method, weights, "" if method == "mean" else fitted_on)


def _first_labelled(members: dict[str, Videos]) -> Videos:
    """The first member's videos, each with the labels of the first member that has labels of it."""
    first, *others = members.values()
    return {
        name: next((m[name] for m in (first, *others) if m[name].labels is not None), video)
        for name, video in first.items()
    }


def _fit_task(
    task: str, members: dict[str, Videos], having: np.ndarray, known: Videos, method: Method
) -> np.ndarray | None:
    """(members,) weights of one task, fitted on the labelled videos `known`; None without labels of the task."""
    labels = concatenated(known)[1]
    rows = ~np.isnan(labels[:, TASKS[task].columns]).all(1)
    if not rows.any():
        return None
    chosen = [member for member, has in zip(members.values(), having, strict=True) if has]
    stack = np.stack([np.concatenate([member[video].outputs[task] for video in known])[rows] for member in chosen])
    fit = {"weighted": _climb, "greedy": _select}[method]
    weights = np.zeros(len(members))
    weights[having] = fit(task, stack.astype(np.float64), labels[rows])
    return weights


def _climb(task: str, stack: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(M,) weights by steps that raise the score, from the plain mean on; stack: (M, N, ...)."""
    weights = np.full(len(stack), 1 / len(stack))
    joined = stack.mean(0)
    best = task_score(task, joined, labels)
    for step in STEPS:
        for _ in range(MOST_PASSES):
            before = best
            for k, own in enumerate(stack):
                for amount in (min(step, 1 - weights[k]), -min(step, weights[k])):
                    if abs(amount) < GAIN or weights[k] > 1 - GAIN:
                        continue
                    share = amount / (1 - weights[k])  # what member k gains or loses, the others lose or gain
                    trial = (1 - share) * joined + share * own
                    reached = task_score(task, trial, labels)
                    if reached > best + GAIN:
                        weights = (1 - share) * weights + share * (np.arange(len(stack)) == k)
                        joined, best = trial, reached
            if best <= before + GAIN:
                break
    weights = np.maximum(weights, 0)
    return weights / weights.sum()


def _select(task: str, stack: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(M,) weights as shares of the best bag, which starts with the best member; stack: (M, N, ...)."""
    counts, total = np.zeros(len(stack)), np.zeros_like(stack[0])
    best, kept = -np.inf, counts
    for size in range(1, GREEDY_ROUNDS + 1):
        scores = [task_score(task, (total + own) / size, labels) for own in stack]
        added = int(np.argmax(scores))
        counts = counts + (np.arange(len(stack)) == added)
        total = total + stack[added]
        if scores[added] > best + GAIN:
            best, kept = scores[added], counts
    return kept / kept.sum()


def cross_fitted_ensemble(members: dict[str, Videos], method: Method) -> Videos | None:
    """Each half of the labelled videos joined with weights fitted on the other; None for `mean` or one source video."""

    def fit(part: Videos) -> Callable[[Videos], Videos]:
        fitted = fit_ensemble(only(part), method)
        return lambda other: fitted.apply(only(other))

    def only(part: Videos) -> dict[str, Videos]:
        return {member: {name: videos[name] for name in part} for member, videos in members.items()}

    if method == "mean":
        return None
    return cross_fitted(labelled_videos(_first_labelled(members), next(iter(members))), fit)


def save_ensemble(run: Path, ensemble: Ensemble) -> None:
    """Write `ensemble.yaml` of a run folder."""
    write_text(run / ENSEMBLE, configs.dump(ensemble))


def load_ensemble(run: Path) -> Ensemble:
    """Read `ensemble.yaml` of a run folder; UserError where there is none, or naming the key that does not fit."""
    path = run / ENSEMBLE if run.is_dir() else run
    if not path.is_file():
        raise UserError(f"{run}: holds no {ENSEMBLE}; make the ensemble first (abaw-seq ensemble)")
    return configs.load(Ensemble, path)


def member_folder(run: Path, name: str) -> Path | None:
    """The run folder of a member of the ensemble in `run`; None where it is not here."""
    return next((path for path in (run / name, Path(name)) if path.is_dir()), None)
