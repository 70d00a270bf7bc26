"""From the losses of one or several batches to one update of a model's parameters, and of their running average."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Model = TypeVar("Model", bound=nn.Module)


class RunningAverage(Generic[Model]):
    """An exponential moving average of a model's weights, which is what gets evaluated and kept.

    decay: share of the average that an update keeps; with 0 the average is the model itself. random_start: the model
    starts from random weights, so that the decay is smaller at first and these are soon forgotten. torch's
    `AveragedModel` starts from the weights after the first update and renames every parameter.
    """

    def __init__(self, model: Model, decay: float, *, random_start: bool):
        self.model = copy.deepcopy(model) if decay else model
        self.decay, self.random_start = decay, random_start

    @torch.no_grad()
    def update(self, model: Model, step: int) -> None:
        """Move towards `model`'s weights after update number `step` (from 0); buffers are copied."""
        if self.model is model:
            return
        decay = min(self.decay, (1 + step) / (10 + step)) if self.random_start else self.decay
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
        for average, current in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(current)


class Update:
    """What turns losses into updates: gradient scaling, accumulation, clipping, the optimiser, the running average.

    model: as called in training, wrapped for several processes or not. extra: further modules that learn, such as a
    weighting of losses. accumulate: batches whose gradients make one update. clip: largest norm of all gradients
    together, None for no limit. dtype: of autocast; float16 needs scaled gradients.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        extra: tuple[nn.Module, ...] = (),
        accumulate: int = 1,
        clip: float | None = None,
        dtype: torch.dtype | None = None,
        average: RunningAverage[Any] | None = None,
        done: int = 0,
    ):
        self.done = done
        self._model, self._optimizer, self._average = model, optimizer, average
        self._network = model.module if isinstance(model, DistributedDataParallel) else model
        self._parameters = [p for module in (self._network, *extra) for p in module.parameters() if p.requires_grad]
        self._scales = [group["lr_scale"] for group in optimizer.param_groups]
        self.accumulate, self._clip, self._part = accumulate, clip, 0
        self._scaler = torch.amp.GradScaler(self._parameters[0].device.type, enabled=dtype is torch.float16)

    def part(self) -> AbstractContextManager[None]:
        """Around the forward pass and the step of one batch: processes exchange gradients once per update."""
        if isinstance(self._model, DistributedDataParallel) and self._part + 1 < self.accumulate:
            return self._model.no_sync()
        return nullcontext()

    def step(self, loss: Tensor, rate: float) -> None:
        """Add the gradient of a batch's loss; after `accumulate` batches move the parameters at the learning rate."""
        self._scaler.scale(loss / self.accumulate if self.accumulate > 1 else loss).backward()
        self.move(rate)

    def move(self, rate: float) -> None:
        """What follows the backward pass of a batch: after `accumulate` of them move the parameters."""
        self._part = (self._part + 1) % self.accumulate
        if self._part:
            return
        for group, scale in zip(self._optimizer.param_groups, self._scales, strict=True):
            group["lr"] = rate * scale
        self._scaler.unscale_(self._optimizer)
        if self._clip:
            nn.utils.clip_grad_norm_(self._parameters, self._clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        if self._average is not None:
            self._average.update(self._network, self.done)
        self.done += 1

    def state_dict(self) -> dict[str, Any]:
        """Of the optimiser and the gradient scaler, to resume from."""
        return {"optimizer": self._optimizer.state_dict(), "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that holds at least what `state_dict` gave."""
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state.get("scaler", {}))
