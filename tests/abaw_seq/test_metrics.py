from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import accuracy_score, f1_score

from abaw_seq.errors import UserError
from abaw_seq.metrics import EDITIONS, bootstrap, concordance_correlation, score
from abaw_seq.tasks import ACTION_UNITS, EXPRESSIONS

NAN = float("nan")
EXACT = {"abs": 1e-9, "rel": 0}


def random_split(count: int, seed: int, classes: int = 8) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Predictions that have something to do with the labels, and labels with gaps in every task."""
    rng = np.random.default_rng(seed)
    labels = np.empty((count, 15), np.float32)
    labels[:, :2] = rng.uniform(-1, 1, (count, 2))
    labels[:, 2] = rng.integers(0, classes, count)
    labels[:, 3:] = rng.random((count, 12)) < 0.3
    scores = rng.random((count, 8)) + np.eye(8)[labels[:, 2].astype(int)] * 0.3
    predicted = {
        "valence": np.clip(labels[:, 0] + rng.normal(0, 0.4, count), -1, 1),
        "arousal": np.clip(labels[:, 1] * 0.5 + 0.2, -1, 1),
        "expression": scores,
        "au": np.clip(labels[:, 3:] * 0.4 + rng.uniform(0, 0.6, (count, 12)), 0, 1),
    }
    labels[rng.random(count) < 0.3, :2] = NAN
    labels[rng.random(count) < 0.4, 2] = NAN
    labels[:, 3:][rng.random((count, 12)) < 0.2] = NAN
    return predicted, labels


def plain_concordance(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    return 2 * np.cov(x, y, ddof=0)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)


def blank(count: int) -> np.ndarray:
    return np.full((count, 15), NAN, np.float32)


def test_concordance_by_hand():
    # Means 2 and 3, variances 2/3 and 8/3, covariance 4/3: 2 * 4/3 / (10/3 + 1).
    assert concordance_correlation(np.array([1, 2, 3]), np.array([1, 3, 5])) == pytest.approx(8 / 13, **EXACT)
    assert concordance_correlation(np.array([0.2, -0.4]), np.array([0.2, -0.4])) == pytest.approx(1, **EXACT)
    assert concordance_correlation(np.array([1, -1]), np.array([-1, 1])) == pytest.approx(-1, **EXACT)


@pytest.mark.parametrize("value", [0.0, 0.1, -1 / 3, 0.7])
def test_a_constant_series_has_no_concordance_even_with_itself(value):
    constant, varied = np.full(7, value), np.arange(7) / 7
    assert concordance_correlation(constant, constant) == 0
    assert concordance_correlation(constant, varied) == 0
    assert concordance_correlation(varied, constant) == 0
    assert concordance_correlation(constant[:1], varied[:1]) == 0


def test_series_that_cannot_be_compared_are_refused():
    for x, y in (
        (np.zeros(0), np.zeros(0)),
        (np.zeros(3), np.zeros(2)),
        (np.zeros((2, 2)), np.zeros((2, 2))),
    ):
        with pytest.raises(ValueError, match="same length"):
            concordance_correlation(x, y)


# Values on a grid, so that a series varies either clearly or not at all.
series = st.integers(2, 30).flatmap(
    lambda n: st.tuples(*[arrays(np.float64, n, elements=st.integers(-1000, 1000).map(lambda k: k / 1000))] * 2)
)


@settings(deadline=None)
@given(series)
def test_concordance_agrees_with_the_definition_is_symmetric_and_bounded(pair):
    x, y = pair
    ccc = concordance_correlation(x, y)
    expected = plain_concordance(x, y) if np.ptp(x) and np.ptp(y) else 0
    assert ccc == pytest.approx(expected, **EXACT)
    assert ccc == pytest.approx(concordance_correlation(y, x), **EXACT)
    assert -1 - 1e-9 <= ccc <= 1 + 1e-9


def test_a_small_variation_far_from_zero_is_measured_exactly():
    wave = np.sin(np.arange(1000))
    x, y = 0.9 + 1e-6 * wave, 0.9 + 2e-6 * wave
    assert concordance_correlation(x, y) == pytest.approx(plain_concordance(wave, 2 * wave - wave.mean()), **EXACT)


@pytest.mark.parametrize("seed", range(5))
def test_every_score_of_the_multi_task_edition_equals_scikit_learn(seed):
    predicted, labels = random_split(400, seed)
    scores = score(predicted, labels)
    for k, task in enumerate(("valence", "arousal")):
        valid = ~np.isnan(labels[:, k])
        assert scores[task] == pytest.approx(plain_concordance(predicted[task][valid], labels[valid, k]), **EXACT)
        assert scores["frames"][task] == valid.sum()

    valid = ~np.isnan(labels[:, 2])
    truth, chosen = labels[valid, 2].astype(int), predicted["expression"].argmax(1)[valid]
    each = f1_score(truth, chosen, labels=range(8), average=None, zero_division=0)
    assert list(scores["expression_f1"]) == list(EXPRESSIONS)
    assert list(scores["expression_f1"].values()) == pytest.approx(list(each), **EXACT)
    assert scores["expression"] == pytest.approx(each.mean(), **EXACT)
    assert scores["expression_accuracy"] == pytest.approx(accuracy_score(truth, chosen), **EXACT)
    assert scores["frames"]["expression"] == valid.sum()

    units = []
    for k, unit in enumerate(ACTION_UNITS):
        valid = ~np.isnan(labels[:, 3 + k])
        units.append(f1_score(labels[valid, 3 + k], predicted["au"][valid, k] >= 0.5, zero_division=0))
        assert scores["au_f1"][unit] == pytest.approx(units[-1], **EXACT)
    assert scores["au"] == pytest.approx(np.mean(units), **EXACT)
    assert scores["frames"]["au"] == (~np.isnan(labels[:, 3:])).any(1).sum()

    total = (scores["valence"] + scores["arousal"]) / 2 + scores["expression"] + scores["au"]
    assert scores["p_mtl"] == scores["score"] == pytest.approx(total, **EXACT)
    assert scores["missing"] == [] and scores["edition"] == "mtl"


@pytest.mark.parametrize("seed", range(3))
def test_the_totals_of_the_single_task_editions(seed):
    predicted, labels = random_split(300, seed)
    mtl = score(predicted, labels)
    assert score(predicted, labels, edition="va")["score"] == pytest.approx(
        (mtl["valence"] + mtl["arousal"]) / 2, **EXACT
    )
    assert score(predicted, labels, edition="expr")["score"] == mtl["expression"]
    assert score(predicted, labels, edition="au")["score"] == mtl["au"]
    assert all(score(predicted, labels, edition=edition)["p_mtl"] is None for edition in EDITIONS[1:])


@pytest.mark.parametrize("seed", range(3))
def test_the_scores_of_2020_equal_scikit_learn(seed):
    predicted, labels = random_split(300, seed, classes=7)
    scores = score(predicted, labels, edition="expr2020")
    valid = ~np.isnan(labels[:, 2])
    truth, chosen = labels[valid, 2].astype(int), predicted["expression"][:, :7].argmax(1)[valid]
    f1 = f1_score(truth, chosen, labels=range(7), average="macro", zero_division=0)
    assert scores["expression"] == pytest.approx(f1, **EXACT)
    assert scores["score"] == pytest.approx(0.67 * f1 + 0.33 * accuracy_score(truth, chosen), **EXACT)
    assert list(scores["expression_f1"]) == list(EXPRESSIONS[:7])

    scores = score(predicted, labels, edition="au2020")
    truth, active = labels[:, 3:], predicted["au"] >= 0.5
    valid = ~np.isnan(truth)
    f1 = np.mean([f1_score(truth[v, k], active[v, k]) for k, v in enumerate(valid.T)])
    accuracy = (truth[valid] == active[valid]).mean()
    assert scores["au_accuracy"] == pytest.approx(accuracy, **EXACT)
    assert scores["score"] == pytest.approx(0.5 * f1 + 0.5 * accuracy, **EXACT)


def test_2020_knows_no_other_and_takes_the_units_that_are_labelled():
    labels = blank(4)
    labels[:, 2] = 0, 1, 7, 0
    labels[:, 3] = 1, 0, 1, 1
    predicted = {"expression": np.array([0, 7, 7, 0]), "au": np.ones((4, 12))}
    scores = score(predicted, labels, edition="expr2020")
    assert scores["frames"]["expression"] == 3
    assert scores["expression_accuracy"] == pytest.approx(2 / 3, **EXACT)
    assert scores["expression"] == pytest.approx(1 / 7, **EXACT)
    scores = score(predicted, labels, edition="au2020")
    assert scores["au"] == pytest.approx(6 / 7, **EXACT)
    assert scores["score"] == pytest.approx(0.5 * 6 / 7 + 0.5 * 3 / 4, **EXACT)
    assert scores["au_f1"]["AU2"] is None


def test_a_class_neither_labelled_nor_predicted_counts_zero_and_stays_in_the_mean():
    labels = blank(4)
    labels[:, 2] = 0, 0, 1, 1
    scores = score({"expression": np.array([0, 0, 1, 0])}, labels, edition="expr")
    assert scores["expression_f1"]["Neutral"] == pytest.approx(0.8, **EXACT)
    assert scores["expression_f1"]["Anger"] == pytest.approx(2 / 3, **EXACT)
    assert scores["expression_f1"]["Other"] == 0
    assert scores["score"] == pytest.approx((0.8 + 2 / 3) / 8, **EXACT)


def test_a_unit_neither_labelled_active_nor_predicted_scores_zero():
    labels = blank(2)
    labels[:, 3:] = 0
    labels[0, 3] = 1
    scores = score({"au": labels[:, 3:]}, labels, edition="au")
    assert scores["score"] == pytest.approx(1 / 12, **EXACT)


def test_constant_predictions_on_labels_as_many_as_the_official_validation_set_has():
    counts = [1886, 487, 565, 1254, 3751, 1893, 1003, 4601]
    positives = [5531, 2554, 5442, 8818, 13224, 11421, 8319, 782, 757, 808, 20427, 2934]
    labels = blank(26876)
    labels[: sum(counts), 2] = np.repeat(range(8), counts)
    labels[:, 3:] = np.arange(26876)[:, None] < np.array(positives)
    scores = score({"expression": np.full(26876, 7), "au": np.ones((26876, 12))}, labels)
    assert scores["expression"] == pytest.approx(2 * 4601 / (15440 + 4601) / 8, **EXACT)
    assert scores["au"] == pytest.approx(np.mean([2 * p / (26876 + p) for p in positives]), **EXACT)
    assert (round(scores["expression"], 3), round(scores["au"], 3)) == (0.057, 0.359)


@pytest.mark.parametrize("task", ["valence", "arousal", "expression", "au"])
def test_a_task_without_valid_frames_or_predictions_is_not_available_and_named(task):
    predicted, labels = random_split(50, 1)
    columns = {"valence": 0, "arousal": 1, "expression": 2, "au": slice(3, 15)}
    unlabelled = labels.copy()
    unlabelled[:, columns[task]] = NAN
    absent = {name: values for name, values in predicted.items() if name != task}
    for given_, truth, reason in (
        (predicted, unlabelled, "no labelled frame"),
        (absent, labels, "no predictions"),
    ):
        scores = score(given_, truth)
        assert scores[task] is None and scores["p_mtl"] is None and scores["score"] is None
        assert scores["missing"] == [f"{task}: {reason}"]
        others = {"valence", "arousal", "expression", "au"} - {task}
        assert all(isinstance(scores[name], float) for name in others)
        assert scores["frames"][task] == 0


def test_a_unit_without_valid_frames_makes_the_mean_not_available_and_is_named():
    predicted, labels = random_split(50, 1)
    labels[:, [5, 9]] = NAN
    scores = score(predicted, labels)
    assert scores["au"] is None and scores["p_mtl"] is None
    assert scores["au_f1"]["AU4"] is None and isinstance(scores["au_f1"]["AU1"], float)
    assert scores["missing"] == ["au: no labelled frame of AU4, AU12"]


@pytest.mark.parametrize("edition", EDITIONS)
def test_nothing_valid_at_all_gives_no_number_at_all(edition):
    predicted, _ = random_split(5, 0)
    for labels, given_ in (
        (blank(5), predicted),
        (blank(0), {n: v[:0] for n, v in predicted.items()}),
        (blank(5), {}),
    ):
        scores = score(given_, labels, edition=edition)
        assert scores["score"] is None and scores["missing"]
        numbers = [
            *scores["expression_f1"].values(),
            *scores["au_f1"].values(),
            scores["valence"],
            scores["au"],
        ]
        assert numbers == [None] * len(numbers)


def test_logits_class_numbers_and_decided_units_score_alike():
    predicted, labels = random_split(200, 4)
    decided = predicted | {
        "expression": predicted["expression"].argmax(1),
        "au": (predicted["au"] >= 0.5).astype(int),
    }
    assert score(decided, labels) == score(predicted, labels)
    logits = predicted | {"expression": np.log(predicted["expression"]) * 3 - 1}
    assert score(logits, labels) == score(predicted, labels)


def test_a_unit_is_active_from_its_threshold_on():
    labels = blank(2)
    labels[:, 3:] = 1
    probabilities = np.array([[0.3] * 12, [0.5] * 12])
    assert score({"au": probabilities}, labels, edition="au")["au_f1"]["AU1"] == pytest.approx(2 / 3, **EXACT)
    assert score({"au": probabilities}, labels, edition="au", thresholds=0.3)["score"] == 1
    own = score({"au": probabilities}, labels, edition="au", thresholds=[0.3] + [0.6] * 11)
    assert own["au_f1"]["AU1"] == 1 and own["score"] == pytest.approx(1 / 12, **EXACT)


def test_what_cannot_be_scored_is_refused():
    predicted, labels = random_split(20, 0)
    with pytest.raises(UserError, match="unknown edition 'mlt': one of mtl, va"):
        score(predicted, labels, edition="mlt")
    with pytest.raises(UserError, match=r"au predictions of shape \(20, 8\), \(20, 12\) expected"):
        score(predicted | {"au": predicted["expression"]}, labels)
    with pytest.raises(UserError, match=r"valence predictions of shape \(19,\)"):
        score(predicted | {"valence": predicted["valence"][1:]}, labels)
    for task, column in (("valence", 0), ("expression", 2), ("au", 3)):
        values = np.array(predicted[task], np.float64)
        labelled = np.flatnonzero(~np.isnan(labels[:, column]))[0]
        values.reshape(20, -1)[labelled, 0] = NAN
        with pytest.raises(UserError, match=f"{task} predictions hold NaN or infinity in 1 labelled"):
            score(predicted | {task: values}, labels)


def test_what_is_predicted_where_no_label_is_does_not_matter():
    predicted, labels = random_split(100, 2)
    other = {name: np.array(values) for name, values in predicted.items()}
    other["valence"][np.isnan(labels[:, 0])] = NAN
    other["expression"][np.isnan(labels[:, 2])] = NAN
    other["au"][np.isnan(labels[:, 3:])] = NAN
    assert score(other, labels) == score(predicted, labels)


def split_into_videos(count: int, seed: int = 0):
    predicted, labels = random_split(60 * count, seed)
    rows = {f"v{k}": slice(60 * k, 60 * (k + 1)) for k in range(count)}
    each = {video: {name: values[part] for name, values in predicted.items()} for video, part in rows.items()}
    return each, {video: labels[part] for video, part in rows.items()}


@pytest.mark.parametrize("edition", EDITIONS)
def test_the_bootstrap_equals_scoring_the_drawn_videos_together(edition):
    predicted, labels = split_into_videos(6)
    interval = bootstrap(predicted, labels, edition=edition, resamples=40, seed=5, level=0.9)
    draws = np.random.default_rng(5).multinomial(6, [1 / 6] * 6, size=40)
    totals = []
    for draw in draws:
        videos = np.repeat(sorted(labels), draw)
        together = {name: np.concatenate([predicted[v][name] for v in videos]) for name in predicted["v0"]}
        totals.append(score(together, np.concatenate([labels[v] for v in videos]), edition=edition)["score"])
    assert interval == pytest.approx(tuple(np.quantile(totals, [0.05, 0.95])), **EXACT)


def test_the_bootstrap_repeats_with_its_seed_and_surrounds_the_score():
    predicted, labels = split_into_videos(10)
    low, high = bootstrap(predicted, labels, seed=1)
    assert bootstrap(dict(reversed(predicted.items())), dict(reversed(labels.items())), seed=1) == (low, high)
    assert bootstrap(predicted, labels, seed=2) != (low, high)
    together = {name: np.concatenate([predicted[v][name] for v in labels]) for name in predicted["v0"]}
    assert low < score(together, np.concatenate(list(labels.values())))["score"] < high
    narrow = bootstrap(predicted, labels, seed=1, level=0.5)
    assert low < narrow[0] < narrow[1] < high
    single = {video: {"valence": values["valence"]} for video, values in predicted.items()}
    assert bootstrap(single, labels) is None
    assert bootstrap(single, labels, part="valence") == bootstrap(predicted, labels, part="valence")


def test_draws_without_a_valid_frame_are_left_out_and_constant_ones_score_zero():
    labels = {"a": blank(3), "b": blank(3)}
    labels["b"][:, :2] = 0.1
    labels["b"][0, :2] = 0.3
    predicted = {video: {"valence": np.full(3, 0.1), "arousal": np.full(3, 0.7)} for video in labels}
    predicted["b"]["valence"] = labels["b"][:, 0]
    low, high = bootstrap(predicted, labels, edition="va", resamples=50)
    assert (low, high) == (pytest.approx(0.5, **EXACT), pytest.approx(0.5, **EXACT))
    assert bootstrap({"a": predicted["a"]}, {"a": labels["a"]}, edition="va") is None
    assert bootstrap({}, {}) is None


def test_the_video_with_faulty_predictions_is_named():
    predicted, labels = split_into_videos(2)
    predicted["v1"]["arousal"] = np.zeros(3)
    with pytest.raises(UserError, match=r"video v1: arousal predictions of shape \(3,\)"):
        bootstrap(predicted, labels)
