"""Using a trained run, alone or with others: the predictions of new features by its model or models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from abaw_seq import config as configs
from abaw_seq.data.corpus import Corpus, load_corpus
from abaw_seq.data.folds import read_folds
from abaw_seq.data.prediction_file import Videos, by_video
from abaw_seq.errors import UserError
from abaw_seq.files import load_tensors
from abaw_seq.learn.losses import outputs_of
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.learn.train import predict_frames
from abaw_seq.models.joint import SequenceModel, build_model
from abaw_seq.results.weights import fit_ensemble, load_ensemble, member_folder
from abaw_seq.run_folder import BEST, ENSEMBLE, FOLDS
from abaw_seq.terminal import progress

FRAMES_AT_ONCE = 100_000

Corpora = dict[tuple[str, ...], Corpus]
"""One set of feature files as corpora, by the names of the backbones that are used."""


def predict_run(
    run: Path,
    feats: list[Path],
    device: torch.device,
    *,
    checkpoint: str = BEST,
    frames_at_once: int = FRAMES_AT_ONCE,
) -> Iterator[Videos]:
    """Predictions of every video in feature files by a run, as its model or models make them.

    An ensemble predicts with each of its members and joins them with its weights; a cross-validation gives the mean
    over its folds' models. Features are read from their files as they are needed, and the videos come in groups of
    about `frames_at_once` frames: memory does not grow with the features.
    """
    corpora: Corpora = {}
    predict = _predictor(run, feats, device, checkpoint, corpora)
    corpus = next(iter(corpora.values()))
    with progress(f"predict {run.name}", int(corpus.offsets[-1]), "frames") as advance:
        for group in video_groups(corpus.lengths, frames_at_once):
            yield predict(group)
            advance(sum(corpus.lengths[video] for video in group))


def _predictor(
    run: Path, feats: list[Path], device: torch.device, checkpoint: str, corpora: Corpora
) -> Callable[[list[int]], Videos]:
    """A function that predicts videos, given by their place in the corpora; these are opened once for all models."""
    ensemble = load_ensemble(run) if (run / ENSEMBLE).is_file() else None
    if ensemble is not None:
        parts = {name: _member(run, name) for name in ensemble.members}
    elif (run / FOLDS).is_file():
        parts = {fold.name: run / fold.name for fold in read_folds(run / FOLDS)}
    else:
        return _model_predictor(run, feats, device, checkpoint, corpora)
    members = {name: _predictor(part, feats, device, BEST, corpora) for name, part in parts.items()}

    def predict(videos: list[int]) -> Videos:
        predictions = {name: member(videos) for name, member in members.items()}
        return (ensemble or fit_ensemble(predictions, "mean")).apply(predictions)

    return predict


def _member(run: Path, name: str) -> Path:
    member = member_folder(run, name)
    if member is None:
        raise UserError(
            f"{run}: its member {name} is not a run folder here; make raw predictions with each member and join them "
            f"by the weights of {run}"
        )
    return member


def _model_predictor(
    run: Path, feats: list[Path], device: torch.device, checkpoint: str, corpora: Corpora
) -> Callable[[list[int]], Videos]:
    model, config, backbones = load_run(run, device, checkpoint)
    key = tuple(backbones)
    if key not in corpora:
        corpora[key] = load_corpus(feats, backbones=key, device=device, memory="file")
    check_features(run, backbones, corpora[key])
    corpus = config.as_seen(corpora[key])
    return lambda videos: predict_corpus(model, config, corpus, videos)


def video_groups(lengths: list[int], frames: int) -> Iterator[list[int]]:
    """Videos in order, in groups of at most `frames` frames, or of one video that has more."""
    group: list[int] = []
    for video, length in enumerate(lengths):
        if group and sum(lengths[v] for v in group) + length > frames:
            yield group
            group = []
        group.append(video)
    if group:
        yield group


def load_run(
    run: Path, device: torch.device, checkpoint: str = BEST
) -> tuple[SequenceModel, TrainConfig, dict[str, Any]]:
    """(model in evaluation mode, its config, {backbone: dim and weights_sha256} in column order) of a run.

    `checkpoint`: its name in the run folder, such as `best_au.pt` where the run keeps the best epoch of each task.
    """
    path = run / checkpoint
    stored = load_tensors(path, device)
    if "config" not in stored:
        raise UserError(f"{path}: not the weights of a run of abaw-seq; name one that `abaw-seq train` made")
    config = configs.from_dict(TrainConfig, stored["config"], where=str(path))
    dims = {name: trained["dim"] for name, trained in stored["backbones"].items()}
    model = build_model(dims, config.model, config.joint, {t: outputs_of(t, config.loss) for t in config.tasks})
    model.load_state_dict(stored["model"])
    return model.to(device).eval(), config, stored["backbones"]


def check_features(run: Path, backbones: dict[str, Any], corpus: Corpus) -> None:
    """UserError unless the features of the corpus were made with the weights that the run was trained on."""
    for name, trained in backbones.items():
        given = corpus.backbone_info[name]
        if given.weights_sha256 != trained["weights_sha256"] or given.dim != trained["dim"]:
            raise UserError(
                f"{run} was trained on {name} features of other weights "
                f"({trained['weights_sha256'][:12]}, here {given.weights_sha256[:12]}); "
                "extract these videos with the same weights"
            )


def predict_corpus(model: SequenceModel, config: TrainConfig, corpus: Corpus, videos: list[int]) -> Videos:
    """Predictions of videos of a corpus as the model sees it (`config.as_seen`), by name, with the corpus's labels."""
    return by_video(corpus, videos, predict_frames(model, corpus, videos, config))
