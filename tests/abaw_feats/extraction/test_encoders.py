from __future__ import annotations

import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from abaw_feats.backbones import Preprocessing
from abaw_feats.extraction.encoders import (
    Download,
    Encoder,
    batch_rows,
    describe,
    load_backbones,
    one_part_per_core,
    prepare_encoders,
)
from abaw_seq.errors import AbawError, UserError
from tests.abaw_feats.tiny_videos import write_networks

CPU = torch.device("cpu")
PREPROCESSING = Preprocessing(8, "rgb", "bicubic", 255.0, (0.5,) * 3, (0.25,) * 3)


class Counting(nn.Module):
    """The mean of each image's channels; runs out of memory above `fits` images."""

    def __init__(self, fits: int):
        super().__init__()
        self.fits, self.batches = fits, []

    def forward(self, x):
        self.batches.append(len(x))
        if len(x) > self.fits:
            raise torch.OutOfMemoryError("out of memory")
        return x.mean((2, 3))


def encoder(module, rows):
    return Encoder("toy", module, PREPROCESSING, CPU, rows)


def images(count, size, seed=0, first=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, size, size, 3), generator=generator, dtype=torch.uint8)
    return np.arange(first, first + count), pixels


def test_running_out_of_memory_halves_the_batch_and_loses_nothing(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    batch = [images(16, 8)]
    expected = encoder(Counting(99), 16).encode(batch, 16).result()
    module = Counting(fits=5)
    halving = encoder(module, 16)
    assert torch.allclose(halving.encode(batch, 16).result(), expected)
    assert module.batches == [16, 8, 4, 4, 4, 4] and halving.rows == 4
    assert "4 frames at once" in capsys.readouterr().err
    halving.encode(batch, 16)
    assert module.batches[6:] == [4, 4, 4, 4]
    with pytest.raises(AbawError, match="toy: not even one frame"):
        encoder(Counting(fits=0), 2).encode(batch, 16)


def test_a_batch_of_mixed_sizes_gives_what_each_image_gives_alone():
    small, large = images(3, 6, seed=1), images(2, 20, seed=2)
    mixed = [(np.array([0, 2, 3]), small[1]), (np.array([1, 4]), large[1])]
    together = encoder(Counting(99), 8).encode(mixed, 8).result()
    for row, pixels in [(0, small[1][0]), (2, small[1][1]), (1, large[1][0]), (4, large[1][1])]:
        alone = encoder(Counting(99), 1).encode([(np.array([0]), pixels[None])], 1).result()
        assert torch.allclose(together[row], alone[0], atol=1e-6)


def test_every_call_of_the_network_has_the_same_number_of_rows():
    module = Counting(99)
    for count in (16, 3, 11):
        out = encoder(module, 8).encode([images(count, 8)], 16).result()
        assert out.shape == (16, 3)
    assert module.batches == [8] * 6
    encoder(module, 5).encode([images(16, 8)], 16)
    assert module.batches[6:] == [5, 5, 5, 5]
    encoder(module, 8).encode([], 4)
    assert module.batches[10:] == [4]


class Slow(nn.Module):
    """Waits until it is told to go on, and notes who called it under how many threads."""

    def __init__(self):
        super().__init__()
        self.go_on, self.calls = threading.Event(), []

    def arithmetic(self, device):
        return nullcontext()

    def forward(self, x):
        self.calls.append((threading.current_thread().name, torch.get_num_threads()))
        assert self.go_on.wait(20)
        return x.mean((2, 3))


@pytest.fixture
def two_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_each_core_computes_on_a_part_of_its_own(two_cores):
    batch = [images(16, 8)]
    expected = encoder(Counting(99), 4).encode(batch, 16).result()
    module = Slow()
    at_work = encoder(module, 4)
    assert batch_rows([at_work]) == 8
    with one_part_per_core([at_work]):
        assert batch_rows([at_work, encoder(module, 3)]) == 16
        encoding = at_work.encode(batch, 16, 14)
        while len(module.calls) < 2:
            time.sleep(0.01)
        assert module.calls[0][0] != module.calls[1][0]
        module.go_on.set()
        assert torch.allclose(encoding.result(), expected)
    assert [threads for _, threads in module.calls] == [1] * 4
    assert torch.get_num_threads() == 2 and at_work.threads is None and batch_rows([at_work]) == 8


def test_parts_that_have_not_begun_are_given_up_when_the_work_is_interrupted(two_cores):
    module = Slow()
    at_work = encoder(module, 2)
    with pytest.raises(KeyboardInterrupt), one_part_per_core([at_work]):
        encoding = at_work.encode([images(16, 8)], 16)
        while len(module.calls) < 2:
            time.sleep(0.01)
        threading.Timer(0.2, module.go_on.set).start()
        raise KeyboardInterrupt
    assert len(module.calls) == 2 and sum(part.cancelled() for part in encoding.parts) == 6
    assert torch.get_num_threads() == 2


def test_one_core_needs_no_threads():
    torch.set_num_threads(1)
    alone = encoder(Counting(99), 4)
    with one_part_per_core([alone]):
        assert alone.threads is None and alone.encode([images(8, 8)], 8).result().shape == (8, 3)


def test_features_arrive_in_the_type_of_the_file():
    rows = torch.tensor([[1.5, 70000.0]])
    assert Download(rows, torch.float32).numpy().tolist() == [[1.5, 70000.0]]
    half = Download(rows, torch.float16).numpy()
    assert half.dtype == "float16" and half[0, 0] == 1.5 and half[0, 1] == float("inf")


def test_backbones_are_loaded_by_name_or_path(tmp_path):
    tiny, grey = write_networks(tmp_path)
    loaded = load_backbones([str(tiny), str(grey)], {"tiny": "random", str(grey): "random:3"})
    assert {name: backbone.weights for name, backbone in loaded.items()} == {
        "tiny": "random:0",
        "grey": "random:3",
    }
    info = describe(loaded["tiny"], dtype="float32", precision="fp32")
    assert (info.dim, info.arch, info.dtype, info.preprocessing["size"]) == (16, "vit", "float32", 32)
    assert len(info.weights_sha256) == 64


def test_weights_for_no_backbone_and_two_backbones_of_one_name_are_refused(tmp_path):
    tiny, _ = write_networks(tmp_path)
    with pytest.raises(UserError, match="weights of mae: no such backbone.*tiny"):
        load_backbones([str(tiny)], {"tiny": "random", "mae": "random"})
    other = tmp_path / "other.yaml"
    other.write_text(tiny.read_text())
    with pytest.raises(UserError, match="two backbones are called 'tiny'"):
        load_backbones([str(tiny), str(other)], {"tiny": "random"})


def test_small_batches_on_the_cpu_unless_told_otherwise(tmp_path):
    tiny, _ = write_networks(tmp_path)
    loaded = load_backbones([str(tiny)], {"tiny": "random"})
    assert prepare_encoders(loaded, device=CPU, precision="fp32", rows=None)["tiny"].rows == 8
    assert prepare_encoders(loaded, device=CPU, precision="fp32", rows=3)["tiny"].rows == 3
