"""Convolutions of frozen networks on the CPU: weights reordered for oneDNN once, and Winograd's method for 3x3.

Winograd's minimal filtering F(2x2, 3x3) needs 16 products where a convolution needs 36: Lavin and Gray, Fast
Algorithms for Convolutional Neural Networks, 2016 (arXiv:1509.09308), section 4.1. Every 2x2 outputs are
A^T [(G g G^T) * (B^T d B)] A, of 4x4 inputs d and the 3x3 filter g; summed over the channels, the elementwise
products are 16 matrix products. In float32 the result is as exact as a convolution's. In bfloat16 the rounded
transforms would treble the error and gain next to nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# G, its last row negated, and in return the last column of A^T, which then only adds.
FILTER = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, -1.0))
# With fewer channels the transforms cost more than they save: the products grow with the square of the channels.
LEAST_CHANNELS = 128
# Most values transformed at once; more would not fit in the processor's cache.
LARGEST_SPREAD = 1 << 21


def suit_convolutions(module: nn.Module) -> nn.Module:
    """Replace a frozen network's plain convolutions by faster ones of the same dtype, in place."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and _is_plain(child) and _onednn_computes(child.weight.dtype):
                setattr(parent, name, WinogradConv2d(child) if _suits_winograd(child) else PackedConv2d(child))
    return module


def _is_plain(layer: nn.Module) -> bool:
    if type(layer) is not nn.Conv2d or layer.groups != 1:
        return False
    return layer.padding_mode == "zeros" and isinstance(layer.padding, tuple)


def _onednn_computes(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    bf16 = dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return bf16 or dtype == torch.float32


def _suits_winograd(conv: nn.Conv2d) -> bool:
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    wide = min(conv.in_channels, conv.out_channels) >= LEAST_CHANNELS
    return shape == ((3, 3), (1, 1), (1, 1), (1, 1)) and wide and conv.weight.dtype == torch.float32


class PackedConv2d(nn.Module):
    """A convolution with its weights in oneDNN's own order, into which `nn.Conv2d` puts them at every call."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.bias = conv.bias
        self.geometry = [list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups]
        # Not a buffer: tensors of this layout cannot be copied or cast.
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(conv.weight.detach(), *self.geometry, None)

    def forward(self, x: Tensor) -> Tensor:
        # (batch, inputs, height, width) -> (batch, outputs, height', width')
        return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *self.geometry, "none", [], "")


class WinogradConv2d(nn.Module):
    """A float32 3x3 convolution of stride 1 and padding 1: (batch, inputs, height, width) -> (batch, outputs, ...).

    The result is channels-last.
    """

    weight: Tensor

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.bias = conv.bias
        g = torch.tensor(FILTER, dtype=torch.float64)
        weight = torch.einsum("ar,bs,oirs->abio", g, g, conv.weight.detach().double()).flatten(0, 1)
        self.register_buffer("weight", weight.float().contiguous(), persistent=False)  # (16, inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        _, inputs, height, width = x.shape
        images = LARGEST_SPREAD // (4 * (height + 1) * (width + 1) * inputs)
        parts = [self._convolve(part) for part in x.permute(0, 2, 3, 1).split(max(images, 1))]
        y = parts[0] if len(parts) == 1 else torch.cat(parts)
        return y[:, :height, :width].contiguous().permute(0, 3, 1, 2)

    def _convolve(self, x: Tensor) -> Tensor:
        # (n, height, width, inputs) -> (n, height and width rounded up to even numbers, outputs)
        n, height, width, inputs = x.shape
        tall, wide = -(-height // 2), -(-width // 2)
        padded = x.new_zeros(n, 2 * tall + 2, 2 * wide + 2, inputs)
        padded[:, 1 : height + 1, 1 : width + 1].copy_(x)
        rows = x.new_empty(4, n, tall, 2 * wide + 2, inputs)
        _spread(padded, 1, rows)
        spread = x.new_empty(4, 4, n, tall, wide, inputs)
        _spread(rows, 3, spread.transpose(0, 1))
        products = torch.bmm(spread.view(16, -1, inputs), self.weight)
        if self.bias is not None:
            products[5] += self.bias  # the one product that is added, once, to each of the four outputs
        outputs = products.shape[2]
        rows = x.new_empty(2, 4, n, tall, wide, outputs)
        _gather(products.view(4, 4, n, tall, wide, outputs), rows)
        y = x.new_empty(n, tall, 2, wide, 2, outputs)
        _gather(rows.transpose(0, 1), y.permute(4, 2, 0, 1, 3, 5))
        return y.view(n, 2 * tall, 2 * wide, outputs)


def _spread(x: Tensor, dim: int, out: Tensor) -> None:
    """B^T along an axis of 2 n + 2 pixels: out[:, ..., k, ...] are the four values of the pixels from 2 k on."""
    pairs = x.unflatten(dim, (-1, 2)).movedim(dim + 1, 0)
    count = pairs.shape[dim + 1] - 1
    here, there = pairs.narrow(dim + 1, 0, count), pairs.narrow(dim + 1, 1, count)
    torch.sub(here, there, out=out[::3])
    torch.add(here[1], there[0], out=out[1])
    torch.sub(there[0], here[1], out=out[2])


def _gather(values: Tensor, out: Tensor) -> None:
    """A^T along the first axis: two pixels from four values."""
    torch.add(values[1], values[2], out=out[0])
    torch.sub(values[1], values[2], out=out[1])
    out.add_(values[::3])
