import pytest
import torch
from torch import nn

from abaw_feats.backbones import build, find_spec, spec_from_dict
from abaw_feats.learning.quick_prelu import QuickPReLU, use_quick_prelu


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_those_of_prelu(layout):
    torch.manual_seed(0)
    plain, quick = nn.PReLU(5), QuickPReLU(5)
    with torch.no_grad():
        slopes = torch.tensor([0.25, 0.0, -0.5, 1.0, 2.0])
        plain.weight.copy_(slopes)
        quick.weight.copy_(slopes)
    values = torch.randn(3, 5, 8, 8).to(memory_format=layout)
    values[0, :, 0, 0] = 0
    results = []
    for module in (plain, quick):
        x = values.clone().requires_grad_()
        y = module(x)
        (y * torch.arange(y.numel()).reshape(y.shape) / 1000).sum().backward()
        results.append((y, x.grad, module.weight.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    torch.testing.assert_close(results[0][2], results[1][2], atol=1e-5, rtol=1e-5)


def test_autocast_keeps_half_precision():
    x = torch.randn(2, 3, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    quick = QuickPReLU(3)
    y = quick(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == torch.bfloat16
    assert quick.weight.grad.dtype == torch.float32


def test_a_network_keeps_its_outputs_and_parameter_names():
    sizes = {"preprocessing": {"size": 32}, "options": {"blocks": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "dim": 8}}
    network = build(spec_from_dict(sizes, start=find_spec("iresnet18"))).eval()
    x = torch.randn(2, 3, 32, 32)
    before, state = network(x), network.state_dict()
    use_quick_prelu(network)
    assert type(network.prelu) is type(network.layer1[0].prelu) is QuickPReLU
    assert network.state_dict().keys() == state.keys()
    assert torch.equal(network(x), before)
