"""Functions of tensors as CUDA graphs: all kernels of a call are launched at once instead of one by one.

A function is captured once per shape of its inputs and replayed from then on. Its first calls with a shape are made
step by step, as the libraries behind it choose their algorithms then; they count like any other, so that nothing has to
be undone where a call changes weights. What cannot be captured stays step by step, and says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

CALLS_BEFORE = 3
MOST_SHAPES = 4


@dataclass
class Captured:
    """A function of tensors on one CUDA device that returns a tensor.

    Whatever else it reads and writes (weights, optimiser state) must stay in the same memory from call to call.
    """

    function: Callable[..., Tensor]
    what: str
    """What it computes, for a message."""

    def __post_init__(self) -> None:
        self._graphs: dict[tuple[torch.Size, ...], tuple[Any, tuple[Tensor, ...], Tensor]] = {}
        self._calls: dict[tuple[torch.Size, ...], int] = {}
        self._failed = False

    def __call__(self, *inputs: Tensor) -> Tensor:
        """As the function; the result is the caller's own."""
        shapes = tuple(x.shape for x in inputs)
        if shapes not in self._graphs and not self._is_due(shapes):
            return aside(self.function, *inputs)
        if shapes not in self._graphs:
            try:
                self._graphs[shapes] = capture(self.function, *inputs)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self._failed = True
                log.warning(f"{self.what}: not captured as a CUDA graph, goes on step by step ({_first_line(error)})")
                return self.function(*inputs)
        graph, given, result = self._graphs[shapes]
        for static, x in zip(given, inputs, strict=True):
            static.copy_(x)
        graph.replay()
        return result.clone()

    def _is_due(self, shapes: tuple[torch.Size, ...]) -> bool:
        self._calls[shapes] = self._calls.get(shapes, 0) + 1
        return not self._failed and len(self._graphs) < MOST_SHAPES and self._calls[shapes] > CALLS_BEFORE


def aside(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """The function's result, computed on a stream of its own, as a function that will be captured should be."""
    device = inputs[0].device
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        result = function(*inputs)
    torch.cuda.current_stream(device).wait_stream(stream)
    return result


def capture(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Any, tuple[Tensor, ...], Tensor]:
    """(CUDA graph of a call on inputs like these, the tensors that it reads, the tensor that it writes)."""
    given = tuple(x.detach().clone() for x in inputs)
    graph = torch.cuda.CUDAGraph()
    # Other threads go on allocating host memory for the next batches.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = function(*given)
    return graph, given, result.detach()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
