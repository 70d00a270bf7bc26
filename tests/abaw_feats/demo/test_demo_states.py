from copy import copy

import numpy as np
import pytest

from abaw_feats.demo.dataset import draw_courses
from abaw_feats.demo.prototypes import au_probabilities, column
from abaw_seq.tasks import ACTION_UNITS, EXPRESSIONS

# Aff-Wild2's MTL validation labels: how often each action unit is active.
BASE_RATES = (0.206, 0.095, 0.204, 0.329, 0.493, 0.425, 0.310, 0.029, 0.028, 0.030, 0.760, 0.109)


@pytest.fixture(scope="module", params=(0, 1, 5))
def drawn(request):
    return draw_courses(32, 8000, request.param)


@pytest.fixture(scope="module")
def by_split(drawn):
    """{split: [(plan, course, labels with gaps, labels without)]}"""
    entries: dict[str, list] = {"train": [], "val": [], "test": []}
    for course in drawn:
        complete = copy(course)
        complete.missing = np.zeros_like(course.missing)
        entries[course.plan.split].append((course.plan, course, course.labels(), complete.labels()))
    return entries


def joined(entries, place: int) -> np.ndarray:
    return np.concatenate([entry[place] for entry in entries])


def test_videos_and_frames_by_split(by_split):
    assert {split: len(entries) for split, entries in by_split.items()} == {"train": 24, "val": 8, "test": 2}
    assert sum(len(joined(entries, 2)) for entries in by_split.values()) == 8000
    assert len(joined(by_split["train"], 2)) == pytest.approx(3 * len(joined(by_split["val"], 2)), rel=0.01)


def test_names_come_in_the_three_families_with_one_pair(drawn):
    names = [course.plan.name for course in drawn]
    assert len(set(names)) == len(names)
    left = [name for name in names if name.endswith("_left")]
    assert len(left) == 1 and left[0].replace("_left", "_right") in names
    families = {
        "number": [name for name in names if name.isdigit() and len(name) == 3],
        "format": [name for name in names if name.count("-") == 2 and "x" in name],
        "video": [name for name in names if name.startswith("video")],
    }
    assert all(len(members) >= 5 for members in families.values())
    assert sum(map(len, families.values())) == len(names)
    pair = {course.plan.split for course in drawn if course.plan.name.endswith(("_left", "_right"))}
    assert pair == {"train"}


def test_a_person_shows_most_expressions_and_stays_in_one_split(drawn):
    shown: dict[int, set[int]] = {}
    splits: dict[int, set[str]] = {}
    for plan in (course.plan for course in drawn):
        shown.setdefault(plan.person, set()).update(plan.parts)
        splits.setdefault(plan.person, set()).add(plan.split)
    assert all(len(split) == 1 for split in splits.values())
    people = {split: [p for p, own in splits.items() if own == {split}] for split in ("train", "val", "test")}
    assert {split: len(members) for split, members in people.items()} == {"train": 8, "val": 4, "test": 2}
    assert all(len(shown[person]) >= 7 for person in people["train"])
    left, right = (
        next(course.plan for course in drawn if course.plan.name.endswith(end)) for end in ("_left", "_right")
    )
    assert left.person != right.person and left.scene == right.scene


def test_every_expression_can_be_learned_and_scored(by_split):
    for split, videos in (("train", 6), ("val", 2)):
        labelled = [entry[2][:, 2] for entry in by_split[split]]
        for k, name in enumerate(EXPRESSIONS):
            assert sum((labels == k).sum() >= 5 for labels in labelled) >= videos, (split, name)
        assert all(len(np.unique(entry[1].expression)) <= 4 for entry in by_split[split])


@pytest.mark.parametrize("split", ["train", "val"])
def test_shares_of_expressions_and_units(by_split, split):
    full = joined(by_split[split], 3)
    share = np.bincount(full[:, 2].astype(int), minlength=8) / len(full)
    np.testing.assert_allclose(share, column("share"), atol=0.03)
    np.testing.assert_allclose(full[:, 3:].mean(0), share @ au_probabilities(), atol=0.035)
    np.testing.assert_allclose(full[:, 3:].mean(0), BASE_RATES, atol=0.10)
    assert full[:, 3:].sum(1).mean() == pytest.approx(3.0, abs=0.5)


