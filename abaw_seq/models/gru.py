"""GRU layers on the CPU: the same numbers as torch's, in two thirds to four fifths of the time.

Each layer's input is projected for all frames at once. What is left is a loop over time, with its gradient
written out: whatever does not depend on the next step is computed for all steps together, and so is the
recurrent weights' gradient. (torch's LSTM does as much on the CPU; its GRU does not.) Tensors are
time-major, (time, batch, dim).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abaw_seq.models.dropout import dropout


def applies(rnn: nn.RNNBase, x: Tensor) -> bool:
    """Whether `run` can stand in for `rnn(x)`: a GRU in float32 on the CPU."""
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and isinstance(rnn, nn.GRU)


def run(gru: nn.GRU, x: Tensor, h0: Tensor | None) -> tuple[Tensor, Tensor]:
    """What `gru(x, h0)` computes, with its parameters.

    x: (batch, time, dim); h0: None or (layers x directions, batch, dim).
    Returns (batch, time, directions x dim) and the state after the last frame, in the form of h0.
    """
    directions = ("", "_reverse") if gru.bidirectional else ("",)
    if h0 is None:
        h0 = x.new_zeros(gru.num_layers * len(directions), x.shape[0], gru.hidden_size)
    y, left = x.transpose(0, 1).contiguous(), []
    for layer in range(gru.num_layers):
        if layer:
            y = dropout(y, gru.dropout, gru.training)
        found = []
        for suffix in directions:
            w_in, w_own, b_in, b_own = (
                getattr(gru, f"{name}_l{layer}{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            seen = y.flip(0) if suffix else y
            h, last = _Scan.apply(F.linear(seen, w_in, b_in), w_own, b_own, h0[len(left)])
            found.append(h.flip(0) if suffix else h)
            left.append(last)
        y = found[0] if len(found) == 1 else torch.cat(found, -1)
    return y.transpose(0, 1), torch.stack(left)


class _Scan(torch.autograd.Function):
    """(T, B, 3H) projected inputs in torch's order r z n, with their bias -> h (T, B, H), h_T."""

    @staticmethod
    def forward(ctx, inputs: Tensor, weight: Tensor, bias: Tensor, h0: Tensor):
        time, batch, width = inputs.shape
        size = width // 3
        own = torch.empty_like(inputs)
        reset_update = inputs.new_empty(time, batch, 2 * size)
        new, h = inputs.new_empty(time, batch, size), inputs.new_empty(time + 1, batch, size)
        h[0] = h0
        across = weight.t()
        for t in range(time):
            torch.addmm(bias, h[t], across, out=own[t])
            r, z = (
                torch.add(inputs[t, :, : 2 * size], own[t, :, : 2 * size], out=reset_update[t]).sigmoid_().chunk(2, 1)
            )
            n = torch.addcmul(inputs[t, :, 2 * size :], r, own[t, :, 2 * size :], out=new[t]).tanh_()
            torch.lerp(n, h[t], z, out=h[t + 1])
        ctx.save_for_backward(own, weight, reset_update, new, h)
        return h[1:], h[-1].clone()

    @staticmethod
    def backward(ctx, grad_h: Tensor, grad_last: Tensor):
        own, weight, reset_update, n, h = ctx.saved_tensors
        time, batch, size = n.shape
        r, z = reset_update.chunk(2, 2)
        # How h is moved by the new state's input, and by r, z and the recurrent part of the new state.
        by_new = (1 - z) * (1 - n * n)
        moved = torch.stack([by_new * own[..., 2 * size :] * r * (1 - r), (h[:-1] - n) * z * (1 - z), by_new * r], 2)
        grads = torch.empty_like(own)
        by_gate = grads.view(time, batch, 3, size)
        all_dh = torch.empty_like(n)
        dh = grad_h[-1] + grad_last
        for t in range(time - 1, -1, -1):
            all_dh[t] = dh
            torch.mul(dh[:, None], moved[t], out=by_gate[t])
            dh = torch.addmm(dh * z[t], grads[t], weight)
            if t:
                dh += grad_h[t - 1]
        flat = grads.flatten(0, 1)
        own_weight, own_bias = flat.t() @ h[:-1].flatten(0, 1), flat.sum(0)
        grads[..., 2 * size :] = all_dh * by_new
        return grads, own_weight, own_bias, dh
