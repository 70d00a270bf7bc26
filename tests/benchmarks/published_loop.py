"""The training loop of the published ABAW4 code, in its plainest form: the reference for speed and score.

What is kept of it: batches of whole videos, padded with zeros to the longest; such a batch is walked
through segment by segment, one update each, until the longest video ends; a recurrent encoder's state
goes from segment to segment, detached; no mask keeps the Transformer from the padding; the squared
error is averaged over all places of a segment, padding and unlabelled frames included; each epoch ends
with an evaluation of the training and of the validation split in the same way.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abaw_seq.data.corpus import Corpus
from abaw_seq.engine.best import selection_criterion
from abaw_seq.learn.optim import learning_rate
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.metrics import score
from abaw_seq.models.encoders import EncoderConfig

WIDTHS = {"valence": 1, "arousal": 1, "expression": 8, "au": 12}
WEIGHTS = {"valence": 12, "arousal": 12, "expression": 0.35, "au": 1}


@dataclass
class Seconds:
    """Where an epoch's time went, and how many frames it computed on and how many exist."""

    train: float = 0.0
    evaluate_train: float = 0.0
    evaluate_val: float = 0.0
    steps: int = 0
    computed: int = 0
    frames: int = 0

    @property
    def total(self) -> float:
        return self.train + self.evaluate_train + self.evaluate_val


@dataclass
class PublishedResult:
    """Validation scores and seconds of each epoch."""

    scores: list[dict] = field(default_factory=list)
    seconds: list[Seconds] = field(default_factory=list)

    @property
    def best(self) -> float:
        """The best epoch's P_MTL, or the sum of its parts that can be scored."""
        return max(map(selection_criterion, self.scores))


