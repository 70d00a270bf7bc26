"""From a model and a corpus to per-frame predictions of whole videos."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from abaw_seq.cpu.products import fast_products, size_of
from abaw_seq.data.corpus import Corpus
from abaw_seq.data.windows import batches_of_overlapping, centre_weights, lane_steps
from abaw_seq.models.encoders import State
from abaw_seq.models.frameworks import MultiTaskModel
from abaw_seq.models.outputs import probabilities

EVALUATION_LANES = 64


class CarriedState:
    """The hidden states of videos that advance side by side, one lane each."""

    def __init__(self):
        self._kept: dict[str, State] = {}

    def take(self, lanes: np.ndarray, fresh: np.ndarray) -> dict[str, State] | None:
        """The states of these lanes, zero where a lane starts a new video."""
        if not self._kept or fresh.all():
            return None
        first = next(iter(self._kept.values()))[0]
        index = torch.from_numpy(lanes).to(first.device)
        keep = torch.from_numpy(~fresh).to(first.device, first.dtype)[None, :, None]
        return {name: tuple(part.index_select(1, index) * keep for part in parts) for name, parts in self._kept.items()}

    def put(self, lanes: np.ndarray, state: dict[str, State]) -> None:
        """Keep what a step left, (layers, lanes, dim) per part."""
        index = torch.from_numpy(lanes)
        for name, parts in state.items():
            if name not in self._kept:
                size = int(lanes.max()) + 1
                self._kept[name] = tuple(part.new_zeros(part.shape[0], size, part.shape[2]) for part in parts)
            for kept, part in zip(self._kept[name], parts, strict=True):
                kept.index_copy_(1, index.to(part.device), part)


@torch.inference_mode()
def predict_videos(
    model: MultiTaskModel, corpus: Corpus, videos: list[int], *, length: int, carry: bool, batch: int = 32
) -> dict[str, Tensor]:
    """Probabilities of every frame of the given videos, in their order.

    With `carry` a recurrent model sees each video from start to end in segments of `length`, its
    state handed on, as in training. Otherwise windows of `length` overlap by a quarter and each frame
    is the average of the windows it lies in, weighted towards their centres.

    Returns {task: (n, ...)} on the corpus' device, rows as in `corpus.rows(videos)`.
    """
    was_training = model.training
    model.eval()
    own = np.cumsum([0, *(corpus.lengths[v] for v in videos)])
    lengths = [corpus.lengths[v] for v in videos]
    total = _Average(int(own[-1]), corpus.device)
    with fast_products(corpus.device, size_of(model)):
        if carry and model.recurrent:
            state = CarriedState()
            steps = lane_steps(lengths, length, EVALUATION_LANES)
            for step, features in corpus.gathered((step, corpus.window_rows(step.window, videos)) for step in steps):
                used = torch.from_numpy(step.window[:, 2]).to(corpus.device)
                short = bool((step.window[:, 2] < step.window[:, 2].max()).any())
                found = model(features, state.take(step.lane, step.fresh), used if short else None)
                state.put(step.lane, found.state)
                total.add(found.outputs, step.window, own, np.ones(length))
        else:
            cut = batches_of_overlapping(lengths, length, length - length // 4, batch)
            for windows, features in corpus.gathered((rows, corpus.window_rows(rows, videos)) for rows in cut):
                total.add(model(features).outputs, windows, own, centre_weights(int(windows[0, 2])))
    model.train(was_training)
    return total.result()


class _Average:
    """Weighted average of predictions over the windows that cover each frame."""

    def __init__(self, frames: int, device: torch.device):
        self._weight = torch.zeros(frames, device=device)
        self._sum: dict[str, Tensor] = {}

    def add(self, outputs: dict[str, Tensor], windows: np.ndarray, offsets: np.ndarray, weight: np.ndarray) -> None:
        device = self._weight.device
        position = np.arange(int(windows[:, 2].max()))
        inside = position[None, :] < windows[:, 2:3]
        rows = (offsets[windows[:, 0]] + windows[:, 1])[:, None] + position[None, :]
        index = torch.from_numpy(rows[inside]).to(device)
        chosen = torch.from_numpy(inside).to(device)
        shares = torch.from_numpy(np.broadcast_to(weight[: len(position)], rows.shape)[inside]).to(device).float()
        self._weight.index_add_(0, index, shares)
        for task, values in probabilities(outputs).items():
            if task not in self._sum:
                self._sum[task] = torch.zeros(len(self._weight), *values.shape[2:], device=device)
            picked = values[chosen]
            self._sum[task].index_add_(0, index, picked * shares.view(-1, *[1] * (picked.ndim - 1)))

    def result(self) -> dict[str, Tensor]:
        return {task: values / self._weight.view(-1, *[1] * (values.ndim - 1)) for task, values in self._sum.items()}
