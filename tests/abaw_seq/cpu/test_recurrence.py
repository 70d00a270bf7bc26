import pytest
import torch
from torch import nn

from abaw_seq.cpu import cells, recurrence
from abaw_seq.models.encoders import EncoderConfig, stack

KINDS = {"lstm": nn.LSTM, "gru": nn.GRU}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize(("hidden", "cut"), [(6, 1), (12, 0)], ids=["whole", "in_blocks"])
def test_values_and_gradients_are_those_of_torch(kind, layers, bidirectional, with_state, hidden, cut, monkeypatch):
    if not cut:
        monkeypatch.setattr(cells, "SMALLEST_TO_CUT", 0)
    torch.manual_seed(0)
    module = KINDS[kind](7, hidden, layers, batch_first=True, bidirectional=bidirectional)
    directions, parts = 1 + bidirectional, 2 if kind == "lstm" else 1
    x, initial = torch.randn(3, 11, 7), torch.randn(parts, layers * directions, 3, hidden)
    weight, final_weight = torch.randn(3, 11, hidden * directions), torch.randn_like(initial)

    def everything(forward):
        module.zero_grad()
        inputs = [x.clone().requires_grad_()] + [initial.clone().requires_grad_()] * with_state
        hx = (tuple(inputs[1]) if kind == "lstm" else inputs[1][0]) if with_state else None
        y, final = forward(inputs[0], hx)
        final = torch.stack(final) if kind == "lstm" else final[None]
        ((y * weight).sum() + (final * final_weight).sum()).backward()
        return [y, final, *(i.grad for i in inputs), *(p.grad.clone() for p in module.parameters())]

    ours = everything(lambda inputs, hx: recurrence.run(module, inputs, hx))
    for value, expected in zip(ours, everything(module), strict=True):
        torch.testing.assert_close(value, expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(("hidden", "blocks"), [(512, 8), (100 * 4, 8), (204, 4), (201, 1), (64, 1)])
def test_large_layers_are_cut_into_equal_blocks(hidden, blocks):
    shape = cells._Shape.of(torch.empty(1, 2, 3, 4 * hidden), 4)
    assert (shape.blocks, shape.hidden) == (blocks, hidden)


@pytest.mark.parametrize("kind", KINDS)
def test_features_get_no_gradient_and_one_frame_is_enough(kind):
    module = KINDS[kind](4, 3, batch_first=True)
    y, final = recurrence.run(module, torch.randn(2, 1, 4))
    torch.testing.assert_close(y[:, -1], (final[0] if kind == "lstm" else final)[0])
    y.sum().backward()
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_layers_have_dropout_between_them(kind):
    torch.manual_seed(0)
    module, x = KINDS[kind](4, 8, 2, batch_first=True, dropout=0.5), torch.randn(2, 5, 4)
    assert not torch.equal(recurrence.run(module, x)[0], recurrence.run(module, x)[0])
    module.eval()
    torch.testing.assert_close(recurrence.run(module, x)[0], module(x)[0])


@pytest.fixture
def runs(monkeypatch):
    """The kinds of layers that `run` was called for."""
    kinds, run = [], recurrence.run
    monkeypatch.setattr(recurrence, "run", lambda rnn, *inputs: kinds.append(type(rnn)) or run(rnn, *inputs))
    return kinds


def test_it_is_used_where_it_is_faster(runs):
    x = torch.randn(2, 5, 4)
    for kind, dim in (("gru", 3), ("lstm", 3), ("lstm", 128)):
        encoder = stack(4, EncoderConfig(kind=kind, dim=dim), 1)
        encoder(x)
    assert runs == [nn.GRU, nn.LSTM]
    with torch.inference_mode():
        encoder(x)
    assert runs == [nn.GRU, nn.LSTM]
