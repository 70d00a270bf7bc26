import pytest
import torch
import torch.nn.functional as F

from abaw_seq.cpu import fast_attention, fast_dropout
from abaw_seq.cpu.dropout import LEVELS


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_the_share_that_is_dropped_and_the_scale_of_the_rest(p):
    torch.manual_seed(0)
    x = torch.full((1001, 999), 2.0)
    y = fast_dropout(x, p)
    dropped = (y == 0).float().mean().item()
    assert dropped == pytest.approx(p, abs=5 * (p * (1 - p) / x.numel()) ** 0.5 + 1 / LEVELS)
    assert y.unique().tolist() == pytest.approx([0, 2 / (1 - p)], rel=2 / LEVELS / (1 - p))
    assert y.mean().item() == pytest.approx(2, abs=0.02)


def test_neighbours_are_dropped_independently():
    torch.manual_seed(0)
    signs = (fast_dropout(torch.ones(400_000), 0.5) > 0).float() - 0.5
    for shift in (1, 2, 3, 4, 8):
        assert abs((signs[shift:] * signs[:-shift]).mean().item()) < 0.005


def test_gradients_go_where_values_are_kept():
    x = torch.randn(7, 5, requires_grad=True)
    y = fast_dropout(x, 0.4)
    y.sum().backward()
    torch.testing.assert_close(x.grad * x, y)


def test_the_seed_decides():
    x = torch.randn(3, 33)
    results = []
    for _ in range(2):
        torch.manual_seed(4)
        results.append(fast_dropout(x, 0.5))
    assert torch.equal(*results) and not torch.equal(results[0], fast_dropout(x, 0.5))


@pytest.mark.parametrize("p", [1.0, 1 - 1e-9])
def test_all_may_be_dropped(p):
    assert not fast_dropout(torch.randn(3, 33), p).any()


def test_half_precision_stays_half():
    assert fast_dropout(torch.ones(9, dtype=torch.bfloat16), 0.5).dtype == torch.bfloat16


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_torchs_but_for_what_is_dropped(masked):
    torch.manual_seed(0)
    q, k, v = torch.rand(3, 2, 3, 9, 4)
    mask = (torch.arange(9) < torch.tensor([[9], [5]]))[:, None, None, :] if masked else None
    exact = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(fast_attention(q, k, v, mask=mask, p=0.0), exact)
    mean = torch.stack([fast_attention(q, k, v, mask=mask, p=0.5) for _ in range(2000)]).mean(0)
    torch.testing.assert_close(mean, exact, atol=0.1, rtol=0)
