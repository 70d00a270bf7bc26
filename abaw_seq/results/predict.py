"""Using a trained run: its model, and its predictions on any features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from abaw_seq import config as configs
from abaw_seq.data.corpus import Corpus
from abaw_seq.data.prediction_file import VideoPredictions, by_video
from abaw_seq.errors import UserError
from abaw_seq.files import load_tensors
from abaw_seq.learn.losses import outputs_of
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.models.frameworks import MultiTaskModel
from abaw_seq.models.inference import predict_videos
from abaw_seq.run_folder import BEST


def load_run(
    run: Path, device: torch.device, checkpoint: str = BEST
) -> tuple[MultiTaskModel, TrainConfig, dict[str, Any]]:
    """(model in evaluation mode, its config, {backbone: dim and weights_sha256} in column order).

    checkpoint: its name in the run folder, such as `best_au.pt` where the run keeps the best epoch of each task.
    """
    path = run / checkpoint
    stored = load_tensors(path, device)
    if "config" not in stored:
        raise UserError(f"{path}: not the weights of a run of abaw-seq; name one that `abaw-seq train` made")
    config = configs.from_dict(TrainConfig, stored["config"], where=str(path))
    model = MultiTaskModel(stored["dim"], config.model, {t: outputs_of(t, config.loss) for t in config.tasks})
    model.load_state_dict(stored["model"])
    return model.to(device).eval(), config, stored["backbones"]


def check_features(run: Path, backbones: dict[str, Any], corpus: Corpus) -> None:
    """UserError unless the corpus holds the very features the run was trained on."""
    for name, trained in backbones.items():
        given = corpus.backbone_info[name]
        if given.weights_sha256 != trained["weights_sha256"] or given.dim != trained["dim"]:
            raise UserError(
                f"{run} was trained on {name} features of other weights "
                f"({trained['weights_sha256'][:12]}, here {given.weights_sha256[:12]}); "
                "extract these videos with the same weights"
            )


def predict_corpus(
    model: MultiTaskModel, config: TrainConfig, corpus: Corpus, videos: list[int]
) -> dict[str, VideoPredictions]:
    """Predictions of videos of a corpus as the model sees it (`config.as_seen`), by name, with known labels."""
    outputs = predict_videos(model, corpus, videos, length=config.windows.length, carry=config.windows.carry)
    return by_video(corpus, videos, {task: values.cpu().numpy() for task, values in outputs.items()})
