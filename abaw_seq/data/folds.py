"""Splits by source video: the official one, and K folds with equal shares of frames and labels.

The two sides of a two-person video (`<stem>_left`, `<stem>_right`, and `<stem>` itself where one
side has no suffix) show the same scene, so they are never on both sides of a fold. scikit-learn's
StratifiedGroupKFold keeps groups together too, but balances a single class label, not frames, the labels
of every task and the distribution of valence and arousal at once; and published scores depend on exactly
these folds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from abaw_seq.config.plain_yaml import parse
from abaw_seq.data.annotations import VideoLabels
from abaw_seq.data.folder import video_name
from abaw_seq.errors import UserError
from abaw_seq.files import write_lines
from abaw_seq.tasks import AU, EXPRESSIONS

FORMAT = "abaw-folds"
VERSION = 1
OFFICIAL = "official"
VALUE_BINS = np.linspace(-1, 1, 6)
# The number of frames decides how much a fold's score weighs, so it counts more than one class.
FRAMES_WEIGHT = 40.0
MOST_PASSES = 20
STARTS = 4


@dataclass(frozen=True)
class Fold:
    """One division of the videos into training and validation, each sorted by name."""

    name: str
    train: tuple[str, ...]
    val: tuple[str, ...]


def source_video(video: str) -> str:
    """The video that one side of a two-person video was cut from; any other video's own name.

    >>> source_video("10-60-1280x720_right"), source_video("video10_1")
    ('10-60-1280x720', 'video10_1')
    """
    return video.removesuffix("_left").removesuffix("_right") or video


def official_fold(videos: Mapping[str, VideoLabels]) -> Fold:
    """The split that the annotations give, as one fold."""
    train, val = (
        tuple(sorted(name for name, video in videos.items() if video.split == split)) for split in ("train", "val")
    )
    if not train or not val:
        raise UserError(f"no official split: {len(train)} videos for training, {len(val)} for validation")
    return Fold(OFFICIAL, train, val)


def make_folds(videos: Mapping[str, VideoLabels], count: int, *, seed: int = 0) -> list[Fold]:
    """`count` folds; each video outside the test split is in the validation part of exactly one.

    The folds agree as far as possible in frames, labelled frames per task, expressions, active action
    units and the distribution of valence and arousal: the videos are placed one by one, in random order,
    where they fit best, then moved and exchanged while that helps; the best of several such starts is
    taken. The same seed and videos give the same folds, in whatever order the videos come.

    Raises UserError when there are fewer source videos than folds.
    """
    if count < 2:
        raise UserError(f"{count} folds cannot be made: at least 2")
    names = sorted(name for name, video in videos.items() if video.split != "test")
    sources = sorted({source_video(name) for name in names})
    if len(sources) < count:
        raise UserError(f"{count} folds cannot be made of {len(sources)} source videos: ask for fewer")
    row = {source: k for k, source in enumerate(sources)}
    amounts = np.zeros((len(sources), len(_amounts(np.zeros((0, 15))))))
    for name in names:
        amounts[row[source_video(name)]] += _amounts(videos[name].labels)
    shares, rng = _shares(amounts, count), np.random.default_rng(seed)
    _, fold_of = min((_share_out(shares, count, rng) for _ in range(STARTS)), key=lambda start: start[0])
    folds = []
    for k in range(count):
        val = tuple(name for name in names if fold_of[row[source_video(name)]] == k)
        folds.append(Fold(f"{k + 1}", tuple(sorted(set(names) - set(val))), val))
    return folds


def _amounts(labels: np.ndarray) -> np.ndarray:
    """A video's amount (34,) of everything that is balanced."""
    valid = ~np.isnan(labels)
    classes = labels[valid[:, 2], 2].astype(int)
    return np.concatenate(
        [
            [len(labels), valid[:, 0].sum(), valid[:, 2].sum(), valid[:, AU.columns].any(1).sum()],
            np.histogram(labels[valid[:, 0], 0], VALUE_BINS)[0],
            np.histogram(labels[valid[:, 1], 1], VALUE_BINS)[0],
            np.bincount(classes, minlength=len(EXPRESSIONS)),
            (labels[:, AU.columns] == 1).sum(0),
        ]
    )


def _shares(amounts: np.ndarray, count: int) -> np.ndarray:
    """Amounts (sources, 34) as shares of what one fold should have, times the root of their weight."""
    target = amounts.sum(0) / count
    shares = amounts / np.where(target > 0, target, 1)
    shares[:, 0] *= np.sqrt(FRAMES_WEIGHT)
    return shares


