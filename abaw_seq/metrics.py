"""The challenge's scores: CCC, F1 and each edition's total.

Every score is computed over all labelled frames of a split together, never averaged per video. It
comes from sums over frames (moments, and counts of labelled, predicted and correct frames per class),
so that a bootstrap over videos is one product of resampling weights and the videos' sums. The counts
are numpy's: scikit-learn's confusion matrices, with which the tests compare them, take five times as
long, and smoothing and ensembles are fitted by hundreds of scores. It has no CCC.

| edition | total |
| --- | --- |
| `mtl` | (CCC valence + CCC arousal) / 2 + expression F1 + action unit F1 |
| `va` | (CCC valence + CCC arousal) / 2 |
| `expr` | mean F1 of the 8 expressions |
| `au` | mean F1 of the 12 action units |
| `expr2020` (2020, 2021) | 0.67 mean F1 of the first 7 expressions + 0.33 accuracy |
| `au2020` (2020, 2021) | 0.5 mean F1 of the labelled units + 0.5 accuracy over all their cells |

A score for which there is no labelled frame is None ("n/a"), and so is every total that needs it;
`missing` names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from abaw_seq.errors import UserError
from abaw_seq.tasks import ACTION_UNITS, AROUSAL, AU, EXPRESSION, EXPRESSIONS, TASKS, VALENCE

USUAL_THRESHOLD = 0.5
CLASSES_2020 = 7
PARTS = {
    "mtl": ("valence", "arousal", "expression", "au"),
    "va": ("valence", "arousal"),
    "expr": ("expression",),
    "au": ("au",),
    "expr2020": ("expression",),
    "au2020": ("au",),
}
EDITIONS = tuple(PARTS)
# A variance below this share of the mean square is a rounding error: the series is constant.
_CONSTANT = 1e-13


def concordance_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """CCC = 2 s_xy / (s_x^2 + s_y^2 + (mean_x - mean_y)^2) of two series (frames,), population statistics.

    A constant series scores 0 against any other, and so do two equal constants, where the formula
    is 0 / 0: without variation there is no concordance to measure. An empty series raises ValueError.

    >>> concordance_correlation(np.array([0.0, 1.0]), np.array([0.0, 0.5]))
    0.6666666666666666
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape != y.shape or x.ndim != 1 or not len(x):
        raise ValueError(f"CCC needs two series of the same length, not {x.shape} and {y.shape}")
    return float(_concordance(_moments(x, y, _centre(x), _centre(y))))


def score(
    predicted: Mapping[str, np.ndarray],
    labels: np.ndarray,
    *,
    edition: str = "mtl",
    thresholds: float | Sequence[float] = USUAL_THRESHOLD,
) -> dict:
    """Score predictions against labels (frames, 15), NaN where there is no label, as an edition does.

    `predicted` maps some of these tasks to predictions: "valence" and "arousal" (frames,); "expression"
    (frames, 8) probabilities or logits, of which the first largest counts, or class numbers (frames,);
    "au" (frames, 12) probabilities or 0/1, active from the threshold on (one, or one per unit). A task
    that is absent is n/a.

    Returns, with None for n/a: "edition", "score" (the edition's total), "p_mtl" (the total of
    `mtl`, else None), "valence", "arousal" (CCC), "expression", "au" (mean F1), "expression_f1",
    "au_f1" (F1 by name), "expression_accuracy", "au_accuracy", "frames" (labelled frames per task)
    and "missing" (why parts of the total are n/a).

    The mean over the expressions includes those that are neither labelled nor predicted, with an F1 of
    0. The mean over the action units is n/a when one of them has no labelled frame; `au2020` takes the
    mean over the units that have labels, because AU20 of the 2020 edition has no column.

    Raises UserError when predictions of labelled frames are not finite or have another shape.

    >>> labels = np.full((3, 15), np.nan)
    >>> labels[:, 0] = [-0.5, 0.0, 0.5]
    >>> round(score({"valence": np.array([-0.5, 0.0, 0.5])}, labels, edition="va")["valence"], 3)
    1.0
    """
    _check_request(edition, predicted, labels)
    sums = _sums(predicted, labels, edition, thresholds, _centres([predicted], [labels]))
    scores = _scores({name: sum_[None] for name, sum_ in sums.items()}, edition)
    return _report(edition, scores, sums)


