"""Cross-validation: every fold trained on one corpus, the out-of-fold predictions joined and scored.

folder/folds.yaml          the folds, as every program reads them
       config.yaml         provenance.json
       <fold>/             the run folder of each
       predictions.h5      each video as predicted by the fold that did not train on it
       scores.json         their scores together, and those of every fold
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from abaw_seq import config as configs
from abaw_seq.data.corpus import Corpus
from abaw_seq.data.folds import OFFICIAL, Fold, make_folds, official_fold, read_folds, write_folds
from abaw_seq.data.prediction_file import Videos, save_scored, score_videos
from abaw_seq.engine.provenance import provenance
from abaw_seq.errors import UserError
from abaw_seq.experiments.side_by_side import Training, train_all
from abaw_seq.files import write_text
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.results.reading import read_current
from abaw_seq.results.tables import SCORE_NAMES
from abaw_seq.run_folder import (
    CONFIG,
    FOLDS,
    LAST,
    check_kind,
    check_same_config,
    holds_run_folder,
    is_finished,
    read_scores,
    write_provenance,
)

log = logging.getLogger(__name__)


def choose_folds(corpus: Corpus, wanted: str) -> list[Fold]:
    """The folds of a file, or for a number K the official split and K folds by source video.

    The K folds divide the labelled videos outside the test split, always the same way for the same videos. Raises
    UserError for a file whose videos are not in the corpus, whose fold names cannot name folders, or which has a video
    in the validation part of two folds besides the official one.
    """
    if not wanted.isdigit():
        folds = read_folds(wanted)
        _check_folds(wanted, folds, corpus)
        return folds
    videos = {name: video for name, video in corpus.video_labels().items() if video.split != "test"}
    blank = [name for name, video in videos.items() if np.isnan(video.labels).all()]
    if blank:
        log.warning(f"{len(blank)} videos without a label are in no fold, such as {blank[0]}")
    videos = {name: video for name, video in videos.items() if name not in blank}
    splits = {video.split for video in videos.values()}
    if not {"train", "val"} <= splits:
        log.warning("the features have no official split, so there is no fold for it")
        return make_folds(videos, int(wanted))
    return [official_fold(videos), *make_folds(videos, int(wanted))]


def store_folds(folder: Path, folds: list[Fold]) -> Path:
    """Write `folds.yaml`; UserError if it is there with other folds."""
    path = folder / FOLDS
    if path.exists() and read_folds(path) != folds:
        raise UserError(f"{path} holds other folds: use them by naming this file, or name another folder")
    if not path.exists():
        write_folds(path, folds)
    return path


@holds_run_folder("folder")
def crossvalidate(
    config: TrainConfig,
    corpus: Corpus,
    folds: list[Fold],
    folder: Path,
    *,
    device: torch.device,
    resume: bool = False,
    jobs: int = 1,
    members: int | None = None,
) -> dict[str, Any]:
    """Train every fold in its own run folder below `folder`; returns the content of `scores.json`.

    `jobs`, `members`: how many train at a time, as for `train_all`. With `resume` finished folds are passed over and an
    interrupted one goes on. The validation videos of the official split are in the other folds, too. So that split is
    left out of the pooled predictions, the mean and the deviation (that of a sample), unless it is the only fold.
    """
    check_kind(folder, FOLDS)
    runs = [folder, *(folder / fold.name for fold in folds)]
    if not resume and any((run / LAST).exists() or is_finished(run) for run in runs):
        raise UserError(f"{folder} already holds folds: resume them, or name another folder")
    store_folds(folder, folds)
    if resume and (folder / CONFIG).exists():
        check_same_config(folder, config)
    corpus = corpus.to(device)
    write_text(folder / CONFIG, configs.dump(config))
    write_provenance(folder, provenance(seed=config.seed, device=device, **corpus.described()))

    resplit = [fold.name for fold in folds if fold.name != OFFICIAL] or [OFFICIAL]
    trainings = [_training(config, corpus, fold, folder, f"{k} of {len(folds)}") for k, fold in enumerate(folds, 1)]
    unfinished = [training for training in trainings if not is_finished(training.run)]
    train_all(unfinished, {config.backbones: corpus}, device=device, jobs=jobs, members=members)
    scores: dict[str, Any] = {}
    pooled: Videos = {}
    for fold in folds:
        predictions = read_current(folder / fold.name)
        scores[fold.name] = score_videos(predictions) | {
            "best_epoch": (read_scores(folder / fold.name) or {}).get("best_epoch")
        }
        if fold.name in resplit:
            pooled |= predictions

    return save_scored(
        folder,
        dict(sorted(pooled.items())),
        split="val" if resplit == [OFFICIAL] else "out of fold",
        folds=scores,
        mean=_over_folds([scores[name] for name in resplit], statistics.fmean),
        deviation=_over_folds([scores[name] for name in resplit] if len(resplit) > 1 else [], statistics.stdev),
    )


def fold_table(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The scores of every fold, their mean and deviation and the pooled score, by the name of their row."""
    folds = {name if name == OFFICIAL else f"fold {name}": scores for name, scores in result["folds"].items()}
    return folds | {"mean": result["mean"], "deviation": result["deviation"], "pooled": result["untuned"]}


def _training(config: TrainConfig, corpus: Corpus, fold: Fold, folder: Path, which: str) -> Training:
    index = {name: k for k, name in enumerate(corpus.names)}
    training, validation = ([index[video] for video in part] for part in (fold.train, fold.val))
    title = f"fold {fold.name} ({which}): {len(training)} training videos, {len(validation)} left out"
    return Training(config, folder / fold.name, title, training, validation)


def _over_folds(scores: list[dict[str, Any]], statistic: Callable) -> dict[str, float | None]:
    """{score: statistic over the folds}; None where a fold has no such score."""
    columns = {key: [of_fold[key] for of_fold in scores] for key in SCORE_NAMES}
    return {key: statistic(values) if values and None not in values else None for key, values in columns.items()}


def _check_folds(source: str, folds: list[Fold], corpus: Corpus) -> None:
    held = set(corpus.names)
    validated: dict[str, str] = {}
    for fold in folds:
        if Path(fold.name).name != fold.name or fold.name in (".", ".."):
            raise UserError(f"{source}: the name of fold {fold.name!r} cannot be that of a folder")
        if missing := sorted({*fold.train, *fold.val} - held):
            raise UserError(f"{source}, fold {fold.name}: the features hold no video {missing[0]}")
        for video in fold.val if fold.name != OFFICIAL else ():
            if (other := validated.setdefault(video, fold.name)) != fold.name:
                raise UserError(f"{source}: video {video} is in val of folds {other} and {fold.name}; keep one")
    if unused := sorted(held - {video for fold in folds for video in (*fold.train, *fold.val)}):
        log.warning(f"{source}: names no fold for {len(unused)} videos of the features, such as {unused[0]}")
