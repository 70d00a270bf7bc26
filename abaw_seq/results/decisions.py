"""Thresholds of the action units and biases of the expressions: fitted to F1, folded into probabilities.

Both are a change of how common a class is taken to be: odds, or probabilities before normalising,
are multiplied by a constant. What comes out are probabilities again, for which the usual decisions
(0.5, the likeliest class) are the fitted ones.
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
    """(N, 12) float32 probabilities so that each unit's threshold (12,) becomes 0.5."""
    p = np.clip(probabilities.astype(np.float64), SMALLEST, 1 - SMALLEST)
    t = np.asarray(thresholds, np.float64)
    moved = (p * (1 - t) / (p * (1 - t) + (1 - p) * t)).astype(np.float32)
    # Rounding must not carry a frame over the threshold.
    return np.where(p >= t, np.maximum(moved, np.float32(0.5)), np.minimum(moved, _BELOW_HALF))


def shift_expressions(probabilities: np.ndarray, biases: np.ndarray) -> np.ndarray:
    """(N, 8) float32 probabilities with `biases` (8,) added to their logarithms."""
    moved = np.log(np.maximum(probabilities.astype(np.float64), SMALLEST)) + np.asarray(biases, np.float64)
    moved = np.exp(moved - moved.max(1, keepdims=True))
    return (moved / moved.sum(1, keepdims=True)).astype(np.float32)


def best_thresholds(probabilities: np.ndarray, truth: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """The threshold of each unit with the highest F1 there is on these frames: (K,).

    probabilities: (N, K); truth: (N, K) of 0 and 1, NaN where there is no label. `start` (K,) is kept
    where nothing is better (default 0.5), and where a unit has no active frame.
    """
    kept = np.full(probabilities.shape[1], USUAL_THRESHOLD) if start is None else np.asarray(start, np.float64)
    p = np.clip(probabilities.astype(np.float64), SMALLEST, 1 - SMALLEST)
    known = ~np.isnan(truth)
    return np.array([_best_threshold(p[m, k], truth[m, k] == 1, kept[k]) for k, m in enumerate(known.T)])


def _best_threshold(p: np.ndarray, active: np.ndarray, start: float) -> float:
    """Tries every cut between two different probabilities; equal F1 goes to the cut nearest 0.5."""
    if not active.any():
        return float(start)
    order = np.argsort(-p, kind="stable")
    p, hits = p[order], np.cumsum(active[order])
    f1 = 2 * hits / (np.arange(1, len(p) + 1) + hits[-1])
    cut = np.append((p[:-1] + p[1:]) / 2, p[-1] / 2)
    f1[:-1][p[:-1] == p[1:]] = -1
    chosen = p >= start
    now = 2 * active[order][chosen].sum() / max(chosen.sum() + hits[-1], 1)
    if f1.max() <= now + GAIN:
        return float(start)
    best = np.flatnonzero(f1 >= f1.max() - GAIN)
    return float(cut[best[np.abs(cut[best] - USUAL_THRESHOLD).argmin()]])


def best_biases(probabilities: np.ndarray, truth: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """Biases (8,) on log-probabilities (N, 8) that raise the macro-F1 as far as coordinate ascent goes.

    truth: (N,) class numbers, NaN where there is no label. Each step moves one class to the best
    place on its whole line, so that the F1 never falls below that of `start` (default zeros). The
    biases have mean 0.
    """
    biases = np.zeros(len(EXPRESSIONS)) if start is None else np.array(start, np.float64)
    known = ~np.isnan(truth)
    if not known.any():
        return biases
    classes = truth[known].astype(np.int64)
    log_p = np.log(np.maximum(probabilities[known].astype(np.float64), SMALLEST))
    best = _macro_f1((log_p + biases).argmax(1), classes)
    for _ in range(MOST_PASSES):
        before = best
        for k in range(len(biases)):
            bias, f1 = _best_bias(log_p, biases, k, classes)
            if f1 > best + GAIN:
                biases[k], best = bias, f1
        if best <= before + GAIN:
            break
    return biases - biases.mean()


def _macro_f1(chosen: np.ndarray, classes: np.ndarray) -> float:
    count = len(EXPRESSIONS)
    hits, labelled, predicted = (np.bincount(c, minlength=count) for c in (classes[chosen == classes], classes, chosen))
    return float((2 * hits / np.maximum(labelled + predicted, 1)).mean())


def _best_bias(log_p: np.ndarray, biases: np.ndarray, k: int, classes: np.ndarray) -> tuple[float, float]:
    """(bias of class k, macro-F1) of the best place, the other biases as they are.

    Frames turn to class k one after the other as its bias grows, each from its best other class:
    the counts of every place follow from cumulative sums.
    """
    others = log_p + biases
    others[:, k] = -np.inf
    rival = others.argmax(1)
    turning = others.max(1) - log_p[:, k]
    order = np.argsort(turning, kind="stable")
    turning, rival, truth = turning[order], rival[order], classes[order]
    count = len(biases)
    leaving = rival[:, None] == np.arange(count)
    right = leaving & (truth == rival)[:, None]
    none = np.zeros((1, count))
    predicted = leaving.sum(0) - np.concatenate([none, np.cumsum(leaving, 0)])
    hits = right.sum(0) - np.concatenate([none, np.cumsum(right, 0)])
    predicted[:, k] = np.arange(len(truth) + 1)
    hits[:, k] = np.concatenate([[0], np.cumsum(truth == k)])
    f1 = (2 * hits / np.maximum(predicted + np.bincount(truth, minlength=count), 1)).mean(1)
    place = np.concatenate([[turning[0] - 1], (turning[:-1] + turning[1:]) / 2, [turning[-1] + 1]])
    allowed = np.abs(place) <= LARGEST_BIAS
    allowed[1:-1] &= turning[:-1] < turning[1:]
    if not allowed.any():
        return float(biases[k]), -1.0
    f1 = np.where(allowed, f1, -1.0)
    best = np.flatnonzero(f1 >= f1.max() - GAIN)
    nearest = best[np.abs(place[best] - biases[k]).argmin()]
    return float(place[nearest]), float(f1[nearest])
