"""LSTM and GRU layers: torch's numbers, from a loop that suits few, long sequences.

Each layer projects the input of all frames at once; the rest is the loop over time of `cells`.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from abaw_seq.cpu import cells
from abaw_seq.cpu.dropout import fast_dropout

State = Tensor | tuple[Tensor, Tensor]  # h of a GRU, (h, c) of an LSTM, each (layers x directions, batch, hidden)


def fast_rnn(
    rnn: nn.LSTM | nn.GRU, x: Tensor | PackedSequence, hx: State | None = None
) -> tuple[Tensor | PackedSequence, State]:
    """`rnn(x, hx)`, by `run` where that is faster; x: (batch, time, dim) or packed sequences.

    Under autocast, an LSTM computes in float32 on processors that cannot compute it in autocast's dtype.
    """
    autocast = torch.is_autocast_enabled("cpu")
    if autocast and isinstance(rnn, nn.LSTM) and not computes_lstm(torch.get_autocast_dtype("cpu")):
        with torch.autocast("cpu", enabled=False):
            return fast_rnn(rnn, x.float(), None if hx is None else (hx[0].float(), hx[1].float()))
    if isinstance(x, Tensor) and x.dtype == torch.float32 and not autocast and loop_is_faster(rnn):
        return run(rnn, x, hx)
    return rnn(x, hx)


def loop_is_faster(rnn: nn.LSTM | nn.GRU) -> bool:
    """Whether `run` is faster than torch: with a GRU, and in training with an LSTM of 128 units or more.

    torch leaves LSTMs to oneDNN, which is faster at inference and with small layers.
    """
    large = 4 * rnn.hidden_size**2 >= cells.SMALLEST_TO_CUT
    return isinstance(rnn, nn.GRU) or (large and torch.is_grad_enabled())


@cache
def computes_lstm(dtype: torch.dtype) -> bool:
    """Whether this processor can train an LSTM under autocast to `dtype`: oneDNN cannot on every one."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", dtype):
        rnn = nn.LSTM(8, 8, device="meta").to_empty(device="cpu")  # draws no random numbers
        try:
            rnn(torch.zeros(1, 1, 8))[0].sum().backward()
        except RuntimeError:
            return False
    return True


def run(rnn: nn.LSTM | nn.GRU, x: Tensor, hx: State | None = None) -> tuple[Tensor, State]:
    """What `rnn(x, hx)` returns, dropout between its layers included; x: (batch, time, dim) float32."""
    directions = 2 if rnn.bidirectional else 1
    if hx is None:
        zeros = x.new_zeros(rnn.num_layers * directions, x.shape[0], rnn.hidden_size)
        hx = zeros if isinstance(rnn, nn.GRU) else (zeros, zeros)
    initial = (hx,) if isinstance(hx, Tensor) else hx
    y, final = x.transpose(0, 1).contiguous(), []
    for layer in range(rnn.num_layers):
        if layer and rnn.training and rnn.dropout:
            y = fast_dropout(y, rnn.dropout)
        rows = slice(layer * directions, (layer + 1) * directions)
        y, state = _layer(rnn, layer, y, [part[rows] for part in initial])
        final.append(state)
    h, *c = (torch.cat(parts) for parts in zip(*final, strict=True))
    return y.transpose(0, 1), (h, *c) if c else h  # type: ignore[return-value]


def _layer(rnn: nn.LSTM | nn.GRU, layer: int, y: Tensor, initial: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer in all its directions: outputs (time, batch, directions x hidden) and its final state."""
    names = [f"_l{layer}{suffix}" for suffix in (("", "_reverse") if rnn.bidirectional else ("",))]
    w_input, w_hidden, b_input, b_hidden = (
        [getattr(rnn, part + name) for name in names] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    gru = isinstance(rnn, nn.GRU)
    biases = b_input if gru else [a + b for a, b in zip(b_input, b_hidden, strict=True)]
    projected = [F.linear(y, w, b) for w, b in zip(w_input, biases, strict=True)]
    # The backward direction reads its frames in reverse.
    inputs = projected[0][None] if len(names) == 1 else torch.stack([projected[0], projected[1].flip(0)])
    if gru:
        h = cells.GRU.apply(inputs, torch.stack(w_hidden), torch.stack(b_hidden), *initial)
        final = (h[-1],)
    else:
        h, c = cells.LSTM.apply(inputs, torch.stack(w_hidden), *initial)
        final = (h[-1], c)
    return h[:, 0] if len(names) == 1 else torch.cat([h[:, 0], h[:, 1].flip(0)], -1), final