class PlainModel(nn.Module):
    """Share-encoder model of torch's own layers: LSTM, GRU or Transformer, one head per task."""

    def __init__(self, in_dim: int, encoder: EncoderConfig, head: tuple[int, ...], head_dropout: float, length: int):
        super().__init__()
        self.kind = encoder.kind
        if self.kind == "transformer":
            layer = nn.TransformerEncoderLayer(
                encoder.dim, encoder.heads, encoder.ffn, encoder.dropout, batch_first=True
            )
            self.project = nn.Linear(in_dim, encoder.dim)
            self.encoder = nn.TransformerEncoder(layer, encoder.layers, enable_nested_tensor=False)
            self.register_buffer("positions", _positions(length, encoder.dim))
        else:
            kind = {"lstm": nn.LSTM, "gru": nn.GRU}[self.kind]
            between = encoder.dropout if encoder.layers > 1 else 0.0
            self.encoder = kind(in_dim, encoder.dim, encoder.layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(encoder.dropout)
        self.heads = nn.ModuleDict(
            {task: _head(encoder.dim, head, width, head_dropout) for task, width in WIDTHS.items()}
        )

    def forward(self, x: Tensor, state):
        # x: (batch, time, dim)
        if self.kind == "transformer":
            x = self.project(x)
            y, left = self.encoder(self.dropout(x + self.positions[: x.shape[1]])), None
        else:
            y, left = self.encoder(x, state)
            y = self.dropout(y)
        return {task: head(y) for task, head in self.heads.items()}, left


def _head(in_dim: int, hidden: tuple[int, ...], out_dim: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Dropout(dropout)]
    for width in hidden:
        layers += [nn.Linear(in_dim, width), nn.ReLU(), nn.Dropout(dropout)]
        in_dim = width
    return nn.Sequential(*layers, nn.Linear(in_dim, out_dim))


def _positions(time_steps: int, dim: int) -> Tensor:
    table = torch.zeros(time_steps, dim)
    for position in range(time_steps):
        for pair in range(dim // 2):
            angle = position / 10000 ** (2 * pair / dim)
            table[position, 2 * pair], table[position, 2 * pair + 1] = math.sin(angle), math.cos(angle)
    return table


def padded(corpus: Corpus, features: Tensor, videos: list[int]) -> tuple[Tensor, Tensor]:
    """(B, longest, D) features, zero behind a video's end, and (B, longest, 15) labels, NaN there."""
    longest = max(corpus.lengths[v] for v in videos)
    x = torch.zeros(len(videos), longest, features.shape[1])
    labels = torch.full((len(videos), longest, 15), torch.nan)
    for row, video in enumerate(videos):
        rows = slice(int(corpus.offsets[video]), int(corpus.offsets[video + 1]))
        x[row, : corpus.lengths[video]] = features[rows]
        labels[row, : corpus.lengths[video]] = corpus.labels[rows]
    return x, labels


def published_losses(outputs: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """One loss per task; the squared errors are averaged over every place, the others over labels."""
    known = ~torch.isnan(labels)
    target = torch.nan_to_num(labels)
    losses = {}
    for column, task in enumerate(("valence", "arousal")):
        value = torch.tanh(outputs[task][..., 0])
        losses[task] = ((value - target[..., column]) ** 2 * known[..., column]).mean()
    each = F.cross_entropy(outputs["expression"].flatten(0, 1), target[..., 2].flatten().long(), reduction="none")
    mask = known[..., 2].flatten()
    losses["expression"] = (each * mask).sum() / mask.sum().clamp(min=1)
    each = F.binary_cross_entropy_with_logits(outputs["au"], target[..., 3:], reduction="none")
    losses["au"] = (each * known[..., 3:]).sum() / known[..., 3:].sum().clamp(min=1)
    return losses


def published_training(
    config: TrainConfig, corpus: Corpus, *, seed: int | None = None, batch: int = 8
) -> PublishedResult:
    """Train by the published loop and weights, with the model, optimiser, schedule and epochs of a config; on the CPU.

    batch: videos side by side, 8 as published.
    """
    seed = config.seed if seed is None else seed
    training, validation = corpus.in_split("train"), corpus.in_split("val")
    features = corpus.features.float()
    rows = corpus.rows(training)
    mean, deviation = features[rows].mean(0), features[rows].std(0).clamp(min=1e-6)
    features = (features - mean) / deviation
    torch.manual_seed(seed)
    head, dropout = config.model.head, config.model.head_dropout
    model = PlainModel(corpus.dim, config.model.encoder, head, dropout, config.windows.length)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.optim.lr)
    rng = np.random.default_rng(seed)
    result = PublishedResult()
    for epoch in range(config.epochs):
        seconds = Seconds()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config.optim, epoch, config.epochs)
        started = time.perf_counter()
        order = [training[k] for k in rng.permutation(len(training))]
        _train_epoch(model, optimizer, corpus, features, order, config, batch, seconds)
        seconds.train = time.perf_counter() - started
        started = time.perf_counter()
        _evaluate(model, corpus, features, training, config, batch)
        seconds.evaluate_train = time.perf_counter() - started
        started = time.perf_counter()
        result.scores.append(_evaluate(model, corpus, features, validation, config, batch))
        seconds.evaluate_val = time.perf_counter() - started
        result.seconds.append(seconds)
    return result


def _train_epoch(model, optimizer, corpus, features: Tensor, order: list[int], config, batch: int, seconds) -> None:
    length = config.windows.length
    model.train()
    for k in range(0, len(order), batch):
        videos = order[k : k + batch]
        x, labels = padded(corpus, features, videos)
        state = None
        for start in range(0, x.shape[1], length):
            outputs, state = model(x[:, start : start + length], state if config.windows.carry else None)
            losses = published_losses(outputs, labels[:, start : start + length])
            optimizer.zero_grad()
            sum(WEIGHTS[task] * loss for task, loss in losses.items()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip)
            optimizer.step()
            state = _detached(state)
            seconds.steps += 1
        seconds.computed += x.shape[0] * x.shape[1]
        seconds.frames += sum(corpus.lengths[v] for v in videos)


def _detached(state):
    if state is None or isinstance(state, Tensor):
        return None if state is None else state.detach()
    return tuple(part.detach() for part in state)


@torch.no_grad()
def _evaluate(model, corpus: Corpus, features: Tensor, videos: list[int], config: TrainConfig, batch: int) -> dict:
    model.eval()
    found: dict[str, list] = {task: [] for task in WIDTHS}
    truth = []
    for k in range(0, len(videos), batch):
        group = videos[k : k + batch]
        x, labels = padded(corpus, features, group)
        parts, state = [], None
        for start in range(0, x.shape[1], config.windows.length):
            state = state if config.windows.carry else None
            outputs, state = model(x[:, start : start + config.windows.length], state)
            parts.append(outputs)
        for row, video in enumerate(group):
            used = corpus.lengths[video]
            truth.append(labels[row, :used])
            for task in WIDTHS:
                found[task].append(torch.cat([part[task][row] for part in parts])[:used])
    joined = {task: torch.cat(values) for task, values in found.items()}
    predicted = {
        "valence": torch.tanh(joined["valence"][:, 0]),
        "arousal": torch.tanh(joined["arousal"][:, 0]),
        "expression": joined["expression"].softmax(-1),
        "au": joined["au"].sigmoid(),
    }
    return score({task: values.numpy() for task, values in predicted.items()}, torch.cat(truth).numpy())
