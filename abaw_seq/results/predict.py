"""Using a trained run: its model, its predictions, its scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from abaw_seq import config as configs
from abaw_seq.data.corpus import Corpus
from abaw_seq.data.prediction_file import VideoPredictions, concatenated, write_predictions
from abaw_seq.engine.checkpoint import load_checkpoint, write_text_atomic
from abaw_seq.errors import UserError
from abaw_seq.learn.losses import outputs_of
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.metrics import score
from abaw_seq.models.frameworks import MultiTaskModel
from abaw_seq.models.inference import predict_videos


def load_run(
    run: Path, device: torch.device, checkpoint: str = "best.pt"
) -> tuple[MultiTaskModel, TrainConfig, dict[str, Any]]:
    """(model in evaluation mode, its config, {backbone: dim and weights_sha256} in column order).

    `checkpoint`: its name in the run folder, such as `best_au.pt` where the run keeps the best per task.
    """
    stored = load_checkpoint(run / checkpoint, device)
    config = configs.from_dict(TrainConfig, stored["config"], where=str(run / checkpoint))
    model = MultiTaskModel(stored["dim"], config.model, {t: outputs_of(t, config.loss) for t in config.tasks})
    model.load_state_dict(stored["model"])
    return model.to(device).eval(), config, stored["backbones"]


def check_features(run: Path, backbones: dict[str, Any], corpus: Corpus) -> None:
    """UserError unless the corpus holds the very features the run was trained on."""
    for name, trained in backbones.items():
        found = corpus.backbone_info[name]
        if found.weights_sha256 != trained["weights_sha256"] or found.dim != trained["dim"]:
            raise UserError(
                f"{run} was trained on {name} features of other weights "
                f"({trained['weights_sha256'][:12]}, here {found.weights_sha256[:12]}); "
                "extract these videos with the same weights"
            )


def as_trained(config: TrainConfig, corpus: Corpus) -> Corpus:
    """The corpus with those features standardised per video that the run was trained on in that form."""
    columns = config.standardise if isinstance(config.standardise, dict) else {}
    return corpus.standardised_per_video(
        [
            span
            for name, span in corpus.backbones.items()
            if columns.get(name, "train" if columns else config.standardise) == "video"
        ]
    )


def predict_corpus(
    model: MultiTaskModel, config: TrainConfig, corpus: Corpus, videos: list[int]
) -> dict[str, VideoPredictions]:
    """Predictions of the given videos of a corpus, by name, with the labels known for them."""
    return predict_prepared(model, config, as_trained(config, corpus), videos)


def predict_prepared(
    model: MultiTaskModel, config: TrainConfig, corpus: Corpus, videos: list[int]
) -> dict[str, VideoPredictions]:
    """As `predict_corpus`, of a corpus that `as_trained` has been through."""
    found = predict_videos(model, corpus, videos, length=config.windows.length, carry=config.windows.carry)
    arrays = {task: values.cpu().numpy() for task, values in found.items()}
    ends = np.cumsum([0, *(corpus.lengths[v] for v in videos)])
    result = {}
    for k, video in enumerate(videos):
        own, rows = slice(ends[k], ends[k + 1]), slice(corpus.offsets[video], corpus.offsets[video + 1])
        labels = corpus.labels[rows].cpu().numpy()
        result[corpus.names[video]] = VideoPredictions(
            frames=corpus.frames[rows],
            outputs={task: values[own] for task, values in arrays.items()},
            labels=None if np.isnan(labels).all() else labels,
            split=corpus.splits[video],
        )
    return result


def save_results(run: Path, predictions: dict[str, VideoPredictions], *, epoch: int | None) -> dict[str, Any]:
    """Write `predictions.h5` and `scores.json` of validation predictions; returns the scores file's content."""
    write_predictions(run / "predictions.h5", predictions)
    scores = {
        "edition": "mtl",
        "split": "val",
        "untuned": score(*concatenated(predictions)),
        "tuned": None,
        "best_epoch": epoch,
    }
    write_text_atomic(run / "scores.json", json.dumps(scores, indent=1) + "\n")
    return scores