def _share_out(shares: np.ndarray, count: int, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    """(cost, fold of each source (sources,)) for shares (sources, 34): folds whose sums differ little."""
    goal = shares.sum(0) / count
    fold_of = np.full(len(shares), -1)
    sums = np.zeros((count, shares.shape[1]))
    for turn, row in enumerate(rng.permutation(len(shares))):
        change = _cost(sums + shares[row], goal) - _cost(sums, goal)
        fold_of[row] = turn if turn < count else int(change.argmin())
        sums[fold_of[row]] += shares[row]
    for _ in range(MOST_PASSES):
        moved = [_improve(row, shares, fold_of, sums, goal) for row in range(len(shares))]
        if not any(moved):
            break
    return float(_cost(sums, goal).sum()), fold_of


def _cost(sums: np.ndarray, goal: np.ndarray) -> np.ndarray:
    return ((sums - goal) ** 2).sum(-1)


def _improve(row: int, shares: np.ndarray, fold_of: np.ndarray, sums: np.ndarray, goal: np.ndarray) -> bool:
    """Move one row to another fold, or exchange it with another fold's row, where that lowers the cost."""
    own = fold_of[row]
    cost = _cost(sums, goal)
    without = sums[own] - shares[row]
    move = _cost(without, goal) + _cost(sums + shares[row], goal) - cost[own] - cost
    move[own] = 0
    if (fold_of == own).sum() == 1:
        move[:] = 0
    exchange = (
        _cost(without + shares, goal) + _cost(sums[fold_of] - shares + shares[row], goal) - cost[own] - cost[fold_of]
    )
    exchange[fold_of == own] = 0
    fold, other = int(move.argmin()), int(exchange.argmin())
    if min(move[fold], exchange[other]) > -1e-9:
        return False
    if move[fold] <= exchange[other]:
        sums[own] -= shares[row]
        sums[fold] += shares[row]
        fold_of[row] = fold
    else:
        fold = fold_of[other]
        sums[own] += shares[other] - shares[row]
        sums[fold] += shares[row] - shares[other]
        fold_of[row], fold_of[other] = fold, own
    return True


def fold_rows(folds: Sequence[Fold], videos: Mapping[str, VideoLabels]) -> list[list[str]]:
    """Rows of a table of the validation parts under `FOLD_HEADER`, to see how even they are."""
    rows = []
    for fold in folds:
        amounts = sum((_amounts(videos[name].labels) for name in fold.val), np.zeros(34))
        classes = amounts[14:22] / max(amounts[2], 1)
        rows.append(
            [fold.name, f"{len(fold.train)}", f"{len(fold.val)}", *(f"{int(n):,}" for n in amounts[:4])]
            + [" ".join(f"{share:.0%}" for share in classes)]
        )
    return rows


FOLD_HEADER = [
    "fold", "train videos", "val videos", "frames", "valence-arousal", "expression", "action units",
    "expressions 0 to 7",
]  # fmt: skip


def write_folds(path: str | os.PathLike[str], folds: Sequence[Fold]) -> None:
    """Write folds as YAML, or as JSON where the name ends in `.json`."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "folds": [{"name": fold.name, "train": list(fold.train), "val": list(fold.val)} for fold in folds],
    }
    if Path(path).suffix == ".json":
        text = json.dumps(content, indent=1)
    else:
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_lines(path, text.splitlines())


def read_folds(path: str | os.PathLike[str]) -> list[Fold]:
    """Read what `write_folds` wrote, or a file written by hand in the same form.

    Raises UserError for anything else, and for a fold whose two parts share a source video.
    """
    try:
        content = parse(Path(path).read_text(encoding="utf-8"), yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is neither YAML nor JSON: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
        raise UserError(f"{path}: is not a fold file; `format: {FORMAT}` and `version: {VERSION}` expected")
    folds = [_fold(path, entry) for entry in content.get("folds") or ()]
    names = [fold.name for fold in folds]
    if not folds or len(set(names)) < len(names):
        raise UserError(f"{path}: {'two folds of the same name' if folds else 'no folds'}")
    return folds


def _fold(path: str | os.PathLike[str], entry: object) -> Fold:
    if not isinstance(entry, dict) or set(entry) != {"name", "train", "val"}:
        raise UserError(f"{path}: a fold has the keys name, train and val, not {entry!r}"[:200])
    parts = {}
    for part in ("train", "val"):
        videos = entry[part]
        if not isinstance(videos, list) or not videos or not all(isinstance(video, str) for video in videos):
            raise UserError(f"{path}, fold {entry['name']}: {part} must be a list of video names, each in quotes")
        parts[part] = tuple(sorted(map(video_name, videos)))
    shared = {source_video(video) for video in parts["train"]} & {source_video(video) for video in parts["val"]}
    if shared:
        raise UserError(f"{path}, fold {entry['name']}: {sorted(shared)[0]} is in train and in val")
    return Fold(str(entry["name"]), **parts)
