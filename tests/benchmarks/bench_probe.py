"""What learning brings to an encoder, on the demo's faces: validation P_MTL of linear probes and of fine-tuning.

A probe is one linear layer per task on standardised, frozen features, frame by frame. Encoder and faces are
those of `make all`; the people in the validation videos are in no training video.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from abaw_feats.demo import generate_demo
from abaw_feats.finetune import finetune
from abaw_feats.finetune_config import FinetuneConfig
from abaw_feats.pretrain import PretrainConfig, pretrain
from abaw_feats.task_network import HeadConfig
from abaw_seq.config import load

CONFIGS = Path(__file__).parents[2] / "configs" / "demo"


def run(frames: int = 8000, videos: int = 32, pretraining: tuple[int, ...] = (1, 6), epochs: int = 5) -> Iterator[str]:
    """A Markdown table: random weights, weights after so many epochs of pre-training, the last fine-tuned."""
    with tempfile.TemporaryDirectory() as name:
        scores = probe_scores(Path(name), frames, videos, pretraining, epochs)
    lines = [
        f"### A small MAE on {frames:,} frames of the demo's faces",
        "",
        "| encoder | validation P_MTL |",
        "| --- | ---: |",
        *(f"| {called} | {value:.3f} |" for called, value in scores.items()),
    ]
    yield "\n".join(lines)


def probe_scores(folder: Path, frames: int, videos: int, pretraining: tuple[int, ...], epochs: int) -> dict[str, float]:
    """{what was scored: best validation P_MTL}; works in `folder`."""
    generate_demo(folder / "demo", videos=videos, frames=frames, seed=0)
    images, labels = [folder / "demo" / "cropped_aligned"], [folder / "demo" / "annotations"]
    settings = load(PretrainConfig, CONFIGS / "mae.yaml")
    tuning = load(FinetuneConfig, CONFIGS / "iresnet.yaml", [f"epochs={epochs}", "weights=null", "base_lr=2e-3"])
    probe = replace(tuning, freeze=True, head=HeadConfig(normalise=True), base_lr=1e-2)

    def score(config: FinetuneConfig, out: str) -> float:
        finetune(config, folder / out, videos=images, annotations=labels)
        return json.loads((folder / out / "scores.json").read_text())["untuned"]["p_mtl"]

    scores = {
        "random weights, frozen": score(replace(probe, backbone=settings.backbone, weights="random"), "random"),
    }
    for count in pretraining:
        encoder = str(pretrain(replace(settings, epochs=count), images, folder / f"mae-{count}"))
        passes = f"pre-trained for {count} epoch{'s' * (count > 1)}"
        scores[f"{passes}, frozen"] = score(replace(probe, backbone=encoder), f"probe-{count}")
    scores[f"{passes}, fine-tuned"] = score(replace(tuning, backbone=encoder), "tuned")
    return scores
