"""Thresholds and biases against exhaustive search, and what folding them in does to decisions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abaw_seq.results.decisions import best_biases, best_thresholds, shift_action_units, shift_expressions


def units(seed, frames=60, step=None):
    rng = np.random.default_rng(seed)
    truth = (rng.random((frames, 12)) < rng.uniform(0.05, 0.6, 12)).astype(np.float32)
    p = np.clip(0.3 * truth + rng.normal(0.3, 0.2, truth.shape), 0, 1)
    truth[rng.random(truth.shape) < 0.2] = np.nan
    return (p if step is None else np.round(p / step) * step).astype(np.float32), truth


def faces(seed, frames=80):
    rng = np.random.default_rng(seed)
    truth = rng.choice(8, frames, p=[0.4, 0.2, 0.1, 0.1, 0.08, 0.06, 0.04, 0.02]).astype(np.float32)
    logits = rng.normal(size=(frames, 8)) + 1.5 * np.eye(8)[truth.astype(int)] + np.linspace(2, 0, 8)
    p = np.exp(logits)
    truth[rng.random(frames) < 0.2] = np.nan
    return (p / p.sum(1, keepdims=True)).astype(np.float32), truth


def f1(active, truth):
    total = active.sum() + truth.sum()
    return 2 * (active & truth).sum() / total if total else 0.0


def macro(chosen, truth):
    known = ~np.isnan(truth)
    return np.mean([f1(chosen[known] == k, truth[known] == k) for k in range(8)])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 50), st.sampled_from([None, 0.1, 0.5]))
def test_no_threshold_gives_a_unit_a_higher_f1(seed, step):
    p, truth = units(seed, step=step)
    thresholds = best_thresholds(p, truth)
    moved = shift_action_units(p, thresholds)
    for k in range(12):
        known = ~np.isnan(truth[:, k])
        active = truth[known, k] == 1
        if not active.any():
            assert thresholds[k] == 0.5
            continue
        reached = f1(moved[known, k] >= 0.5, active)
        tried = [f1(p[known, k] >= t, active) for t in (*np.unique(p[known, k]), 0.5)]
        assert reached == pytest.approx(max(tried), abs=1e-9)


def test_a_threshold_that_cannot_be_bettered_is_kept():
    p = np.array([[0.9], [0.8], [0.2]], np.float32)
    assert best_thresholds(p, np.array([[1.0], [1.0], [0.0]]))[0] == 0.5
    assert best_thresholds(p, np.array([[1.0], [1.0], [0.0]]), np.array([0.3]))[0] == 0.3
    assert best_thresholds(p, np.full((3, 1), np.nan), np.array([0.3]))[0] == 0.3


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 30), st.lists(st.floats(0.01, 0.99), min_size=12, max_size=12))
def test_the_threshold_becomes_one_half(seed, thresholds):
    p, _ = units(seed)
    p[0] = np.float32(thresholds)  # probabilities at the threshold itself, up to rounding
    moved = shift_action_units(p, np.array(thresholds))
    assert moved.dtype == np.float32 and (0 <= moved).all() and (moved <= 1).all()
    assert np.array_equal(moved >= 0.5, np.clip(p.astype(float), 1e-7, 1 - 1e-7) >= thresholds)
    order = np.argsort(p[:, 0], kind="stable")
    assert (np.diff(moved[order, 0]) >= 0).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 30))
def test_biases_raise_the_macro_f1_and_never_lower_it(seed):
    p, truth = faces(seed)
    before = macro(p.argmax(1), truth)
    biases = best_biases(p, truth)
    after = macro((np.log(p) + biases).argmax(1), truth)
    assert after >= before - 1e-9 and biases.mean() == pytest.approx(0, abs=1e-9)
    again = best_biases(p, truth, biases)
    assert macro((np.log(p) + again).argmax(1), truth) >= after - 1e-9


def test_no_single_bias_could_do_better():
    p, truth = faces(3)
    biases = best_biases(p, truth)
    reached = macro((np.log(p) + biases).argmax(1), truth)
    assert reached > macro(p.argmax(1), truth) + 0.02
    for k in range(8):
        for change in np.linspace(-4, 4, 81):
            moved = biases + change * np.eye(8)[k]
            assert macro((np.log(p) + moved).argmax(1), truth) <= reached + 1e-9


def test_folded_biases_decide_the_same_and_stay_probabilities():
    p, truth = faces(4, frames=500)
    biases = best_biases(p, truth)
    moved = shift_expressions(p, biases)
    np.testing.assert_allclose(moved.sum(1), 1, atol=1e-6)
    assert np.array_equal(moved.argmax(1), (np.log(p.astype(float)) + biases).argmax(1))
    assert (moved.argmax(1) != p.argmax(1)).any()


def test_without_labels_nothing_is_fitted():
    p, truth = faces(0)
    assert np.array_equal(best_biases(p, np.full_like(truth, np.nan)), np.zeros(8))
