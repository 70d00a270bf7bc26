"""LSTM and GRU layers on the CPU: the same numbers as torch's, from a loop that suits few, long sequences.

Each layer's input is projected for all frames at once. What is left is a loop over time in which a few rows
meet a large matrix: that takes as long as reading the matrix, and longer where a library rearranges it for
every product. Here it is cut into blocks of hidden units once per call. The gradient is written out:
whatever does not depend on the next step is computed for all steps together, and so is the recurrent
weights' gradient. Both directions of a bidirectional layer walk in one loop. Tensors are time-major.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from abaw_seq.cpu.dropout import dropout

MOST_BLOCKS = 8
SMALLEST_TO_CUT = 2**16  # weights; smaller matrices stay in the processor's fastest memory anyway

Recurrence = tuple[Tensor, ...]


def applies(rnn: nn.LSTM | nn.GRU, x: Tensor) -> bool:
    """Whether `run` stands in for `rnn(x)`: float32 on the CPU, where torch itself is slower.

    That is for any GRU, and for training an LSTM of more than a hundred units or so: torch hands LSTMs to
    oneDNN, which is quicker to predict and with small layers.
    """
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    large = 4 * rnn.hidden_size**2 >= SMALLEST_TO_CUT
    return plain and (isinstance(rnn, nn.GRU) or (large and torch.is_grad_enabled()))


def run(rnn: nn.LSTM | nn.GRU, x: Tensor, state: Recurrence | None) -> tuple[Tensor, Recurrence]:
    """What `rnn(x, state)` computes, with its parameters and its dropout between layers.

    x: (batch, time, dim); state: None or (h,) of a GRU, (h, c) of an LSTM, each (layers x directions,
    batch, hidden). Returns (batch, time, directions x hidden) and the state after the last frame.
    """
    suffixes = ("", "_reverse") if rnn.bidirectional else ("",)
    kind = "lstm" if isinstance(rnn, nn.LSTM) else "gru"
    if state is None:
        zeros = x.new_zeros(rnn.num_layers * len(suffixes), x.shape[0], rnn.hidden_size)
        state = (zeros, zeros) if kind == "lstm" else (zeros,)
    y, left = x.transpose(0, 1).contiguous(), []
    for layer in range(rnn.num_layers):
        if layer:
            y = dropout(y, rnn.dropout, rnn.training)
        started = [part[layer * len(suffixes) : (layer + 1) * len(suffixes)] for part in state]
        h, last = _layer(rnn, kind, [f"_l{layer}{suffix}" for suffix in suffixes], y, started)
        # (time, directions, batch, hidden): the backward direction is turned round again
        y = h[:, 0] if len(suffixes) == 1 else torch.cat([h[:, 0], h[:, 1].flip(0)], -1)
        left.append(last)
    return y.transpose(0, 1), tuple(torch.cat(parts) for parts in zip(*left, strict=True))


def _layer(rnn, kind: str, names: list[str], y: Tensor, started: list[Tensor]) -> tuple[Tensor, Recurrence]:
    """One layer in all its directions: (time, directions, batch, hidden) and what it leaves."""
    w_in, w_own, b_in, b_own = (
        [getattr(rnn, part + name) for name in names] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    biases = b_in if kind == "gru" else [a + b for a, b in zip(b_in, b_own, strict=True)]
    seen = [F.linear(y, w, b) for w, b in zip(w_in, biases, strict=True)]
    inputs = seen[0][None] if len(seen) == 1 else torch.stack([seen[0], seen[1].flip(0)])
    if kind == "lstm":
        h, c = _LSTM.apply(inputs, torch.stack(w_own), *started)
        return h, (h[-1], c)
    h = _GRU.apply(inputs, torch.stack(w_own), torch.stack(b_own), *started)
    return h, (h[-1],)


class _Shape(NamedTuple):
    """Sizes of a layer's tensors; hidden units are cut into `blocks` of `units` each."""

    directions: int
    time: int
    batch: int
    gates: int
    blocks: int
    units: int

    @staticmethod
    def of(inputs: Tensor, gates: int) -> _Shape:
        directions, time, batch, width = inputs.shape
        hidden = width // gates
        blocks = MOST_BLOCKS if width * hidden >= SMALLEST_TO_CUT else 1
        while hidden % blocks:
            blocks //= 2
        return _Shape(directions, time, batch, gates, blocks, hidden // blocks)

    @property
    def hidden(self) -> int:
        return self.blocks * self.units

    def gates_in_blocks(self, inputs: Tensor) -> Tensor:
        """(directions, time, batch, gates x hidden) -> a copy (time, directions x blocks, batch, gates x units)."""
        d, t, b, g, n, u = self
        cut = inputs.reshape(d, t, b, g, n, u).permute(1, 0, 4, 2, 3, 5)
        return cut.clone(memory_format=torch.contiguous_format).view(t, d * n, b, g * u)

    def weight_in_blocks(self, weight: Tensor) -> Tensor:
        """(directions, gates x hidden, hidden) -> (directions x blocks, hidden, gates x units): forward."""
        d, _, _, g, n, u = self
        return weight.view(d, g, n, u, -1).permute(0, 2, 4, 1, 3).reshape(d * n, -1, g * u)

    def transposed_weight_in_blocks(self, weight: Tensor) -> Tensor:
        """(directions, gates x hidden, hidden) -> (directions x blocks, gates x hidden, units): backward."""
        d, _, _, _, n, u = self
        return weight.view(d, -1, n, u).transpose(1, 2).contiguous().view(d * n, -1, u)

    def hidden_in_blocks(self, h: Tensor) -> Tensor:
        """(..., directions, batch, hidden) -> a view (..., directions, blocks, batch, units)."""
        return h.unflatten(-1, (self.blocks, self.units)).transpose(-2, -3)

    def by_gate(self, gates: Tensor) -> Tensor:
        """(time, directions x blocks, batch, gates x units) -> (time, directions, blocks, batch, gates, units)."""
        d, t, b, g, n, u = self
        return gates.view(t, d, n, b, g, u)

    def gradient_in_blocks(self, gradient: Tensor) -> Tensor:
        """(time, directions, batch, gates x hidden) -> a view in the form of `by_gate`."""
        d, t, b, g, n, u = self
        return gradient.view(t, d, b, g, n, u).permute(0, 1, 4, 2, 3, 5)

    def repeated(self, rows: Tensor) -> Tensor:
        """(directions, batch, width) -> (directions x blocks, batch, width): the rows that each block multiplies."""
        if self.directions == 1:
            return rows.expand(self.blocks, -1, -1)
        return rows if self.blocks == 1 else rows.repeat_interleave(self.blocks, 0)

    def joined(self, blocks: Tensor) -> Tensor:
        """(directions x blocks, batch, width) -> a view (directions, blocks, batch, width)."""
        return blocks.view(self.directions, self.blocks, self.batch, -1)


class _LSTM(torch.autograd.Function):
    """Projected inputs (directions, time, batch, 4 hidden) in torch's order i f g o -> h, last c."""

    @staticmethod
    def forward(ctx, inputs: Tensor, weight: Tensor, h0: Tensor, c0: Tensor):
        shape = _Shape.of(inputs, 4)
        gates, across = shape.gates_in_blocks(inputs), shape.weight_in_blocks(weight)
        h = inputs.new_empty(shape.time + 1, shape.directions, shape.batch, shape.hidden)
        h[0] = h0
        c = inputs.new_empty(shape.time + 1, shape.directions, shape.blocks, shape.batch, shape.units)
        c[0] = shape.hidden_in_blocks(c0)
        squashed = torch.empty_like(c[1:])
        units = shape.units
        steps = zip(
            gates.unbind(0), gates[..., : 2 * units].unbind(0), gates[..., 2 * units : 3 * units].unbind(0),
            gates[..., 3 * units :].unbind(0), *shape.by_gate(gates).permute(4, 0, 1, 2, 3, 5).unbind(0),
            h[:-1].unbind(0), shape.hidden_in_blocks(h[1:]).unbind(0), c[:-1].unbind(0), c[1:].unbind(0),
            squashed.unbind(0), strict=True,
        )  # fmt: skip
        for all_gates, input_forget, new, output, i, f, g, o, before, after, c_before, c_after, c_squashed in steps:
            all_gates.baddbmm_(shape.repeated(before), across)
            input_forget.sigmoid_()
            new.tanh_()
            output.sigmoid_()
            torch.mul(f, c_before, out=c_after).addcmul_(i, g)
            torch.tanh(c_after, out=c_squashed)
            torch.mul(o, c_squashed, out=after)
        ctx.save_for_backward(gates, weight, h, c, squashed)
        ctx.shape = shape
        last = c[-1].transpose(1, 2).reshape(shape.directions, shape.batch, shape.hidden)
        return h[1:], last

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_h: Tensor, grad_c: Tensor):
        gates, weight, h, c, squashed = ctx.saved_tensors
        shape = ctx.shape
        i, f, g, o = shape.by_gate(gates).unbind(4)
        # How the gates' inputs are moved by c (i, f, g) and by h (o), and c by h.
        moved = torch.stack([g * i * (1 - i), c[:-1] * f * (1 - f), i * (1 - g * g)], 4)
        by_output, to_c = squashed * o * (1 - o), o * (1 - squashed * squashed)
        grads = gates.new_empty(shape.time, shape.directions, shape.batch, shape.gates * shape.hidden)
        by_gate = shape.gradient_in_blocks(grads)
        back = shape.transposed_weight_in_blocks(weight)
        seen = shape.hidden_in_blocks(grad_h)
        dh, dc = seen[-1], shape.hidden_in_blocks(grad_c).clone()
        steps = list(
            zip(
                grads.unbind(0), by_gate[..., :3, :].unbind(0), by_gate[..., 3, :].unbind(0), moved.unbind(0),
                by_output.unbind(0), to_c.unbind(0), f.unbind(0), (None, *seen[:-1].unbind(0)), strict=True,
            )
        )  # fmt: skip
        for rows, to_inputs, to_output, by_c, by_o, c_by_h, forget, earlier in reversed(steps):
            dc.addcmul_(dh, c_by_h)
            torch.mul(dc.unsqueeze(-2), by_c, out=to_inputs)
            torch.mul(dh, by_o, out=to_output)
            dc.mul_(forget)
            dh = shape.joined(torch.bmm(shape.repeated(rows), back))
            if earlier is not None:
                dh += earlier
        return _inputs(grads), _own_weight(grads, h), _states(shape, dh), _states(shape, dc)


