import pytest
import torch
from torch import nn

from abaw_seq import cpu
from abaw_seq.cpu import products


def test_products_stay_float32_and_the_switch_is_put_back():
    before = torch.backends.mkldnn.matmul.fp32_precision
    a, b = torch.randn(96, 300), torch.randn(300, 200)
    exact = a.double() @ b.double()
    with cpu.settings():
        assert ((a @ b).double() - exact).abs().max() < products.TRUE_FP32_ERROR * exact.abs().max()
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    with pytest.raises(RuntimeError), cpu.settings():
        raise RuntimeError
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def model(parameters: int) -> nn.Module:
    return nn.Linear(parameters // 100, 100, bias=False, device="meta")


@pytest.mark.parametrize(("parameters", "true"), [(10**6 - 100, True), (10**8, False)])
def test_the_switch_is_left_alone_for_small_models_and_where_it_means_bf16(parameters, true, monkeypatch):
    monkeypatch.setattr(products, "onednn_products_are_fp32", lambda: true)
    monkeypatch.setattr(products, "_onednn_products", lambda: pytest.fail("switched"))
    with cpu.fast_products(model(parameters)):
        pass


def test_the_switch_is_used_for_large_models(monkeypatch):
    monkeypatch.setattr(products, "onednn_products_are_fp32", lambda: True)
    before = torch.backends.mkldnn.matmul.fp32_precision
    for sized in (model(10**6), None):
        with cpu.fast_products(sized):
            assert torch.backends.mkldnn.matmul.fp32_precision == "bf16" != before
