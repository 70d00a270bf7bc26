"""How Aff-Wild2's expressions, action units, valence and arousal go together, and how often they occur.

The numbers describe the validation labels of the MTL release (4th and 7th ABAW challenge). The demo set departs from
them where 2,000 validation frames of 8 videos would be too few to score: rare expressions are more frequent, short
runs of Neutral are longer, very long ones of Sadness, Fear and Disgust shorter, and the three rarest action units
(15, 23, 24) are active more often.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from abaw_seq.tasks import ACTION_UNITS, EXPRESSIONS


@dataclass(frozen=True)
class Prototype:
    """One expression."""

    share: float  # of the frames
    presence: float  # share of the videos it occurs in
    run: float  # mean length of a run, in frames
    valence: tuple[float, float]  # mean, deviation
    arousal: tuple[float, float]  # mean, deviation


PROTOTYPES = {
    "Neutral": Prototype(0.21, 0.65, 7, (0.10, 0.14), (0.12, 0.11)),
    "Anger": Prototype(0.05, 0.32, 17, (-0.47, 0.23), (0.58, 0.21)),
    "Disgust": Prototype(0.05, 0.32, 18, (-0.70, 0.28), (0.80, 0.20)),
    "Fear": Prototype(0.06, 0.32, 20, (-0.71, 0.25), (0.76, 0.22)),
    "Happiness": Prototype(0.23, 0.55, 20, (0.48, 0.27), (0.49, 0.23)),
    "Sadness": Prototype(0.09, 0.32, 28, (-0.60, 0.25), (0.52, 0.25)),
    "Surprise": Prototype(0.07, 0.32, 14, (0.08, 0.50), (0.57, 0.27)),
    "Other": Prototype(0.24, 0.65, 18, (0.12, 0.35), (0.37, 0.25)),
}

# Percentage of the frames of an expression in which each action unit is active, in the official order.
ACTIVE_PERCENT = {
    "Neutral": (8, 3, 6, 1, 21, 17, 3, 0, 1, 0, 51, 3),
    "Anger": (5, 2, 98, 0, 99, 10, 4, 0, 10, 98, 80, 3),
    "Disgust": (8, 6, 98, 10, 84, 98, 4, 3, 0, 0, 86, 9),
    "Fear": (96, 16, 27, 2, 39, 27, 3, 0, 4, 2, 66, 9),
    "Happiness": (10, 7, 5, 88, 69, 59, 91, 0, 2, 0, 98, 10),
    "Sadness": (12, 1, 98, 96, 43, 35, 3, 25, 3, 2, 48, 3),
    "Surprise": (90, 82, 11, 4, 29, 30, 9, 1, 3, 1, 98, 83),
    "Other": (14, 5, 11, 23, 59, 54, 29, 7, 10, 1, 75, 9),
}

# Loadings of action units on three factors that they share (raised brows and jaw, smile, squint), which bring their
# correlations within an expression near to those of the data set.
COUPLING = {
    "AU1": (0.7, 0.0, 0.0), "AU2": (0.9, 0.0, 0.0), "AU26": (0.8, 0.0, 0.0),
    "AU6": (0.0, 0.8, 0.0), "AU12": (0.0, 0.9, 0.0), "AU10": (0.0, 0.4, 0.7), "AU7": (0.0, 0.0, 0.9),
}  # fmt: skip


def column(name: str) -> np.ndarray:
    """One field of all prototypes in the order of the expressions, such as `column("share")`."""
    return np.array([getattr(PROTOTYPES[expression], name) for expression in EXPRESSIONS], np.float64)


def au_probabilities() -> np.ndarray:
    """Probability that an action unit is active, by expression: (8, 12)."""
    return np.array([ACTIVE_PERCENT[expression] for expression in EXPRESSIONS]) / 100


def choose_units(rng: np.random.Generator, kind: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Which action units are active in each part: bool (parts, 12).

    kind, length: the expression and the number of frames of each part, (parts,). Over all frames of an expression,
    each unit is active as often as its prototype says, as nearly as whole parts allow.
    """
    loads = np.array([COUPLING.get(name, (0.0, 0.0, 0.0)) for name in ACTION_UNITS])
    own = np.sqrt(1 - (loads**2).sum(1))
    rank = rng.standard_normal((len(kind), loads.shape[1])) @ loads.T
    rank += own * rng.standard_normal((len(kind), len(ACTION_UNITS)))
    active = np.zeros(rank.shape, bool)
    for expression, probability in enumerate(au_probabilities()):
        member = np.flatnonzero(kind == expression)
        for unit in range(len(ACTION_UNITS)):
            order = member[np.argsort(-rank[member, unit])]
            middle = np.cumsum(length[order]) - length[order] / 2
            active[order, unit] = middle < probability[unit] * length[member].sum()
    return active
