import math

import pytest
import torch

from abaw_seq.models.encoders import EncoderConfig, rotate, sinusoids, stack

KINDS = ["none", "lstm", "gru", "transformer", "tcn"]


def encoder(kind, layers=2, **extra):
    torch.manual_seed(0)
    config = EncoderConfig(kind=kind, dim=16, layers=layers, heads=2, ffn=32, **extra)
    return stack(6, config, layers).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_shapes(kind):
    model = encoder(kind)
    y, _ = model(torch.randn(3, 10, 6))
    assert y.shape == (3, 10, model.out_dim)
    assert model.out_dim == (6 if kind == "none" else 16)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_segments_with_carried_state_equal_the_whole_video(kind):
    model, x = encoder(kind), torch.randn(2, 50, 6)
    whole, _ = model(x)
    state, parts = None, []
    for start in (0, 16, 32, 48):
        y, state = model(x[:, start : start + 16], state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_carried_state_is_cut_off_from_gradients(kind):
    _, state = encoder(kind)(torch.randn(1, 5, 6))
    assert not any(part.requires_grad for part in state)


@pytest.mark.parametrize("kind", ["transformer", "tcn", "lstm", "gru"])
def test_what_lies_behind_a_windows_end_changes_nothing(kind):
    extra = {"bidirectional": True} if kind in ("lstm", "gru") else {}
    model, used = encoder(kind, **extra), torch.tensor([7, 10])
    x = torch.randn(2, 10, 6)
    changed = x.clone()
    changed[0, 7:] = 99.0
    y, _ = model(x, None, used)
    z, _ = model(changed, None, used)
    alone, _ = model(x[:1, :7])
    torch.testing.assert_close(y[0, :7], z[0, :7])
    torch.testing.assert_close(y[0, :7], alone[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary", "none"])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_positions_decide_whether_order_matters(positions, norm):
    model, x = encoder("transformer", positions=positions, norm=norm), torch.randn(1, 12, 6)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    y, shuffled = model(x)[0], model(x[:, order])[0]
    same = torch.allclose(y[:, order], shuffled, atol=1e-5)
    assert same == (positions == "none")


def test_sinusoids_are_the_published_table():
    table = sinusoids(5, 8, torch.device("cpu"))
    assert table[3, 0] == pytest.approx(math.sin(3))
    assert table[3, 1] == pytest.approx(math.cos(3))
    assert table[3, 4] == pytest.approx(math.sin(3 / 10000 ** (4 / 8)))


def test_rotation_keeps_lengths_and_depends_on_distance_alone():
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    turned_q, turned_k = rotate(q.expand(1, 1, 9, 8)), rotate(k.expand(1, 1, 9, 8))
    torch.testing.assert_close(turned_q.norm(dim=-1), q.expand(1, 1, 9, 8).norm(dim=-1))
    dots = (turned_q[0, 0] @ turned_k[0, 0].T).diagonal(offset=-3)
    torch.testing.assert_close(dots, dots[:1].expand_as(dots), atol=1e-5, rtol=1e-5)


def test_a_causal_tcn_does_not_look_ahead():
    model, x = encoder("tcn", causal=True), torch.randn(1, 20, 6)
    changed = x.clone()
    changed[:, 12:] += 1
    torch.testing.assert_close(model(x)[0][:, :12], model(changed)[0][:, :12])
    assert not torch.allclose(model(x)[0][:, 12:], model(changed)[0][:, 12:])


@pytest.mark.parametrize(
    "wrong",
    [{"kind": "transformer", "dim": 30, "heads": 4}, {"layers": 0}, {"kind": "tcn", "kernel": 4}],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError):
        EncoderConfig(**wrong)
