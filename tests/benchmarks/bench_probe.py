"""What learning brings to an encoder, on the demo's faces: linear probes of its features.

A probe is a linear regression of valence and arousal and a logistic regression of expression and of each
action unit, on standardised features, frame by frame. Encoder, faces and settings are those of `make all`;
the people in the validation videos are in no training video.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from abaw_feats.demo import generate_demo
from abaw_feats.extraction.extract import extract
from abaw_feats.learning.finetune import finetune
from abaw_feats.learning.finetune_config import FinetuneConfig
from abaw_feats.learning.pretrain import PretrainConfig, pretrain
from abaw_seq.config import load
from abaw_seq.data.corpus import load_corpus
from abaw_seq.metrics import score
from abaw_seq.tasks import TASKS

CONFIGS = Path(__file__).parents[2] / "configs" / "demo"
STRENGTH = 0.1  # of the logistic regressions, inverse of the penalty
PENALTY = 1e2


def run(frames: int = 8000, videos: int = 32, shares: tuple[float, ...] = (0.5, 1.0)) -> Iterator[str]:
    """A Markdown table: random weights, after shares of the demo's pre-training, and fine-tuned from there."""
    with tempfile.TemporaryDirectory() as folder:
        rows = probes(Path(folder), frames, videos, shares)
    yield "\n".join([
        f"### Linear probes of the demo's MAE on {frames:,} of its faces",
        "",
        "| encoder | AU, area under ROC | mean F1 of expressions | valence, arousal (CCC) | P_MTL |",
        "| --- | ---: | ---: | ---: | ---: |",
        *rows,
    ])  # fmt: skip


def probes(folder: Path, frames: int, videos: int, shares: tuple[float, ...]) -> Iterator[str]:
    """Lines of the table; works in `folder`."""
    generate_demo(folder / "demo", count=videos, total_frames=frames, seed=0)
    images, labels = [folder / "demo" / "cropped_aligned"], [folder / "demo" / "annotations"]
    settings = load(PretrainConfig, CONFIGS / "mae.yaml")
    counts = [max(round(settings.epochs * share), 1) for share in shares]
    encoders = {count: pretrain(replace(settings, epochs=count), images, folder / f"mae-{count}") for count in counts}
    tuning = load(FinetuneConfig, CONFIGS / "iresnet.yaml", ["weights=null", "base_lr=2e-3"])
    last = encoders[counts[-1]]
    tuned = finetune(replace(tuning, backbone=str(last)), folder / "tuned", videos=images, annotations=labels)
    starts = [("random weights", last, {"mae": "random"})]
    starts += [(f"pre-trained for {count} epochs", encoders[count], {}) for count in counts]
    starts += [(f"pre-trained for {counts[-1]} epochs, then fine-tuned for {tuning.epochs}", tuned, {})]
    for number, (called, encoder, weights) in enumerate(starts):
        feats = folder / f"{number}.h5"
        extract(backbones=[str(encoder)], videos=images, out=feats, weights=weights, annotations=labels)
        scores, area = probe(feats)
        yield (
            f"| {called} | {area:.3f} | {scores['expression']:.3f} | {scores['valence']:.3f}, {scores['arousal']:.3f} "
            f"| {scores['p_mtl']:.3f} |"
        )


def probe(feats: Path) -> tuple[dict, float]:
    """Official scores on the validation videos, and the mean area under the ROC curve of the action units."""
    corpus = load_corpus([feats])
    training, validation = (corpus.rows(corpus.in_split(split)).numpy() for split in ("train", "val"))
    features, labels = corpus.features.float().numpy(), corpus.labels.numpy()

    def fitted(model, column: int):
        known = training[~np.isnan(labels[training, column])]
        return make_pipeline(StandardScaler(), model).fit(features[known], labels[known, column])

    def logistic() -> LogisticRegression:
        return LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=1000)

    seen = features[validation]
    found = {
        task: fitted(Ridge(PENALTY), TASKS[task].columns.start).predict(seen).clip(-1, 1)
        for task in ("valence", "arousal")
    }
    classes = fitted(logistic(), TASKS["expression"].columns.start)
    found["expression"] = np.zeros((len(seen), 8))
    found["expression"][:, classes.classes_.astype(int)] = classes.predict_proba(seen)
    units = range(*TASKS["au"].columns.indices(labels.shape[1]))
    found["au"] = np.stack([fitted(logistic(), unit).predict_proba(seen)[:, 1] for unit in units], 1)
    areas = []
    for unit, chance in zip(units, found["au"].T, strict=True):
        truth = labels[validation, unit]
        if len(np.unique(truth[~np.isnan(truth)])) == 2:
            areas.append(roc_auc_score(truth[~np.isnan(truth)], chance[~np.isnan(truth)]))
    return score(found, labels[validation]), float(np.mean(areas))
