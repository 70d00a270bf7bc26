"""Smoothing against the definition, written out as loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abaw_seq.results.smooth import KINDS, Smoothing, distance_weights, smooth

SMOOTHINGS = st.builds(Smoothing, st.sampled_from(KINDS), st.integers(0, 20).map(lambda half: 2 * half + 1))
GAPS = st.lists(st.one_of(st.integers(1, 3), st.integers(1, 30), st.just(10**8)), min_size=1, max_size=40)


def frames_of(gaps):
    return np.cumsum(gaps).astype(np.int32)


def slowly(values, frames, smoothing):
    """The weighted mean of every frame, pair by pair."""
    half = smoothing.window // 2
    result = []
    for t in frames.astype(int):
        top = bottom = 0.0
        for value, s in zip(values, frames.astype(int), strict=True):
            distance = abs(s - t)
            if distance > half:
                continue
            weight = 1.0
            if smoothing.kind == "gaussian" and half:
                weight = math.exp(-2 * (distance / half) ** 2)
            if smoothing.kind == "exponential" and half:
                weight = math.exp(-3 * distance / half)
            top, bottom = top + weight * value, bottom + weight
        result.append(top / bottom)
    return np.array(result)


@settings(deadline=None)
@given(GAPS, SMOOTHINGS, st.integers(0, 5))
def test_it_is_the_weighted_mean_over_frame_distance(gaps, smoothing, seed):
    frames = frames_of(gaps)
    values = np.random.default_rng(seed).normal(size=len(frames))
    np.testing.assert_allclose(smooth(values, frames, smoothing), slowly(values, frames, smoothing), atol=1e-12)


@settings(deadline=None)
@given(GAPS, SMOOTHINGS, st.floats(-1, 1))
def test_a_constant_stays_constant(gaps, smoothing, value):
    frames = frames_of(gaps)
    np.testing.assert_allclose(smooth(np.full(len(frames), value), frames, smoothing), value, atol=1e-12)


@settings(deadline=None)
@given(GAPS, st.sampled_from(KINDS))
def test_a_window_of_one_changes_nothing(gaps, kind):
    frames = frames_of(gaps)
    values = np.random.default_rng(0).normal(size=(len(frames), 3)).astype(np.float32)
    assert np.array_equal(smooth(values, frames, Smoothing(kind, 1)), values)


@settings(deadline=None)
@given(GAPS, GAPS, SMOOTHINGS)
def test_videos_are_never_mixed(gaps, others, smoothing):
    first, second = frames_of(gaps), frames_of(others)
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(len(first), 2)), rng.normal(size=(len(second), 2))
    together = smooth(
        np.concatenate([a, b]), np.concatenate([first, second]), smoothing,
        videos=np.repeat([7, 3], [len(a), len(b)]),
    )  # fmt: skip
    alone = np.concatenate([smooth(a, first, smoothing), smooth(b, second, smoothing)])
    np.testing.assert_allclose(together, alone, atol=1e-12)


@settings(deadline=None)
@given(GAPS, SMOOTHINGS)
def test_probabilities_stay_probabilities(gaps, smoothing):
    frames = frames_of(gaps)
    values = np.random.default_rng(2).dirichlet(np.ones(8), len(frames)).astype(np.float32)
    smoothed = smooth(values, frames, smoothing)
    assert smoothed.dtype == np.float32 and smoothed.min() >= 0
    np.testing.assert_allclose(smoothed.sum(1), 1, atol=1e-6)


def test_a_gap_counts_as_time_and_not_as_neighbourhood():
    values, frames = np.array([0.0, 3.0, 9.0]), np.array([10, 11, 500])
    np.testing.assert_allclose(smooth(values, frames, Smoothing("moving", 3)), [1.5, 1.5, 9.0])
    near = smooth(values, np.array([10, 11, 12]), Smoothing("moving", 3))
    np.testing.assert_allclose(near, [1.5, 4.0, 6.0])


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_symmetric_and_largest_in_the_middle(kind):
    weights = distance_weights(Smoothing(kind, 21))
    np.testing.assert_allclose(weights, weights[::-1])
    assert len(weights) == 21 and weights[10] == 1 == weights.max()
    assert (np.diff(weights[10:]) < 0).all() == (kind != "moving")


def test_nothing_to_smooth_is_nothing():
    assert smooth(np.zeros((0, 8)), np.zeros(0, int), Smoothing("moving", 5)).shape == (0, 8)


def test_nonsense_is_refused():
    for window in (0, 4, -3):
        with pytest.raises(ValueError, match="odd and positive"):
            Smoothing("moving", window)
    with pytest.raises(ValueError, match="must rise"):
        smooth(np.zeros(3), np.array([1, 1, 2]), Smoothing("moving", 3))
