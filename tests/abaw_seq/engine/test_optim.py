import pytest
import torch
from torch import nn

from abaw_seq.engine.optim import OptimConfig, build_optimizer, learning_rate, set_rate, update_average


def rates(epochs, **settings):
    config = OptimConfig(lr=1.0, **settings)
    return [learning_rate(config, epoch, epochs) for epoch in range(epochs + 1)]


def test_schedules():
    assert rates(4, schedule="constant") == [1, 1, 1, 1, 1]
    assert rates(4, schedule="constant_linear", constant=2) == [1, 1, 1, 0.5, 0]
    assert rates(4, schedule="warmup_linear", warmup=2) == [1e-3, 0.5, 1, 0.5, 0]
    cosine = rates(5, schedule="cosine", warmup=1)
    assert cosine == pytest.approx([1e-3, 1, (1 + 2**-0.5) / 2, 0.5, (1 - 2**-0.5) / 2, 0])


def test_parts_have_their_own_rate_and_vectors_do_not_decay():
    model = nn.ModuleDict({"trunk": nn.Linear(2, 3), "heads": nn.Linear(3, 1)})
    extra = [nn.Parameter(torch.zeros(4))]
    optimizer = build_optimizer(model, extra, OptimConfig(group_lr={"heads": 10.0}, weight_decay=0.3))
    set_rate(optimizer, 0.5)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert found[id(model["trunk"].weight)] == (0.5, 0.3)
    assert found[id(model["heads"].weight)] == (5.0, 0.3)
    assert found[id(model["heads"].bias)] == (5.0, 0.0)
    assert found[id(extra[0])] == (0.5, 0.0)


def test_the_running_average_moves_by_one_minus_decay():
    average, model = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.constant_(model.weight, 3.0)
    model.running_mean.fill_(7.0)
    update_average(average, model, 0.9)
    torch.testing.assert_close(average.weight, torch.full((2,), 1.2))
    assert torch.equal(average.running_mean, model.running_mean)


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"clip": 0.0}, {"ema": 1.0}, {"group_lr": {"tail": 1.0}}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError):
        OptimConfig(**wrong)
