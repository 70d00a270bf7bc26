"""A model's raw outputs as probabilities and values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from abaw_seq.tasks import AU, EXPRESSION, TASKS

BINS = 20


def bin_expectation(logits: Tensor) -> Tensor:
    """Logits (..., 20) of equal bins over [-1, 1] -> expected value (...)."""
    centres = (torch.arange(BINS, device=logits.device, dtype=logits.dtype) + 0.5) / BINS * 2 - 1
    return logits.softmax(-1) @ centres


def probabilities(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Raw outputs (..., width) -> valence and arousal (...), probabilities of expression (..., 8) and au (..., 12)."""
    result = {}
    for name, output in outputs.items():
        output = output.float()
        if name == EXPRESSION.name:
            result[name] = output.softmax(-1)
        elif name == AU.name:
            result[name] = output.sigmoid()
        else:
            result[name] = bin_expectation(output) if output.shape[-1] == BINS else torch.tanh(output[..., 0])
    return result


def distributions(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """As `probabilities`, but of valence and arousal in bins the probability of each bin (..., 20)."""
    binned = {name: output.float().softmax(-1) for name, output in outputs.items() if _in_bins(name, output)}
    return probabilities({name: output for name, output in outputs.items() if name not in binned}) | binned


def as_raw(task: str, values: Tensor) -> Tensor:
    """Raw outputs (..., width) that have these `distributions`; certainty is bounded by the precision of float32."""
    tiny = 1e-6
    if task == AU.name:
        return torch.logit(values, eps=tiny)
    if task == EXPRESSION.name or values.shape[-1:] == (BINS,):
        return values.clamp(min=tiny).log()
    return torch.atanh(values.clamp(tiny - 1, 1 - tiny))[..., None]


def _in_bins(task: str, output: Tensor) -> bool:
    return task not in (EXPRESSION.name, AU.name) and output.shape[-1] == BINS


def unit_range(task: str, prediction: Tensor) -> Tensor:
    """A task's `probabilities` as (..., width) in [0, 1], to which valence and arousal are mapped."""
    return prediction if task in (EXPRESSION.name, AU.name) else (prediction[..., None] + 1) / 2


def unit_truth(task: str, labels: Tensor) -> Tensor:
    """One task's part of labels (..., 15) in the form of `unit_range`, NaN where there is no label."""
    target = labels[..., TASKS[task].columns]
    if task == EXPRESSION.name:
        known = ~torch.isnan(target)
        one_hot = F.one_hot(torch.nan_to_num(target[..., 0]).long(), EXPRESSION.outputs).to(labels.dtype)
        return torch.where(known, one_hot, torch.nan)
    return target if task == AU.name else (target + 1) / 2
