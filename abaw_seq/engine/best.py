"""Which epoch of a run is the best, and when to stop waiting for a better one."""

from __future__ import annotations

from typing import Any

from abaw_seq.tasks import TASKS


def selection_criterion(scores: dict[str, Any]) -> float:
    """What the best epoch is chosen by: P_MTL, or the sum of those of its parts that exist."""
    dimensions = [scores[task] for task in ("valence", "arousal") if scores.get(task) is not None]
    parts = [scores[task] for task in ("expression", "au") if scores.get(task) is not None]
    return sum(parts) + (sum(dimensions) / len(dimensions) if dimensions else 0.0)


class BestEpoch:
    """The epoch with the highest criterion so far; without any score each epoch is better than the one before.

    `epoch` counts from 1, 0 before the first; `scores` are that epoch's validation scores, None without labels.
    """

    def __init__(self, state: dict[str, Any] | None = None):
        state = state or {"criterion": None, "epoch": 0, "scores": None}
        self.criterion: float | None = state["criterion"]
        self.epoch: int = state["epoch"]
        self.scores: dict[str, Any] | None = state["scores"]

    def improves(self, epoch: int, scores: dict[str, Any] | None) -> bool:
        """Take note of an epoch's scores; whether it is the best so far."""
        scored = scores is not None and any(scores.get(task) is not None for task in TASKS)
        criterion = selection_criterion(scores) if scores and scored else float(epoch - 1)
        if self.criterion is not None and criterion <= self.criterion:
            return False
        self.criterion, self.epoch, self.scores = criterion, epoch, scores
        return True

    def is_over(self, epoch: int, *, epochs: int, patience: int | None) -> bool:
        """Whether training ends after `epoch` epochs: all are done, or `patience` went by without a better one."""
        return epoch >= epochs or (patience is not None and epoch - self.epoch >= patience)

    def state(self) -> dict[str, Any]:
        """Plain values, from which it can be built again."""
        return {"criterion": self.criterion, "epoch": self.epoch, "scores": self.scores}

    def __str__(self) -> str:
        return f"best {self.criterion:.3f} (epoch {self.epoch})"
