"""Several models of one shape as one: the same modules, each leaf with a leading `members` axis on its parameters.

A network of this project is a tree whose inner modules only pass tensors (batch, time, dim) on, and whose leaves hold
the parameters or draw random numbers. So a stack keeps the inner modules as they are and replaces each leaf by one for
all members. Between leaves the members lie one after the other on the batch axis, (members x batch, time, dim); a leaf
unfolds that axis, and multiplies all members in one batched product. To the walk over time of LSTM and GRU members are
further directions: a step is one product over members, directions and windows.

Each member keeps its own parameters, which are views of the stacked ones while they are stacked: optimiser, clipping,
running average and checkpoints work on a member as on a model that trains alone. Each member also draws its dropout
from a generator of its own, in the order and number of the model alone, so that it trains as it would alone but for
the rounding of products and sums.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abaw_seq.models.dropout import Dropout
from abaw_seq.models.encoders import Attention, Encoded, Recurrent, State
from abaw_seq.models.frameworks import ModelConfig
from abaw_seq.models.heads import PredictionEmbedding, Standardise
from abaw_seq.models.joint import SequenceModel


@dataclass
class Present:
    """Whose windows a batch holds; the leaves of one stack share it."""

    counts: list[int] = field(default_factory=list)
    """Number of windows of each member that is present; what lies behind them on its batch axis is padding."""
    generators: list[torch.Generator] = field(default_factory=list)
    """Where each member that is present draws from."""
    index: Tensor | None = None
    """Numbers of the members that are present; None for all."""

    def of(self, stacked: Tensor) -> Tensor:
        """The rows of these members of a stacked parameter."""
        return stacked if self.index is None else stacked.index_select(0, self.index)

    def unfold(self, x: Tensor) -> Tensor:
        """(members x batch, ...) -> (members, batch, ...)."""
        return x.unflatten(0, (len(self.counts), -1))

    def dropout(self, x: Tensor, p: float, *, batch_axis: int = 1) -> Tensor:
        """Dropout of x (members, ...), each member's drawn for its own windows as by the model alone."""
        factors = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for own, count, generator in zip(factors, self.counts, self.generators, strict=True):
            own.narrow(batch_axis - 1, count, own.shape[batch_axis - 1] - count).zero_()
            part = own.narrow(batch_axis - 1, 0, count)
            flat = part.view(-1) if part.is_contiguous() else part.new_empty(part.numel())
            _fill_factors(flat, p, generator)
            if not part.is_contiguous():
                part.copy_(flat.view(part.shape))
        return x * factors


def _fill_factors(factors: Tensor, p: float, generator: torch.Generator) -> None:
    if factors.device.type != "cpu":
        factors.bernoulli_(1 - p, generator=generator).div_(max(1 - p, 1e-9))
        return
    from abaw_seq import cpu

    cpu.fill_factors(factors, p, generator)


class Stack:
    """Models of one shape that compute together: see the head of this file.

    `network` is called as a single model, with a batch of members x windows; use it within `computing`.
    """

    def __init__(self, models: Sequence[SequenceModel]):
        self.present = Present()
        self.shared: list[tuple[nn.Parameter, list[nn.Parameter]]] = []
        """Each stacked parameter, and those of the members that are views of it."""
        self.network = _stacked(list(models), self)

    def parameter(self, own: Sequence[Any]) -> nn.Parameter:
        """One parameter (members, ...) of the members' own, which become views of it."""
        whole = nn.Parameter(torch.stack([parameter.detach() for parameter in own]))
        for parameter, row in zip(own, whole.detach(), strict=True):
            parameter.data = row
        self.shared.append((whole, list(own)))
        return whole

    @contextmanager
    def computing(self, who: list[int], counts: list[int], generators: list[torch.Generator]) -> Iterator[None]:
        """Within it, the network takes batches of the members `who` alone: `counts` windows of each, then padding."""
        device = self.shared[0][0].device
        index = None if len(who) == len(self.shared[0][1]) else torch.tensor(who, device=device)
        self.present.counts, self.present.generators, self.present.index = counts, generators, index
        yield

    def hand_out_gradients(self, who: list[int]) -> None:
        """Give the members `who` their rows of the gradients, and forget those of the stack."""
        for whole, own in self.shared:
            if whole.grad is not None:
                rows = whole.grad.unbind(0)
                for member in who:
                    own[member].grad = rows[member]
                whole.grad = None

    def release(self) -> None:
        """Let every member have parameters of its own again; the stack is not used afterwards."""
        for _, own in self.shared:
            for parameter in own:
                parameter.data = parameter.data.clone()


def _stacked(modules: list[Any], stack: Stack) -> Any:
    """One module in the place of the same module of every member."""
    leaf = LEAVES.get(type(modules[0]))
    if leaf is not None:
        return leaf(modules, stack)
    if modules[0]._parameters or modules[0]._buffers:
        raise TypeError(f"no stacked form of {type(modules[0]).__name__}")
    inner = copy.copy(modules[0])
    inner._modules = {
        name: _stacked([module._modules[name] for module in modules], stack) for name in modules[0]._modules
    }
    return inner


