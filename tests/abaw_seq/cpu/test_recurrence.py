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


def segments(encoder, used):
    """Outputs of two segments, the second with the state of the first."""
    torch.manual_seed(1)
    first, state = encoder(torch.randn(3, 5, 4), None, used)
    second, state = encoder(torch.randn(3, 5, 4), state, used)
    return [first, second, *state]


@pytest.mark.parametrize("used", [None, torch.tensor([5, 2, 4])], ids=["equal", "packed"])
@pytest.mark.parametrize("dim", [3, 128])
@pytest.mark.parametrize("kind", KINDS)
def test_autocast_works_on_every_processor(kind, dim, used):
    torch.manual_seed(0)
    encoder = stack(4, EncoderConfig(kind=kind, dim=dim, bidirectional=used is not None, dropout=0), 1)
    with torch.autocast("cpu", torch.bfloat16):
        values = segments(encoder, used)
    values[1].float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())
    for value, expected in zip(values, segments(encoder, used), strict=True):
        torch.testing.assert_close(value.float(), expected, atol=0.03, rtol=0)


@pytest.mark.parametrize("used", [None, torch.tensor([5, 2, 4])], ids=["equal", "packed"])
@pytest.mark.parametrize("dim", [3, 128])
def test_an_lstm_the_processor_cannot_compute_in_half_precision_stays_float32(dim, used, monkeypatch):
    monkeypatch.setattr(recurrence, "computes_lstm", lambda dtype: False)
    encoder = stack(4, EncoderConfig(kind="lstm", dim=dim, bidirectional=True, dropout=0), 1)
    expected = segments(encoder, used)
    with torch.autocast("cpu", torch.bfloat16):
        values = segments(encoder, used)
    assert all(value.dtype == torch.float32 for value in values)
    assert all(map(torch.equal, values, expected))


def test_asking_what_the_processor_computes_draws_no_random_numbers():
    before = torch.get_rng_state()
    with torch.inference_mode():
        half = recurrence.computes_lstm.__wrapped__(torch.bfloat16)
    assert half == recurrence.computes_lstm.__wrapped__(torch.bfloat16)
    assert torch.equal(before, torch.get_rng_state())
