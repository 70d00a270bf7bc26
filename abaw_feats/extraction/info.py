"""Describes a feature file in tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from abaw_seq.data.feature_file import FeatureReader
from abaw_seq.tasks import SPLITS, TASKS

Table = tuple[str, list[str], list[list[str]]]


def describe_file(path: str | Path) -> list[Table]:
    """Tables (title, header, rows) of a feature file's backbones, and of its videos, frames and labels by split."""
    with FeatureReader(path) as reader:
        backbones = ["backbone", "features", "type", "pooling", "input", "weights", "sha256", "videos"]
        splits = ["split", "videos", "frames", "unreadable", *(f"{task} labels" for task in TASKS)]
        return [
            (f"{path}: backbones", backbones, [_backbone_row(reader, name) for name in reader.backbones]),
            (f"{path}: videos", splits, _split_rows(reader)),
        ]


def _backbone_row(reader: FeatureReader, name: str) -> list[str]:
    info = reader.backbones[name]
    videos = sum(reader.has(video, name) for video in reader.videos)
    size = str(info.preprocessing.get("size", ""))
    made_by = [info.pooling, size, info.weights, info.weights_sha256[:12]]
    return [name, str(info.dim), info.dtype, *made_by, f"{videos}/{len(reader.videos)}"]


def _split_rows(reader: FeatureReader) -> list[list[str]]:
    counts: dict[str, np.ndarray] = {}
    for video in reader.videos:
        labels = reader.labels(video)
        valid = reader.valid(video)
        labelled = [0] * len(TASKS)
        if labels is not None:
            labelled = [int((~np.isnan(labels[:, task.columns])).any(1).sum()) for task in TASKS.values()]
        row = np.array([1, len(valid), int((~valid).sum()), *labelled])
        split = reader.split(video) or "none"
        counts[split] = counts.get(split, 0) + row
    order = [split for split in (*SPLITS, "none") if split in counts]
    return [[split, *(f"{count:,}" for count in counts[split])] for split in order]