def bootstrap(
    predicted: Mapping[str, Mapping[str, np.ndarray]],
    labels: Mapping[str, np.ndarray],
    *,
    edition: str = "mtl",
    thresholds: float | Sequence[float] = USUAL_THRESHOLD,
    part: str = "score",
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile interval of a score over resamples of the videos, drawn with replacement.

    `predicted` and `labels` map each video to what `score` takes, in any order of the videos;
    `part` is "score" or a single value of the result ("valence", "arousal", "expression", "au").
    The same seed draws the same videos. Resamples in which the score is n/a are left out; None if
    none is left.
    """
    videos = sorted(labels)
    for video in videos:
        _check_request(edition, predicted[video], labels[video], where=f"video {video}: ")
    centres = _centres([predicted[video] for video in videos], [labels[video] for video in videos])
    each = [_sums(predicted[video], labels[video], edition, thresholds, centres) for video in videos]
    if not each:
        return None
    chance = np.full(len(videos), 1 / len(videos))
    draws = np.random.default_rng(seed).multinomial(len(videos), chance, size=resamples)
    common = set.intersection(*(set(sums) for sums in each))
    drawn = {name: np.tensordot(draws, np.stack([sums[name] for sums in each]), 1) for name in common}
    values = _scores(drawn, edition)[part]
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _check_request(edition: str, predicted: Mapping, labels: np.ndarray, where: str = "") -> None:
    if edition not in EDITIONS:
        raise UserError(f"unknown edition {edition!r}: one of {', '.join(EDITIONS)}")
    widths = {"valence": (), "arousal": (), "expression": (len(EXPRESSIONS),), "au": (len(ACTION_UNITS),)}
    for name in widths.keys() & predicted.keys():
        values = np.asarray(predicted[name])
        shapes = {(len(labels), *widths[name])} | ({(len(labels),)} if name == "expression" else set())
        if values.shape not in shapes:
            raise UserError(f"{where}{name} predictions of shape {values.shape}, {min(shapes)} expected")
        if np.isfinite(values).all():
            continue
        labelled = ~np.isnan(labels[:, TASKS[name].columns]).reshape(values.shape if name == "au" else -1)
        bad = ~np.isfinite(values[labelled])
        if bad.any():
            raise UserError(f"{where}{name} predictions hold NaN or infinity in {bad.sum()} labelled places")


def _centres(predicted: Sequence[Mapping], labels: Sequence[np.ndarray]) -> dict[str, tuple[float, float]]:
    """For valence and arousal the means: sums of deviations from them do not lose digits by cancellation."""
    centres = {}
    for task in (VALENCE, AROUSAL):
        pairs = [
            _valid_pair(values[task.name], truth[:, task.columns.start])
            for values, truth in zip(predicted, labels, strict=True)
            if task.name in values
        ]
        if pairs:
            x, y = (np.concatenate(series) for series in zip(*pairs, strict=True))
            centres[task.name] = _centre(x), _centre(y)
    return centres


def _centre(x: np.ndarray) -> float:
    """The mean; for a constant series exactly its value, so that the deviations are exactly 0."""
    return float(x[0] + (x - x[0]).mean()) if len(x) else 0.0


def _valid_pair(values: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    valid = ~np.isnan(truth)
    return np.asarray(values)[valid].astype(np.float64), truth[valid].astype(np.float64)


def _moments(x: np.ndarray, y: np.ndarray, x_centre: float, y_centre: float) -> np.ndarray:
    """Sums (8,): frames; deviations from the centres x, y, xx, yy, xy; the centres themselves."""
    dx, dy = x - x_centre, y - y_centre
    n = len(x)
    return np.array([n, dx.sum(), dy.sum(), dx @ dx, dy @ dy, dx @ dy, n * x_centre, n * y_centre])


def _concordance(moments: np.ndarray) -> np.ndarray:
    """CCC (...) of moments (..., 8); NaN without frames."""
    n = moments[..., 0]
    dx, dy, xx, yy, xy, x_centre, y_centre = np.moveaxis(moments[..., 1:] / np.maximum(n, 1)[..., None], -1, 0)
    x_variance, y_variance = xx - dx**2, yy - dy**2
    x_variance = np.where(x_variance <= _CONSTANT * xx, 0, x_variance)
    y_variance = np.where(y_variance <= _CONSTANT * yy, 0, y_variance)
    covariance = np.where((x_variance == 0) | (y_variance == 0), 0, xy - dx * dy)
    spread = x_variance + y_variance + (x_centre + dx - y_centre - dy) ** 2
    ccc = 2 * covariance / np.where(spread > 0, spread, 1)
    return np.where(n > 0, ccc, np.nan)


def _sums(
    predicted: Mapping[str, np.ndarray],
    labels: np.ndarray,
    edition: str,
    thresholds: float | Sequence[float],
    centres: Mapping[str, tuple[float, float]],
) -> dict[str, np.ndarray]:
    """The sums that the scores are computed from, for each task that is predicted; those of two videos add up.

    valence, arousal: moments (8,); expression: correct, labelled and predicted frames (3, classes); au:
    correctly active, labelled active, predicted active and labelled frames (4, 12); au_frames: frames
    with a label of any unit.
    """
    sums = {}
    for task in (VALENCE, AROUSAL):
        if task.name in predicted:
            pair = _valid_pair(predicted[task.name], labels[:, task.columns.start])
            sums[task.name] = _moments(*pair, *centres[task.name])
    if "expression" in predicted:
        sums["expression"] = _class_counts(
            np.asarray(predicted["expression"]), labels[:, EXPRESSION.columns.start], _classes(edition)
        )
    if "au" in predicted:
        truth = labels[:, AU.columns]
        valid, positive = ~np.isnan(truth), truth == 1
        active = valid & (np.asarray(predicted["au"]) >= np.asarray(thresholds))
        table = [np.count_nonzero(cells, axis=0) for cells in (positive & active, positive, active, valid)]
        sums["au"] = np.array(table, np.float64)
        sums["au_frames"] = np.array(np.count_nonzero(valid.any(1)), np.float64)
    return sums


def _classes(edition: str) -> int:
    return CLASSES_2020 if edition == "expr2020" else len(EXPRESSIONS)


def _class_counts(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Correct, labelled and predicted frames (3, classes), of the frames whose label is one of the classes."""
    valid = truth < classes
    truth = truth[valid].astype(np.int64)
    predicted = predicted[valid]
    chosen = predicted[:, :classes].argmax(1) if predicted.ndim == 2 else predicted.astype(np.int64)
    outside = (chosen < 0) | (chosen >= classes)
    counted = (truth[chosen == truth], truth, chosen[~outside])
    return np.array([np.bincount(part, minlength=classes) for part in counted], np.float64)


def _f1(hits: np.ndarray, labelled: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """F1 = 2 hits / (labelled + predicted), 0 where there is neither."""
    return 2 * hits / np.maximum(labelled + predicted, 1)


def _scores(sums: Mapping[str, np.ndarray], edition: str) -> dict[str, np.ndarray]:
    """Every score (resamples, ...) of sums (resamples, ...), NaN where n/a."""
    count = len(next(iter(sums.values()))) if sums else 1
    missing = np.full(count, np.nan)
    scores = {name: _concordance(sums[name]) if name in sums else missing for name in ("valence", "arousal")}

    hits, labelled, chosen = np.moveaxis(sums.get("expression", np.zeros((count, 3, _classes(edition)))), 1, 0)
    frames = labelled.sum(-1)
    some = np.where(frames > 0, frames, np.nan)
    scores["expression_f1"] = np.where(some[:, None] > 0, _f1(hits, labelled, chosen), np.nan)
    scores["expression"] = scores["expression_f1"].mean(-1)
    scores["expression_accuracy"] = hits.sum(-1) / some

    none = np.zeros((count, 4, len(ACTION_UNITS)))
    hits, labelled, chosen, valid = np.moveaxis(sums.get("au", none), 1, 0)
    scores["au_f1"] = np.where(valid > 0, _f1(hits, labelled, chosen), np.nan)
    cells = np.where(valid.sum(-1) > 0, valid.sum(-1), np.nan)
    if edition == "au2020":
        units = np.count_nonzero(valid, axis=-1)
        scores["au"] = np.nansum(scores["au_f1"], -1) / np.where(units > 0, units, np.nan)
    else:
        scores["au"] = scores["au_f1"].mean(-1)
    scores["au_accuracy"] = (valid - labelled - chosen + 2 * hits).sum(-1) / cells

    both = (scores["valence"] + scores["arousal"]) / 2
    scores["score"] = {
        "mtl": both + scores["expression"] + scores["au"],
        "va": both,
        "expr": scores["expression"],
        "au": scores["au"],
        "expr2020": 0.67 * scores["expression"] + 0.33 * scores["expression_accuracy"],
        "au2020": 0.5 * scores["au"] + 0.5 * scores["au_accuracy"],
    }[edition]
    return scores


def _report(edition: str, scores: Mapping[str, np.ndarray], sums: Mapping[str, np.ndarray]) -> dict:
    """Scores as plain values, None for n/a, and in words why parts of the total are."""

    def plain(value: float) -> float | None:
        return None if np.isnan(value) else float(value)

    single = {name: plain(values[0]) for name, values in scores.items() if values.ndim == 1}
    frames = {
        "valence": int(sums["valence"][0]) if "valence" in sums else 0,
        "arousal": int(sums["arousal"][0]) if "arousal" in sums else 0,
        "expression": int(sums["expression"][1].sum()) if "expression" in sums else 0,
        "au": int(sums["au_frames"]) if "au" in sums else 0,
    }
    missing = []
    for name in PARTS[edition]:
        if name not in sums:
            missing.append(f"{name}: no predictions")
        elif not frames[name]:
            missing.append(f"{name}: no labelled frame")
        elif single[name] is None:
            without = [unit for unit, f1 in zip(ACTION_UNITS, scores["au_f1"][0], strict=True) if np.isnan(f1)]
            missing.append(f"{name}: no labelled frame of {', '.join(without)}")
    names = EXPRESSIONS[: _classes(edition)]
    return {
        "edition": edition,
        "p_mtl": single["score"] if edition == "mtl" else None,
        **single,
        "expression_f1": dict(zip(names, map(plain, scores["expression_f1"][0]), strict=True)),
        "au_f1": dict(zip(ACTION_UNITS, map(plain, scores["au_f1"][0]), strict=True)),
        "frames": frames,
        "missing": missing,
    }
