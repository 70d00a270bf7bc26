"""Several trainings on the same corpora: one after the other, or side by side in processes that share their memory."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from torch import Tensor

from abaw_seq import terminal
from abaw_seq.data.corpus import Corpus
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.learn.train import train
from abaw_seq.signals import deaf_children, end_with_parent

log = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")

Corpora = dict[tuple[str, ...], Corpus]


@dataclass(frozen=True)
class Training:
    """One model that is to be trained."""

    config: TrainConfig
    """Its settings, whose `backbones` name its corpus."""
    run: Path
    """Its run folder."""
    title: str
    """One line that is shown when it starts."""
    train_videos: list[int] | None = None
    """Indices of its training videos; by default those of the training split."""
    val_videos: list[int] | None = None
    """Indices of its validation videos; by default those of the validation split."""


def train_all(trainings: Sequence[Training], corpora: Corpora, *, device: torch.device, jobs: int = 1) -> None:
    """Train every model, and leave its validation predictions and scores in its run folder.

    Interrupted runs go on after their last whole epoch. With `jobs` above 1 that many train at a time, each in a
    process of its own with its share of the threads; they share one copy of the corpora. The first error ends all.
    """
    jobs = min(jobs, len(trainings))
    if jobs > 1 and (hindrance := _hindrance(corpora, device)):
        log.warning(f"one after the other: {hindrance}")
        jobs = 1
    if jobs <= 1:
        for training in trainings:
            log.info(training.title)
            _train(training, corpora, device)
        return
    shared = {key: _shared(corpus, device) for key, corpus in corpora.items()}
    pool = ProcessPoolExecutor(
        jobs,
        mp_context=torch.multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(shared, device, max(torch.get_num_threads() // jobs, 1)),
    )
    try:
        with terminal.progress(f"train {jobs} at a time", len(trainings), "models") as advance:
            with deaf_children():
                names = {pool.submit(_work, training): training.run.name for training in trainings}
            for done in as_completed(names):
                done.result()
                advance(1, names[done])
    finally:
        pool.shutdown(cancel_futures=True)


def _train(training: Training, corpora: Corpora, device: torch.device) -> None:
    train(
        training.config, corpora[training.config.backbones], training.run, device=device, resume=True,
        train_videos=training.train_videos, val_videos=training.val_videos,
    )  # fmt: skip


def _hindrance(corpora: Corpora, device: torch.device) -> str:
    """Why processes cannot share one copy of the corpora; empty if they can."""
    size = 0
    for corpus in corpora.values():
        if not isinstance(corpus.features, Tensor):
            return "features that are not on the device cannot be shared between processes"
        size += corpus.features.nbytes + corpus.labels.nbytes
    if device.type == "cpu" and SHARED_MEMORY.is_dir() and size > shutil.disk_usage(SHARED_MEMORY).free:
        return f"{SHARED_MEMORY} has no room for {size / 1e6:,.0f} MB of features"
    return ""


def _shared(corpus: Corpus, device: torch.device) -> Corpus:
    corpus = corpus.to(device)
    if device.type == "cpu" and isinstance(corpus.features, Tensor):
        corpus.features.share_memory_()
        corpus.labels.share_memory_()
    return corpus


# The corpora and the device of a worker process.
_held: dict[str, Any] = {}


def _start(corpora: Corpora, device: torch.device, threads: int) -> None:
    end_with_parent()
    torch.set_num_threads(threads)
    _held.update(corpora=corpora, device=device)


def _work(training: Training) -> None:
    _train(training, _held["corpora"], _held["device"])
