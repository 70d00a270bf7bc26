"""Run folders with a damaged file: what reads them reads them, or refuses in one line that names the file."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from abaw_seq import config as configs
from abaw_seq.data.corpus import load_corpus
from abaw_seq.data.folds import Fold
from abaw_seq.experiments.crossval import crossvalidate
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.learn.train import train
from abaw_seq.results.ensemble import join_runs
from abaw_seq.results.evaluate import features_of, score_files
from abaw_seq.results.postprocess import fit_run, read_postprocessed
from abaw_seq.results.predict import predict_run
from abaw_seq.results.report.write import write_report
from abaw_seq.results.run import Run
from tests.conftest import backbone_info, toy_video
from tests.fuzz.changes import changed_bytes, read_or_refused

CPU = torch.device("cpu")
QUICK = ["epochs=1", "model.encoder.kind=none", "model.encoder.dim=4", "model.head=[4]", "windows.length=16"]
FILES = {
    "trained": ("config.yaml", "provenance.json", "metrics.jsonl", "last.pt", "best.pt", "predictions.h5",
                "scores.json", "postprocess.yaml"),
    "joined": ("ensemble.yaml", "predictions.h5", "scores.json"),
    "folds": ("folds.yaml", "config.yaml", "provenance.json", "scores.json", "predictions.h5"),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, TrainConfig]:
    """A folder with feats.h5 and a run of each kind, as small as they come."""
    from abaw_seq.data.feature_file import atomic_feature_file

    root = tmp_path_factory.mktemp("runs")
    with atomic_feature_file(root / "feats.h5") as writer:
        writer.add_backbone("toy", backbone_info(4))
        for k in range(4):
            writer.add_video(toy_video(f"video{k}", 40, 4, k, "val" if k % 2 else "train"))
    config = configs.load(TrainConfig, None, QUICK)
    corpus = load_corpus([root / "feats.h5"])
    train(config, corpus, root / "trained", device=CPU)
    train(config, corpus, root / "other", device=CPU)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("abaw_seq.results.postprocess.WINDOWS", (3,))
        fit_run(root / "trained")
    join_runs([root / "trained", root / "other"], root / "joined", method="mean")
    folds = [Fold("1", ("video0", "video1"), ("video2",)), Fold("2", ("video2", "video3"), ("video0",))]
    crossvalidate(config, corpus, folds, root / "folds", device=CPU)
    for way in readers(root, config, "trained").values():
        way()  # what is imported and drawn the first time takes longer than a reader may
    return root, config


def readers(root: Path, config: TrainConfig, kind: str):
    """Every way to read a run, by name."""
    run, feats = root / kind, [root / "feats.h5"]

    def resume() -> None:
        corpus = load_corpus(feats)
        if kind == "trained":
            train(config, corpus, run, device=CPU, resume=True)
        elif kind == "folds":
            folds = [Fold("1", ("video0", "video1"), ("video2",)), Fold("2", ("video2", "video3"), ("video0",))]
            crossvalidate(config, corpus, folds, run, device=CPU, resume=True)

    return {
        "evaluate": lambda: (score_files([run]), features_of([run])),
        "submit": lambda: read_postprocessed(run),
        "ensemble": lambda: join_runs([run, root / "other"], root / "new", method="mean"),
        "predict": lambda: list(predict_run(run, feats, CPU)),
        "report": lambda: write_report([run], root / "page"),
        "python": lambda: (Run(run).history, Run(run).scores, kind == "trained" and Run(run).config),
        "resume": resume,
    }


@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_run_folder_is_read_or_refused(made, tmp_path, cases, kind):
    whole, config = made
    for case, rng in cases:
        root = tmp_path / case.replace(" ", "-")
        shutil.copytree(whole, root)
        file = root / kind / str(rng.choice(FILES[kind]))
        file.write_bytes(changed_bytes(file.read_bytes(), rng))
        ways = readers(root, config, kind)
        chosen = rng.choice([way for way in ways if way != "report" or case.endswith("0")], 2, replace=False)
        for way in sorted(chosen, key="resume".__eq__):  # which writes; and drawing a report takes a second
            with read_or_refused(f"{case}: {way} of {kind} with a damaged {file.name}"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with np.errstate(all="ignore"):
                    ways[way]()
        shutil.rmtree(root)
