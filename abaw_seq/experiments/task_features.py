"""What trained models see in each frame, their penultimate features, as backbones of a feature file."""

from __future__ import annotations

import hashlib
import logging
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from abaw_seq.data.annotations import Annotations
from abaw_seq.data.corpus import Corpus, load_corpus
from abaw_seq.data.feature_file import BackboneInfo, FeatureReader, VideoFeatures, atomic_feature_file
from abaw_seq.errors import UserError
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.models.inference import predict_videos
from abaw_seq.models.joint import JointModel, TaskFeatures
from abaw_seq.results.predict import FRAMES_AT_ONCE, check_features, load_run, video_groups
from abaw_seq.run_folder import BEST
from abaw_seq.terminal import progress

log = logging.getLogger(__name__)


def write_task_features(
    models: dict[str, Path],
    feats: list[Path],
    path: Path,
    *,
    device: torch.device,
    annotations: Annotations | None = None,
) -> None:
    """Write the penultimate features of runs, {backbone: run folder}, for every video of the feature files.

    Each frame's features are the mean over the windows that cover it, as its predictions are; those of a model with
    several tasks stand side by side. Frames, labels and splits are those of `feats` or `annotations`. A file that was
    made with the same weights and holds the same videos and frames is left as it is.
    """
    infos: dict[str, BackboneInfo] = {}
    seen: dict[str, tuple[TaskFeatures, TrainConfig, Corpus]] = {}
    for name, run in models.items():
        model, config, backbones = load_run(run, device)
        if isinstance(model, JointModel):
            raise UserError(f"{run}: is a joint model; task features are those of separate models")
        corpus = load_corpus(feats, backbones=tuple(backbones), annotations=annotations, device=device, memory="file")
        check_features(run, backbones, corpus)
        reading = TaskFeatures(model)
        seen[name] = reading, config, config.as_seen(corpus)
        infos[name] = _described(run, reading.dim, config, backbones)
    corpus = next(iter(seen.values()))[2]
    if _is_current(path, infos, corpus):
        log.info(f"{path}: there already")
        return
    labels = corpus.video_labels()
    with ExitStack() as stack:
        writer = stack.enter_context(atomic_feature_file(path))
        advance = stack.enter_context(progress(f"features {path.parent}", len(corpus.frames), "frames"))
        for name, info in infos.items():
            writer.add_backbone(name, info)
        for group in video_groups(corpus.lengths, FRAMES_AT_ONCE):
            features = {name: _features(*one, group) for name, one in seen.items()}
            for k, video in enumerate(group):
                known = labels[corpus.names[video]]
                writer.add_video(
                    VideoFeatures(
                        name=corpus.names[video],
                        frames=known.frames,
                        valid=np.ones(len(known.frames), bool),
                        features={name: parts[k] for name, parts in features.items()},
                        labels=known.labels,
                        split=known.split,
                        source=", ".join(corpus.sources),
                    )
                )
                advance(corpus.lengths[video])


def _features(model: TaskFeatures, config: TrainConfig, corpus: Corpus, videos: list[int]) -> list[np.ndarray]:
    """Features (frames, dim) float16 of each of the videos."""
    values = predict_videos(
        model, corpus, videos, length=config.windows.length, carry=config.windows.carry, convert=lambda outputs: outputs
    )["features"].cpu().numpy().astype(np.float16)  # fmt: skip
    return np.split(values, np.cumsum([corpus.lengths[video] for video in videos])[:-1])


def _described(run: Path, dim: int, config: TrainConfig, backbones: dict[str, Any]) -> BackboneInfo:
    with (run / BEST).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return BackboneInfo(
        dim=dim,
        arch=f"penultimate features of {', '.join(config.tasks)}, encoder {config.model.encoder.kind}",
        weights=f"{run.name}/{BEST}",
        weights_sha256=digest,
        preprocessing={name: trained["weights_sha256"] for name, trained in backbones.items()},
        pooling="none",
        dtype="float16",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _is_current(path: Path, infos: dict[str, BackboneInfo], corpus: Corpus) -> bool:
    """Whether a file holds these features of these videos and frames, with these labels and splits."""
    if not path.is_file():
        return False
    with FeatureReader(path) as reader:
        stored = {name: info.identity for name, info in reader.backbones.items()}
        if stored != {name: info.identity for name, info in infos.items()}:
            return False
        labels = corpus.video_labels()
        return set(reader.videos) == set(labels) and all(
            np.array_equal(reader.frames(name), known.frames)
            and reader.split(name) == known.split
            and np.array_equal(reader.labels(name), known.labels, equal_nan=True)  # type: ignore[arg-type]
            for name, known in labels.items()
        )
