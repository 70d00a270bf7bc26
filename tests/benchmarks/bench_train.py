"""Training: seconds per epoch and score beside the published loop, and beside the bare arithmetic.

The corpus is made up: videos of log-normal length whose features are noisy projections of slowly moving
labels. The ways are run in turn, so that their ratios mean something on a machine whose speed drifts: the
published loop in a process of its own, ours and the bare arithmetic in another that keeps freed memory.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from abaw_seq import config as configs
from abaw_seq.cpu import settings
from abaw_seq.data.corpus import Corpus, load_corpus
from abaw_seq.data.feature_file import BackboneInfo, VideoFeatures, atomic_feature_file
from abaw_seq.engine.best import selection_criterion
from abaw_seq.engine.epoch import train_epoch
from abaw_seq.engine.update import Update
from abaw_seq.learn.batches import Batch, training_batches
from abaw_seq.learn.losses import outputs_of, task_losses
from abaw_seq.learn.optim import build_optimizer
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.learn.train import batch_losses, predict_frames, train
from abaw_seq.learn.weighting import TaskWeighting
from abaw_seq.metrics import score
from abaw_seq.models.frameworks import MultiTaskModel
from tests.benchmarks.published_loop import Seconds, published_training

CONFIGS = Path(__file__).parents[2] / "configs" / "abaw4"
KINDS = ("lstm", "gru", "transformer")


@dataclass(frozen=True)
class Sizes:
    """How much is made and trained; `small()` is a corpus on which scores can be compared in minutes."""

    training: int = 40
    validation: int = 12
    shortest: int = 100
    longest: int = 4000
    features: int = 1622
    noise: float = 12.0
    rounds: int = 2
    file_frames: int = 170_000
    overrides: tuple[str, ...] = ()

    @staticmethod
    def small() -> Sizes:
        changes = ("model.encoder.dim=64", "model.head=[64]", "optim.lr=1e-3", "epochs=10", "optim.constant=5")
        return Sizes(24, 10, 60, 800, 64, 4.0, overrides=changes)


def run(
    kinds: tuple[str, ...] = KINDS,
    speed: Sizes | None = None,
    score: Sizes | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
) -> Iterator[str]:
    """Markdown tables: seconds per epoch with the evaluation each does, start-up and reading, scores over seeds."""
    speed = speed or Sizes()
    yield speed_table(kinds, speed)
    yield reading_table(speed)
    yield score_table(kinds, score or Sizes.small(), seeds)


def speed_table(kinds: tuple[str, ...], sizes: Sizes) -> str:
    """Seconds per epoch: published loop, ours, and forward + backward + step of our batches alone."""
    corpus = made_up_corpus(sizes)
    frames = [sum(corpus.lengths[v] for v in corpus.in_split(split)) for split in ("train", "val")]
    lines = [
        f"### Training: {sizes.training} videos of {frames[0]:,} frames, {sizes.validation} validation videos of "
        f"{frames[1]:,}, {sizes.features} features, CPU with {torch.get_num_threads()} threads, fp32",
        "",
        "| encoder | published: train / its evaluation / epoch (s) | ours: train / evaluate / epoch (s) "
        "| published / ours | bare step (s) | bare / our training | updates: published / ours "
        "| computed on padding: published / ours | published / ours in bf16 |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    measured = {}
    with Processes(corpus) as processes:
        for kind in kinds:
            config = configs.load(TrainConfig, CONFIGS / f"{kind}.yaml", [*sizes.overrides, "epochs=1"])
            measured[kind] = [_one_round(config, processes) for _ in range(sizes.rounds)]
    for kind, rounds in measured.items():
        median = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
        reference = median["train"] + median["evaluate"]
        ours = median["our train"] + median["our evaluate"]
        lines.append(
            f"| {kind} | {median['train']:.2f} / {median['evaluate']:.2f} / {reference:.2f} "
            f"| {median['our train']:.2f} / {median['our evaluate']:.2f} / {ours:.2f} | {reference / ours:.1f} "
            f"| {median['bare']:.2f} | {median['bare'] / median['our train']:.2f} "
            f"| {median['updates']:.0f} / {median['our updates']:.0f} "
            f"| {median['padding']:.0%} / {median['our padding']:.0%} | {reference / median['bf16']:.1f} |"
        )
    return "\n".join(lines)


class Processes:
    """The published loop and ours, each in a process of its own with the corpus: memory and threads are its alone."""

    def __init__(self, corpus: Corpus):
        spawn = multiprocessing.get_context("spawn")
        threads = torch.get_num_threads()
        self._published, self._ours = (
            ProcessPoolExecutor(1, spawn, initializer=_prepare, initargs=(corpus, threads)) for _ in range(2)
        )

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_) -> None:
        self._published.shutdown()
        self._ours.shutdown()

    def published(self, config: TrainConfig) -> Seconds:
        """Seconds of one epoch of the published loop."""
        return self._published.submit(_published_epoch, config).result()

    def ours(self, config: TrainConfig) -> dict[str, float]:
        """Seconds of one of our epochs."""
        return self._ours.submit(_in_process, _our_epoch, config).result()

    def bare(self, config: TrainConfig) -> float:
        """Seconds of the arithmetic of our epoch alone."""
        return self._ours.submit(_in_process, _bare_epoch, config).result()


_corpus: Corpus | None = None


def _prepare(corpus: Corpus, threads: int) -> None:
    global _corpus
    _corpus = corpus
    torch.set_num_threads(threads)


def _published_epoch(config: TrainConfig) -> Seconds:
    return published_training(config, _corpus).seconds[0]


def _in_process(epoch: Callable, config: TrainConfig):
    with settings():
        return epoch(config, _corpus)


def _one_round(config: TrainConfig, processes: Processes) -> dict[str, float]:
    """One epoch of each, one after the other."""
    spent = processes.published(config)
    ours = processes.ours(config)
    half = processes.ours(dataclasses.replace(config, precision="bf16"))
    return {
        "train": spent.train,
        "evaluate": spent.evaluate_train + spent.evaluate_val,
        "updates": spent.steps,
        "padding": 1 - spent.frames / spent.computed,
        "bf16": half["our train"] + half["our evaluate"],
        **ours,
        "bare": processes.bare(config),
    }


def _fresh(config: TrainConfig, corpus: Corpus) -> tuple[MultiTaskModel, TaskWeighting, torch.optim.Optimizer]:
    torch.manual_seed(config.seed)
    model = MultiTaskModel(corpus.dim, config.model, {t: outputs_of(t, config.loss) for t in config.tasks})
    weighting = TaskWeighting(config.tasks, config.weighting)
    return model, weighting, build_optimizer((model, weighting), config.optim)


def _our_epoch(config: TrainConfig, corpus: Corpus) -> dict[str, float]:
    model, weighting, optimizer = _fresh(config, corpus)
    training, validation = corpus.in_split("train"), corpus.in_split("val")
    truth = corpus.labels[corpus.rows(validation)].numpy()
    started = time.perf_counter()
    model.train()
    batches = _batches(config, corpus)
    losses_of = batch_losses(model, weighting, corpus, config, balance={}, epoch=0)
    update = Update(model, optimizer, extra=(weighting,), clip=config.optim.clip)
    gathered = corpus.gathered((batch, batch.rows) for batch in batches)
    weighting.end_epoch(train_epoch(gathered, losses_of, update, rates=[config.optim.lr] * len(batches))[1:])
    trained = time.perf_counter()
    score(predict_frames(model, corpus, validation, config), truth)
    done = time.perf_counter()
    frames = sum(corpus.lengths[v] for v in training)
    computed = sum(b.rows.numel() for b in batches)
    return {
        "our train": trained - started,
        "our evaluate": done - trained,
        "our updates": len(batches),
        "our padding": 1 - frames / computed,
    }


def _batches(config: TrainConfig, corpus: Corpus) -> list[Batch]:
    return list(training_batches(corpus, corpus.in_split("train"), config.windows, np.random.default_rng(0)))


def _bare_epoch(config: TrainConfig, corpus: Corpus) -> float:
    """Forward, losses, backward and step of the same batches, gathered beforehand."""
    model, weighting, optimizer = _fresh(config, corpus)
    ready = [
        (corpus.gather_features(b.rows), corpus.gather_labels(b.rows, b.used), b.used) for b in _batches(config, corpus)
    ]
    model.train()
    started = time.perf_counter()
    for features, labels, used in ready:
        losses = task_losses(model(features, None, used).outputs, labels, config.loss)
        optimizer.zero_grad(set_to_none=True)
        weighting(torch.stack([losses[task] for task in config.tasks])).backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip)
        optimizer.step()
    return time.perf_counter() - started


START = """
import os, sys, time
started = float(sys.argv[1])
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from abaw_seq.cli import main
def first_step(*_):
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(time.time() - started, peak.split()[1], flush=True)
    os._exit(0)
