"""Frozen networks on a GPU without the cost of launching: compiled where the job is long, captured otherwise.

Compiling takes 15 to 20 s per network and pays only for many frames (`PAYS_FROM`, from the rates in BENCHMARKS.md).
A network that is not compiled is captured as a CUDA graph, whose kernels are launched at once: extraction computes
every batch of an encoder on the same number of rows. The eager network is the reference of both.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from abaw_feats.extraction.encoders import Encoder

log = logging.getLogger(__name__)

# Frames from which the seconds of compilation are gained back, for transformers and for convolutional networks.
PAYS_FROM = {False: 2_600_000, True: 600_000}


def accelerate(encoders: Mapping[str, Encoder], frames: Mapping[str, int]) -> None:
    """Let encoders on a GPU compute through compiled or captured networks, in place.

    frames: {encoder: frames that it will compute in this job}. Encoders on other devices stay as they are.
    """
    for name, encoder in encoders.items():
        if encoder.device.type != "cuda":
            continue
        convolutional = encoder.module.layout == torch.channels_last
        if frames[name] >= PAYS_FROM[convolutional]:
            log.info(f"{name}: compiling for {frames[name]:,} frames; the first batch waits for it")
            encoder.compute = torch.compile(encoder.module, dynamic=False)
        else:
            encoder.compute = Captured(encoder.module)


class Captured:
    """A network whose forward pass is captured as one CUDA graph per input shape, and replayed."""

    def __init__(self, module: nn.Module):
        self.module = module
        self._graphs: dict[tuple[int, ...], tuple[Any, Tensor, Tensor]] = {}
        self._broken = False

    def __call__(self, x: Tensor) -> Tensor:
        """As `module(x)`; the result is the caller's own."""
        if self._broken:
            return self.module(x)
        shape = tuple(x.shape)
        if shape not in self._graphs:
            try:
                self._graphs[shape] = capture(self.module, x)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self._broken = True
                log.warning(f"not captured as a CUDA graph, computed step by step ({str(error).splitlines()[0]})")
                return self.module(x)
        graph, given, result = self._graphs[shape]
        given.copy_(x)
        graph.replay()
        return result.clone()


def capture(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
    """The CUDA graph of `function` on inputs like `x`, the tensor that it reads and the tensor that it writes."""
    given = x.clone()
    aside = torch.cuda.Stream(x.device)
    aside.wait_stream(torch.cuda.current_stream(x.device))
    with torch.cuda.stream(aside):
        for _ in range(3):  # libraries choose their algorithms and take their memory in the first calls
            function(given)
    torch.cuda.current_stream(x.device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # Other threads go on allocating host memory for the next batches.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = function(given)
    return graph, given, result
