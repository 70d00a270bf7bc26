"""Which videos there are: names, splits, lengths, expressions; which labels are missing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from abaw_feats.demo.prototypes import column
from abaw_seq.tasks import EXPRESSIONS

CAPACITIES = (4, 4, 3, 4, 2, 4, 4, 3, 4, 4, 3, 1)  # distinct expressions per video
LENGTH_SPREAD = 0.28  # deviation of the logarithm of a video's number of frames
FORMATS = ("1280x720", "1920x1080", "640x360", "480x360")
RATES = (24, 25, 30, 30, 30, 50, 60)

# Shares of the frames that lack the labels of these tasks (v: valence and arousal, e: expression, a: action units).
MISSING = {
    "train": {"": 0.37, "v": 0.10, "e": 0.15, "a": 0.10, "ve": 0.09, "va": 0.08, "ea": 0.11},
    "val": {"": 0.58, "e": 0.42},
    "test": {"vea": 1.0},
}  # fmt: skip
VIDEOS_PER_PERSON = {"train": 3, "val": 2, "test": 1}
USELESS_ROWS = 0.001  # share of the training frames without any label
KEPT = 0.4  # least share of the frames of an expression in a video that keep their expression label


@dataclass(frozen=True)
class VideoPlan:
    """One video of the demo set."""

    index: int
    person: int  # who is seen; each split has its own people
    scene: int  # where: the number of the person whose place it is
    name: str
    split: str
    fps: int
    rows: int  # frames in the release
    parts: dict[int, int]  # how many of them show each expression


def plan_videos(rng: np.random.Generator, counts: dict[str, int], frames: int, test_frames: int) -> list[VideoPlan]:
    """Plan all videos; `counts` has the number of videos in train, val and test.

    Their frames add up to `frames`: the test split has `test_frames` of them, train and val share the rest in
    proportion to their videos.
    """
    names = _names(rng, sum(counts.values()), pair=counts["train"] >= 2)
    train, val = _share_out(np.array([counts["train"], counts["val"]], float), frames - test_frames)
    budgets = {"train": train, "val": val, "test": test_frames}
    plans: list[VideoPlan] = []
    for split, count in counts.items():
        rows = _share_out(np.exp(LENGTH_SPREAD * rng.standard_normal(count)), int(budgets[split]))
        people = np.arange(count) % max(1, round(count / VIDEOS_PER_PERSON[split]))
        cast = max((plan.person for plan in plans), default=-1) + 1
        for length, person, parts in zip(rows.tolist(), people.tolist(), _expressions(rng, rows, people), strict=True):
            index = len(plans)
            name, fps = names[index]
            scene = cast if name.endswith("_right") else cast + person
            plans.append(VideoPlan(index, cast + person, scene, name, split, fps, length, parts))
    return plans


def _share_out(weights: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers in proportion to the weights, with the sum `total`."""
    bounds = np.round(np.cumsum(weights) / weights.sum() * total).astype(int)
    return np.diff(bounds, prepend=0)


def _names(rng: np.random.Generator, total: int, *, pair: bool) -> list[tuple[str, int]]:
    """(name, frames per second) of each video, in Aff-Wild2's three forms; the first two may be a pair."""
    stems = rng.permutation(np.arange(1, 561))
    names: list[tuple[str, int]] = []
    for k in range(total):
        stem, rate = int(stems[k % len(stems)]) + 560 * (k // len(stems)), int(rng.choice(RATES))
        size = FORMATS[rng.integers(len(FORMATS))]
        family = k % 5
        if family in (0, 3):
            names.append((f"{stem:03d}", 30))
        elif family in (1, 4):
            names.append((f"{stem}-{rate}-{size}", rate))
        else:
            names.append((f"video{stem}", 30))
    if pair:
        stem, rate = names[1]
        names[0], names[1] = (f"{stem}_left", rate), (f"{stem}_right", rate)
    return names


def _expressions(rng: np.random.Generator, rows: np.ndarray, people: np.ndarray) -> list[dict[int, int]]:
    """For each video of a split, {expression: number of its frames}, from the videos' rows and people.

    Every expression is in at least two videos if there are that many; few videos have more expressions than their
    capacity; and the videos of one person differ, so that the person says little about the labels.
    """
    videos, classes = len(rows), len(EXPRESSIONS)
    most = max(max(CAPACITIES), -(-2 * classes // videos))  # where there are few videos, each shows more expressions
    left = rng.permutation([CAPACITIES[k % len(CAPACITIES)] for k in range(videos)]).astype(float)
    wanted = np.clip(np.round(column("presence") * videos), min(2, videos), videos).astype(int)
    member = np.zeros((videos, classes), bool)
    for k in np.argsort(column("share"), kind="stable"):  # rare ones first, into videos that have room
        for _ in range(wanted[k]):
            shown = np.bincount(people, weights=member[:, k])[people]
            full = member[:, k] | (member.sum(1) >= most)
            chosen = int(np.argmax(left + 0.8 * rng.random(videos) - 2 * shown - 100 * full))
            member[chosen, k] = True
            left[chosen] -= 1
    member[~member.any(1), EXPRESSIONS.index("Other")] = True
    weights = member * (column("share") / np.maximum(member.sum(0), 1))
    least = 0.4 * weights * rows.sum()
    for _ in range(20):
        weights *= (column("share") * rows.sum() / np.maximum(weights.sum(0), 1e-9))[None, :]
        weights = np.maximum(weights, least)
        weights *= (rows / weights.sum(1))[:, None]
    return [{int(k): int(n) for k, n in enumerate(_share_out(weights[v], int(rows[v]))) if n} for v in range(videos)]


def missing_labels(rng: np.random.Generator, split: str, expressions: list[np.ndarray]) -> list[np.ndarray]:
    """Which labels are missing in a split: for each video a bool array (rows, 3).

    The columns stand for valence and arousal, expression, and action units. expressions: for each video the
    expression of each frame, (rows,). Labels are missing in stretches of 15 to 70 frames; every expression of a video
    keeps a share of its labels.
    """
    stretches = []
    for video, classes in enumerate(expressions):
        stop = 0
        while stop < len(classes):
            start, stop = stop, min(stop + int(rng.integers(15, 70)), len(classes))
            stretches.append((video, start, stop))
    room = {pattern: share * sum(map(len, expressions)) for pattern, share in MISSING[split].items()}
    masks = [np.zeros((len(classes), 3), bool) for classes in expressions]
    for place in rng.permutation(len(stretches)):
        video, start, stop = stretches[place]
        without = masks[video][:, 1].copy()
        without[start:stop] = True
        counts = np.bincount(expressions[video], minlength=len(EXPRESSIONS))
        spared = np.bincount(expressions[video][~without], minlength=len(EXPRESSIONS)) >= KEPT * counts
        pattern = _pattern(room, stop - start, may_hide=split == "test" or bool(spared.all()))
        room[pattern] -= stop - start
        masks[video][start:stop] = [task in pattern for task in "vea"]
    if split == "train":
        for mask in masks:
            mask[rng.random(len(mask)) < USELESS_ROWS] = True
    return masks


def _pattern(room: dict[str, float], length: int, may_hide: bool) -> str:
    """Which tasks lack labels in a stretch: of the combinations that fit, the one of which most frames are left."""
    suited = [pattern for pattern in room if may_hide or "e" not in pattern]
    fitting = [pattern for pattern in suited if room[pattern] > length / 2] or suited
    return max([pattern for pattern in fitting if "e" in pattern] or fitting, key=room.__getitem__)
