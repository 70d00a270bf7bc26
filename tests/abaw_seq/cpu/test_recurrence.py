import pytest
import torch
from torch import nn

from abaw_seq.cpu import recurrence
from abaw_seq.models.encoders import EncoderConfig, stack

KINDS = {"lstm": nn.LSTM, "gru": nn.GRU}


def in_torchs_form(module, state):
    return state[0] if isinstance(module, nn.GRU) and state is not None else state


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize(("hidden", "cut"), [(6, 1), (12, 0)], ids=["whole", "in_blocks"])
def test_values_and_gradients_are_those_of_torch(kind, layers, bidirectional, started, hidden, cut, monkeypatch):
    if not cut:
        monkeypatch.setattr(recurrence, "SMALLEST_TO_CUT", 0)
    torch.manual_seed(0)
    module = KINDS[kind](7, hidden, layers, batch_first=True, bidirectional=bidirectional)
    parts, kept = layers * (1 + bidirectional), 2 if kind == "lstm" else 1
    x, first = torch.randn(3, 11, 7), torch.randn(kept, parts, 3, hidden)
    towards, towards_left = torch.randn(3, 11, hidden * (1 + bidirectional)), torch.randn(kept, parts, 3, hidden)

    def everything(forward):
        module.zero_grad()
        inputs = [x.clone().requires_grad_(), first.clone().requires_grad_() if started else None]
        y, left = forward(inputs[0], tuple(inputs[1]) if started else None)
        left = torch.stack(left)
        ((y * towards).sum() + (left * towards_left).sum()).backward()
        return [y, left, *(i.grad for i in inputs if i is not None), *(p.grad.clone() for p in module.parameters())]

    def torchs(inputs, state):
        y, left = module(inputs, in_torchs_form(module, state))
        return y, (left,) if kind == "gru" else left

    ours = everything(lambda inputs, state: recurrence.run(module, inputs, state))
    for found, expected in zip(ours, everything(torchs), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(("hidden", "blocks"), [(512, 8), (100 * 4, 8), (204, 4), (201, 1), (64, 1)])
def test_large_layers_are_cut_into_equal_blocks(hidden, blocks):
    shape = recurrence._Shape.of(torch.empty(1, 2, 3, 4 * hidden), 4)
    assert (shape.blocks, shape.hidden) == (blocks, hidden)


@pytest.mark.parametrize("kind", KINDS)
def test_features_get_no_gradient_and_one_frame_is_enough(kind):
    module = KINDS[kind](4, 3, batch_first=True)
    y, left = recurrence.run(module, torch.randn(2, 1, 4), None)
    torch.testing.assert_close(y[:, -1], left[0][0])
    y.sum().backward()
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_layers_have_dropout_between_them(kind):
    torch.manual_seed(0)
    module, x = KINDS[kind](4, 8, 2, batch_first=True, dropout=0.5), torch.randn(2, 5, 4)
    assert not torch.equal(recurrence.run(module, x, None)[0], recurrence.run(module, x, None)[0])
    module.eval()
    torch.testing.assert_close(recurrence.run(module, x, None)[0], module(x)[0])


def test_it_is_used_where_it_is_faster(monkeypatch):
    calls = []
    run = recurrence.run
    monkeypatch.setattr(recurrence, "run", lambda *given: calls.append(type(given[0])) or run(*given))
    x = torch.randn(2, 5, 4)
    for kind, dim in (("gru", 3), ("lstm", 3), ("lstm", 128)):
        encoder = stack(4, EncoderConfig(kind=kind, dim=dim), 1)
        encoder(x)
        with torch.autocast("cpu", torch.bfloat16):
            encoder(x)
    assert calls == [nn.GRU, nn.LSTM]
    with torch.inference_mode():
        encoder(x)
    assert calls == [nn.GRU, nn.LSTM]
