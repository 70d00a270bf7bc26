import math

import pytest
import torch

from abaw_seq.learn.weighting import TaskWeighting, WeightingConfig

TASKS = ("valence", "au")


def build(kind, **weights):
    return TaskWeighting(TASKS, WeightingConfig(kind, **weights))


def test_fixed_weights_are_a_weighted_sum():
    joined = build("fixed", valence=12.0, au=0.5)(torch.tensor([2.0, 4.0]))
    assert joined.item() == 26.0


def test_normalised_losses_count_by_weight_alone_but_keep_their_gradients():
    losses = torch.tensor([2.0, 4.0], requires_grad=True)
    joined = build("normalised", valence=3.0)(losses)
    joined.backward()
    assert joined.item() == pytest.approx(4.0)
    torch.testing.assert_close(losses.grad, torch.tensor([1.5, 0.25]))


def test_uncertainty_settles_where_the_variance_is_twice_the_loss():
    weighting, losses = build("uncertainty"), torch.tensor([0.3, 2.0])
    optimizer = torch.optim.Adam(weighting.parameters(), 0.05)
    for _ in range(800):
        optimizer.zero_grad()
        weighting(losses).backward()
        optimizer.step()
    torch.testing.assert_close(weighting.log_variance.detach().exp(), 2 * losses, rtol=1e-3, atol=1e-3)


def test_uncertainty_leaves_a_task_without_labels_alone():
    weighting = build("uncertainty")
    weighting(torch.tensor([0.0, 1.0])).backward()
    assert weighting.log_variance.grad[0] == 0 and weighting.log_variance.grad[1] != 0


def test_dynamic_weights_follow_the_ratio_of_successive_losses():
    weighting = build("dynamic")
    weighting.end_epoch(torch.tensor([1.0, 1.0]))
    assert weighting(torch.ones(2)).item() == 2.0
    weighting.end_epoch(torch.tensor([0.5, 1.0]))
    a, b = math.exp(0.5 / 1.5), math.exp(1.0 / 1.5)
    expected = torch.tensor([2 * a / (a + b), 2 * b / (a + b)])
    torch.testing.assert_close(weighting.dynamic, expected)
