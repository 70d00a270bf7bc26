"""The run folder: how a run begins, goes on and ends."""

import json

import pytest
import torch

from abaw_seq import run_folder
from abaw_seq.errors import UserError
from abaw_seq.learn.settings import TrainConfig

CONFIG = TrainConfig(epochs=4)


def state(epoch):
    history = [{"epoch": k + 1, "steps": 3} for k in range(epoch)]
    return {"epoch": epoch, "history": history, "model": {"w": torch.full((2,), float(epoch))}}


def test_a_run_begins_goes_on_from_its_last_epoch_and_is_finished_by_its_scores(tmp_path):
    run = tmp_path / "runs" / "gru"
    assert run_folder.open_run(run, CONFIG, resume=True) is None and (run / "config.yaml").is_file()
    run_folder.save_epoch(run, state(1))
    run_folder.save_epoch(run, state(2))
    (run / "metrics.jsonl").write_text("".join(json.dumps({"epoch": k}) + "\n" for k in (1, 2, 3)))
    stored = run_folder.open_run(run, CONFIG, resume=True)
    assert stored["epoch"] == 2 and [line["epoch"] for line in stored["history"]] == [1, 2]
    assert not run_folder.is_finished(run) and run_folder.read_scores(run) is None
    run_folder.write_scores(run, {"untuned": None})
    assert run_folder.is_finished(run) and run_folder.read_scores(run) == {"untuned": None}


def test_a_state_without_a_history_has_that_of_the_metrics(tmp_path):
    run_folder.open_run(tmp_path, CONFIG, resume=False)
    run_folder.save_epoch(tmp_path, state(3))
    older = {key: value for key, value in state(2).items() if key != "history"}
    run_folder.save_tensors(tmp_path / "last.pt", older)
    assert [line["epoch"] for line in run_folder.open_run(tmp_path, CONFIG, resume=True)["history"]] == [1, 2]


def test_runs_are_neither_overwritten_nor_continued_with_other_settings(tmp_path):
    run_folder.open_run(tmp_path, CONFIG, resume=False)
    run_folder.save_epoch(tmp_path, state(1))
    with pytest.raises(UserError, match="already holds a run"):
        run_folder.open_run(tmp_path, CONFIG, resume=False)
    with pytest.raises(UserError, match="the config differs in epochs, seed .*epochs was 4, is now 5"):
        run_folder.open_run(tmp_path, TrainConfig(epochs=5, seed=1), resume=True)
    assert run_folder.open_run(tmp_path, TrainConfig(epochs=4, seed=1), resume=True, free=("seed",))["epoch"] == 1
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file"):
        run_folder.open_run(tmp_path / "file", CONFIG, resume=True)
    with pytest.raises(UserError, match="file is a file; choose another output"):
        run_folder.check_unused(tmp_path / "file" / "run")


@pytest.mark.parametrize(("name", "kind"), [("ensemble.yaml", "an ensemble"), ("folds.yaml", "a cross-validation")])
def test_training_leaves_ensembles_and_cross_validations_alone(tmp_path, name, kind):
    for file in (name, "scores.json", "predictions.h5"):
        (tmp_path / file).touch()
    run_folder.check_untrained(tmp_path)
    for resume in (False, True):
        with pytest.raises(UserError, match=f"holds {kind}; name another folder"):
            run_folder.open_run(tmp_path, CONFIG, resume=resume)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((name, "scores.json", "predictions.h5"))


def test_a_setting_that_is_newer_than_the_run_counts_as_its_default(tmp_path):
    run_folder.open_run(tmp_path, CONFIG, resume=False)
    run_folder.save_epoch(tmp_path, state(1))
    lines = (tmp_path / "config.yaml").read_text().splitlines()
    (tmp_path / "config.yaml").write_text("\n".join(line for line in lines if not line.startswith("patience")))
    assert run_folder.open_run(tmp_path, CONFIG, resume=True)["epoch"] == 1
    with pytest.raises(UserError, match="the config differs in patience"):
        run_folder.open_run(tmp_path, TrainConfig(epochs=4, patience=2), resume=True)


def test_a_new_run_starts_without_what_an_older_one_left(tmp_path):
    for name in ("best.pt", "best_au.pt", "metrics.jsonl", "scores.json", "predictions.h5", "notes.txt"):
        (tmp_path / name).touch()
    run_folder.open_run(tmp_path, CONFIG, resume=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "notes.txt"]


def test_damaged_records_are_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 2')
    assert run_folder.read_metrics(tmp_path) == [{"epoch": 1}]
    (tmp_path / "metrics.jsonl").write_text("{}\nnothing\n")
    with pytest.raises(UserError, match="metrics.jsonl, line 2: not JSON"):
        run_folder.read_metrics(tmp_path)
    (tmp_path / "scores.json").write_text("[]")
    with pytest.raises(UserError, match="scores.json: a JSON object is expected, not a list"):
        run_folder.read_scores(tmp_path)
