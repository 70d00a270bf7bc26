"""A process that trains the models of one trial after the other, and asks after each epoch whether to go on.

It ends when its parent does, however that ended: a trial that is taken up again finds its run folder free.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from abaw_seq.errors import AbawError
from abaw_seq.run_folder import is_finished, read_metrics, read_scores
from abaw_seq.signals import deaf_children, end_with_parent


@dataclass(frozen=True)
class Job:
    """The trainings of a trial; all have one config but for the seed."""

    config: dict[str, Any]
    trainings: tuple[tuple[Path, int, int], ...]
    """Run folder, seed, and place of the fold among the folds of each."""
    folds: int
    """How many folds by source video there are; 0 for the official split."""


class Worker:
    """A worker process, and the conversation with it."""

    def __init__(self, feats: Sequence[Path], device: str, threads: int):
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, tuple(feats), device, threads), daemon=True)
        with deaf_children():
            self.process.start()
        there.close()

    def run(self, job: Job, go_on: Callable[[int, dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """The scores of each training; `go_on(epoch, scores)` is asked after each epoch of the first one.

        Raises AbawError where a training ended with one, EOFError if the process died.
        """
        try:
            self._here.send(job)
            while True:
                kind, *content = self._here.recv()
                if kind == "epoch":
                    self._here.send(go_on(*content))
                elif kind == "failed":
                    raise content[0]
                else:
                    return content[0]
        except (OSError, EOFError) as error:
            raise EOFError(f"worker {self.process.pid} died") from error

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self._here.close()


def _serve(connection: Connection, feats: Sequence[Path], device: str, threads: int) -> None:
    """The program of a worker process."""
    end_with_parent()
    import torch

    torch.set_num_threads(threads)
    logging.getLogger("abaw_seq").setLevel(logging.WARNING)
    corpora: dict[tuple[str, ...], Any] = {}
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            connection.send(("done", _trained(job, feats, device, corpora, connection)))
        except AbawError as error:
            connection.send(("failed", error))


def _trained(
    job: Job, feats: Sequence[Path], device: str, corpora: dict[tuple[str, ...], Any], connection: Connection
) -> list[dict[str, Any]]:
    from abaw_seq import config as configs
    from abaw_seq.data.corpus import load_corpus
    from abaw_seq.data.folds import OFFICIAL
    from abaw_seq.engine.device import find_device
    from abaw_seq.experiments.crossval import choose_folds
    from abaw_seq.learn.settings import TrainConfig
    from abaw_seq.learn.train import train

    place = find_device(device)
    scores = []
    for number, (run, seed, fold) in enumerate(job.trainings):
        config = configs.from_dict(TrainConfig, {**job.config, "seed": seed})
        if config.backbones not in corpora:
            corpora[config.backbones] = load_corpus(list(feats), backbones=config.backbones or None, device=place)
        corpus = corpora[config.backbones]
        parts: dict[str, Any] = {}
        if job.folds:
            index = {name: k for k, name in enumerate(corpus.names)}
            chosen = [each for each in choose_folds(corpus, str(job.folds)) if each.name != OFFICIAL][fold]
            parts = {
                "train_videos": [index[video] for video in chosen.train],
                "val_videos": [index[video] for video in chosen.val],
            }

        def proceed(history: list[dict[str, Any]]) -> bool:
            connection.send(("epoch", history[-1]["epoch"], history[-1]["val"]))
            return connection.recv()

        if not is_finished(run):
            train(config, corpus, run, device=place, resume=True, proceed=None if number else proceed, **parts)
        scores.append((read_scores(run) or {})["untuned"] | {"epochs": len(read_metrics(run))})
    return scores
