"""Training and validation feed a network the pixels that extraction feeds it, to the last bit."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from abaw_feats.backbones import ARCHITECTURES, find_spec
from abaw_feats.extraction.extract import extract
from abaw_feats.learning.finetune import finetune
from abaw_feats.learning.finetune_config import FinetuneConfig
from abaw_feats.learning.frame_store import read_frames
from abaw_feats.learning.masked_autoencoder import MaskedAutoencoder
from abaw_feats.learning.pretrain import PretrainConfig, pretrain
from abaw_feats.learning.task_network import TaskNetwork
from abaw_feats.reading.image_index import index_videos
from abaw_feats.reading.images import normalise
from abaw_seq.config import from_dict
from abaw_seq.data.annotations import write_mtl_annotations
from abaw_seq.data.feature_file import FeatureReader
from tests.abaw_feats.tiny_videos import picture

DEVICES = ["cpu", *["cuda"] * torch.cuda.is_available()]
FRAMES = 6
SIZES = {"96x128": [(128, 96)], "256x256": [(256, 256)], "mixed": [(96, 96), (128, 96), (256, 256), (20, 30)]}
BACKBONES = {
    "bilinear": {"like": "iresnet18", "name": "bilinear"},
    "bicubic": {"like": "iresnet18", "name": "bicubic", "preprocessing": {"resize": "bicubic"}},
    "grey": {"like": "densenet", "name": "grey"},
}
VIT = {"like": "mae", "name": "vit", "options": {"patch": 16, "width": 16, "depth": 1, "heads": 2}}
STILL = {
    "flip": 0.0, "scale": [1.0, 1.0], "aspect": 0.0, "rotation": 0.0,
    "brightness": 0.0, "contrast": 0.0, "saturation": 0.0,
}  # fmt: skip


class Flat(nn.Module):
    """A network whose features are its input."""

    def __init__(self, spec):
        super().__init__()
        self.dim = spec.preprocessing.channels * spec.preprocessing.size**2

    def forward(self, x):
        return x.flatten(1)


@contextmanager
def inputs_of(kind):
    """A list that collects (training or not, input) of every call of networks of a kind."""
    seen = []

    def keep(module, args):
        if isinstance(module, kind):
            seen.append((module.training, args[0].cpu().flatten(1).numpy()))

    hook = register_module_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


@pytest.fixture(params=SIZES)
def faces(request, tmp_path):
    """(frames, annotations) folders of a training and a validation video."""
    for split in ("training", "validation"):
        (tmp_path / "faces" / split).mkdir(parents=True)
        lines = []
        for number in range(1, FRAMES + 1):
            size = SIZES[request.param][number % len(SIZES[request.param])]
            name = f"{split}/{number:05d}.png"
            picture(number + len(split), size).save(tmp_path / "faces" / name)
            lines.append((name, np.array([0.1 * number, -0.1, number, *[number % 2] * 12], np.float32)))
        (tmp_path / "labels").mkdir(exist_ok=True)
        write_mtl_annotations(tmp_path / "labels" / f"{split}_set_annotations.txt", lines)
    return tmp_path / "faces", tmp_path / "labels"


def extracted(backbone: dict, faces, out, device, monkeypatch) -> dict[str, np.ndarray]:
    """{video: (frames, values) of the network's input} as abaw-extract computes it."""
    file = out / f"{backbone['name']}.yaml"
    file.write_text(json.dumps(backbone))
    with monkeypatch.context() as patch:
        for arch, entry in ARCHITECTURES.items():
            patch.setitem(ARCHITECTURES, arch, replace(entry, build=Flat))
        extract(
            backbones=[str(file)], videos=[faces], out=out / "feats.h5", weights={backbone["name"]: "random"},
            dtype="float32", precision="fp32", device=device,
        )  # fmt: skip
    with FeatureReader(out / "feats.h5") as reader:
        return {video: reader.video(video).features[backbone["name"]] for video in reader.videos}


def sized(backbone: dict, side: int) -> dict:
    return {**backbone, "preprocessing": {**backbone.get("preprocessing", {}), "size": side}}


def in_any_order(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T[:64])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
@pytest.mark.parametrize("side", [32, 112])
@pytest.mark.parametrize("name", BACKBONES)
def test_fine_tuning_and_validation(name, side, memory_gb, device, faces, tmp_path, monkeypatch):
    backbone = sized(BACKBONES[name], side)
    expected = extracted(backbone, faces[0], tmp_path, device, monkeypatch)
    config = from_dict(
        FinetuneConfig,
        {"backbone": backbone, "weights": "random", "epochs": 1, "augment": STILL, "memory_gb": memory_gb},
    )
    for arch, entry in ARCHITECTURES.items():
        monkeypatch.setitem(ARCHITECTURES, arch, replace(entry, build=Flat))
    with inputs_of(TaskNetwork) as seen:
        finetune(config, tmp_path / "run", videos=[faces[0]], annotations=[faces[1]], device=device)
    (trained,), (validated,) = ([x for training, x in seen if training is mode] for mode in (True, False))
    np.testing.assert_array_equal(validated, expected["validation"])
    np.testing.assert_array_equal(in_any_order(trained), in_any_order(expected["training"]))

    preprocessing = find_spec(tmp_path / f"{name}.yaml").preprocessing
    index = index_videos([faces[0]])
    rows = torch.arange(len(index))
    read = [images for images, _ in read_frames(index, rows, preprocessing, device=torch.device(device))]
    once = normalise(torch.cat(read), preprocessing).cpu().flatten(1).numpy()
    np.testing.assert_array_equal(once, np.concatenate([expected["training"], expected["validation"]]))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("resize", "side", "memory_gb"), [("bicubic", 32, 1.0), ("bilinear", 112, 0.0)])
def test_pretraining(resize, side, memory_gb, device, faces, tmp_path, monkeypatch):
    backbone = sized({**VIT, "preprocessing": {"resize": resize}}, side)
    expected = extracted(backbone, faces[0], tmp_path, device, monkeypatch)
    values = {
        "backbone": backbone, "decoder": {"width": 16, "depth": 1, "heads": 2}, "epochs": 1, "augment": STILL,
        "memory_gb": memory_gb,
    }  # fmt: skip
    with inputs_of(MaskedAutoencoder) as seen:
        pretrain(from_dict(PretrainConfig, values), [faces[0]], tmp_path / "run", device=device)
    ((_, trained),) = seen
    everything = np.concatenate([expected["training"], expected["validation"]])
    np.testing.assert_array_equal(in_any_order(trained), in_any_order(everything))