register_optimizer_step_post_hook(first_step)
main(sys.argv[2:])
"""


def reading_table(sizes: Sizes) -> str:
    """From the command to its first step, memory, and the rates at which features are read and gathered."""
    with tempfile.TemporaryDirectory() as folder:
        path, small = Path(folder) / "feats.h5", Path(folder) / "small.h5"
        write_features(path, sizes.file_frames, sizes.features)
        write_features(small, 2_000, sizes.features)
        # The first start brings libraries and the new file into the cache.
        starts = [_first_step(path, Path(folder) / f"run-{number}") for number in range(4)][1:]
        seconds, peak = (statistics.median(column) for column in zip(*starts, strict=True))
        _, alone = _first_step(small, Path(folder) / "small")
        size = sizes.file_frames * sizes.features * 2
        load = _rate(size, lambda: load_corpus([path]))
        plain = Path(folder) / "plain"
        plain.write_bytes(bytes(size))
        raw = _rate(size, lambda: np.fromfile(plain, np.float16))
        plain.unlink()
        here, there = load_corpus([path]), load_corpus([path], memory="file")
        windows = np.random.default_rng(0).integers(0, sizes.file_frames - 64, (300, 8, 1)) + np.arange(64)
        rows = torch.from_numpy(windows)
        gathered = [_rate(windows.size // 64, lambda c=c: _gather(c, rows)) for c in (here, there)]
    return "\n".join(
        [
            f"### Reading: {sizes.file_frames:,} frames of {sizes.features} float16 features, {size / 1e6:,.0f} MB, "
            "file in the cache",
            "",
            "| what | |",
            "| --- | ---: |",
            f"| `abaw-seq train` to its first step, median of three | {seconds:.1f} s |",
            f"| peak memory beyond that of a small file / size of the features | {(peak - alone) / size:.2f} |",
            f"| load the features | {load / 1e6:,.0f} MB/s |",
            f"| `numpy.fromfile` of as many bytes | {raw / 1e6:,.0f} MB/s |",
            f"| gather windows of 64 from memory | {gathered[0]:,.0f} windows/s |",
            f"| gather windows of 64 from the file | {gathered[1]:,.0f} windows/s |",
        ]
    )


def write_features(path: Path, frames: int, dim: int, videos: int = 100) -> None:
    """A feature file with labels: the first four fifths of the videos are for training."""
    values = np.random.default_rng(0).standard_normal((frames // videos, dim), np.float32).astype(np.float16)
    labels = np.zeros((len(values), 15), np.float32)
    numbers = np.arange(1, len(values) + 1, dtype=np.int32)
    with atomic_feature_file(path) as writer:
        writer.add_backbone("made_up", BackboneInfo(dim, "made up", "none", "0" * 64, {}, "none", "float16", ""))
        for k in range(videos):
            split = "train" if k < videos * 4 // 5 else "val"
            valid = np.ones(len(values), bool)
            writer.add_video(VideoFeatures(f"video{k:03d}", numbers, valid, {"made_up": values}, labels, split))


def _first_step(feats: Path, run: Path) -> tuple[float, int]:
    """(seconds from the start of the program to its first update, peak memory in bytes)."""
    arguments = ["train", "--config", str(CONFIGS / "gru.yaml"), "--feats", str(feats), "--run", str(run)]
    command = [sys.executable, "-c", START, str(time.time()), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, kilobytes = done.stdout.split()
    return float(seconds), int(kilobytes) * 1024


def _rate(amount: float, work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return amount / (time.perf_counter() - started)


def _gather(corpus: Corpus, rows: torch.Tensor) -> None:
    for _ in corpus.gathered((k, part) for k, part in enumerate(rows)):
        pass


def score_table(kinds: tuple[str, ...], sizes: Sizes, seeds: tuple[int, ...]) -> str:
    """Best validation P_MTL of as many epochs with the same settings, over seeds."""
    corpus = made_up_corpus(sizes)
    lines = [
        f"### Score after the same epochs with the same settings: {sizes.training} + {sizes.validation} videos, "
        f"{sizes.features} features, {len(seeds)} seeds",
        "",
        "| encoder | published P_MTL | our P_MTL | difference | deviation over seeds |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for kind in kinds:
        config = configs.load(TrainConfig, CONFIGS / f"{kind}.yaml", sizes.overrides)
        published, ours = compare_scores(config, corpus, seeds)
        deviation = max(statistics.stdev(published), statistics.stdev(ours)) if len(seeds) > 1 else 0.0
        a, b = statistics.fmean(published), statistics.fmean(ours)
        lines.append(f"| {kind} | {a:.3f} | {b:.3f} | {b - a:+.3f} | {deviation:.3f} |")
    return "\n".join(lines)


def compare_scores(config: TrainConfig, corpus: Corpus, seeds: tuple[int, ...]) -> tuple[list[float], list[float]]:
    """Best validation scores of the published loop and of ours, by seed."""
    published = [published_training(config, corpus, seed=seed).best for seed in seeds]
    ours = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            seeded = dataclasses.replace(config, seed=seed)
            ours.append(
                selection_criterion(train(seeded, corpus, Path(folder), device=torch.device("cpu")).scores["untuned"])
            )
    return published, ours


def made_up_corpus(sizes: Sizes, seed: int = 0) -> Corpus:
    """Slowly moving valence, arousal, expressions and units seen through noisy random projections."""
    rng = np.random.default_rng(seed)
    count = sizes.training + sizes.validation
    middle = np.log(sizes.shortest * sizes.longest) / 2 - 0.3
    lengths = np.clip(rng.lognormal(middle, 0.9, count), sizes.shortest, sizes.longest).astype(int)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    shared = rng.normal(size=(22, sizes.features)).astype(np.float32)
    features = np.empty((offsets[-1], sizes.features), np.float16)
    labels = np.empty((offsets[-1], 15), np.float32)
    for a, b in zip(offsets[:-1], offsets[1:], strict=True):
        position = np.arange(b - a)[:, None]
        hidden = np.sin(position / rng.uniform(15, 120, 22) + rng.uniform(0, 6.3, 22)) + rng.normal(0, 0.5, 22)
        labels[a:b, :2] = np.tanh(hidden[:, :2])
        labels[a:b, 2] = hidden[:, 2:10].argmax(1)
        labels[a:b, 3:] = hidden[:, 10:] > 0.4
        noise = rng.standard_normal((b - a, sizes.features), np.float32) * sizes.noise
        features[a:b] = hidden.astype(np.float32) @ shared + noise
    for columns in (slice(0, 2), slice(2, 3), slice(3, 15)):
        labels[rng.random(len(labels)) < 0.3, columns] = np.nan
    info = BackboneInfo(sizes.features, "made up", "none", "0" * 64, {}, "none", "float16", "")
    return Corpus(
        features=torch.from_numpy(features),
        labels=torch.from_numpy(labels),
        frames=np.concatenate([np.arange(1, n + 1, dtype=np.int32) for n in lengths]),
        names=tuple(f"video{k}" for k in range(count)),
        splits=("train",) * sizes.training + ("val",) * sizes.validation,
        offsets=offsets,
        backbones={"made_up": slice(0, sizes.features)},
        backbone_info={"made_up": info},
    )
