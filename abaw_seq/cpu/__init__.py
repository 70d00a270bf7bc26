"""Kernels and settings for processors. On another device nothing of this package is imported,
except the walk over time of stacked LSTMs and GRUs.

What each gains is the time of torch's own way over its time, on one core of an AMD EPYC of the third generation
(AVX2, no bfloat16); BENCHMARKS.md says how this was measured.

| name | applies | gains |
| --- | --- | --- |
| `fast_rnn` | float32: a GRU always | 1.7 in training, 1.0 to 1.1 at inference |
| | float32: an LSTM of 128 units or more, in training | 1.0; more with wider batches, less with narrow inputs |
| | autocast: an LSTM whose precision oneDNN lacks, in float32 | works where torch fails |
| `fast_dropout` | in training | 3.5 to 4.3 |
| `fast_attention` | in training with dropout | 1.4 to 1.5 |
| `fast_products` | float32 models of a million parameters or more, where oneDNN keeps float32 | 1.0 to 1.1 |
| `keep_freed_memory` | Linux with glibc | 1.0 to 1.1 of a training step |

The convolutions and PReLU of vision networks have theirs in `abaw_feats.backbones.cpu_convolutions` and
`abaw_feats.learning.quick_prelu`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from torch import nn

from abaw_seq.cpu.dropout import fast_attention, fast_dropout, fill_factors
from abaw_seq.cpu.memory import keep_freed_memory
from abaw_seq.cpu.products import fast_products
from abaw_seq.cpu.recurrence import fast_rnn

__all__ = [
    "fast_attention",
    "fast_dropout",
    "fast_products",
    "fast_rnn",
    "fill_factors",
    "keep_freed_memory",
    "settings",
]


def settings(model: nn.Module | None = None) -> AbstractContextManager[None]:
    """The settings for a whole program that computes on the CPU: `fast_products` within it, kept memory from now on."""
    keep_freed_memory()
    return fast_products(model)
