"""Run folders that stand for several models: ensembles and cross-validations, joined and used on new features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from abaw_seq.data.corpus import Corpus, load_corpus
from abaw_seq.data.folds import read_folds
from abaw_seq.data.prediction_file import concatenated, read_predictions, save_scored, write_predictions
from abaw_seq.errors import UserError
from abaw_seq.files import make_folder
from abaw_seq.metrics import score
from abaw_seq.results.ensemble import (
    Ensemble,
    cross_fitted_ensemble,
    fit_ensemble,
    load_ensemble,
    save_ensemble,
)
from abaw_seq.results.objective import Videos
from abaw_seq.results.postprocess import load_postprocess, save_postprocess
from abaw_seq.results.predict import check_features, load_run, predict_corpus
from abaw_seq.run_folder import BEST, ENSEMBLE, FOLDS, POSTPROCESS, PREDICTIONS, SCORES, write_scores
from abaw_seq.terminal import progress

FRAMES_AT_ONCE = 100_000


def join_runs(paths: list[Path], run: Path, *, method: str, weights_of: Path | None = None) -> dict[str, dict]:
    """Join runs and prediction files into the run folder `run`; {name: scores} of what was made.

    The weights are fitted by `method` on the labels that the predictions carry, or taken from the
    ensemble in `weights_of`, whose members the paths then are, in its order; its postprocessing goes
    along. Where weights were fitted on the labels scored here, the scores of the plain mean and of
    weights fitted on the other half of the videos stand beside, in `scores.json` too.
    """
    if len(set(paths)) < len(paths):
        raise UserError(f"the same member is named twice: {next(p for p in paths if paths.count(p) > 1)}")
    members = {_name(path, run): read_predictions(path) for path in paths}
    if weights_of is not None:
        ensemble = load_ensemble(weights_of)
    else:
        videos = next(iter(members.values()))
        ensemble = fit_ensemble(members, method, fitted_on=f"predictions of {len(videos)} videos by these members")
    joined = ensemble.apply(members)
    scores = store_joined(run, joined, ensemble, members=members if weights_of is None else None)
    if weights_of is not None and (stored := load_postprocess(weights_of)) is not None:
        save_postprocess(run, stored)
    return scores


def store_joined(
    run: Path, joined: Videos, ensemble: Ensemble, *, members: dict[str, Videos] | None = None
) -> dict[str, dict[str, Any]]:
    """Write predictions, weights and, where there are labels, scores of an ensemble; {name: scores}.

    members: the predictions on which the weights were fitted, to score the mean and cross-fitted weights.
    """
    make_folder(run)
    (run / POSTPROCESS).unlink(missing_ok=True)
    save_ensemble(run, ensemble)
    if all(video.labels is None for video in joined.values()):
        write_predictions(run / PREDICTIONS, joined)
        (run / SCORES).unlink(missing_ok=True)
        return {}
    scores = save_scored(run, joined, method=ensemble.method, fitted_on=ensemble.fitted_on)
    table = {run.name: scores["untuned"]}
    if members is not None and ensemble.method != "mean":
        mean = fit_ensemble(members, "mean").apply(members)
        scores["mean"] = table["plain mean"] = score(*concatenated(mean))
        honest = cross_fitted_ensemble(members, ensemble.method)
        if honest is not None:
            scores["cross_fitted_weights"] = table["weights cross-fitted"] = score(*concatenated(honest))
    write_scores(run, scores)
    return table


def predict_run(
    run: Path,
    feats: list[Path],
    device: torch.device,
    *,
    checkpoint: str = BEST,
    frames_at_once: int = FRAMES_AT_ONCE,
) -> Iterator[Videos]:
    """Predictions of every video in feature files by a run, as its model or models make them.

    An ensemble predicts with each of its members and joins them with its weights; a cross-validation
    gives the mean over its folds' models. Features are read from their files as they are needed, and
    the videos come in groups of about `frames_at_once` frames: memory does not grow with the features.
    """
    corpora: dict[tuple[str, ...], Corpus] = {}
    predict = _predictor(run, feats, device, checkpoint, corpora)
    corpus = next(iter(corpora.values()))
    with progress(f"predict {run.name}", int(corpus.offsets[-1]), "frames") as advance:
        for group in _groups(corpus.lengths, frames_at_once):
            yield predict(group)
            advance(sum(corpus.lengths[video] for video in group))


def _predictor(
    run: Path, feats: list[Path], device: torch.device, checkpoint: str, corpora: dict
) -> Callable[[list[int]], Videos]:
    """What predicts videos, by their place in the corpora; these are opened once for all models."""
    if (run / ENSEMBLE).is_file():
        ensemble = load_ensemble(run)
        parts = {name: _member_run(run, name) for name in ensemble.members}
    elif (run / FOLDS).is_file():
        parts = {fold.name: run / fold.name for fold in read_folds(run / FOLDS)}
        ensemble = None
    else:
        return _model_predictor(run, feats, device, checkpoint, corpora)
    members = {name: _predictor(part, feats, device, BEST, corpora) for name, part in parts.items()}

    def predict(videos: list[int]) -> Videos:
        found = {name: member(videos) for name, member in members.items()}
        return (ensemble or fit_ensemble(found, "mean")).apply(found)

    return predict


def _model_predictor(
    run: Path, feats: list[Path], device: torch.device, checkpoint: str, corpora: dict
) -> Callable[[list[int]], Videos]:
    model, config, backbones = load_run(run, device, checkpoint)
    key = tuple(backbones)
    if key not in corpora:
        corpora[key] = load_corpus(feats, backbones=key, device=device, memory="file")
    check_features(run, backbones, corpora[key])
    corpus = config.as_seen(corpora[key])
    return lambda videos: predict_corpus(model, config, corpus, videos)


def _groups(lengths: list[int], frames: int) -> Iterator[list[int]]:
    """Videos in order, so many at a time that they have `frames` frames, or one that has more."""
    group: list[int] = []
    for video, length in enumerate(lengths):
        if group and sum(lengths[v] for v in group) + length > frames:
            yield group
            group = []
        group.append(video)
    if group:
        yield group


def _name(path: Path, run: Path) -> str:
    """A member as it is stored: relative to the ensemble's folder where it lies in it."""
    return str(path.relative_to(run)) if path.is_relative_to(run) else str(path)


def _member_run(run: Path, name: str) -> Path:
    for path in (run / name, Path(name)):
        if path.is_dir():
            return path
    raise UserError(
        f"{run}: its member {name} is not a run folder here; predict with each member (predict --raw) "
        f"and join these with ensemble --apply {run}"
    )
