"""Frozen convolutions on the CPU give what `nn.Conv2d` gives."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from abaw_feats.backbones import cpu_convolutions
from abaw_feats.backbones.cpu_convolutions import PackedConv2d, WinogradConv2d, suit_convolutions

# What oneDNN computes in on this processor.
COMPUTED = [torch.float32] + [torch.bfloat16] * torch.ops.mkldnn._is_mkldnn_bf16_supported()


def images(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator).to(dtype, memory_format=torch.channels_last)


def conv(*sizes: int, **settings) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(*sizes, **settings).requires_grad_(False)


def deviation(y: torch.Tensor, layer: nn.Conv2d, x: torch.Tensor) -> float:
    """Standard deviation of the error, relative to that of the exact result."""
    exact = nn.functional.conv2d(
        x.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double(), padding=1
    )
    assert y.shape == exact.shape
    return float((y - exact).std() / exact.std())


@pytest.mark.parametrize("height, width", [(6, 6), (14, 10), (7, 7), (5, 8), (1, 3), (2, 1), (1, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_winograd_is_as_exact_as_the_convolution(height, width, bias):
    layer, x = conv(24, 40, 3, padding=1, bias=bias), images(3, 24, height, width)
    y = WinogradConv2d(layer)(x)
    assert deviation(y, layer, x) < 5e-7
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_winograd_needs_no_channels_last_input_and_ends_pixels_at_the_border():
    layer = conv(4, 4, 3, padding=1, bias=False)
    for position in ((0, 0), (0, 5), (5, 0), (5, 5), (2, 3)):
        x = torch.zeros(1, 4, 6, 6)
        x[..., position[0], position[1]] = torch.tensor([1.0, -2.0, 3.0, 0.5])
        torch.testing.assert_close(WinogradConv2d(layer)(x), layer(x), atol=1e-6, rtol=1e-5)


def test_large_batches_are_transformed_in_parts(monkeypatch):
    layer, x = conv(8, 8, 3, padding=1), images(7, 8, 10, 10)
    products = []
    bmm = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *given: products.append(1) or bmm(*given))
    whole = WinogradConv2d(layer)(x)
    assert len(products) == 1
    monkeypatch.setattr(cpu_convolutions, "LARGEST_SPREAD", 3 * 4 * 11 * 11 * 8)
    torch.testing.assert_close(WinogradConv2d(layer)(x), whole, atol=1e-6, rtol=1e-5)
    assert len(products) == 4


@pytest.mark.parametrize("dtype", COMPUTED)
@pytest.mark.parametrize("settings", [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": (2, 0)}])
def test_packed_weights_give_the_same(dtype, settings):
    layer, x = conv(16, 32, 3, **settings).to(dtype), images(2, 16, 12, 12, dtype=dtype)
    packed = PackedConv2d(layer)
    for part in (x, x[:1], x[:, :, :9, :7].contiguous()):
        torch.testing.assert_close(packed(part), layer(part))


def test_which_convolutions_are_exchanged_for_which():
    class Other(nn.Conv2d):
        """A convolution that does something else, for all one knows."""

    module = nn.Sequential(
        conv(128, 128, 3, padding=1),
        conv(128, 128, 3, padding=1, stride=2),
        conv(128, 64, 3, padding=1),
        conv(64, 64, 3, padding=1, groups=64),
        conv(64, 64, 3, padding=1, padding_mode="reflect"),
        nn.Sequential(conv(64, 8, 1), Other(8, 8, 3)),
        conv(8, 8, 3, padding="same"),
        conv(8, 8, 3, padding="valid"),
    ).requires_grad_(False)
    x = images(1, 128, 24, 24)
    expected = module(x)
    torch.testing.assert_close(suit_convolutions(module)(x), expected, atol=1e-6, rtol=1e-4)
    kinds = [type(part) for part in module]
    assert kinds[:3] == [WinogradConv2d, PackedConv2d, PackedConv2d] and kinds[3:5] == [nn.Conv2d] * 2
    assert [type(part) for part in module[5]] == [PackedConv2d, Other] and kinds[6:] == [nn.Conv2d] * 2


@pytest.mark.parametrize("available", [True, False])
def test_convolutions_stay_where_onednn_cannot_compute_them(monkeypatch, available):
    def kind(dtype: torch.dtype) -> type:
        return type(suit_convolutions(nn.Sequential(conv(128, 128, 3, padding=1).to(dtype)))[0])

    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: available)
    assert kind(torch.float32) is (WinogradConv2d if available else nn.Conv2d)
    assert kind(torch.float16) is nn.Conv2d
    assert kind(torch.bfloat16) is (PackedConv2d if available and torch.bfloat16 in COMPUTED else nn.Conv2d)
