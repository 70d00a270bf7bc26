"""The run folder: how a run begins, goes on and ends."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

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


TRAINED = ("config.yaml", "best.pt", "last.pt", "metrics.jsonl")
FOLDERS = {
    "a run that was interrupted": TRAINED,
    "a finished run": (*TRAINED, "scores.json", "predictions.h5"),
    "a finished run without its state": ("config.yaml", "best.pt", "scores.json", "predictions.h5"),
    "a run without validation that lost its weights, too": ("config.yaml", "scores.json"),
    "a pre-trained encoder without its state": ("config.yaml", "checkpoint.pth", "backbone.yaml"),
    "a cross-validation that has begun": ("folds.yaml",),
    "a cross-validation": ("folds.yaml", "config.yaml", "scores.json", "predictions.h5", "1/last.pt"),
    "a recipe that has begun": ("members/gru-0/last.pt",),
    "a recipe": ("members/gru-0/last.pt", "ensemble.yaml", "predictions.h5", "scores.json", "results.md"),
    "an ensemble": ("ensemble.yaml", "predictions.h5", "scores.json"),
    "an ensemble without labels": ("ensemble.yaml", "predictions.h5"),
    "an ensemble above its members": ("ensemble.yaml", "members/gru-0/last.pt"),
    "predictions": ("predictions.h5", "predictions.csv"),
}
FREE = {  # what may be written without `resume` into which of these
    "train": {"predictions"},
    "crossval": {"predictions", "a cross-validation that has begun", "a cross-validation"},  # see test_crossval
    "recipe": {"predictions", "a recipe that has begun", "a recipe", "an ensemble above its members"},
    "ensemble": {
        "predictions", "an ensemble", "an ensemble without labels", "an ensemble above its members",
        "a recipe that has begun",  # which cannot be told from members that somebody put there
    },
}  # fmt: skip
CHECKS = {
    "train": run_folder.check_unused,
    "crossval": lambda run: run_folder.check_kind(run, run_folder.FOLDS),
    "recipe": lambda run: run_folder.check_kind(run, run_folder.RESULTS),
    "ensemble": lambda run: run_folder.check_kind(run, run_folder.ENSEMBLE),
}


@pytest.mark.parametrize(("writer", "there"), list(itertools.product(CHECKS, FOLDERS)))
def test_each_kind_of_run_refuses_another_and_a_finished_one(tmp_path, writer, there):
    for name in FOLDERS[there]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    if there in FREE[writer]:
        CHECKS[writer](tmp_path)
        return
    with pytest.raises(UserError, match="name another folder") as refused:
        CHECKS[writer](tmp_path)
    assert str(tmp_path) in str(refused.value)


@pytest.mark.parametrize("there", ["a finished run without its state", "a pre-trained encoder without its state"])
def test_a_finished_run_is_not_trained_over_when_its_state_was_deleted(tmp_path, there):
    for name in FOLDERS[there]:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="holds a finished run"):
        run_folder.open_run(tmp_path, CONFIG, resume=False)
    with pytest.raises(UserError, match=r"is finished, and last.pt, .*, is gone"):
        run_folder.open_run(tmp_path, CONFIG, resume=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FOLDERS[there])


HOLD = """
import sys
from pathlib import Path
from abaw_seq.run_folder import held_run
with held_run(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_run_folder_is_written_by_one_process_at_a_time(tmp_path):
    run = tmp_path / "runs" / "gru"
    command = [sys.executable, "-c", HOLD, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as one:
        assert one.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"gru: process {one.pid} on .* is writing it; wait until it ends"):
            with run_folder.held_run(run):
                pass
        assert not run_folder.holds_run(run) and run_folder.read_scores(run) is None  # who only reads needs no lock
        one.send_signal(signal.SIGKILL)
    with run_folder.held_run(run):  # the dead hold nothing
        (run / "config.yaml").touch()
    assert os.listdir(run) == ["config.yaml"]


def test_a_folder_in_which_nothing_was_written_is_gone(tmp_path):
    with pytest.raises(UserError, match="no labels"), run_folder.held_run(tmp_path / "runs" / "gru"):
        raise UserError("no labels")
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    with run_folder.held_run(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir()


def test_what_killed_processes_left_goes_at_the_next_start(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    for name in (f".last.pt.{gone.pid}.tmp", f".report.{gone.pid}.tmp", f".best.pt.{os.getpid()}.tmp"):
        (tmp_path / name).touch()
    (tmp_path / f".figures.{gone.pid}.tmp").mkdir()
    kept = {f".report.html.{os.getppid()}.tmp", ".notes.tmp", "mine.1.tmp"}  # somebody writes a report just now
    for name in kept:
        (tmp_path / name).touch()
    with run_folder.held_run(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == kept | {".lock"}
