"""Whoever writes a run folder holds it, so that two never mix what they write there."""

import pytest
import torch

from abaw_feats.learning.finetune import finetune
from abaw_feats.learning.finetune_config import FinetuneConfig
from abaw_feats.learning.pretrain import PretrainConfig, pretrain
from abaw_seq.cli import main
from abaw_seq.errors import UserError
from abaw_seq.experiments.crossval import crossvalidate
from abaw_seq.experiments.recipe import Recipe, follow
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.learn.train import train
from abaw_seq.results.ensemble import join_runs
from abaw_seq.results.postprocess import fit_run
from abaw_seq.run_folder import held_run

CPU = torch.device("cpu")
WRITERS = {
    "train": lambda run: train(TrainConfig(), None, run, device=CPU),
    "train, resumed": lambda run: train(TrainConfig(), None, run=run, device=CPU, resume=True),
    "crossval": lambda run: crossvalidate(TrainConfig(), None, [], run, device=CPU),
    "recipe": lambda run: follow(Recipe(("abaw4/gru",)), run, [], run, device=CPU),
    "ensemble": lambda run: join_runs([], run, method="mean"),
    "evaluate --fit": fit_run,
    "pretrain": lambda run: pretrain(PretrainConfig(), [run], run),
    "finetune": lambda run: finetune(FinetuneConfig(), str(run), videos=[run], annotations=[run], resume=True),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_second_writer_of_a_run_folder_is_refused(tmp_path, writer):
    run = tmp_path / "gru"
    with held_run(run):
        with pytest.raises(UserError, match="gru: process .* is writing it; wait until it ends or choose another"):
            WRITERS[writer](run)
        assert [path.name for path in run.iterdir()] == [".lock"]


def test_predictions_of_a_run_are_not_replaced_while_it_is_written_but_others_may_stand_beside(
    tmp_path, toy_feats, capsys
):
    run = tmp_path / "none"
    quick = ["epochs=1", "model.encoder.kind=none", "model.encoder.dim=8", "model.head=[8]"]
    with pytest.raises(SystemExit):
        main(["train", "--feats", str(toy_feats), "--run", str(run), "--set", *quick])
    with held_run(run):
        for name, code in (("predictions", 2), ("test", 0)):
            with pytest.raises(SystemExit) as ended:
                main(["predict", str(run), "--feats", str(toy_feats), "-o", str(run / name)])
            assert ended.value.code == code, capsys.readouterr().err
    assert "is writing it" in capsys.readouterr().err
    assert (run / "test.csv").is_file() and not (run / "predictions.csv").exists()
