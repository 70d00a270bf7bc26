"""The LSTM's and the GRU's walk over time, forward and backward, with the recurrent weights cut into blocks.

In each step a few rows are multiplied by a large matrix. That takes as long as reading the matrix, and longer
where a library rearranges it for every product; so it is cut into blocks of hidden units once per call. In the
backward pass, what does not depend on the following step is computed for all steps together, and so is the
gradient of the recurrent weights. Both directions of a bidirectional layer advance in one loop. Tensors are
time-major.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MOST_BLOCKS = 8
SMALLEST_TO_CUT = 2**16  # weights; smaller matrices stay in the processor's fastest memory anyway


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

    def hidden_of_blocks(self, blocks: Tensor) -> Tensor:
        """(directions, blocks, batch, units) -> (directions, batch, hidden)."""
        return blocks.transpose(1, 2).reshape(self.directions, self.batch, self.hidden)

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


class LSTM(torch.autograd.Function):
    """(inputs, weight, h0, c0) of one layer -> h of all frames, final c.

    inputs: (directions, time, batch, 4 x hidden), projected, gates in torch's order i f g o;
    weight: (directions, 4 x hidden, hidden); h0, c0, c: (directions, batch, hidden);
    h: (time, directions, batch, hidden).
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, h0: Tensor, c0: Tensor) -> tuple[Tensor, Tensor]:
        shape = _Shape.of(inputs, 4)
        gates, recurrent = shape.gates_in_blocks(inputs), shape.weight_in_blocks(weight)
        h = inputs.new_empty(shape.time + 1, shape.directions, shape.batch, shape.hidden)
        h[0] = h0
        c = inputs.new_empty(shape.time + 1, shape.directions, shape.blocks, shape.batch, shape.units)
        c[0] = shape.hidden_in_blocks(c0)
        tanh_c = torch.empty_like(c[1:])
        units = shape.units
        steps = zip(
            gates.unbind(0), gates[..., : 2 * units].unbind(0), gates[..., 2 * units : 3 * units].unbind(0),
            gates[..., 3 * units :].unbind(0), *shape.by_gate(gates).permute(4, 0, 1, 2, 3, 5).unbind(0),
            h[:-1].unbind(0), shape.hidden_in_blocks(h[1:]).unbind(0), c[:-1].unbind(0), c[1:].unbind(0),
            tanh_c.unbind(0), strict=True,
        )  # fmt: skip
        for all_gates, input_forget, new, output, i, f, g, o, h_before, h_after, c_before, c_after, tanh in steps:
            all_gates.baddbmm_(shape.repeated(h_before), recurrent)
            input_forget.sigmoid_()
            new.tanh_()
            output.sigmoid_()
            torch.mul(f, c_before, out=c_after).addcmul_(i, g)
            torch.tanh(c_after, out=tanh)
            torch.mul(o, tanh, out=h_after)
        ctx.save_for_backward(gates, weight, h, c, tanh_c)
        ctx.shape = shape
        return h[1:], shape.hidden_of_blocks(c[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_h: Tensor, grad_c: Tensor) -> tuple[Tensor, ...]:
        gates, weight, h, c, tanh_c = ctx.saved_tensors
        shape = ctx.shape
        i, f, g, o = shape.by_gate(gates).unbind(4)
        # Derivatives of c by the inputs of i, f and g, of h by the input of o, and of h by c.
        c_by_ifg = torch.stack([g * i * (1 - i), c[:-1] * f * (1 - f), i * (1 - g * g)], 4)
        h_by_o, h_by_c = tanh_c * o * (1 - o), o * (1 - tanh_c * tanh_c)
        grads = gates.new_empty(shape.time, shape.directions, shape.batch, shape.gates * shape.hidden)
        by_gate = shape.gradient_in_blocks(grads)
        recurrent = shape.transposed_weight_in_blocks(weight)
        grad_h = shape.hidden_in_blocks(grad_h)
        dh, dc = grad_h[-1], shape.hidden_in_blocks(grad_c).clone()
        steps = list(
            zip(
                grads.unbind(0), by_gate[..., :3, :].unbind(0), by_gate[..., 3, :].unbind(0), c_by_ifg.unbind(0),
                h_by_o.unbind(0), h_by_c.unbind(0), f.unbind(0), (None, *grad_h[:-1].unbind(0)), strict=True,
            )
        )  # fmt: skip
        for rows, grad_ifg, grad_o, by_ifg, by_o, by_c, forget, grad_h_before in reversed(steps):
            dc.addcmul_(dh, by_c)
            torch.mul(dc.unsqueeze(-2), by_ifg, out=grad_ifg)
            torch.mul(dh, by_o, out=grad_o)
            dc.mul_(forget)
            dh = shape.joined(torch.bmm(shape.repeated(rows), recurrent))
            if grad_h_before is not None:
                dh += grad_h_before
        initial = shape.hidden_of_blocks(dh), shape.hidden_of_blocks(dc)
        return grads.transpose(0, 1), _weight_gradient(grads, h), *initial


class GRU(torch.autograd.Function):
    """(inputs, weight, bias, h0) of one layer -> h of all frames: as `LSTM`, gates in torch's order r z n.

    bias: the recurrent one, (directions, 3 x hidden).
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, h0: Tensor) -> Tensor:
        shape = _Shape.of(inputs, 3)
        d, _, _, g, n, u = shape
        gates, recurrent = shape.gates_in_blocks(inputs), shape.weight_in_blocks(weight)
        bias = bias.view(d, g, n, u).transpose(1, 2).reshape(d * n, 1, g * u)
        from_h = torch.empty_like(gates)  # the recurrent part of each gate's input
        h = inputs.new_empty(shape.time + 1, d, shape.batch, shape.hidden)
        h[0] = h0
        blocks = shape.hidden_in_blocks(h)
        # The activations of r, z and n overwrite the projected inputs.
        steps = zip(
            from_h.unbind(0), from_h[..., : 2 * u].unbind(0), shape.by_gate(from_h)[..., 2, :].unbind(0),
            gates[..., : 2 * u].unbind(0), *shape.by_gate(gates).permute(4, 0, 1, 2, 3, 5).unbind(0),
            h[:-1].unbind(0), blocks[:-1].unbind(0), blocks[1:].unbind(0), strict=True,
        )  # fmt: skip
        for all_from_h, rz_from_h, n_from_h, rz, r, z, new, rows, h_before, h_after in steps:
            torch.baddbmm(bias, shape.repeated(rows), recurrent, out=all_from_h)
            rz.add_(rz_from_h).sigmoid_()
            new.addcmul_(r, n_from_h).tanh_()
            torch.lerp(new, h_before, z, out=h_after)
        ctx.save_for_backward(from_h, weight, gates, h)
        ctx.shape = shape
        return h[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_h: Tensor) -> tuple[Tensor, ...]:
        from_h, weight, gates, h = ctx.saved_tensors
        shape = ctx.shape
        r, z, new = shape.by_gate(gates).unbind(4)
        n_from_h, h_before = shape.by_gate(from_h)[..., 2, :], shape.hidden_in_blocks(h[:-1])
        # Derivatives of h by the input of n, and by those of r, of z and of n's recurrent part.
        h_by_n = (1 - z) * (1 - new * new)
        h_by_gates = torch.stack([h_by_n * n_from_h * r * (1 - r), (h_before - new) * z * (1 - z), h_by_n * r], 4)
        grads = from_h.new_empty(shape.time, shape.directions, shape.batch, shape.gates * shape.hidden)
        by_gate = shape.gradient_in_blocks(grads)
        recurrent = shape.transposed_weight_in_blocks(weight)
        grad_h = shape.hidden_in_blocks(grad_h)
        all_dh = torch.empty_like(h_by_n)
        dh = grad_h[-1]
        steps = list(
            zip(
                grads.unbind(0), by_gate.unbind(0), h_by_gates.unbind(0), z.unbind(0), all_dh.unbind(0),
                (None, *grad_h[:-1].unbind(0)), strict=True,
            )
        )  # fmt: skip
        for rows, grad_gates, by_gates, update, dh_here, grad_h_before in reversed(steps):
            dh_here.copy_(dh)
            torch.mul(dh.unsqueeze(-2), by_gates, out=grad_gates)
            dh = shape.joined(torch.bmm(shape.repeated(rows), recurrent)).addcmul_(dh_here, update)
            if grad_h_before is not None:
                dh += grad_h_before
        grad_weight, grad_bias = _weight_gradient(grads, h), grads.sum((0, 2))
        by_gate[..., 2, :] = all_dh * h_by_n  # from here on with respect to the projected inputs
        return grads.transpose(0, 1), grad_weight, grad_bias, shape.hidden_of_blocks(dh)


def _weight_gradient(grads: Tensor, h: Tensor) -> Tensor:
    """Gradient of the recurrent weights, (directions, gates x hidden, hidden), over all steps at once."""
    parts = [grads[:, d].flatten(0, 1).t() @ h[:-1, d].flatten(0, 1) for d in range(grads.shape[1])]
    return parts[0][None] if len(parts) == 1 else torch.stack(parts)
