"""Masked losses against plain loops over the labelled frames."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from abaw_seq.learn.losses import (
    LossConfig,
    ccc_loss,
    class_weights,
    masked_bce,
    masked_cross_entropy,
    masked_mse,
    outputs_of,
    positive_weights,
    task_losses,
)
from abaw_seq.metrics import concordance_correlation
from abaw_seq.models.outputs import BINS
from abaw_seq.tasks import TASKS


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(0)
    shape = (5, 9)
    return {
        "value": torch.randn(shape, generator=generator),
        "target": torch.rand(shape, generator=generator) * 2 - 1,
        "mask": torch.rand(shape, generator=generator) < 0.6,
        "logits": torch.randn(*shape, 8, generator=generator),
        "classes": torch.randint(0, 8, shape, generator=generator),
        "cells": torch.randn(*shape, 12, generator=generator),
        "active": torch.randint(0, 2, (*shape, 12), generator=generator).float(),
    }


def with_gaps(target, mask):
    return torch.where(mask, target.float(), torch.nan)


def test_mse_is_the_mean_over_labelled_frames(draw):
    loss = masked_mse(draw["value"], with_gaps(draw["target"], draw["mask"]), draw["mask"])
    kept = draw["mask"]
    assert loss == pytest.approx(((draw["value"] - draw["target"])[kept] ** 2).mean().item(), rel=1e-6)


def test_ccc_is_the_metric(draw):
    loss = ccc_loss(draw["value"], with_gaps(draw["target"], draw["mask"]), draw["mask"])
    kept = draw["mask"]
    expected = concordance_correlation(draw["value"][kept].double().numpy(), draw["target"][kept].double().numpy())
    assert 1 - loss.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_is_torchs_on_the_labelled_frames(draw, smoothing, weighted):
    if weighted and smoothing:
        smoothing = 0.0  # torch spreads class weights over the smoothed targets; ours weigh the frame
    weight = torch.rand(8) + 0.1 if weighted else None
    target = with_gaps(draw["classes"], draw["mask"])
    loss = masked_cross_entropy(draw["logits"], target, draw["mask"], weight=weight, smoothing=smoothing)
    kept = draw["mask"]
    expected = F.cross_entropy(draw["logits"][kept], draw["classes"][kept], weight, label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)


def test_focal_cross_entropy_discounts_the_easy_frames(draw):
    target, kept = with_gaps(draw["classes"], draw["mask"]), draw["mask"]
    loss = masked_cross_entropy(draw["logits"], target, kept, focal=2.0)
    p = draw["logits"].softmax(-1)[kept].gather(1, draw["classes"][kept][:, None])[:, 0]
    torch.testing.assert_close(loss, ((1 - p) ** 2 * -p.log()).mean())


def test_binary_cross_entropy_is_torchs_on_the_labelled_cells(draw):
    mask = (torch.rand(5, 9, 12) < 0.5) & draw["mask"][..., None]
    weight = torch.rand(12) + 0.5
    loss = masked_bce(draw["cells"], with_gaps(draw["active"], mask), mask, positive_weight=weight)
    every = F.binary_cross_entropy_with_logits(draw["cells"], draw["active"], pos_weight=weight, reduction="none")
    torch.testing.assert_close(loss, every[mask].mean())


def test_asymmetric_loss_has_an_exponent_for_each_side(draw):
    mask = torch.ones(5, 9, 12, dtype=torch.bool)
    loss = masked_bce(draw["cells"], draw["active"], mask, focal=0.0, negative_focal=3.0)
    p = draw["cells"].sigmoid()
    plain = torch.where(draw["active"] > 0.5, -p.log(), -(1 - p).log() * p**3)
    torch.testing.assert_close(loss, plain.mean())


@pytest.mark.parametrize("kind", ["mse", "ccc", "mse+ccc", "bins"])
def test_a_batch_without_labels_gives_a_differentiable_zero(kind):
    config = LossConfig(valence_arousal=kind)
    outputs = {t: torch.randn(2, 3, outputs_of(t, config), requires_grad=True) for t in TASKS}
    losses = task_losses(outputs, torch.full((2, 3, 15), torch.nan), config)
    sum(losses.values()).backward()
    for task, output in outputs.items():
        assert losses[task].item() == 0.0
        assert output.grad is not None and output.grad.abs().sum() == 0.0


@pytest.mark.parametrize("kind", ["mse", "ccc", "bins"])
def test_gradients_are_zero_exactly_where_there_is_no_label(kind):
    config = LossConfig(valence_arousal=kind)
    outputs = {t: torch.randn(4, 6, outputs_of(t, config), requires_grad=True) for t in TASKS}
    labels = torch.zeros(4, 6, 15)
    labels[..., 3::2] = 1
    labels[..., 0] = torch.linspace(-1, 1, 24).view(4, 6)
    labels[..., 1] = labels[..., 0].flip(0) * 0.5
    labels[1] = torch.nan
    sum(task_losses(outputs, labels, config).values()).backward()
    for output in outputs.values():
        assert output.grad[1].abs().sum() == 0 and (output.grad[0].abs().sum(-1) > 0).all()
        assert torch.isfinite(output.grad).all()


def test_bins_are_twenty_equal_parts():
    config = LossConfig(valence_arousal="bins", ccc_weight=0.0)
    labels = torch.full((1, 4, 15), torch.nan)
    labels[0, :, 0] = torch.tensor([-1.0, -0.91, 0.0, 1.0])
    logits = torch.full((1, 4, BINS), -30.0)
    for frame, its_bin in enumerate((0, 0, 10, 19)):
        logits[0, frame, its_bin] = 30.0
    assert task_losses({"valence": logits}, labels, config)["valence"].item() == pytest.approx(0, abs=1e-6)


def test_weights_come_from_the_labels_counts():
    labels = torch.full((110, 15), torch.nan)
    labels[:100, 2] = 0
    labels[100:109, 2] = 4
    labels[:, 3] = 0
    labels[:10, 3] = 1
    weight = class_weights(labels)
    assert weight[4] / weight[0] == pytest.approx(math.sqrt(100 / 9), rel=1e-5)
    assert weight[5] == weight[4]  # a class without a frame weighs as the rarest with one
    assert (weight[0] * 100 + weight[4] * 9).item() == pytest.approx(109, rel=1e-5)
    assert positive_weights(labels)[0].item() == pytest.approx(math.sqrt(10), rel=1e-5)
    assert np.isfinite(positive_weights(labels).numpy()).all()
    assert torch.equal(class_weights(torch.full((3, 15), torch.nan)), torch.ones(8))
