"""Distillation: a model of any kind learns from the outputs of trained ones, where there are labels and where not.

run/teacher.pt    the teachers' outputs for the training videos, and the hash of what made them
    rounds/1/     with several rounds: the run folders of the earlier ones, each the next one's teacher
    ...           the rest of the run folder is that of `abaw-seq train`

After Vu et al., "Multitask Multi-database Emotion Recognition" (ABAW 2021), and, with rounds, Furlanello et al., "Born
Again Neural Networks" (ICML 2018).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from abaw_seq.data.corpus import Corpus, load_corpus
from abaw_seq.data.folds import read_folds
from abaw_seq.errors import UserError
from abaw_seq.files import load_tensors, make_folder, save_tensors
from abaw_seq.learn.settings import TeacherConfig, TrainConfig
from abaw_seq.learn.train import TrainResult, train
from abaw_seq.models.inference import predict_videos
from abaw_seq.models.outputs import BINS, as_raw, distributions
from abaw_seq.results.predict import check_features, load_run
from abaw_seq.results.weights import load_ensemble, member_folder
from abaw_seq.run_folder import BEST, ENSEMBLE, FOLDS, LAST, ROUNDS, TEACHER
from abaw_seq.terminal import progress

VIDEOS_AT_ONCE = 64

Outputs = dict[str, Tensor]


def distill(
    config: TrainConfig,
    corpus: Corpus,
    teachers: Sequence[Path],
    feats: Sequence[Path],
    run: Path,
    *,
    device: torch.device,
    rounds: int = 1,
    resume: bool = False,
) -> TrainResult:
    """Train a student in `run` on labels and on the mean of the teachers' outputs; the result of the last round.

    teachers: run folders of models, ensembles or cross-validations; feats: feature files that hold what they were
    trained on, besides what the student learns from. Videos of the training split and those without a split train,
    labelled or not. Each further round learns from the student of the one before, with the next seed.
    Raises UserError where a teacher does not fit the features, or `run` was begun with other teachers.
    """
    config = dataclasses.replace(config, teacher=config.teacher or TeacherConfig())
    videos = [k for k, split in enumerate(corpus.splits) if split in ("train", None)]
    for number in range(1, rounds + 1):
        folder = run if number == rounds else run / ROUNDS / str(number)
        taught = taught_outputs(teachers, feats, corpus, videos, folder, device=device)
        seeded = dataclasses.replace(config, seed=config.seed + number - 1)
        going_on = resume or number < rounds
        result = train(seeded, corpus, folder, device=device, resume=going_on, train_videos=videos, taught=taught)
        teachers = [folder]
    return result


def taught_outputs(
    teachers: Sequence[Path],
    feats: Sequence[Path],
    corpus: Corpus,
    videos: list[int],
    run: Path,
    *,
    device: torch.device,
) -> Outputs:
    """Raw outputs {task: float32 (frames of the corpus, width)} of the teachers, NaN outside the given videos.

    They are computed once and kept in `run`, with the hash of the teachers' weights and of the corpus's frames.
    """
    made_from = _fingerprint(teachers, corpus, videos)
    kept = run / TEACHER
    if kept.is_file():
        stored = load_tensors(kept)
        if stored["made_from"] == made_from:
            return {task: table.to(device) for task, table in stored["outputs"].items()}
        if (run / LAST).exists():
            raise UserError(
                f"{run}: was begun with other teachers or features; resume with those or name another folder"
            )
    corpora: dict[tuple[str, ...], Corpus] = {}
    predict = [_predictor(Path(teacher), feats, device, corpora) for teacher in teachers]
    outputs: Outputs = {}
    names = [corpus.names[video] for video in videos]
    with progress(f"teacher of {run.name}", len(videos), "videos") as advance:
        for start in range(0, len(videos), VIDEOS_AT_ONCE):
            several = slice(start, start + VIDEOS_AT_ONCE)
            predicted = [one(names[several]) for one in predict]
            for video, *of_video in zip(videos[several], *predicted, strict=True):
                rows = slice(int(corpus.offsets[video]), int(corpus.offsets[video + 1]))
                for task, (frames, values) in _joined(of_video, {}).items():
                    raw = as_raw(task, values)
                    table = outputs.setdefault(task, torch.full((len(corpus.frames), raw.shape[-1]), torch.nan))
                    table[rows] = _by_frame(frames, raw, corpus.frames[rows])
                advance()
    make_folder(run)
    save_tensors(kept, {"made_from": made_from, "outputs": outputs})
    return {task: table.to(device) for task, table in outputs.items()}


Predicted = dict[str, tuple[np.ndarray, Tensor]]
"""{task: (frame numbers, `distributions` (frames, ...))} of a video."""


def _predictor(
    run: Path, feats: Sequence[Path], device: torch.device, corpora: dict[tuple[str, ...], Corpus]
) -> Callable[[list[str]], list[Predicted]]:
    """A function that predicts videos, given by their names, as a trained run or the members of one do."""
    if (run / ENSEMBLE).is_file():
        ensemble = load_ensemble(run)
        members = []
        for name in ensemble.members:
            if (folder := member_folder(run, name)) is None:
                raise UserError(f"{run}: its member {name} is not a run folder here, so it cannot teach")
            members.append(_predictor(folder, feats, device, corpora))
        return partial(_each_joined, members, ensemble.weights)
    if (run / FOLDS).is_file():
        folds = [_predictor(run / fold.name, feats, device, corpora) for fold in read_folds(run / FOLDS)]
        return partial(_each_joined, folds, {})
    model, config, backbones = load_run(run, device, BEST)
    key = tuple(backbones)
    if key not in corpora:
        corpora[key] = load_corpus(list(feats), backbones=key, device=device, memory="file")
    check_features(run, backbones, corpora[key])
    corpus = config.as_seen(corpora[key])
    places = {name: k for k, name in enumerate(corpus.names)}

    def predict(videos: list[str]) -> list[Predicted]:
        if absent := next((video for video in videos if video not in places), None):
            raise UserError(f"video {absent}: the features of teacher {run} ({', '.join(key)}) lack it")
        wanted = [places[video] for video in videos]
        length, carry = config.windows.length, config.windows.carry
        values = predict_videos(model, corpus, wanted, length=length, carry=carry, convert=distributions)
        parts = {task: output.cpu().split([corpus.lengths[k] for k in wanted]) for task, output in values.items()}
        frames = [corpus.frames[corpus.offsets[k] : corpus.offsets[k + 1]] for k in wanted]
        return [{task: (frames[n], of_task[n]) for task, of_task in parts.items()} for n in range(len(wanted))]

    return predict


def _each_joined(
    members: list[Callable[[list[str]], list[Predicted]]], weights: dict[str, tuple[float, ...]], videos: list[str]
) -> list[Predicted]:
    predicted = [member(videos) for member in members]
    return [_joined(list(of_video), weights) for of_video in zip(*predicted, strict=True)]


def _joined(members: list[Predicted], weights: dict[str, tuple[float, ...]]) -> Predicted:
    """The weighted mean of the members' distributions, task by task; equal weights where none are given."""
    result: Predicted = {}
    for task in dict.fromkeys(task for member in members for task in member):
        shares = weights.get(task) or [1.0] * len(members)
        used = [
            (share, *member[task]) for share, member in zip(shares, members, strict=True) if task in member and share
        ]
        if not used:
            continue
        frames = used[0][1]
        for _, own, _ in used[1:]:
            frames = frames if np.array_equal(frames, own) else np.intersect1d(frames, own)
        parts = _alike([values[torch.from_numpy(np.searchsorted(own, frames))] for _, own, values in used])
        total = sum(share for share, _, _ in used)
        mean = torch.zeros_like(parts[0])
        for part, (share, _, _) in zip(parts, used, strict=True):
            mean += part * (share / total)
        result[task] = frames, mean
    return result


