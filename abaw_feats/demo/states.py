"""What a face shows over a video: the slow course of expression, action units, valence and arousal.

The labels describe these states. A state lasts for many frames and passes gradually into the next.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from abaw_feats.demo.plan import VideoPlan, missing_labels
from abaw_feats.demo.prototypes import choose_units, column
from abaw_seq.tasks import ACTION_UNITS, EXPRESSIONS, LABEL_COLUMNS

ACTIVE = 0.35  # intensity from which on an action unit counts as active
OTHER = EXPRESSIONS.index("Other")
SMIRK = np.array([ACTION_UNITS.index(name) for name in ("AU2", "AU10", "AU12")])
REDRAW = 12  # frames after which a long run draws its action units again
RUN_SPREAD = 0.9  # deviation of the logarithm of the length of a run
FADE = np.array([1, 2, 3, 2, 1]) / 9  # the filter with which a state passes into the next

# Gaps between the frame numbers in the release: quantiles of the MTL release, which has about 12 % of the frames.
# The last is the longest gap in it, where no face was detected.
GAP_LEVELS = (0.0, 0.096, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 0.9985, 1.0)
GAP_FRAMES = (1, 1, 2, 4, 8, 17, 29, 79, 220, 543)


class Course:
    """What the face shows in the N frames of one video, and which of their labels are missing.

    frames: int32 (N,), rising, from 1; expression: int (N,); au: float32 (N, 12), intensities; valence, arousal:
    float32 (N,); mood: float32 (N,), valence beyond what the expression implies; tilt: float32 (N,), -1..1, how
    one-sided the face is; missing: bool (N, 3) for valence and arousal, expression, action units.
    """

    def __init__(self, rng: np.random.Generator, plan: VideoPlan, run: tuple[np.ndarray, np.ndarray], levels: Sequence):
        self.plan = plan
        self.expression, part = run
        au, valence, arousal, mood, tilt = (_fade(level[part]) for level in levels)
        wander = 0.05 * autoregressive(rng, np.full(len(part), 0.97))
        self.frames = _frame_numbers(rng, len(part))
        self.au = au.astype(np.float32)
        self.valence = np.clip(valence + wander, -1, 1).round(3).astype(np.float32)
        self.arousal = np.clip(arousal + 0.8 * wander[::-1], -1, 1).round(3).astype(np.float32)
        self.mood = mood.astype(np.float32)
        self.tilt = tilt.astype(np.float32)
        self.missing = np.zeros((len(part), 3), bool)

    @property
    def images(self) -> list[str]:
        """The path of each frame in the folder of all videos."""
        return [f"{self.plan.name}/{frame:05d}.jpg" for frame in self.frames]

    def labels(self) -> np.ndarray:
        """Labels float32 (N, 15) in the order of LABEL_COLUMNS, NaN where they are missing."""
        labels = np.empty((len(self.frames), len(LABEL_COLUMNS)), np.float32)
        labels[:, 0], labels[:, 1], labels[:, 2] = self.valence, self.arousal, self.expression
        labels[:, 3:] = self.au >= ACTIVE
        labels[np.repeat(self.missing, (2, 1, len(ACTION_UNITS)), axis=1)] = np.nan
        return labels


def play(rng: np.random.Generator, plans: list[VideoPlan]) -> list[Course]:
    """Draw the courses of all videos of a split."""
    runs = [_runs(rng, plan) for plan in plans]
    kinds = [expression[np.unique(part, return_index=True)[1]] for expression, part in runs]
    lengths = [np.bincount(part) for _, part in runs]
    active = choose_units(rng, np.concatenate(kinds), np.concatenate(lengths))
    active = np.split(active, np.cumsum([len(kind) for kind in kinds])[:-1])
    courses = [
        Course(rng, plan, run, _levels(rng, kind, units))
        for plan, run, kind, units in zip(plans, runs, kinds, active, strict=True)
    ]
    masks = missing_labels(rng, plans[0].split, [course.expression for course in courses])
    for course, mask in zip(courses, masks, strict=True):
        course.missing = mask
    return courses


def _runs(rng: np.random.Generator, plan: VideoPlan) -> tuple[np.ndarray, np.ndarray]:
    """Expression (N,) and number of the part (N,) of each frame; intensities are drawn once per part."""
    left = dict(plan.parts)
    means = column("run")
    expression, part = np.empty(plan.rows, int), np.empty(plan.rows, int)
    at, parts, last = 0, 0, -1
    while at < plan.rows:
        open_ = [k for k, n in left.items() if n and k != last] or [last]
        weights = np.array([left[k] / means[k] for k in open_])
        last = int(rng.choice(open_, p=weights / weights.sum()))
        length = max(1, round(means[last] * np.exp(RUN_SPREAD * rng.standard_normal() - RUN_SPREAD**2 / 2)))
        length = left[last] if left[last] - length < 3 else length
        left[last] -= length
        expression[at : at + length] = last
        part[at : at + length] = parts + np.arange(length) // REDRAW
        parts = int(part[at + length - 1]) + 1
        at += length
    return expression, part


def _levels(rng: np.random.Generator, kind: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, ...]:
    """Action units (parts, 12), and valence, arousal, mood and tilt (parts,), of the parts of a video."""
    count = len(kind)
    valence_z, arousal_z = np.clip(rng.standard_normal((2, count)), -1.8, 1.8)
    valence = column("valence")[kind, 0] + column("valence")[kind, 1] * valence_z
    arousal = column("arousal")[kind, 0] + column("arousal")[kind, 1] * arousal_z
    strength = np.clip(0.85 + 0.2 * arousal_z, 0.55, 1.2)[:, None]
    level = np.where(active, strength * rng.uniform(0.85, 1.1, active.shape), rng.uniform(0, 0.08, active.shape))
    other = np.flatnonzero(kind == OTHER)
    level[np.ix_(other, SMIRK)] = np.maximum(level[np.ix_(other, SMIRK)], 0.28)
    tilt = rng.uniform(-0.12, 0.12, count)
    tilt[other] = rng.choice((-1, 1), len(other)) * rng.uniform(0.6, 0.9, len(other))
    mood = column("valence")[kind, 1] * valence_z
    return level, valence, arousal, mood, tilt


def _fade(course: np.ndarray) -> np.ndarray:
    """Smooth along the first axis with FADE; the first and last values continue beyond the ends."""
    reach = len(FADE) // 2
    padded = np.concatenate((course[:1].repeat(reach, 0), course, course[-1:].repeat(reach, 0)))
    return sum(weight * padded[k : k + len(course)] for k, weight in enumerate(FADE))


def autoregressive(rng: np.random.Generator, keep: np.ndarray, *width: int) -> np.ndarray:
    """Noise of unit variance (N,) or (N, width), of which each frame keeps the share `keep` (N,) of the one before."""
    course = rng.standard_normal((len(keep), *width))
    fresh = np.sqrt(1 - keep**2)
    for k in range(1, len(course)):
        course[k] = keep[k] * course[k - 1] + fresh[k] * course[k]
    return course


def _frame_numbers(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Rising frame numbers with gaps like those of the MTL release, the first between 1 and 20."""
    level = rng.random(rows)
    gaps = np.exp(np.interp(level, GAP_LEVELS, np.log(GAP_FRAMES)))
    gaps = np.maximum(1, np.round(gaps)).astype(np.int64)
    gaps[0] = rng.integers(1, 20)
    return np.cumsum(gaps).astype(np.int32)
