"""Predictions of whole videos, frame by frame, from a model and a corpus."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from abaw_seq.data.corpus import Corpus
from abaw_seq.data.windows import batches_of_overlapping, centre_weights, lane_steps
from abaw_seq.engine.device import full_speed
from abaw_seq.models.encoders import State
from abaw_seq.models.joint import SequenceModel, TaskFeatures
from abaw_seq.models.outputs import probabilities

EVALUATION_LANES = 64


class CarriedState:
    """The recurrent states of videos that advance side by side, one lane each."""

    def __init__(self) -> None:
        self._states: dict[str, State] = {}

    def take(self, lanes: np.ndarray, fresh: np.ndarray) -> dict[str, State] | None:
        """The states of these lanes, zero where a lane starts a new video; None if all do."""
        if not self._states or fresh.all():
            return None
        first = next(iter(self._states.values()))[0]
        index = torch.from_numpy(lanes).to(first.device)
        goes_on = torch.from_numpy(~fresh).to(first.device, first.dtype)[None, :, None]
        return {
            name: tuple(part.index_select(1, index) * goes_on for part in parts) for name, parts in self._states.items()
        }

    def put(self, lanes: np.ndarray, state: dict[str, State]) -> None:
        """Store the final states of these lanes, each part (layers, lanes, dim)."""
        index = torch.from_numpy(lanes)
        for name, parts in state.items():
            if name not in self._states:
                size = int(lanes.max()) + 1
                self._states[name] = tuple(part.new_zeros(part.shape[0], size, part.shape[2]) for part in parts)
            for stored, part in zip(self._states[name], parts, strict=True):
                stored.index_copy_(1, index.to(part.device), part)


@torch.inference_mode()
def predict_videos(
    model: SequenceModel | TaskFeatures,
    corpus: Corpus,
    videos: list[int],
    *,
    length: int,
    carry: bool,
    batch: int = 32,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] = probabilities,
) -> dict[str, Tensor]:
    """Probabilities of every frame of the given videos, in their order.

    With `carry`, a recurrent model reads each video from start to end in segments of `length`, each with
    the state of the one before, as in training. Otherwise windows of `length` overlap by a quarter, and each
    frame's prediction is the average over the windows that cover it, weighted towards their centres. `convert` says
    what raw outputs become before they are averaged.

    Returns {task: (n, ...)} on the device of the corpus, rows as in `corpus.rows(videos)`.
    """
    was_training = model.training
    model.eval()
    lengths = [corpus.lengths[v] for v in videos]
    offsets = np.cumsum([0, *lengths])
    total = _Average(int(offsets[-1]), corpus.device, convert)
    with full_speed(corpus.device, model):
        if carry and model.recurrent:
            state = CarriedState()
            steps = lane_steps(lengths, length, EVALUATION_LANES)
            for step, features in corpus.gathered((step, corpus.window_rows(step.window, videos)) for step in steps):
                used = torch.from_numpy(step.window[:, 2]).to(corpus.device)
                unequal = bool((step.window[:, 2] < step.window[:, 2].max()).any())
                predicted = model(features, state.take(step.lane, step.fresh), used if unequal else None)
                state.put(step.lane, predicted.state)
                total.add(predicted.outputs, step.window, offsets, np.ones(length))
        else:
            cut = batches_of_overlapping(lengths, length, length - length // 4, batch)
            for windows, features in corpus.gathered((rows, corpus.window_rows(rows, videos)) for rows in cut):
                total.add(model(features).outputs, windows, offsets, centre_weights(int(windows[0, 2])))
    model.train(was_training)
    return total.result()


class _Average:
    """Weighted average of predictions over the windows that cover each frame."""

    def __init__(self, frames: int, device: torch.device, convert: Callable[[dict[str, Tensor]], dict[str, Tensor]]):
        self._convert = convert
        self._weight = torch.zeros(frames, device=device)
        self._sum: dict[str, Tensor] = {}

    def add(self, outputs: dict[str, Tensor], windows: np.ndarray, offsets: np.ndarray, weight: np.ndarray) -> None:
        device = self._weight.device
        position = np.arange(int(windows[:, 2].max()))
        inside = position[None, :] < windows[:, 2:3]
        rows = (offsets[windows[:, 0]] + windows[:, 1])[:, None] + position[None, :]
        shares = np.broadcast_to(weight[: len(position)], rows.shape)
        outputs = self._convert(outputs)
        for task, values in outputs.items():
            if task not in self._sum:
                self._sum[task] = torch.zeros(len(self._weight), *values.shape[2:], device=device)
        # Windows that overlap are added in turn: a GPU adds to one place in any order, which changes the last digits.
        turns = _turns(windows)
        for turn in range(int(turns.max()) + 1):
            mask = inside & (turns == turn)[:, None]
            index, chosen = torch.from_numpy(rows[mask]).to(device), torch.from_numpy(mask).to(device)
            share = torch.from_numpy(shares[mask]).to(device).float()
            self._weight.index_add_(0, index, share)
            for task, values in outputs.items():
                picked = values[chosen]
                self._sum[task].index_add_(0, index, picked * share.view(-1, *[1] * (picked.ndim - 1)))

    def result(self) -> dict[str, Tensor]:
        return {task: values / self._weight.view(-1, *[1] * (values.ndim - 1)) for task, values in self._sum.items()}


def _turns(windows: np.ndarray) -> np.ndarray:
    """For each window (video, start, length) a number (windows,) from 0: those of one number share no frame.

    Windows that do share frames have rising numbers in their order.
    """
    turns = np.zeros(len(windows), int)
    for k, (video, start, length) in enumerate(windows):
        before = windows[:k]
        shared = (before[:, 0] == video) & (before[:, 1] < start + length) & (start < before[:, 1] + before[:, 2])
        turns[k] = turns[:k][shared].max(initial=-1) + 1
    return turns
