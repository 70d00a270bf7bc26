"""What is for processors is imported on a processor alone."""

import subprocess
import sys

import pytest

BLOCKED = """
import importlib, pkgutil, sys
import torch

FOR_PROCESSORS = ("abaw_seq.cpu", "abaw_feats.backbones.cpu_convolutions", "abaw_feats.learning.quick_prelu")

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(FOR_PROCESSORS):
            raise ImportError(f"blocked: {name}")

sys.meta_path.insert(0, Blocked())
other = torch.device("meta")

def refused(work):
    try:
        work()
    except ImportError as error:
        assert "blocked" in str(error)
        return True
"""

SEQUENCES = """
from abaw_seq.engine.device import full_speed
from abaw_seq.learn import train
from abaw_seq.models.encoders import EncoderConfig
from abaw_seq.models.frameworks import ModelConfig, MultiTaskModel
from abaw_seq.tasks import TASKS

for kind in ("lstm", "gru", "transformer", "tcn"):
    encoder = EncoderConfig(kind=kind, dim=128, layers=2, bidirectional=True)
    config = ModelConfig(encoder=encoder, framework="sbe_hsf", task_layers=1, feedback={"arousal": ("au",)})
    model = MultiTaskModel(6, config, {name: task.outputs for name, task in TASKS.items()})
    assert refused(lambda: model(torch.randn(2, 5, 6)))
    model.to(other)
    with full_speed(other, model):
        outputs = model(torch.randn(2, 5, 6, device=other)).outputs
        sum(output.sum() for output in outputs.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.inference_mode():
        model.eval()(torch.randn(2, 5, 6, device=other))
assert refused(lambda: full_speed(torch.device("cpu")))
"""

FRAMES = """
from abaw_feats.backbones import build, find_spec, prepare_for_inference
from abaw_feats.extraction import extract
from abaw_feats.learning import finetune, pretrain
from abaw_feats.learning.task_network import suit_device

for name in ("iresnet18", "densenet", "mae"):
    spec = find_spec(name)
    size = spec.preprocessing.size
    with other:
        x, module = torch.randn(2, spec.preprocessing.channels, size, size), build(spec)
    for precision in ("fp32", "bf16"):
        prepare_for_inference(module.eval(), device=other, precision=precision)(x)
    suit_device(module, other).train()(x).sum().backward()
assert refused(lambda: prepare_for_inference(build(spec).eval(), device="cpu", precision="bf16"))
assert refused(lambda: suit_device(build(spec), torch.device("cpu")))
"""


@pytest.mark.parametrize("work", [SEQUENCES, FRAMES], ids=["sequences", "frames"])
def test_other_devices_import_nothing_that_is_for_processors(work):
    done = subprocess.run([sys.executable, "-c", BLOCKED + work], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