def test_units_go_together_as_in_the_real_labels(by_split):
    units = joined(by_split["train"], 3)[:, 3:]
    phi = np.corrcoef(units.T)

    def pair(first: str, second: str) -> float:
        return phi[ACTION_UNITS.index(first), ACTION_UNITS.index(second)]

    for first, second, real in (
        ("AU6", "AU12", 0.70), ("AU2", "AU26", 0.63), ("AU1", "AU2", 0.63), ("AU1", "AU26", 0.47),
        ("AU7", "AU10", 0.45), ("AU10", "AU12", 0.38), ("AU4", "AU12", -0.21), ("AU1", "AU6", -0.21),
    ):  # fmt: skip
        assert pair(first, second) == pytest.approx(real, abs=0.28), (first, second)


def test_valence_and_arousal(by_split):
    for split in ("train", "val"):
        full = joined(by_split[split], 3)
        valence, arousal = full[:, 0], full[:, 1]
        assert abs(full[:, :2]).max() <= 1
        assert valence.mean() == pytest.approx(0.05, abs=0.12) and valence.std() == pytest.approx(0.488, abs=0.08)
        assert arousal.mean() == pytest.approx(0.43, abs=0.08) and arousal.std() == pytest.approx(0.284, abs=0.06)
        means = [valence[full[:, 2] == k].mean() for k in range(8)]
        np.testing.assert_allclose(means, column("valence")[:, 0], atol=0.25)
        means = [arousal[full[:, 2] == k].mean() for k in range(8)]
        np.testing.assert_allclose(means, column("arousal")[:, 0], atol=0.2)


def test_labels_are_slow(by_split):
    videos = [entry[3] for split in ("train", "val") for entry in by_split[split]]
    before, after = (np.concatenate([video[part, 0] for video in videos]) for part in (slice(None, -1), slice(1, None)))
    assert np.corrcoef(before, after)[0, 1] == pytest.approx(0.975, abs=0.02)
    assert np.abs(after - before).mean() == pytest.approx(0.04, abs=0.02)
    runs = np.concatenate([
        np.diff(np.flatnonzero(np.diff(video[:, 2], prepend=-1, append=-1))) for video in videos
    ])  # fmt: skip
    assert 5 <= np.median(runs) <= 11 and 11 <= runs.mean() <= 19 and 22 <= np.quantile(runs, 0.9) <= 42


def test_share_of_missing_labels(by_split):
    gaps = np.isnan(joined(by_split["train"], 2)[:, [0, 2, 3]])
    np.testing.assert_allclose(gaps.mean(0), (0.27, 0.36, 0.275), atol=0.03)
    assert (~gaps).all(1).mean() == pytest.approx(0.37, abs=0.03)
    assert 0 < gaps.all(1).sum() < 20
    val = joined(by_split["val"], 2)
    assert not np.isnan(val[:, [0, 1, *range(3, 15)]]).any()
    assert np.isnan(val[:, 2]).mean() == pytest.approx(0.42, abs=0.05)
    assert np.isnan(joined(by_split["test"], 2)).all()


def test_gaps_between_kept_frames(by_split):
    videos = [entry[1].frames for entries in by_split.values() for entry in entries]
    gaps = np.concatenate([np.diff(frames) for frames in videos])
    assert min(frames[0] for frames in videos) >= 1 and gaps.min() == 1
    quantiles = np.quantile(gaps, (0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99))
    np.testing.assert_allclose(quantiles, (1, 2, 4, 8, 17, 29, 79), rtol=0.2, atol=1)
    assert (gaps == 1).mean() == pytest.approx(0.186, abs=0.02)
    assert 200 < gaps.max() <= 543
    kept = sum(map(len, videos)) / sum(frames[-1] for frames in videos)
    assert kept == pytest.approx(0.12, abs=0.03)


def test_constant_predictions_score_under_the_bar(by_split):
    val = joined(by_split["val"], 2)
    rate = np.nanmean(val[:, 3:], 0)
    units = np.mean(2 * rate / (1 + rate))  # every unit always on
    classes = val[~np.isnan(val[:, 2]), 2].astype(int)
    most = np.bincount(classes).max() / len(classes)
    assert units + 2 * most / (1 + most) / 8 < 0.45
