import copy

import pytest
import torch
from torch import nn

from abaw_seq.engine.best import BestEpoch
from abaw_seq.engine.epoch import train_epoch
from abaw_seq.engine.schedule import parameter_groups
from abaw_seq.engine.update import RunningAverage, Update


def made(accumulate=1, **settings):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    groups = parameter_groups(model, weight_decay=0.1, scale=lambda name: 2.0 if name == "bias" else 1.0)
    return model, Update(model, torch.optim.AdamW(groups, lr=1.0), accumulate=accumulate, **settings)


def test_an_update_is_the_optimisers_step_at_the_given_rates_on_clipped_gradients():
    x, target = torch.randn(4, 3), torch.randn(4, 1)
    model, update = made(clip=0.1)
    plain = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(
        [{"params": [plain.weight], "lr": 0.01, "weight_decay": 0.1},
         {"params": [plain.bias], "lr": 0.02, "weight_decay": 0.0}]
    )  # fmt: skip
    for _ in range(3):
        update.step(((model(x) - target) ** 2).mean(), 0.01)
        optimizer.zero_grad()
        ((plain(x) - target) ** 2).mean().backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
        optimizer.step()
    assert torch.equal(model.weight, plain.weight) and torch.equal(model.bias, plain.bias)
    assert update.done == 3


def test_batches_whose_gradients_accumulate_equal_one_large_batch():
    x, target = torch.randn(8, 3), torch.randn(8, 1)
    (whole, one), (parts, many) = made(), made(accumulate=4)

    def losses_of(model):
        return lambda rows, _: torch.stack([((model(x[rows]) - target[rows]) ** 2).mean(), torch.tensor(1.0)])

    rows = torch.arange(8)
    told = []
    mean = train_epoch([(rows, rows)], losses_of(whole), one, rates=[0.1])
    mean_of_parts = train_epoch(
        [(part, part) for part in rows.split(2)], losses_of(parts), many, rates=[0.1],
        advance=lambda count, note: told.append(count),
    )  # fmt: skip
    torch.testing.assert_close(mean_of_parts, mean)
    torch.testing.assert_close(parts.weight, whole.weight)
    assert many.done == one.done == 1 and told == [2, 2, 2, 2]


def test_the_running_average_moves_by_one_minus_decay_and_forgets_the_initial_weights_soon():
    model = nn.BatchNorm1d(2)
    average = RunningAverage(model, 0.9, random_start=False)
    nn.init.constant_(model.weight, 3.0)
    model.running_mean.fill_(7.0)
    average.update(model, 0)
    torch.testing.assert_close(average.model.weight, torch.full((2,), 1.2))
    assert torch.equal(average.model.running_mean, model.running_mean)

    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, 0.0)
    average = RunningAverage(model, 0.999, random_start=True)
    nn.init.constant_(model.weight, 1.0)
    average.update(model, 0)
    assert average.model.weight.item() == pytest.approx(0.9)
    for step in range(1, 200):
        average.update(model, step)
    assert 1 - average.model.weight.item() < 1e-6
    assert RunningAverage(model, 0.0, random_start=True).model is model


def test_the_best_epoch_has_the_highest_criterion_or_is_the_last_without_scores():
    best = BestEpoch()
    scores = [{"valence": 0.2, "arousal": None, "au": v} for v in (0.1, 0.3, 0.3, 0.2)]
    assert [best.improves(k, s) for k, s in enumerate(scores, 1)] == [True, True, False, False]
    assert best.epoch == 2 and best.criterion == pytest.approx(0.5) and best.scores is scores[1]
    assert best.is_over(4, epochs=9, patience=2) and not best.is_over(3, epochs=9, patience=2)
    assert not best.is_over(8, epochs=9, patience=None) and best.is_over(9, epochs=9, patience=None)
    assert BestEpoch(best.state()).state() == best.state()

    blind = BestEpoch()
    assert all(blind.improves(epoch, None) for epoch in (1, 2, 3)) and blind.epoch == 3