def _alike(parts: list[Tensor]) -> list[Tensor]:
    """Distributions over bins as they are if all are, else all as values."""
    if len({part.ndim for part in parts}) == 1:
        return parts
    centres = (torch.arange(BINS) + 0.5) / BINS * 2 - 1
    return [part @ centres if part.shape[-1:] == (BINS,) and part.ndim == 2 else part for part in parts]


def _by_frame(frames: np.ndarray, values: Tensor, wanted: np.ndarray) -> Tensor:
    """Rows of `values` for the wanted frame numbers, NaN where there is none."""
    at = np.searchsorted(frames, wanted).clip(max=len(frames) - 1)
    known = torch.from_numpy(frames[at] == wanted)
    return torch.where(known[:, None], values[torch.from_numpy(at)], torch.nan)


def _fingerprint(teachers: Sequence[Path], corpus: Corpus, videos: list[int]) -> str:
    """A hash of the teachers' weights and of the frames that they are to predict."""
    digest = hashlib.sha256()
    for teacher in teachers:
        for path in _made_from(Path(teacher)):
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    for video in videos:
        digest.update(corpus.names[video].encode())
        digest.update(corpus.frames[corpus.offsets[video] : corpus.offsets[video + 1]].tobytes())
    for info in corpus.backbone_info.values():
        digest.update(info.weights_sha256.encode())
    return digest.hexdigest()


def _made_from(teacher: Path) -> Iterator[Path]:
    """The files that a teacher's outputs depend on: weights, and an ensemble's shares."""
    if (teacher / ENSEMBLE).is_file():
        yield teacher / ENSEMBLE
        for name in load_ensemble(teacher).members:
            yield from _made_from(member_folder(teacher, name) or teacher / name)
    elif (teacher / FOLDS).is_file():
        for fold in read_folds(teacher / FOLDS):
            yield from _made_from(teacher / fold.name)
    elif (teacher / BEST).is_file():
        yield teacher / BEST
    else:
        raise UserError(f"{teacher}: has no {BEST}; a teacher is a trained run, an ensemble or a cross-validation")
