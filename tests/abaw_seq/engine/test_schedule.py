import pytest
import torch
from torch import nn

from abaw_seq.engine.schedule import epoch_rates, rate_factor
from abaw_seq.learn.optim import OptimConfig, build_optimizer, learning_rate


def rates(epochs, **settings):
    config = OptimConfig(lr=1.0, **settings)
    return [learning_rate(config, epoch, epochs) for epoch in range(epochs + 1)]


def test_schedules():
    assert rates(4, schedule="constant") == [1, 1, 1, 1, 1]
    assert rates(4, schedule="constant_linear", constant=2) == [1, 1, 1, 0.5, 0]
    assert rates(4, schedule="warmup_linear", warmup=2) == [1e-3, 0.5, 1, 0.5, 0]
    cosine = rates(5, schedule="cosine", warmup=1)
    assert cosine == pytest.approx([1e-3, 1, (1 + 2**-0.5) / 2, 0.5, (1 - 2**-0.5) / 2, 0])


def test_the_rates_of_epochs_warm_up_update_by_update_and_then_fall():
    steps = [rate for epoch in range(4) for rate in epoch_rates(epoch, 2.0, epochs=4, updates=5, warmup_epochs=1)]
    assert steps[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert steps[5] == 2.0
    assert steps[-1] == pytest.approx(2 * rate_factor("cosine", 19, total=20, warmup=5))
    assert all(a >= b for a, b in zip(steps[5:], steps[6:], strict=False))


def test_parts_have_their_own_rate_and_vectors_do_not_decay():
    model = nn.ModuleDict({"trunk": nn.Linear(2, 3), "heads": nn.Linear(3, 1)})
    extra = nn.Module()
    extra.log_variance = nn.Parameter(torch.zeros(4))
    optimizer = build_optimizer((model, extra), OptimConfig(group_lr={"heads": 10.0}, weight_decay=0.3))
    settings = {id(p): (g["lr_scale"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert settings[id(model["trunk"].weight)] == (1.0, 0.3)
    assert settings[id(model["heads"].weight)] == (10.0, 0.3)
    assert settings[id(model["heads"].bias)] == (10.0, 0.0)
    assert settings[id(extra.log_variance)] == (1.0, 0.0)


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"clip": 0.0}, {"ema": 1.0}, {"group_lr": {"tail": 1.0}}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError):
        OptimConfig(**wrong)
