"""Several trainings on the same corpora: those of one shape in a stack, the stacks one after the other, or side by side
in processes that share their memory."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from torch import Tensor

from abaw_seq import terminal
from abaw_seq.data.corpus import Corpus
from abaw_seq.data.feature_store import free_host_memory
from abaw_seq.learn.member import Member
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.learn.together import member_bytes, stack_key, train_together
from abaw_seq.learn.train import train
from abaw_seq.run_folder import held_run
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
    start: dict[str, Path] | None = None
    """{part of the model: run whose best weights it begins with}."""


def train_all(
    trainings: Sequence[Training],
    corpora: Corpora,
    *,
    device: torch.device,
    jobs: int = 1,
    members: int | None = None,
) -> None:
    """Train every model, and leave its validation predictions and scores in its run folder.

    Interrupted runs go on after their last whole epoch. Models of one shape train at once as a stack of at most
    `members`, 1 for none; None: on a GPU as many as memory has room for, on a CPU, which gains little, none. With
    `jobs` above 1 that many stacks train at a time, each in a process of its own with its share of the threads; they
    share one copy of the corpora. The first error ends all.
    """
    if not trainings:
        return
    jobs = min(jobs, len(trainings))
    if jobs > 1 and (hindrance := _hindrance(corpora, device)):
        log.warning(f"one after the other: {hindrance}")
        jobs = 1
    stacks = stacks_of(trainings, corpora, device=device, jobs=jobs, members=members)
    jobs = min(jobs, len(stacks))
    if jobs <= 1:
        for stack in stacks:
            for training in stack:
                log.info(training.title)
            _train(stack, corpora, device)
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
                names = {pool.submit(_work, stack): [training.run.name for training in stack] for stack in stacks}
            for done in as_completed(names):
                done.result()
                advance(len(names[done]), ", ".join(names[done]))
    finally:
        pool.shutdown(cancel_futures=True)


def stacks_of(
    trainings: Sequence[Training], corpora: Corpora, *, device: torch.device, jobs: int, members: int | None
) -> list[list[Training]]:
    """The trainings, divided into stacks of one shape and at most `members`, and so that every job gets some."""
    if members is None and device.type == "cpu":
        members = 1
    alike: dict[str, list[Training]] = {}
    for training in trainings:
        key = None if members == 1 else stack_key(training.config, device)
        alike.setdefault(key or str(training.run), []).append(training)
    most = min(members or len(trainings), max(-(-len(trainings) // jobs), 1))
    stacks = []
    for group in alike.values():
        config = group[0].config
        size = min(most, max(_room(device) // member_bytes(config, corpora[config.backbones].dim) // jobs, 1))
        count = -(-len(group) // size)
        stacks += [group[k::count] for k in range(count)]
    return sorted(stacks, key=len, reverse=True)


def _room(device: torch.device) -> int:
    """Bytes that all stacks together may take: half of what is free."""
    return (free_host_memory() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]) // 2


def _train(stack: list[Training], corpora: Corpora, device: torch.device) -> None:
    if len(stack) == 1:
        train(**_arguments(stack[0], corpora), device=device, resume=True)
        return
    with ExitStack() as held:
        for training in stack:
            held.enter_context(held_run(training.run))
        train_together([Member(**_arguments(training, corpora), device=device, resume=True) for training in stack])


def _arguments(training: Training, corpora: Corpora) -> dict[str, Any]:
    return {
        "config": training.config,
        "corpus": corpora[training.config.backbones],
        "run": training.run,
        "train_videos": training.train_videos,
        "val_videos": training.val_videos,
        "start": training.start,
    }


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


def _work(stack: list[Training]) -> None:
    _train(stack, _held["corpora"], _held["device"])
