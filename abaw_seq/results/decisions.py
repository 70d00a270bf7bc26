"""Thresholds of the action units and biases of the expressions: fitted to F1, then folded into the probabilities.

A threshold multiplies the odds of a unit by a constant, a bias the probability of a class before
normalising. The results are probabilities again, for which the usual decisions (0.5, the likeliest
class) are the fitted ones. The curve over all thresholds is scikit-learn's; it has nothing for biases.
"""

from __future__ import annotations

import numpy as np

from abaw_seq.metrics import USUAL_THRESHOLD
from abaw_seq.tasks import EXPRESSIONS

SMALLEST = 1e-7
LARGEST_BIAS = 5.0
MOST_PASSES = 20
GAIN = 1e-9
_BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0))


def shift_action_units(probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Probabilities float32 (frames, 12), changed so that each unit's threshold (12,) becomes 0.5."""
    p = np.clip(probabilities.astype(np.float64), SMALLEST, 1 - SMALLEST)
    t = np.asarray(thresholds, np.float64)
    moved = (p * (1 - t) / (p * (1 - t) + (1 - p) * t)).astype(np.float32)
    # Rounding must not move a frame across the threshold.
    return np.where(p >= t, np.maximum(moved, np.float32(0.5)), np.minimum(moved, _BELOW_HALF))


def shift_expressions(probabilities: np.ndarray, biases: np.ndarray) -> np.ndarray:
    """Probabilities float32 (frames, 8) with `biases` (8,) added to their logarithms."""
    moved = np.log(np.maximum(probabilities.astype(np.float64), SMALLEST)) + np.asarray(biases, np.float64)
    moved = np.exp(moved - moved.max(1, keepdims=True))
    return (moved / moved.sum(1, keepdims=True)).astype(np.float32)


def best_thresholds(probabilities: np.ndarray, truth: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """For each unit the threshold (units,) that has the highest F1 on these frames.

    probabilities: (frames, units); truth: (frames, units) of 0 and 1, NaN where there is no label. The
    threshold in `start` (units,), by default 0.5, stays where no other is better, and where a unit is
    active in no frame.
    """
    kept = np.full(probabilities.shape[1], USUAL_THRESHOLD) if start is None else np.asarray(start, np.float64)
    p = np.clip(probabilities.astype(np.float64), SMALLEST, 1 - SMALLEST)
    known = ~np.isnan(truth)
    return np.array([_best_threshold(p[m, k], truth[m, k] == 1, kept[k]) for k, m in enumerate(known.T)])


def _best_threshold(p: np.ndarray, active: np.ndarray, start: float) -> float:
    """The best of all cuts between two different probabilities; among equally good ones that nearest 0.5."""
    if not active.any():
        return float(start)
    from sklearn.metrics import precision_recall_curve  # takes a second to import

    precision, recall, levels = precision_recall_curve(active, p)
    f1 = 2 * precision * recall / np.where(recall > 0, precision + recall, 1)
    if f1.max() <= f1[np.searchsorted(levels, start)] + GAIN:
        return float(start)
    cut = (levels + np.append(0, levels[:-1])) / 2
    best = np.flatnonzero(f1[:-1] >= f1.max() - GAIN)[::-1]
    return float(cut[best[np.abs(cut[best] - USUAL_THRESHOLD).argmin()]])


def best_biases(probabilities: np.ndarray, truth: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """Biases (8,) of log-probabilities (frames, 8) that raise the mean F1 as far as coordinate ascent can.

    truth: (frames,) class numbers, NaN where there is no label. Each step gives one class its best bias
    while the others stay, so that the F1 never falls below that of `start` (default zeros). The biases
    have mean 0.
    """
    biases = np.zeros(len(EXPRESSIONS)) if start is None else np.array(start, np.float64)
    known = ~np.isnan(truth)
    if not known.any():
        return biases
    from sklearn.metrics import f1_score  # takes a second to import

    classes = truth[known].astype(np.int64)
    log_p = np.log(np.maximum(probabilities[known].astype(np.float64), SMALLEST))
    best = f1_score(classes, (log_p + biases).argmax(1), labels=range(len(biases)), average="macro", zero_division=0)
    for _ in range(MOST_PASSES):
        before = best
        for k in range(len(biases)):
            bias, f1 = _best_bias(log_p, biases, k, classes)
            if f1 > best + GAIN:
                biases[k], best = bias, f1
        if best <= before + GAIN:
            break
    return biases - biases.mean()


def _best_bias(log_p: np.ndarray, biases: np.ndarray, k: int, classes: np.ndarray) -> tuple[float, float]:
    """(bias, mean F1) of the best bias for class k while the others stay.

    As the bias grows, one frame after the other goes over to class k from the class that was likeliest
    before: the counts for every bias follow from cumulative sums.
    """
    others = log_p + biases
    others[:, k] = -np.inf
    rival = others.argmax(1)
    turning = others.max(1) - log_p[:, k]
    order = np.argsort(turning, kind="stable")
    turning, rival, truth = turning[order], rival[order], classes[order]

    def staying(frames: np.ndarray) -> np.ndarray:
        """How many of these frames have not gone over: before the first frame goes, after it, and so on."""
        return np.append(frames[::-1].cumsum()[::-1], 0)

    f1 = np.zeros(len(truth) + 1)
    for other in range(len(biases)):
        chosen, right = rival == other, truth == other
        predicted, hits = staying(chosen), staying(chosen & right)
        if other == k:
            predicted, hits = np.arange(len(truth) + 1), right.sum() - staying(right)
        f1 += 2 * hits / np.maximum(predicted + right.sum(), 1) / len(biases)
    place = np.concatenate([[turning[0] - 1], (turning[:-1] + turning[1:]) / 2, [turning[-1] + 1]])
    allowed = np.abs(place) <= LARGEST_BIAS
    allowed[1:-1] &= turning[:-1] < turning[1:]
    if not allowed.any():
        return float(biases[k]), -1.0
    f1 = np.where(allowed, f1, -1.0)
    best = np.flatnonzero(f1 >= f1.max() - GAIN)
    nearest = best[np.abs(place[best] - biases[k]).argmin()]
    return float(place[nearest]), float(f1[nearest])
