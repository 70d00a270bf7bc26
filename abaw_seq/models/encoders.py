"""Temporal encoders: (batch, time, dim) -> (batch, time, dim), one entry each in ENCODERS.

An encoder is a stack of layers: a framework can share the lower ones between tasks and give each task upper
ones of its own (`stack`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abaw_seq.config.ranges import Checked, Heads, Range, Share, Width
from abaw_seq.models.dropout import Dropout

MAX_DOUBLINGS = 20
MAX_LEARNED_POSITIONS = 512
State = tuple[Tensor, ...]
Encoded = tuple[Tensor, State | None]


@dataclass(frozen=True)
class EncoderConfig(Checked):
    """A temporal encoder over the features of consecutive frames."""

    kind: Literal["none", "lstm", "gru", "transformer", "tcn"] = "gru"
    """Kind of layers; `none` treats each frame by itself, `tcn` is a temporal convolutional network."""
    dim: Width = 256
    """Hidden size of a layer (of each direction, where there are two); for the transformer a multiple of 2 x heads."""
    layers: Annotated[int, Range("[0, 1000]")] = 1
    """Number of layers in all, those of single tasks included."""
    dropout: Share = 0.3
    """Dropout in and after the layers."""
    bidirectional: bool = False
    """Read each window in both directions (lstm, gru)."""
    heads: Heads = 4
    """Attention heads (transformer)."""
    ffn: Width = 1024
    """Width of the feed-forward layers (transformer)."""
    positions: Literal["sinusoidal", "learned", "rotary", "none"] = "sinusoidal"
    """How a layer sees a frame's place in its window (transformer); learned: windows of at most 512 frames."""
    norm: Literal["pre", "post"] = "post"
    """Layer normalisation before or after each residual sum (transformer)."""
    kernel: Annotated[int, Range("[1, 1001]")] = 3
    """Frames under a convolution, odd unless `causal` (tcn); the distance between them doubles from layer to layer."""
    causal: bool = False
    """See only the present and earlier frames (tcn)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "transformer" and self.dim % (2 * self.heads):
            raise ValueError(f"dim {self.dim} must be a multiple of twice the number of heads ({self.heads})")
        if self.layers < 1 and self.kind != "none":
            raise ValueError(f"layers must be at least 1, not {self.layers}")
        if self.kind == "tcn" and self.layers > MAX_DOUBLINGS:
            raise ValueError(f"layers must be at most {MAX_DOUBLINGS} (tcn), which see 1,000,000 frames")
        if self.kernel % 2 == 0 and not self.causal:
            raise ValueError(f"kernel must be odd unless causal is true, not {self.kernel}")

    @property
    def recurrent(self) -> bool:
        return self.kind in ("lstm", "gru")


class Identity(nn.Module):
    """No temporal context: each frame by itself."""

    def __init__(self, in_dim: int, config: EncoderConfig, layers: int, *, first: int):
        super().__init__()
        self.out_dim = in_dim

    def forward(self, x: Tensor, state: State | None = None, used: Tensor | None = None) -> Encoded:
        # x: (batch, time, dim)
        return x, None


class Recurrent(nn.Module):
    """LSTM or GRU layers, dropout after each.

    `state`: the final state of the preceding segment of the same videos, (h,) or (h, c), each (layers x
    directions, batch, dim). `used` (batch,): number of frames of each segment, needed only by bidirectional
    layers where segments differ in length.
    """

    def __init__(self, in_dim: int, config: EncoderConfig, layers: int, *, first: int):
        super().__init__()
        kind = {"lstm": nn.LSTM, "gru": nn.GRU}[config.kind]
        self.rnn = kind(
            in_dim,
            config.dim,
            layers,
            batch_first=True,
            dropout=config.dropout if layers > 1 else 0.0,
            bidirectional=config.bidirectional,
        )
        self.dropout = Dropout(config.dropout)
        self.out_dim = config.dim * (2 if config.bidirectional else 1)

    def forward(self, x: Tensor, state: State | None = None, used: Tensor | None = None) -> Encoded:
        # x: (batch, time, dim)
        rnn: Callable[..., Any] = self.rnn
        if x.device.type == "cpu":
            from abaw_seq import cpu

            rnn = partial(cpu.fast_rnn, self.rnn)
        hx = state[0] if state is not None and isinstance(self.rnn, nn.GRU) else state
        if used is not None and self.rnn.bidirectional and bool((used < x.shape[1]).any()):
            packed = nn.utils.rnn.pack_padded_sequence(x, used.cpu(), batch_first=True, enforce_sorted=False)
            y, hx = rnn(packed, hx)
            y, _ = nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])
        else:
            y, hx = rnn(x, hx)
        return self.dropout(y), tuple(part.detach() for part in ((hx,) if isinstance(hx, Tensor) else hx))


class Transformer(nn.Module):
    """Linear projection and positions (in the first stack only), then self-attention layers."""

    def __init__(self, in_dim: int, config: EncoderConfig, layers: int, *, first: int):
        super().__init__()
        self.project = nn.Linear(in_dim, config.dim) if first == 0 or in_dim != config.dim else nn.Identity()
        self.positions = config.positions if first == 0 or config.positions == "rotary" else "none"
        if self.positions == "learned":
            self.table = nn.Parameter(torch.randn(MAX_LEARNED_POSITIONS, config.dim) * 0.02)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(layers))
        last = first + layers == config.layers
        self.norm = nn.LayerNorm(config.dim) if config.norm == "pre" and last else nn.Identity()
        self.out_dim = config.dim

    def forward(self, x: Tensor, state: State | None = None, used: Tensor | None = None) -> Encoded:
        # x: (batch, time, dim)
        x = self.project(x)
        time = x.shape[1]
        if self.positions == "sinusoidal":
            x = x + sinusoids(time, x.shape[2], x.device).to(x.dtype)
        elif self.positions == "learned":
            if time > MAX_LEARNED_POSITIONS:
                raise ValueError(f"windows of {time} frames exceed the {MAX_LEARNED_POSITIONS} learned positions")
            x = x + self.table[:time].to(x.dtype)
        x = self.dropout(x)
        mask = None if used is None else present(used, time)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x), None


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward with residuals (Vaswani et al., 2017), pre- or post-norm."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.heads, self.pre, self.rotary = config.heads, config.norm == "pre", config.positions == "rotary"
        self.attend = Attention(config.dropout)
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.up = nn.Linear(config.dim, config.ffn)
        self.down = nn.Linear(config.ffn, config.dim)
        self.norm_attention, self.norm_ffn = nn.LayerNorm(config.dim), nn.LayerNorm(config.dim)
        self.dropout = Dropout(config.dropout)
        # As torch's own attention module starts, with which the published systems were trained.
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        # x: (batch, time, dim); mask: (batch, 1, 1, time), true where a frame exists
        if self.pre:
            x = x + self.attention(self.norm_attention(x), mask)
            return x + self.ffn(self.norm_ffn(x))
        x = self.norm_attention(x + self.attention(x, mask))
        return self.norm_ffn(x + self.ffn(x))

    def attention(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, time, dim = x.shape
        q, k, v = self.qkv(x).view(batch, time, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        if self.rotary:
            q, k = rotate(q), rotate(k)
        y = self.attend(q, k, v, mask)
        return self.dropout(self.out(y.transpose(1, 2).reshape(batch, time, dim)))

    def ffn(self, x: Tensor) -> Tensor:
        return self.dropout(self.down(self.dropout(F.relu(self.up(x)))))


class Attention(nn.Module):
    """Scaled dot-product attention, its weights with dropout in training."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        # q, k, v: (batch, heads, time, dim); mask: (batch, 1, 1, time)
        p = self.p if self.training else 0.0
        if p and q.device.type == "cpu":
            from abaw_seq import cpu

            return cpu.fast_attention(q, k, v, mask=mask, p=p)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)


