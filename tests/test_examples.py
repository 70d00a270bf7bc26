"""The examples in docstrings, and README's from Python, run as they stand."""

import doctest
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import abaw_feats
import abaw_seq
from abaw_seq.data.annotations import write_mtl_annotations
from abaw_seq.data.feature_file import atomic_feature_file
from tests.conftest import backbone_info, toy_video

ROOT = Path(__file__).parents[1]
FILES = [
    path.relative_to(ROOT) for package in ("abaw_seq", "abaw_feats") for path in sorted((ROOT / package).rglob("*.py"))
]
MODULES = [
    ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    for path in FILES
    if ">>> " in (ROOT / path).read_text()
]
PYTHON = re.search("```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """The files that examples name: feats.h5, runs/gru, annotations/ and cropped_aligned/."""
    folder = tmp_path_factory.mktemp("workplace")
    with atomic_feature_file(folder / "feats.h5") as writer:
        writer.add_backbone("mae", backbone_info(12))
        for k, split in enumerate(("val", "train", "train", "train"), start=1):
            video = toy_video(f"video{k}", 120, 12, k, split)
            video.features["mae"] = video.features.pop("toy")
            video.frames[:] = np.arange(1, 121)
            writer.add_video(video)
            if split == "val":
                rows = [(f"{video.name}/{n:05d}.jpg", row) for n, row in zip(video.frames, video.labels, strict=True)]
                write_mtl_annotations(folder / "annotations" / "validation_set_annotations.txt", rows)
    images = folder / "cropped_aligned" / "video1"
    images.mkdir(parents=True)
    for number in (1, 2):
        Image.fromarray(np.full((112, 112, 3), 40 * number, np.uint8)).save(images / f"{number:05d}.jpg")
    quick = {"like": "abaw4/gru", "epochs": 2, "model": {"encoder": {"kind": "gru", "dim": 8}, "head": [8]}}
    abaw_seq.train(quick, folder / "feats.h5", run=folder / "runs" / "gru", device="cpu")
    return folder


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    module = import_module(name)
    tried = doctest.testmod(module, extraglobs={"np": np})
    assert tried.attempted and not tried.failed


def test_the_examples_of_readme_run(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    (workplace / "new.h5").write_bytes((workplace / "feats.h5").read_bytes())
    load = abaw_feats.load_encoder
    monkeypatch.setattr(abaw_feats, "load_encoder", lambda name, weights: load("iresnet18", weights="random"))
    code = PYTHON.replace("runs/gru", "runs/readme")
    names = {"frames": np.zeros((2, 112, 112, 3), np.uint8)}
    exec(code, names)
    assert names["features"].shape == (2, 512) and names["run"].scores["untuned"]["p_mtl"] is not None
