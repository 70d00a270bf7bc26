import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abaw_seq.data.windows import (
    batches_of_overlapping,
    batches_of_windows,
    centre_weights,
    covering_windows,
    lane_steps,
    overlapping_windows,
)

FRAMES = st.integers(1, 700)
LENGTH = st.integers(1, 130)


def covered(windows, frames):
    count = np.zeros(frames, int)
    for start, length in windows:
        assert 0 <= start and start + length <= frames
        count[start : start + length] += 1
    return count


@given(FRAMES, LENGTH, st.one_of(st.none(), st.integers(0, 9)))
def test_covering_windows_leave_no_frame_out_and_are_as_few_as_can_be(frames, length, seed):
    rng = None if seed is None else np.random.default_rng(seed)
    windows = covering_windows(frames, length, rng)
    assert covered(windows, frames).min() >= 1
    assert len(windows) == max(1, -(-frames // length))
    assert set(windows[:, 1]) == {min(frames, length)}


@given(FRAMES, LENGTH, st.data())
def test_overlapping_windows_cover_every_frame(frames, length, data):
    step = data.draw(st.integers(1, length))
    assert covered(overlapping_windows(frames, length, step), frames).min() >= 1


@given(FRAMES, LENGTH, st.data())
def test_averaging_weights_sum_to_one_on_every_frame(frames, length, data):
    step = data.draw(st.integers(1, length))
    windows = overlapping_windows(frames, length, step)
    total = np.zeros(frames)
    for start, size in windows:
        total[start : start + size] += centre_weights(size)
    shares = np.zeros(frames)
    for start, size in windows:
        shares[start : start + size] += centre_weights(size) / total[start : start + size]
    np.testing.assert_allclose(shares, 1.0)


def test_weights_favour_the_centre():
    np.testing.assert_array_equal(centre_weights(5), [1, 2, 3, 2, 1])
    np.testing.assert_array_equal(centre_weights(4), [1, 2, 2, 1])


@given(st.lists(FRAMES, min_size=1, max_size=8), LENGTH, st.integers(1, 5))
def test_batches_hold_equal_lengths_and_every_frame(lengths, length, batch):
    seen = [np.zeros(n, int) for n in lengths]
    for windows in batches_of_windows(lengths, length, batch, np.random.default_rng(0)):
        assert len(windows) <= batch and len(set(windows[:, 2])) == 1
        for video, start, size in windows:
            seen[video][start : start + size] += 1
    assert all(count.min() >= 1 for count in seen)
    ordered = np.concatenate(list(batches_of_overlapping(lengths, length, max(length // 2, 1), batch)))
    for video, frames in enumerate(lengths):
        assert covered(ordered[ordered[:, 0] == video][:, 1:], frames).min() >= 1


@given(st.lists(FRAMES, min_size=1, max_size=9), LENGTH, st.integers(1, 4), st.booleans())
def test_lanes_walk_each_video_once_from_start_to_end(lengths, length, lanes, shuffled):
    position = {}
    lane_of = {}
    rng = np.random.default_rng(3) if shuffled else None
    for step in lane_steps(lengths, length, lanes, rng):
        assert len(step.lane) <= lanes
        for lane, (video, start, size), fresh in zip(step.lane, step.window, step.fresh, strict=True):
            assert start == position.get(video, 0) and fresh == (start == 0)
            assert lane_of.setdefault(video, lane) == lane
            assert size == min(length, lengths[video] - start)
            position[video] = start + size
    assert position == dict(enumerate(lengths))


def test_lanes_compute_almost_no_padding_on_realistic_lengths():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(5.9, 0.8, 200), 11, 4218).astype(int).tolist()
    computed = sum(len(s.lane) * s.window[:, 2].max() for s in lane_steps(lengths, 64, 8, rng))
    assert sum(lengths) / computed > 0.90


@pytest.mark.parametrize("frames, length", [(0, 4), (4, 0)])
def test_nonsense_is_refused(frames, length):
    with pytest.raises(ValueError, match="must be positive"):
        covering_windows(frames, length)
    with pytest.raises(ValueError, match="step must be"):
        overlapping_windows(10, 4, 5)


@pytest.mark.parametrize(("length", "step"), [(32, 16), (32, 32), (12, 5)])
def test_training_windows_with_a_step_begin_at_every_step_and_end_with_the_video(length, step):
    lengths = [100, 7, 33]
    batches = list(batches_of_windows(lengths, length, 4, np.random.default_rng(0), step=step))
    windows = {tuple(row) for batch in batches for row in batch.tolist()}
    expected = {(v, s, n) for v, frames in enumerate(lengths) for s, n in overlapping_windows(frames, length, step)}
    assert windows == expected and sum(map(len, batches)) == len(expected)
    assert all(len({row[2] for row in batch.tolist()}) == 1 for batch in batches)
