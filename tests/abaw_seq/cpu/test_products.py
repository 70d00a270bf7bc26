import subprocess
import sys

import pytest
import torch
from torch import nn

from abaw_seq.cpu import products as cpu

CPU = torch.device("cpu")


def test_products_stay_float32_and_the_switch_is_put_back():
    before = torch.backends.mkldnn.matmul.fp32_precision
    a, b = torch.randn(96, 300), torch.randn(300, 200)
    exact = a.double() @ b.double()
    with cpu.fast_products(CPU):
        assert ((a @ b).double() - exact).abs().max() < cpu.TRUE_FP32_ERROR * exact.abs().max()
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    with pytest.raises(RuntimeError), cpu.fast_products(CPU):
        raise RuntimeError
    assert torch.backends.mkldnn.matmul.fp32_precision == before


@pytest.mark.parametrize(
    ("device", "parameters", "true"), [("cpu", 10**5, True), ("cuda", 10**8, True), ("cpu", 10**8, False)]
)
def test_the_switch_is_left_alone_for_small_models_gpus_and_where_it_means_bf16(device, parameters, true, monkeypatch):
    monkeypatch.setattr(cpu, "onednn_products_are_fp32", lambda: true)
    monkeypatch.setattr(cpu, "_onednn_products", lambda: pytest.fail("switched"))
    with cpu.fast_products(torch.device(device), parameters):
        pass


def test_size_of_a_model():
    assert cpu.size_of(nn.Linear(3, 4)) == 16


FREED = """
import resource, sys
from abaw_seq.cpu import products as cpu
if sys.argv[1] == "keep":
    assert cpu.keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    return [bytearray(b'x') * (16 << 20) for _ in range(12)]
for _ in range(8):
    step()
before = faults()
for _ in range(5):
    step()
print(faults() - before)
"""


def test_memory_that_is_kept_is_not_fetched_again():
    if not cpu.keep_freed_memory():
        assert sys.platform != "linux"
        return

    def faults(mode: str) -> int:
        return int(subprocess.run([sys.executable, "-c", FREED, mode], check=True, capture_output=True).stdout)

    assert faults("keep") < faults("give back") / 10


def test_other_platforms_are_left_alone(monkeypatch):
    monkeypatch.setattr(cpu.sys, "platform", "darwin")
    assert cpu.keep_freed_memory.__wrapped__() is False
