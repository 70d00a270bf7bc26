import pytest
import torch

from abaw_seq.engine.device import autocast_dtype, find_device, find_precision
from abaw_seq.engine.processes import process_group
from abaw_seq.errors import UserError

CPU = torch.device("cpu")


def test_a_process_alone_is_its_own_group():
    with process_group("cpu") as group:
        assert group.first and group.size == 1 and group.device == CPU
        assert group.share(lambda: 7) == 7 and group.gather("x") == ["x"] and not group.any(False)
        assert group.mean(torch.tensor(3.0)) == 3 and group.spread("module") == "module"


def test_devices_that_do_not_exist_are_named():
    assert find_device("cpu") == CPU
    with pytest.raises(UserError, match="device 'gpu': not a device; use auto, cpu, cuda or cuda:N"):
        find_device("gpu")
    with pytest.raises(UserError, match="device 'cuda:99': this machine has [0-9]+ CUDA devices"):
        find_device("cuda:99")
    for name in ("mps", "xpu", "meta"):
        with pytest.raises(UserError, match=f"device '{name}': only processors .* use cpu"):
            find_device(name)


def test_automatic_precision_is_bf16_only_where_the_hardware_has_it(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert find_precision("auto", CPU) == "bf16" and find_precision("fp32", CPU) == "fp32"
    assert autocast_dtype("auto", CPU) is torch.bfloat16 and autocast_dtype("fp32", CPU) is None
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True}, raising=False)
    assert find_precision("auto", CPU) == "fp32" and find_precision("bf16", CPU) == "bf16"
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        autocast_dtype("fp16", CPU)
