import pytest
import torch
from torch import nn

from abaw_seq.models import gru
from abaw_seq.models.encoders import EncoderConfig, stack


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("started", [False, True])
def test_values_and_gradients_are_those_of_torch(layers, bidirectional, started):
    torch.manual_seed(0)
    module = nn.GRU(7, 6, layers, batch_first=True, bidirectional=bidirectional)
    parts = layers * (1 + bidirectional)
    x, h0 = torch.randn(3, 11, 7), torch.randn(parts, 3, 6)
    towards, towards_left = torch.randn(3, 11, 6 * (1 + bidirectional)), torch.randn(parts, 3, 6)

    def everything(forward):
        module.zero_grad()
        inputs = [x.clone().requires_grad_(), h0.clone().requires_grad_() if started else None]
        y, left = forward(*inputs)
        ((y * towards).sum() + (left * towards_left).sum()).backward()
        return [y, left, *(i.grad for i in inputs if i is not None), *(p.grad.clone() for p in module.parameters())]

    ours, reference = everything(lambda *inputs: gru.run(module, *inputs)), everything(module)
    for found, expected in zip(ours, reference, strict=True):
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


def test_features_get_no_gradient_and_one_frame_is_enough():
    module = nn.GRU(4, 3, batch_first=True)
    y, left = gru.run(module, torch.randn(2, 1, 4), None)
    torch.testing.assert_close(y[:, -1], left[0])
    y.sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_layers_have_dropout_between_them():
    torch.manual_seed(0)
    module, x = nn.GRU(4, 8, 2, batch_first=True, dropout=0.5), torch.randn(2, 5, 4)
    assert not torch.equal(gru.run(module, x, None)[0], gru.run(module, x, None)[0])
    module.eval()
    torch.testing.assert_close(gru.run(module, x, None)[0], module(x)[0])


def test_it_is_used_where_it_applies(monkeypatch):
    calls = []
    monkeypatch.setattr(gru, "run", lambda module, x, h0: calls.append(1) or module(x, h0))
    for kind in ("gru", "lstm"):
        encoder = stack(4, EncoderConfig(kind=kind, dim=3), 1)
        encoder(torch.randn(2, 5, 4))
        with torch.autocast("cpu", torch.bfloat16):
            encoder(torch.randn(2, 5, 4))
    assert calls == [1]
