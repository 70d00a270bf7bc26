"""One process or many: the device of this one, and the group that `torchrun` starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from abaw_seq.errors import UserError
from abaw_seq.terminal import progress


@dataclass(frozen=True)
class ProcessGroup:
    """This process' place: number `rank` of `world`, training on `device`."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def spread(self, module: nn.Module) -> nn.Module:
        """The module as the training step should call it: gradients are averaged over the group."""
        if self.world == 1:
            return module
        devices = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The average of a tensor over the group."""
        if self.world > 1:
            dist.all_reduce(value)
        return value / self.world

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process of the group."""
        if self.world == 1:
            return flag
        value = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return bool(value)

    @contextmanager
    def progress(self, label: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
        """`terminal.progress` in the first process, which counts for all alike, and silence in the others."""
        if not self.first:
            yield lambda count=1, note="": None
            return
        with progress(label, total, unit) as advance:
            yield lambda count=1, note="": advance(count * self.world, note)

    def wait(self) -> None:
        """Let every process arrive here before any goes on."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def process_group(device: str = "auto") -> Iterator[ProcessGroup]:
    """Join the group that `torchrun` announced in the environment, or be alone.

    device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps".
    Raises UserError for a device that is not there.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield ProcessGroup(0, 1, find_device(device))
        return
    chosen = find_device(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield ProcessGroup(dist.get_rank(), world, chosen)
    finally:
        dist.destroy_process_group()


def find_device(device: str) -> torch.device:
    """The torch device behind a name, checked to exist."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UserError(f"device {device!r} is not known; use auto, cpu, cuda or cuda:N") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {device!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return chosen
