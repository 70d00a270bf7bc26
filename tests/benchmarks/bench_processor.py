"""The kernels and settings for processors beside torch's own, each as a ratio of times measured in turn."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abaw_feats.backbones.cpu_convolutions import PackedConv2d, WinogradConv2d
from abaw_feats.learning.quick_prelu import QuickPReLU
from abaw_seq import config as configs
from abaw_seq import cpu
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.models.frameworks import MultiTaskModel
from abaw_seq.tasks import TASKS
from tests.benchmarks.bench_train import CONFIGS

ROUNDS = 15
BATCH, TIME, FEATURES, DIM = 4, 64, 1622, 512  # a step of configs/abaw4


def run() -> Iterator[str]:
    """One Markdown table: the least times of torch's own way and of ours, and their ratio."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    lines = [
        "### Kernels for processors, one thread, float32, processor time",
        "",
        "| what | torch (ms) | here (ms) | ratio |",
    ]
    lines.append("| --- | ---: | ---: | ---: |")
    cpu.keep_freed_memory()
    for what, plain, fast in pairs():
        lines.append(row(what, *in_turn(plain, fast)))
    spawn = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(1, spawn) as one,
        ProcessPoolExecutor(1, spawn, initializer=cpu.keep_freed_memory) as other,
    ):
        steps = [[pool.submit(training_steps).result() for pool in (one, other)] for _ in range(3)]
    lines.append(row("kept memory: training step of abaw4/transformer", *map(min, zip(*steps, strict=True))))
    torch.set_num_threads(threads)
    yield "\n".join(lines)


def row(what: str, plain: float, fast: float) -> str:
    return f"| {what} | {plain * 1e3:.2f} | {fast * 1e3:.2f} | {plain / fast:.1f} |"


def pairs() -> Iterator[tuple[str, Callable[[], object], Callable[[], object]]]:
    """(what, torch's own way, ours) of each kernel."""
    torch.manual_seed(0)
    x = torch.randn(BATCH, TIME, FEATURES)
    for kind in (nn.LSTM, nn.GRU):
        rnn = kind(FEATURES, DIM, batch_first=True)
        name = f"{kind.__name__} of {DIM} on {BATCH} x {TIME} x {FEATURES}"
        yield f"{name}, training", lambda r=rnn: backward(r(x)[0]), lambda r=rnn: backward(cpu.fast_rnn(r, x)[0])
    yield f"{name}, inference", lambda: inference(rnn, x), lambda: inference(lambda x: cpu.fast_rnn(rnn, x), x)
    values = torch.randn(BATCH, TIME, 1024, requires_grad=True)
    shape = " x ".join(map(str, values.shape))
    yield (
        f"dropout of {shape}",
        lambda: backward(F.dropout(values, 0.3)),
        lambda: backward(cpu.fast_dropout(values, 0.3)),
    )
    q, k, v = torch.randn(3, BATCH, 8, TIME, 64, requires_grad=True)
    yield (
        f"attention with dropout, {BATCH} windows of {TIME} frames, 8 heads",
        lambda: backward(F.scaled_dot_product_attention(q, k, v, dropout_p=0.3)),
        lambda: backward(cpu.fast_attention(q, k, v, mask=None, p=0.3)),
    )
    a, b = torch.randn(BATCH * TIME, FEATURES), torch.randn(FEATURES, 4 * DIM)
    yield (
        f"product of {BATCH * TIME} x {FEATURES} x {4 * DIM}",
        lambda: within(nullcontext, a, b),
        lambda: within(cpu.fast_products, a, b),
    )
    images = torch.randn(8, 128, 28, 28).to(memory_format=torch.channels_last)
    conv = nn.Conv2d(128, 128, 3, padding=1).requires_grad_(False).to(memory_format=torch.channels_last)
    for kind in (PackedConv2d, WinogradConv2d):
        quick = kind(conv)
        yield (
            f"{kind.__name__}, 8 x 128 x 28 x 28",
            lambda: inference(conv, images),
            lambda m=quick: inference(m, images),
        )
    maps = torch.randn(32, 16, 64, 64, requires_grad=True).to(memory_format=torch.channels_last)
    plain, quick = nn.PReLU(16), QuickPReLU(16)
    yield "PReLU of 32 x 16 x 64 x 64, training", lambda: backward(plain(maps)), lambda: backward(quick(maps))


def backward(y: Tensor) -> None:
    y.sum().backward(retain_graph=True)


@torch.inference_mode()
def inference(module: Callable[[Tensor], object], x: Tensor) -> None:
    module(x)


def within(setting: Callable, a: Tensor, b: Tensor) -> Tensor:
    with setting():
        return a @ b


def in_turn(*ways: Callable[[], object]) -> list[float]:
    """Least seconds of each way, after a first run of each."""
    spent: list[list[float]] = [[] for _ in ways]
    for _ in range(ROUNDS + 1):
        for times, way in zip(spent, ways, strict=True):
            started = time.process_time()
            way()
            times.append(time.process_time() - started)
    return [min(times[1:]) for times in spent]


def training_steps() -> float:
    """Least seconds of a training step, in this process' way with memory."""
    torch.set_num_threads(1)
    config = configs.load(TrainConfig, CONFIGS / "transformer.yaml", [])
    model = MultiTaskModel(FEATURES, config.model, {name: task.outputs for name, task in TASKS.items()})
    x = torch.randn(BATCH, TIME, FEATURES)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        sum(output.sum() for output in model(x).outputs.values()).backward()

    return in_turn(step)[0]