class DilatedConvolutions(nn.Module):
    """TCN: residual pairs of convolutions, dilation doubling from layer to layer (Bai et al., 2018)."""

    def __init__(self, in_dim: int, config: EncoderConfig, layers: int, *, first: int):
        super().__init__()
        dims = [in_dim] + [config.dim] * layers
        self.layers = nn.ModuleList(
            DilatedLayer(a, b, config, dilation=2 ** (first + i))
            for i, (a, b) in enumerate(zip(dims[:-1], dims[1:], strict=True))
        )
        self.out_dim = config.dim

    def forward(self, x: Tensor, state: State | None = None, used: Tensor | None = None) -> Encoded:
        # x: (batch, time, dim)
        x = x.transpose(1, 2)
        mask = None if used is None else present(used, x.shape[2])[:, None, :]
        for layer in self.layers:
            x = layer(x if mask is None else x * mask, mask)
        return x.transpose(1, 2), None


class DilatedLayer(nn.Module):
    """Two dilated convolutions with a shortcut; frames outside a window count as zero."""

    def __init__(self, in_dim: int, out_dim: int, config: EncoderConfig, *, dilation: int):
        super().__init__()
        reach = (config.kernel - 1) * dilation
        self.pad = (reach, 0) if config.causal else (reach // 2, reach // 2)
        self.one = nn.Conv1d(in_dim, out_dim, config.kernel, dilation=dilation)
        self.two = nn.Conv1d(out_dim, out_dim, config.kernel, dilation=dilation)
        self.shortcut = nn.Conv1d(in_dim, out_dim, 1) if in_dim != out_dim else nn.Identity()
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        # x: (batch, dim, time); mask: (batch, 1, time), true where a frame exists
        y = self.dropout(F.relu(self.one(F.pad(x, self.pad))))
        y = y if mask is None else y * mask
        y = self.dropout(F.relu(self.two(F.pad(y, self.pad))))
        return F.relu(y + self.shortcut(x))


TemporalEncoder = Identity | Recurrent | Transformer | DilatedConvolutions
ENCODERS: dict[str, type[TemporalEncoder]] = {
    "none": Identity,
    "lstm": Recurrent,
    "gru": Recurrent,
    "transformer": Transformer,
    "tcn": DilatedConvolutions,
}


def stack(in_dim: int, config: EncoderConfig, layers: int, *, first: int = 0) -> TemporalEncoder:
    """Layers `first` to `first + layers` of an encoder.

    forward(x, state=None, used=None) -> (y (batch, time, out_dim), state or None).
    """
    return ENCODERS[config.kind if layers else "none"](in_dim, config, layers, first=first)


def present(used: Tensor, time: int) -> Tensor:
    """Which frames exist in windows of `used` (batch,) frames: boolean (batch, time)."""
    return torch.arange(time, device=used.device)[None, :] < used[:, None]


def sinusoids(time: int, dim: int, device: torch.device) -> Tensor:
    """Fixed positions (time, dim), sines and cosines in turn (Vaswani et al., 2017)."""
    angle = _angles(time, dim // 2, device)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


def rotate(x: Tensor) -> Tensor:
    """Rotary positions (Su et al., 2021) applied to (batch, heads, time, dim)."""
    angle = _angles(x.shape[2], x.shape[3] // 2, x.device)
    sin, cos = angle.sin().to(x.dtype), angle.cos().to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


def _angles(time: int, pairs: int, device: torch.device) -> Tensor:
    frequency = torch.exp(torch.arange(pairs, device=device) * (-math.log(10000.0) / pairs))
    return torch.arange(time, device=device)[:, None] * frequency[None, :]