class StackedLinear(nn.Module):
    """`nn.Linear` of several members."""

    def __init__(self, modules: list[nn.Linear], stack: Stack):
        super().__init__()
        self.present = stack.present
        self.weight = stack.parameter([module.weight for module in modules])
        self.bias = stack.parameter([module.bias for module in modules])

    def forward(self, x: Tensor) -> Tensor:
        # x: (members x batch, ..., dim)
        weight, bias = self.present.of(self.weight), self.present.of(self.bias)
        return _products(x, weight, bias).view(*x.shape[:-1], -1)


def _products(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (members x ..., dim), weight (members, out, dim), bias (members, out) -> (members, rows, out)."""
    return torch.baddbmm(bias[:, None], x.reshape(len(weight), -1, x.shape[-1]), weight.transpose(1, 2))


class StackedLayerNorm(nn.Module):
    """`nn.LayerNorm` of several members."""

    def __init__(self, modules: list[nn.LayerNorm], stack: Stack):
        super().__init__()
        self.present, self.shape, self.eps = stack.present, modules[0].normalized_shape, modules[0].eps
        self.weight = stack.parameter([module.weight for module in modules])
        self.bias = stack.parameter([module.bias for module in modules])

    def forward(self, x: Tensor) -> Tensor:
        # x: (members x batch, time, dim)
        y = self.present.unfold(F.layer_norm(x, self.shape, eps=self.eps))
        weight, bias = self.present.of(self.weight), self.present.of(self.bias)
        return torch.addcmul(bias[:, None, None], y, weight[:, None, None]).flatten(0, 1)


class StackedConv1d(nn.Module):
    """`nn.Conv1d` of several members, as the groups of one convolution."""

    def __init__(self, modules: list[nn.Conv1d], stack: Stack):
        super().__init__()
        self.present, self.dilation = stack.present, modules[0].dilation
        self.weight = stack.parameter([module.weight for module in modules])
        self.bias = stack.parameter([module.bias for module in modules])

    def forward(self, x: Tensor) -> Tensor:
        # x: (members x batch, dim, time)
        weight, bias = self.present.of(self.weight), self.present.of(self.bias)
        side_by_side = self.present.unfold(x).transpose(0, 1).flatten(1, 2)
        y = F.conv1d(
            side_by_side, weight.flatten(0, 1), bias.flatten(), dilation=self.dilation, groups=len(weight)
        )  # fmt: skip
        return y.unflatten(1, (len(weight), -1)).transpose(0, 1).flatten(0, 1)


class StackedDropout(nn.Module):
    """`Dropout` of several members."""

    def __init__(self, modules: list[Dropout], stack: Stack):
        super().__init__()
        self.present, self.p = stack.present, modules[0].p

    def forward(self, x: Tensor) -> Tensor:
        # x: (members x batch, ...)
        if not self.training or not self.p:
            return x
        return self.present.dropout(self.present.unfold(x), self.p).flatten(0, 1)


class StackedAttention(nn.Module):
    """`Attention` of several members."""

    def __init__(self, modules: list[Attention], stack: Stack):
        super().__init__()
        self.present, self.p = stack.present, modules[0].p

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        # q, k, v: (members x batch, heads, time, dim); mask: (members x batch, 1, 1, time)
        if not self.training or not self.p:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        scores = q @ (k * k.shape[-1] ** -0.5).transpose(-1, -2)
        weights = (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)
        return self.present.dropout(self.present.unfold(weights), self.p).flatten(0, 1) @ v


class StackedStandardise(nn.Module):
    """`Standardise` of several members, each by its own statistics."""

    def __init__(self, modules: list[Standardise], stack: Stack):
        super().__init__()
        self.present = stack.present
        self.mean = torch.stack([module.mean for module in modules])
        self.scale = torch.stack([module.scale for module in modules])

    def forward(self, x: Tensor) -> Tensor:
        # x: (members x batch, time, dim), any float type
        mean, scale = self.present.of(self.mean), self.present.of(self.scale)
        return ((self.present.unfold(x).float() - mean[:, None, None]) * scale[:, None, None]).flatten(0, 1)


class StackedEmbedding(nn.Module):
    """`PredictionEmbedding` of several members."""

    def __init__(self, modules: list[PredictionEmbedding], stack: Stack):
        super().__init__()
        self.present = stack.present
        self.table = stack.parameter([module.table for module in modules])

    def forward(self, prediction: Tensor, truth: Tensor | None = None, gt_rate: float = 0.0) -> Tensor:
        # prediction, truth: (members x batch, time, outputs)
        if truth is not None and gt_rate > 0:
            size, draws = self.present.unfold(prediction).shape[1:3], []
            for count, generator in zip(self.present.counts, self.present.generators, strict=True):
                drawn = torch.rand(count, size[1], generator=generator, device=prediction.device)
                draws.append(F.pad(drawn, (0, 0, 0, size[0] - count), value=1.0))
            chosen = (torch.cat(draws) < gt_rate) & ~torch.isnan(truth).any(-1)
            prediction = torch.where(chosen[..., None], torch.nan_to_num(truth), prediction)
        table = self.present.of(self.table)
        rows = prediction.reshape(len(table), -1, prediction.shape[-1])
        return torch.bmm(rows, table.to(rows.dtype)).view(*prediction.shape[:-1], -1)


class StackedRecurrent(nn.Module):
    """`Recurrent` of several members: their layers walk over time as further directions of one layer."""

    def __init__(self, modules: list[Recurrent], stack: Stack):
        super().__init__()
        rnn = modules[0].rnn
        self.present, self.gru = stack.present, isinstance(rnn, nn.GRU)
        self.layers, self.directions, self.dim = rnn.num_layers, 2 if rnn.bidirectional else 1, rnn.hidden_size
        self.p, self.out_dim = rnn.dropout, modules[0].out_dim
        for name, _ in rnn.named_parameters():
            self.register_parameter(name, stack.parameter([getattr(module.rnn, name) for module in modules]))
        self.dropout = StackedDropout([module.dropout for module in modules], stack)

    def forward(self, x: Tensor, state: State | None = None, used: Tensor | None = None) -> Encoded:
        # x: (members x batch, time, dim); state: parts (layers x directions, members x batch, dim)
        y = self.present.unfold(x).transpose(1, 2)  # (members, time, batch, dim)
        if state is None:
            zeros = x.new_zeros(self.layers * self.directions, len(x), self.dim)
            state = (zeros,) if self.gru else (zeros, zeros)
        before = [part.reshape(self.layers, self.directions, len(y), -1, self.dim).transpose(1, 2) for part in state]
        after = []
        for layer in range(self.layers):
            if layer and self.training and self.p:
                y = self.present.dropout(y, self.p, batch_axis=2)
            y, final = self._layer(layer, y, [part[layer].flatten(0, 1) for part in before])
            after.append(final)
        parts = (torch.stack(part).unflatten(1, (len(y), self.directions)) for part in zip(*after, strict=True))
        carried = tuple(part.transpose(1, 2).reshape(-1, len(x), self.dim).detach() for part in parts)
        return self.dropout(y.transpose(1, 2).flatten(0, 1)), carried

    def _layer(self, layer: int, y: Tensor, initial: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """y (members, time, batch, dim) -> outputs of the same form, final state (members x directions, batch, dim)."""
        from abaw_seq.cpu import cells  # plain operations, of any device

        members, time, batch, _ = y.shape
        suffixes = ("", "_reverse")[: self.directions]
        of: Callable[[str], Tensor] = lambda part: torch.stack(  # noqa: E731
            [self.present.of(getattr(self, f"{part}_l{layer}{suffix}")) for suffix in suffixes], 1
        )  # (members, directions, ...)
        w_hidden, b_hidden = of("weight_hh").flatten(0, 1), of("bias_hh")
        bias = of("bias_ih") if self.gru else of("bias_ih") + b_hidden
        projected = _products(y, of("weight_ih").flatten(1, 2), bias.flatten(1))
        inputs = projected.view(members, time, batch, self.directions, -1).permute(3, 0, 1, 2, 4)
        # The backward direction reads its frames in reverse.
        inputs = inputs if self.directions == 1 else torch.stack([inputs[0], inputs[1].flip(1)])
        inputs = inputs.transpose(0, 1).flatten(0, 1)
        if self.gru:
            h = cells.GRU.apply(inputs, w_hidden, b_hidden.flatten(0, 1), *initial)
            final: tuple[Tensor, ...] = (h[-1],)
        else:
            h, c = cells.LSTM.apply(inputs, w_hidden, *initial)
            final = (h[-1], c)
        h = h.unflatten(1, (members, self.directions)).permute(2, 1, 0, 3, 4)  # (directions, members, time, ...)
        return h[0] if self.directions == 1 else torch.cat([h[0], h[1].flip(1)], -1), final


LEAVES: dict[type, Callable[[list[Any], Stack], nn.Module]] = {
    nn.Linear: StackedLinear,
    nn.LayerNorm: StackedLayerNorm,
    nn.Conv1d: StackedConv1d,
    Dropout: StackedDropout,
    Attention: StackedAttention,
    Standardise: StackedStandardise,
    PredictionEmbedding: StackedEmbedding,
    Recurrent: StackedRecurrent,
}


def can_stack(config: ModelConfig, device: torch.device) -> bool:
    """Whether models of this config train in a stack as they would alone.

    Not those whose parts draw from torch's own generator or depend on the company of a window: learned positions, and
    on a CPU several layers of an LSTM that torch computes, with dropout between them.
    """
    encoder = config.encoder
    if encoder.kind == "transformer" and encoder.positions == "learned":
        return False
    between = encoder.dropout > 0 and max(config.task_layers, encoder.layers - config.task_layers) > 1
    if encoder.kind != "lstm" or not between or device.type != "cpu":
        return True
    from abaw_seq.cpu.recurrence import loop_is_faster

    return loop_is_faster(nn.LSTM(1, encoder.dim, device="meta"))
