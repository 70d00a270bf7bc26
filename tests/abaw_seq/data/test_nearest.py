from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abaw_seq.data.nearest import fill_nearest_labels, nearest_rows


def empty(count: int) -> np.ndarray:
    return np.full((count, 15), np.nan, np.float32)


def test_each_task_is_filled_within_its_own_distance():
    frames = np.array([1, 2, 5, 8, 20])
    labels = empty(5)
    labels[1, :2] = 0.5, -0.5
    labels[3, 2] = 6
    labels[3, 3:] = 1
    filled, counts = fill_nearest_labels(frames, labels, max_distance={"valence": 3, "arousal": 3, "expression": 12})
    np.testing.assert_array_equal(filled[:, 0], np.array([0.5, 0.5, 0.5, np.nan, np.nan], np.float32))
    np.testing.assert_array_equal(filled[:, 1], np.array([-0.5, -0.5, -0.5, np.nan, np.nan], np.float32))
    np.testing.assert_array_equal(filled[:, 2], np.full(5, 6, np.float32))
    np.testing.assert_array_equal(filled[:, 3:], labels[:, 3:])
    assert counts == {"valence": 2, "arousal": 2, "expression": 4}
    assert np.isnan(labels[0, 0]), "the labels that were given stay as they were"


def test_one_distance_serves_all_tasks_and_units_count_by_frame():
    labels = empty(3)
    labels[1, :3] = 0.25, 0.5, 1
    labels[1, 3:] = 1
    labels[0, 3] = 0
    filled, counts = fill_nearest_labels(np.array([1, 2, 4]), labels, max_distance=1)
    assert filled[0].tolist() == [0.25, 0.5, 1, 0] + [1] * 11
    assert np.isnan(filled[2]).all()
    assert counts == {"valence": 1, "arousal": 1, "expression": 1, "au": 1}


def test_of_two_equally_near_frames_the_earlier_one_counts():
    labels = empty(3)
    labels[[0, 2], 2] = 3, 4
    assert fill_nearest_labels(np.array([1, 3, 5]), labels, max_distance=9)[0][1, 2] == 3


def test_a_video_without_labels_stays_without_and_an_unknown_task_is_refused():
    filled, counts = fill_nearest_labels(np.array([1, 2]), empty(2), max_distance=5)
    assert np.isnan(filled).all() and set(counts.values()) == {0}
    with pytest.raises(ValueError, match="no task 'va'"):
        fill_nearest_labels(np.array([1, 2]), empty(2), max_distance={"va": 1})


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=15, unique=True).map(sorted),
    st.data(),
    st.integers(0, 20),
)
def test_the_result_is_that_of_a_search_frame_by_frame(frames, data, reach):
    frames = np.array(frames)
    labels = empty(len(frames))
    values = st.sampled_from([None, 0, 1, 2])
    labels[:, 2] = np.array(data.draw(st.lists(values, min_size=len(frames), max_size=len(frames))), np.float32)
    expected = labels[:, 2].copy()
    known = [k for k in range(len(frames)) if not np.isnan(labels[k, 2])]
    for k in range(len(frames)):
        near = [(abs(int(frames[k] - frames[j])), j) for j in known]
        if near and min(near)[0] <= reach:
            expected[k] = labels[min(near)[1], 2]
    filled, _ = fill_nearest_labels(frames, labels, max_distance=reach)
    np.testing.assert_array_equal(filled[:, 2], expected)


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 500), min_size=1, max_size=20, unique=True).map(sorted),
    st.lists(st.integers(1, 500), max_size=20),
)
def test_nearest_rows_are_nearest(frames, wanted):
    rows = nearest_rows(np.array(frames), np.array(wanted, int))
    assert [frames[row] for row in rows] == [min(frames, key=lambda f: (abs(f - w), f)) for w in wanted]
