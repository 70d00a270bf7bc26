"""What comes before and after a temporal encoder: feature standardisation and task heads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from abaw_seq.data.feature_store import standardised
from abaw_seq.models.dropout import Dropout


class Standardise(nn.Module):
    """(x - mean) / deviation, by statistics of the training split that are stored with the weights."""

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        # x: (batch, time, dim), any float type
        return (x.float() - self.mean) * self.scale

    @torch.no_grad()
    def fit(self, take: Callable[[Tensor], Tensor], rows: Tensor, columns: list[slice]) -> None:
        """Measure the given columns over `rows` (n,); `take(rows)` returns features (n, dim)."""
        mean, scale = standardised(take, rows, columns)
        self.mean.copy_(mean)
        self.scale.copy_(scale)


class TaskHead(nn.Module):
    """Dropout, fully connected layers with ReLU and dropout, then the output layer.

    forward(x (batch, time, dim)) -> (output (batch, time, out_dim), last hidden layer (batch, time, hidden_dim)).
    """

    def __init__(self, in_dim: int, hidden: tuple[int, ...], out_dim: int, dropout: float):
        super().__init__()
        layers: list[nn.Module] = [Dropout(dropout)]
        for width in hidden:
            layers += [nn.Linear(in_dim, width), nn.ReLU(), Dropout(dropout)]
            in_dim = width
        self.hidden = nn.Sequential(*layers)
        self.output = nn.Linear(in_dim, out_dim)
        self.hidden_dim = in_dim

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # x: (batch, time, dim)
        hidden = self.hidden(x)
        return self.output(hidden), hidden


class PredictionEmbedding(nn.Module):
    """A source task's prediction as a vector: learned embeddings, weighted by the prediction's entries.

    In training, a share `gt_rate` of the labelled frames takes the ground truth in place of the prediction.
    """

    def __init__(self, outputs: int, dim: int):
        super().__init__()
        self.table = nn.Parameter(torch.randn(outputs, dim) * dim**-0.5)

    def forward(self, prediction: Tensor, truth: Tensor | None = None, gt_rate: float = 0.0) -> Tensor:
        # prediction, truth: (batch, time, outputs) in [0, 1]; truth is NaN where there is no label
        if truth is not None and gt_rate > 0:
            chosen = torch.rand(prediction.shape[:2], device=prediction.device) < gt_rate
            chosen = chosen & ~torch.isnan(truth).any(-1)
            prediction = torch.where(chosen[..., None], torch.nan_to_num(truth), prediction)
        return prediction @ self.table.to(prediction.dtype)