class _GRU(torch.autograd.Function):
    """Projected inputs (directions, time, batch, 3 hidden) in torch's order r z n, with their bias -> h."""

    @staticmethod
    def forward(ctx, inputs: Tensor, weight: Tensor, bias: Tensor, h0: Tensor):
        shape = _Shape.of(inputs, 3)
        d, _, _, g, n, u = shape
        seen, across = shape.gates_in_blocks(inputs), shape.weight_in_blocks(weight)
        own_bias = bias.view(d, g, n, u).transpose(1, 2).reshape(d * n, 1, g * u)
        own = torch.empty_like(seen)
        h = inputs.new_empty(shape.time + 1, d, shape.batch, shape.hidden)
        h[0] = h0
        blocks = shape.hidden_in_blocks(h)
        # r and z, then n, take the place of the inputs they are made of
        steps = zip(
            own.unbind(0), own[..., : 2 * u].unbind(0), shape.by_gate(own)[..., 2, :].unbind(0),
            seen[..., : 2 * u].unbind(0), *shape.by_gate(seen).permute(4, 0, 1, 2, 3, 5).unbind(0),
            h[:-1].unbind(0), blocks[:-1].unbind(0), blocks[1:].unbind(0), strict=True,
        )  # fmt: skip
        for all_own, own_rz, own_n, rz, r, z, new, before, h_before, h_after in steps:
            torch.baddbmm(own_bias, shape.repeated(before), across, out=all_own)
            rz.add_(own_rz).sigmoid_()
            new.addcmul_(r, own_n).tanh_()
            torch.lerp(new, h_before, z, out=h_after)
        ctx.save_for_backward(own, weight, seen, h)
        ctx.shape = shape
        return h[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_h: Tensor):
        own, weight, gates, h = ctx.saved_tensors
        shape = ctx.shape
        r, z, new = shape.by_gate(gates).unbind(4)
        own_n, before = shape.by_gate(own)[..., 2, :], shape.hidden_in_blocks(h[:-1])
        # How h is moved by the new state's input, and by r, z and the recurrent part of the new state.
        by_new = (1 - z) * (1 - new * new)
        moved = torch.stack([by_new * own_n * r * (1 - r), (before - new) * z * (1 - z), by_new * r], 4)
        grads = own.new_empty(shape.time, shape.directions, shape.batch, shape.gates * shape.hidden)
        by_gate = shape.gradient_in_blocks(grads)
        back = shape.transposed_weight_in_blocks(weight)
        seen = shape.hidden_in_blocks(grad_h)
        all_dh = torch.empty_like(by_new)
        dh = seen[-1]
        steps = list(
            zip(
                grads.unbind(0), by_gate.unbind(0), moved.unbind(0), z.unbind(0), all_dh.unbind(0),
                (None, *seen[:-1].unbind(0)), strict=True,
            )
        )  # fmt: skip
        for rows, to_gates, by_h, kept, kept_dh, earlier in reversed(steps):
            kept_dh.copy_(dh)
            torch.mul(dh.unsqueeze(-2), by_h, out=to_gates)
            dh = shape.joined(torch.bmm(shape.repeated(rows), back)).addcmul_(kept_dh, kept)
            if earlier is not None:
                dh += earlier
        own_weight, own_bias = _own_weight(grads, h), grads.sum((0, 2))
        by_gate[..., 2, :] = all_dh * by_new
        return _inputs(grads), own_weight, own_bias, _states(shape, dh)


def _inputs(grads: Tensor) -> Tensor:
    """(time, directions, batch, width) -> (directions, time, batch, width)"""
    return grads.transpose(0, 1)


def _own_weight(grads: Tensor, h: Tensor) -> Tensor:
    """The recurrent weights' gradient (directions, gates x hidden, hidden) over all steps at once."""
    parts = [grads[:, d].flatten(0, 1).t() @ h[:-1, d].flatten(0, 1) for d in range(grads.shape[1])]
    return parts[0][None] if len(parts) == 1 else torch.stack(parts)


def _states(shape: _Shape, blocks: Tensor) -> Tensor:
    """(directions, blocks, batch, units) -> (directions, batch, hidden)"""
    return blocks.transpose(1, 2).reshape(shape.directions, shape.batch, shape.hidden)
