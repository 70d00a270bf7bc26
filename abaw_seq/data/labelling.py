"""Labels travel with features: annotations into a feature file, aligned by frame number."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from abaw_seq.data.annotations import Annotations
from abaw_seq.data.feature_file import FeatureReader, atomic_feature_file
from abaw_seq.data.foreign_features import ForeignReader, open_features
from abaw_seq.data.matching import log_matches
from abaw_seq.errors import UserError
from abaw_seq.tasks import SPLITS

log = logging.getLogger(__name__)

ALIGNMENT_HEADER = [
    "split", "videos", "frames with features", "of them labelled", "labelled, no features", "videos without features",
]  # fmt: skip


def label_feature_file(path: Path, annotations: Annotations, output: Path) -> tuple[list[str], list[list[str]]]:
    """Write `output`, which may be `path`: its features with the labels and splits of `annotations`.

    Features of another layout become a feature file, which needs another name. A video that the
    annotations do not have keeps its labels. Returns the header and rows of `alignment_rows`.
    """
    return ALIGNMENT_HEADER, alignment_rows(*attach_labels(path, annotations, output))


def attach_labels(path: Path, annotations: Annotations, output: Path) -> tuple[dict[str, np.ndarray], Annotations]:
    """What `label_feature_file` does; returns {video: its frame numbers} and the annotations that were used.

    Those of videos whose rows in features of another layout have no certain frame numbers are not.
    """
    with open_features(path, annotations) as reader:
        if isinstance(reader, ForeignReader) and output.resolve() in (path.resolve(), reader.path.resolve()):
            raise UserError(f"{reader.path}: not a feature file; name another output for the one that is made of it")
        annotations = annotations.without_labels(reader.unnumbered)
        return _write_labelled(reader, annotations, output), annotations


def _write_labelled(
    reader: FeatureReader | ForeignReader, annotations: Annotations, output: Path
) -> dict[str, np.ndarray]:
    with atomic_feature_file(output) as writer:
        for name, info in reader.backbones.items():
            writer.add_backbone(name, info)
        stored = {}
        for video in reader.videos:
            if isinstance(reader, ForeignReader):
                writer.add_video(reader.video(video))
            else:
                reader.copy_video(video, writer.videos_group)
            stored[video] = reader.frames(video)
            if (known := annotations.videos.get(video)) is not None:
                writer.set_labels(video, annotations.for_frames(video, stored[video]), known.split)
    return stored


def log_alignment(stored: dict[str, np.ndarray], annotations: Annotations) -> None:
    """Log what `log_matches` does, and a line per split of `alignment_rows`."""
    log_matches(stored, annotations)
    for row in alignment_rows(stored, annotations):
        log.info("labels: " + ", ".join(f"{name} {count}" for name, count in zip(ALIGNMENT_HEADER, row, strict=True)))


def alignment_rows(stored: dict[str, np.ndarray], annotations: Annotations) -> list[list[str]]:
    """One row per split under `ALIGNMENT_HEADER`: how many frames have features, labels or both.

    stored: {video: its frame numbers in the feature file}.
    """
    rows = []
    for split in (*SPLITS, None):
        named = {v: known for v, known in annotations.videos.items() if known.split == split}
        present = [video for video in named if video in stored]
        extra = [v for v in stored if v not in annotations.videos] if split is None else []
        if not named and not extra:
            continue
        frames = sum(len(stored[video]) for video in (*present, *extra))
        labelled = sum(_labelled(annotations.for_frames(v, stored[v])) for v in present)
        all_labelled = sum(_labelled(known.labels) for known in named.values())
        counts = (
            len(present) + len(extra),
            frames,
            labelled,
            all_labelled - labelled,
            len(named) - len(present),
        )
        rows.append([split or "none", *(f"{count:,}" for count in counts)])
    return rows


def _labelled(labels: np.ndarray) -> int:
    return int((~np.isnan(labels)).any(1).sum())
