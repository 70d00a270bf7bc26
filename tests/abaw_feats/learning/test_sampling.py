import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from abaw_feats.learning.sampling import Pool, balancing_weights, batches, split_batch


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.lists(st.floats(0.1, 10), min_size=1, max_size=6))
def test_shares_are_met_to_within_one_image(size, shares):
    counts = split_batch(size, shares)
    assert sum(counts) == size
    for count, share in zip(counts, shares, strict=True):
        assert abs(count - size * share / sum(shares)) < 1


def test_every_row_comes_once_before_any_comes_twice():
    drawn = torch.cat(list(batches([Pool(torch.arange(10, 17))], batch_size=3, steps=14, generator=seeded())))
    for k in range(6):
        assert sorted(drawn[7 * k : 7 * k + 7].tolist()) == list(range(10, 17))


def test_every_batch_holds_each_source_by_its_share():
    pools = [Pool(torch.arange(5), share=1), Pool(torch.arange(100, 200), share=3)]
    for rows in batches(pools, batch_size=8, steps=20, generator=seeded()):
        assert int((rows < 5).sum()) == 2
        assert int((rows >= 100).sum()) == 6


def test_processes_split_one_global_batch():
    pools = [Pool(torch.arange(50), share=1), Pool(torch.arange(50, 80), share=1)]
    whole = list(batches(pools, batch_size=12, steps=5, generator=seeded(3)))
    parts = [list(batches(pools, batch_size=4, steps=5, generator=seeded(3), rank=k, world=3)) for k in range(3)]
    for step in range(5):
        assert all(len(part[step]) == 4 for part in parts)
        assert torch.equal(torch.cat([part[step] for part in parts]).sort().values, whole[step].sort().values)


def test_weights_decide_how_often_a_row_is_drawn():
    pool = Pool(torch.tensor([7, 8, 9]), weights=torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64))
    drawn = torch.cat(list(itertools.islice(batches([pool], batch_size=100, steps=40, generator=seeded()), 40)))
    counts = torch.bincount(drawn, minlength=10)
    assert counts[8] == 0
    assert 0.7 < float(counts[9]) / 4000 < 0.8


def test_full_balance_draws_all_expressions_alike():
    labels = torch.full((1000, 15), torch.nan)
    labels[:, 2] = torch.from_numpy(np.random.default_rng(0).choice(8, 1000, p=[0.5, 0.3, *[0.2 / 6] * 6]))
    labels[:50, 2] = torch.nan
    weights = balancing_weights(labels, 1.0)
    assert weights[:50].tolist() == [1.0] * 50
    masses = torch.stack([weights[50:][labels[50:, 2] == k].sum() for k in range(8)])
    torch.testing.assert_close(masses, torch.full((8,), 950 / 8, dtype=torch.float64))
    assert balancing_weights(labels, 0.0).unique().tolist() == [1.0]


def test_balance_prefers_rare_valence():
    labels = torch.full((100, 15), torch.nan)
    labels[:, 0] = 0.05
    labels[:10, 0] = -0.95
    weights = balancing_weights(labels, 0.5)
    assert float(weights[0] / weights[50]) == 3.0
