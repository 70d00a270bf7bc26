import pytest
import torch

from abaw_seq.cpu.dropout import LEVELS, Dropout, dropout


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_the_share_that_is_dropped_and_the_scale_of_the_rest(p):
    torch.manual_seed(0)
    x = torch.full((1001, 999), 2.0)
    y = dropout(x, p, True)
    dropped = (y == 0).float().mean().item()
    assert dropped == pytest.approx(p, abs=5 * (p * (1 - p) / x.numel()) ** 0.5 + 1 / LEVELS)
    assert y.unique().tolist() == pytest.approx([0, 2 / (1 - p)], rel=2 / LEVELS / (1 - p))
    assert y.mean().item() == pytest.approx(2, abs=0.02)


def test_neighbours_are_dropped_independently():
    torch.manual_seed(0)
    kept = (dropout(torch.ones(400_000), 0.5, True) > 0).float() - 0.5
    for shift in (1, 2, 3, 4, 8):
        assert abs((kept[shift:] * kept[:-shift]).mean().item()) < 0.005


def test_gradients_go_where_values_are_kept():
    x = torch.randn(7, 5, requires_grad=True)
    y = dropout(x, 0.4, True)
    y.sum().backward()
    torch.testing.assert_close(x.grad * x, y)


def test_the_seed_decides_and_evaluation_changes_nothing():
    x = torch.randn(3, 33)
    drawn = []
    for _ in range(2):
        torch.manual_seed(4)
        drawn.append(dropout(x, 0.5, True))
    assert torch.equal(*drawn) and not torch.equal(drawn[0], dropout(x, 0.5, True))
    assert dropout(x, 0.5, False) is x and dropout(x, 0.0, True) is x
    assert Dropout(0.5).eval()(x) is x
    assert not dropout(x, 1.0, True).any()


def test_half_precision_stays_half():
    assert dropout(torch.ones(9, dtype=torch.bfloat16), 0.5, True).dtype == torch.bfloat16


def test_what_is_no_share_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        Dropout(1.5)
