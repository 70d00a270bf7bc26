"""One process or many: the group that `torchrun` starts, and this process's place and device in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from abaw_seq.engine.device import find_device
from abaw_seq.errors import AbawError
from abaw_seq.terminal import progress

T = TypeVar("T")


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that work on one output together, and this one among them."""

    device: torch.device
    """Where this process computes."""
    rank: int = 0
    """Its number, from 0 to `size` - 1."""
    size: int = 1
    """How many processes there are."""

    @property
    def first(self) -> bool:
        """Whether this is the process that plans, writes files and reports."""
        return self.rank == 0

    def spread(self, module: nn.Module) -> nn.Module:
        """The module as a training step calls it: gradients are averaged over the group."""
        if self.size == 1:
            return module
        devices = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The average of a tensor over the group."""
        if self.size > 1:
            dist.all_reduce(value)
        return value / self.size

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process of the group."""
        if self.size == 1:
            return flag
        value = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return bool(value)

    def share(self, plan: Callable[[], T]) -> T:
        """What `plan()` returns in the first process, in every process; its AbawError ends them all."""
        if self.size == 1:
            return plan()
        answer: list[Any] = [None, None]
        if self.first:
            try:
                answer = [plan(), None]
            except AbawError as error:
                answer = [None, error]
        dist.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    @contextmanager
    def holding(self, guard: AbstractContextManager[None]) -> Iterator[None]:
        """Enter a block that guards an output in the first process; its AbawError ends them all."""
        with ExitStack() as stack:
            self.share(lambda: stack.enter_context(guard))
            yield

    def gather(self, value: T) -> list[T]:
        """Every process's value by rank, in every process, once all have arrived here."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Let every process arrive here before any goes on."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def progress(self, label: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
        """`terminal.progress` in the first process, which counts for all, and silence in the others."""
        if not self.first:
            yield lambda count=1, note="": None
            return
        with progress(label, total, unit) as advance:
            yield lambda count=1, note="": advance(count * self.size, note)


@contextmanager
def process_group(device: str = "auto", *, longest_wait: timedelta | None = None) -> Iterator[ProcessGroup]:
    """Join the group that `torchrun` announces in the environment, or be alone.

    device: as for `find_device`; each process of a group takes the GPU of its number on its machine, unless one is
    named. longest_wait: how long processes wait for each other (None: torch's own limit).
    """
    size, chosen = int(os.environ.get("WORLD_SIZE", "1")), find_device(device)
    if chosen.type == "cuda":
        index = int(os.environ.get("LOCAL_RANK", "0")) if chosen.index is None else chosen.index
        chosen = torch.device("cuda", index)
        torch.cuda.set_device(chosen)
    if size == 1:
        yield ProcessGroup(chosen)
        return
    # Plain values travel through gloo, whatever the device.
    dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", timeout=longest_wait)
    try:
        yield ProcessGroup(chosen, dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
