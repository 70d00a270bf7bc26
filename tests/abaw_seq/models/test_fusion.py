"""Each fusion against the formula written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from abaw_seq.models.fusion import FUSIONS, Fusion, FusionConfig

CONFIG = FusionConfig(dim=8, heads=2)


def fused(kind, sources=3, config=CONFIG):
    """(module in evaluation mode, its sources, what it makes of them)."""
    torch.manual_seed(0)
    module = Fusion([config.dim] * sources, kind, config).eval()
    x = [torch.randn(2, 5, config.dim) for _ in range(sources)]
    return module, x, module(x)


def two_layers(module, x):
    first, _, _, second = module.fuse.layers
    y = F.relu(x @ first.weight.T + first.bias) @ second.weight.T + second.bias
    return torch.where(y > 0, y, 0.1 * y)


def test_without_fusion_the_first_source_passes_the_leaky_relu():
    _, x, y = fused("none")
    torch.testing.assert_close(y, torch.where(x[0] > 0, x[0], 0.1 * x[0]))


def test_sum():
    module, x, y = fused("sum")
    torch.testing.assert_close(y, two_layers(module, x[0] + x[1] + x[2]))


def test_concatenation():
    module, x, y = fused("concat")
    torch.testing.assert_close(y, two_layers(module, torch.cat(x, -1)))


def test_gate():
    module, x, y = fused("gate")
    scores = F.linear(torch.cat(x, -1), module.fuse.weigh.weight, module.fuse.weigh.bias)
    share = scores.exp() / scores.exp().sum(-1, keepdim=True)
    torch.testing.assert_close(y, two_layers(module, sum(share[..., k, None] * x[k] for k in range(3))))


def test_attention_asks_with_the_first_source_frame_by_frame():
    module, x, y = fused("attention")
    weight = module.fuse.attention.in_proj_weight.view(3, 8, 8)
    q, k, v = (torch.stack([source @ part.T for source in x]) for part in weight)  # its biases start at 0
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        scores = torch.stack([(q[0] * k[s])[..., head].sum(-1) / 2 for s in range(3)])
        share = scores.softmax(0)
        heads.append(sum(share[s, ..., None] * v[s][..., head] for s in range(3)))
    asked = module.fuse.attention.out_proj(torch.cat(heads, -1))
    torch.testing.assert_close(y, two_layers(module, x[0] + asked))


@pytest.mark.parametrize("kind", FUSIONS)
@pytest.mark.parametrize("sources", [1, 2, 4])
def test_every_fusion_takes_any_number_of_sources_and_learns(kind, sources):
    module, x, _ = fused(kind, sources)
    y = module([source.requires_grad_() for source in x])
    assert y.shape == (2, 5, 8)
    y.sum().backward()
    assert all(source.grad is not None for source in (x[:1] if kind == "none" else x))
    assert all(p.grad is not None for p in module.parameters())


def test_sources_of_other_widths_are_brought_to_one_width():
    module = Fusion([8, 3, 12], "sum", CONFIG)
    assert isinstance(module.bring[0], nn.Identity) and module.bring[1].in_features == 3
    assert module([torch.randn(2, 5, width) for width in (8, 3, 12)]).shape == (2, 5, 8)


@pytest.mark.parametrize("wrong", [{"dim": 0}, {"dim": 6}, {"dim": 8, "heads": 0}, {"dropout": 1.0}])
def test_layers_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError):
        FusionConfig(**wrong)
