"""Runs from Python: train one, look at it, predict with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abaw_seq import config as configs
from abaw_seq import run_folder
from abaw_seq.data.annotations import read_annotations
from abaw_seq.data.corpus import load_corpus
from abaw_seq.data.feature_store import Memory
from abaw_seq.data.prediction_file import Videos
from abaw_seq.engine.device import find_device
from abaw_seq.errors import UserError
from abaw_seq.files import PathLike, each_path
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.learn.train import train as train_run
from abaw_seq.results.postprocess import postprocessed
from abaw_seq.results.predict import predict_run
from abaw_seq.results.reading import read_current


@dataclasses.dataclass(frozen=True, init=False)
class Run:
    """A finished run, ensemble or cross-validation, by its folder; nothing is read before it is asked for.

    >>> run = Run("runs/gru")
    >>> run.config.model.encoder.kind, len(run.history), sorted(run.scores["untuned"]["au_f1"])[:2]
    ('gru', 2, ['AU1', 'AU10'])
    >>> run.predict("feats.h5")["video1"].outputs["expression"].shape
    (120, 8)
    """

    folder: Path

    def __init__(self, folder: PathLike) -> None:
        object.__setattr__(self, "folder", Path(folder))
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: no such run folder")

    @property
    def config(self) -> TrainConfig:
        """Every setting of a trained run; UserError for an ensemble."""
        return configs.load(TrainConfig, self.folder / run_folder.CONFIG)

    @property
    def history(self) -> list[dict[str, Any]]:
        """One entry per epoch: losses, validation scores, learning rate, seconds."""
        return run_folder.read_metrics(self.folder)

    @property
    def scores(self) -> dict[str, Any]:
        """The validation scores, "untuned" and "tuned" as `score` returns them; UserError where there are none yet."""
        scores = run_folder.read_scores(self.folder)
        if scores is None:
            raise UserError(f"{self.folder}: has no scores yet; train to the end first")
        return scores

    @property
    def predictions(self) -> Videos:
        """Validation predictions as the model makes them, with their current labels: {video: VideoPredictions}."""
        return read_current(self.folder)

    def predict(
        self,
        features: PathLike | Sequence[PathLike],
        *,
        device: str = "auto",
        raw: bool = False,
        checkpoint: str = run_folder.BEST,
    ) -> Videos:
        """Predictions of every video in feature files, {video: VideoPredictions}, in memory.

        features: feature files, or features of another layout that `open_features` reads. raw: leave out the run's
        smoothing, thresholds and biases. checkpoint: which weights, such as "best_au.pt".
        Raises UserError where the features are not those the run was trained on.
        """
        groups = predict_run(self.folder, each_path(features), find_device(device), checkpoint=checkpoint)
        predictions: Videos = {}
        for group in groups:
            predictions |= group if raw else postprocessed(self.folder, group)
        return predictions


def train(
    config: TrainConfig | Mapping[str, Any] | PathLike,
    features: PathLike | Sequence[PathLike],
    *,
    run: PathLike,
    annotations: PathLike | Sequence[PathLike] = (),
    device: str = "auto",
    memory: Memory = "auto",
    resume: bool = False,
) -> Run:
    """Train a multi-task head on cached features, and return its run.

    config: settings, a mapping of those that differ from the defaults, a YAML file, or the name of a shipped config
    such as "abaw4/gru". features: feature files, joined by video and frame number. run: folder to write.
    annotations: files or folders whose labels and splits replace those in the features. memory: "auto", "device",
    "host" or "file". resume: go on with an interrupted run.
    Raises UserError for what does not fit together, AbawError if the loss is not finite.

    >>> run = train({"like": "abaw4/none", "epochs": 3}, "feats.h5", run="runs/none")
    >>> len(run.history)
    3
    """
    settings = _settings(config)
    run_folder.check_unused(Path(run), resume=resume)
    place = find_device(device)
    labels = read_annotations(*each_path(annotations)) if annotations else None
    corpus = load_corpus(
        each_path(features), backbones=settings.backbones or None, annotations=labels, device=place, memory=memory
    )
    train_run(settings, corpus, Path(run), device=place, resume=resume)
    return Run(Path(run))


def _settings(config: TrainConfig | Mapping[str, Any] | PathLike) -> TrainConfig:
    if isinstance(config, TrainConfig):
        return config
    return configs.load(TrainConfig, config if isinstance(config, Mapping) else Path(config))
