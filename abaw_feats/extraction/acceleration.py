"""Frozen networks on a GPU without the cost of launching: compiled where the job is long, captured otherwise.

Compiling takes 15 to 20 s per network and pays only for many frames (`PAYS_FROM`, from the rates in BENCHMARKS.md).
A network that is not compiled is captured as a CUDA graph: extraction computes every batch of an encoder on the same
number of rows. The eager network is the reference of both.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch

from abaw_feats.extraction.encoders import Encoder
from abaw_seq.engine.captured import Captured

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
            encoder.compute = Captured(encoder.module, name)
