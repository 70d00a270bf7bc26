"""One loss from those of several tasks (Zhang et al., ABAW4, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from abaw_seq.config.ranges import Checked, NotNegative

TEMPERATURE = 1.5


@dataclass(frozen=True)
class WeightingConfig(Checked):
    """How the losses of the tasks become one."""

    kind: Literal["fixed", "normalised", "uncertainty", "dynamic"] = "fixed"
    """`fixed`: the sum of the losses, each times its weight; `normalised`: each loss is first divided by its own
    current value; `uncertainty`: weights that are learned (Kendall et al., CVPR 2018), besides those given here;
    `dynamic`: besides, weights from the ratio of the last two epochs' losses (dynamic weight average, Liu et al.,
    CVPR 2019)."""
    valence: NotNegative = 1.0
    """Weight of the loss of valence."""
    arousal: NotNegative = 1.0
    """Weight of the loss of arousal."""
    expression: NotNegative = 1.0
    """Weight of the loss of the expressions."""
    au: NotNegative = 1.0
    """Weight of the loss of the action units."""


class TaskWeighting(nn.Module):
    """Losses (tasks,) -> one loss. Its buffers and parameters are part of the training state."""

    weight: Tensor
    previous: Tensor
    dynamic: Tensor

    def __init__(self, tasks: tuple[str, ...], config: WeightingConfig):
        super().__init__()
        self.kind, self.tasks = config.kind, tasks
        self.register_buffer("weight", torch.tensor([getattr(config, task) for task in tasks]))
        self.register_buffer("previous", torch.full((len(tasks),), torch.nan))
        self.register_buffer("dynamic", torch.ones(len(tasks)))
        if config.kind == "uncertainty":
            self.log_variance = nn.Parameter(torch.zeros(len(tasks)))

    def forward(self, losses: Tensor) -> Tensor:
        # losses: (tasks,)
        if self.kind == "uncertainty":
            weighted = self.weight * losses * torch.exp(-self.log_variance) + 0.5 * self.log_variance
            # The variance of a task without labels in the batch must not move either.
            return torch.where(losses.detach() != 0, weighted, losses).sum()
        if self.kind == "normalised":
            return (self.weight * losses / losses.detach().abs().clamp(min=1e-6)).sum()
        return (self.weight * self.dynamic * losses).sum()

    def end_epoch(self, mean_losses: Tensor) -> None:
        """Set the dynamic weights of the next epoch from this one's mean losses (tasks,)."""
        if self.kind != "dynamic":
            return
        if not torch.isnan(self.previous).any():
            ratio = mean_losses / self.previous.clamp(min=1e-6)
            self.dynamic.copy_(len(self.tasks) * torch.softmax(ratio / TEMPERATURE, 0))
        self.previous.copy_(mean_losses)
