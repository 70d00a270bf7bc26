"""One small run of everything, through the real commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

BIN = Path(sys.executable).parent
SMALL = {
    "mae": "like: mae\nname: mae\npooling: gap_normed\npreprocessing: {size: 32}\n"
    "options: {patch: 16, width: 24, depth: 1, heads: 2}\n",
    "iresnet": "like: iresnet18\nname: iresnet\noptions: {blocks: [1, 1, 1, 1], channels: [4, 4, 8, 8], dim: 16}\n",
}


def command(*arguments, **environment) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [BIN / arguments[0], *map(str, arguments[1:])],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return done


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    command("abaw-feats", "demo", folder / "demo", "--videos", 6, "--frames", 150)
    for name, text in SMALL.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def test_frames_become_features_scores_predictions_and_a_page(home):
    videos, feats = home / "demo" / "cropped_aligned", home / "feats.h5"
    extract = ["abaw-extract", "--videos", videos, "-o", feats, "--weights", "mae=random", "iresnet=random"]
    extract += ["--backbone", home / "mae.yaml", home / "iresnet.yaml", "--annotations", home / "demo" / "annotations"]
    command(*extract)
    with h5py.File(feats) as file:
        frames = sum(len(video["frames"]) for video in file["videos"].values())
        assert frames == len(list(videos.glob("*/*.jpg"))) == 150
        assert {video.attrs.get("split") for video in file["videos"].values()} >= {"train", "val"}
    written = feats.read_bytes()
    command(*extract)
    assert feats.read_bytes() == written  # nothing is done twice

    for kind in ("gru", "none"):
        settings = ["--set", f"model.encoder.kind={kind}", "--set", "epochs=2", "--set", "model.encoder.dim=8"]
        command("abaw-seq", "train", "--feats", feats, "--run", home / kind, *settings)
    command("abaw-seq", "ensemble", home / "gru", home / "none", "--run", home / "both")
    table = command("abaw-seq", "evaluate", home / "gru", home / "none", home / "both", "--summary", "--constant")
    for name in ("gru", "none", "both"):
        score = json.loads((home / name / "scores.json").read_text())["untuned"]["p_mtl"]
        assert score is None or f"{score:.3f}" in table.stdout
    assert "best constant" in table.stdout and "features: iresnet (16) + mae (24) from" in table.stdout

    command("abaw-seq", "predict", home / "gru", "--feats", feats, "-o", home / "found")
    assert len((home / "found.csv").read_text().splitlines()) == 151
    page = command("abaw-seq", "report", home / "both", home / "gru", "--frames", videos, "-o", home / "page")
    report = Path(page.stdout.strip().splitlines()[-1])
    assert report.is_file() and "<canvas" in report.read_text()


def test_labels_can_come_later(home):
    videos, feats = home / "demo" / "cropped_aligned", home / "plain.h5"
    command(
        "abaw-extract", "--backbone", home / "iresnet.yaml", "--weights", "iresnet=random",
        "--videos", videos, "-o", feats,
    )  # fmt: skip
    done = command("abaw-seq", "label", "--feats", feats, "--annotations", home / "demo" / "annotations")
    assert "train" in done.stdout and "val" in done.stdout
    with h5py.File(feats) as file:
        assert all("labels" in v for v in file["videos"].values() if v.attrs.get("split") in ("train", "val"))
