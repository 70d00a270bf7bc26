"""Models that train at the same time are those that train one after the other."""

import json

import pytest
import torch

from abaw_seq import config as configs
from abaw_seq.data.corpus import load_corpus
from abaw_seq.data.prediction_file import read_predictions
from abaw_seq.errors import UserError
from abaw_seq.experiments import side_by_side
from abaw_seq.experiments.side_by_side import Training, train_all
from abaw_seq.learn.settings import TrainConfig

CPU = torch.device("cpu")
SMALL = ("model.encoder.kind=gru", "model.encoder.dim=8", "model.head=[8]", "epochs=2", "windows.length=32")


def trainings(folder, *seeds, **videos) -> list[Training]:
    made = [configs.load(TrainConfig, None, [*SMALL, f"seed={seed}"]) for seed in seeds]
    return [Training(config, folder / str(config.seed), f"{config.seed}:", **videos) for config in made]


def test_two_at_a_time_give_the_runs_of_one_after_the_other(toy_feats, tmp_path, capfd):
    for name, jobs in (("alone", 1), ("together", 2)):
        train_all(trainings(tmp_path / name, 1, 2), {(): load_corpus([toy_feats])}, device=CPU, jobs=jobs, members=1)
    assert "2/2 models" in capfd.readouterr().err
    for seed in ("1", "2"):
        alone, together = (tmp_path / name / seed for name in ("alone", "together"))
        assert {path.name for path in alone.iterdir()} == {path.name for path in together.iterdir()}
        losses = [[json.loads(line)["train"] for line in open(run / "metrics.jsonl")] for run in (alone, together)]
        assert losses[0] == losses[1]
        for name, video in read_predictions(alone).items():
            for task, values in video.outputs.items():
                assert (values == read_predictions(together)[name].outputs[task]).all()


def test_what_goes_wrong_in_a_process_is_said_as_if_it_were_this_one(toy_feats, tmp_path):
    with pytest.raises(UserError, match="no training videos"):
        train_all(trainings(tmp_path, 1, 2, train_videos=[]), {(): load_corpus([toy_feats])}, device=CPU, jobs=2)


@pytest.mark.parametrize("hindrance", ["file", "no room"])
def test_what_cannot_be_shared_is_trained_one_after_the_other(hindrance, toy_feats, tmp_path, monkeypatch, capsys):
    corpus = load_corpus([toy_feats], memory="file" if hindrance == "file" else "auto")
    if hindrance == "no room":
        monkeypatch.setattr(side_by_side.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10}))
        monkeypatch.setattr(side_by_side, "SHARED_MEMORY", tmp_path)
    train_all(trainings(tmp_path, 1, 2), {(): corpus}, device=CPU, jobs=2)
    said = capsys.readouterr().err
    assert "one after the other" in said and "1:" in said and "2:" in said
    assert (tmp_path / "2" / "scores.json").is_file()


def test_models_of_one_shape_share_a_stack_and_every_job_gets_some(toy_feats, tmp_path):
    corpora = {(): load_corpus([toy_feats])}
    seeds = trainings(tmp_path, 0, 1, 2, 3)
    other = [Training(configs.load(TrainConfig, None, [*SMALL, "model.encoder.dim=9"]), tmp_path / "other", "other")]

    def sizes(jobs, members):
        stacks = side_by_side.stacks_of([*seeds, *other], corpora, device=CPU, jobs=jobs, members=members)
        assert sorted(str(t.run) for stack in stacks for t in stack) == sorted(str(t.run) for t in [*seeds, *other])
        return sorted(map(len, stacks))

    assert sizes(1, 9) == [1, 4] and sizes(1, 2) == sizes(2, 9) == [1, 2, 2]
    assert sizes(1, 1) == sizes(1, None) == [1] * 5  # on a CPU none unless asked for


def test_stacks_are_bounded_by_memory(toy_feats, tmp_path, monkeypatch):
    monkeypatch.setattr(side_by_side, "free_host_memory", lambda: 1)
    corpora = {(): load_corpus([toy_feats])}
    stacks = side_by_side.stacks_of(trainings(tmp_path, 0, 1), corpora, device=CPU, jobs=1, members=9)
    assert [len(stack) for stack in stacks] == [1, 1]
