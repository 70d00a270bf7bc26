"""Searches trained for real on small data: the same trials however they are computed, none lost, none twice."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest

from abaw_seq import config as configs
from abaw_seq.cli import main
from abaw_seq.data.prediction_file import read_predictions
from abaw_seq.errors import UserError
from abaw_seq.experiments.search import search, without_password
from abaw_seq.experiments.search_config import SearchConfig
from abaw_seq.experiments.search_space import Proposals, Range, changes, given_sampler
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.results.report.write import write_report
from abaw_seq.results.weights import load_ensemble

optuna = pytest.importorskip("optuna")

ROOT = Path(__file__).parents[3]
SPACE = {
    "model.encoder.dim": {"choice": [4, 8]},
    "optim.lr": {"log": [1e-3, 1e-1]},
    "model.head": {"choice": [[], [8]]},
}
SMALL = ("epochs=3", "windows.length=32", "model.encoder.dropout=0.1")


def settings(**changed) -> SearchConfig:
    given = {"base": "abaw4/none", "space": SPACE, "trials": 6, "generation": 3, "prune_after": 1, "set": SMALL}
    return SearchConfig(**(given | changed))


def run_search(config, feats, run, **more):
    return search(config, Path(), [feats], run, device="cpu", **more)


def outcome(summary):
    """What must not depend on how the trials were computed."""
    return [[trial[key] for key in ("number", "state", "params", "scores", "epochs")] for trial in summary["trials"]]


@pytest.fixture(scope="module")
def whole(toy_feats, tmp_path_factory):
    """A search by one worker: its run folder and summary."""
    run = tmp_path_factory.mktemp("search") / "s"
    return run, run_search(settings(), toy_feats, run)


def test_a_search_ends_with_a_table_strategies_and_their_ensemble(whole):
    run, summary = whole
    assert [trial["number"] for trial in summary["trials"]] == list(range(6))
    states = [trial["state"] for trial in summary["trials"]]
    assert set(states) <= {"COMPLETE", "PRUNED"} and states[:3] == ["COMPLETE"] * 3
    best = summary["best"]["p_mtl"]
    complete = [trial for trial in summary["trials"] if trial["state"] == "COMPLETE"]
    assert max(complete, key=lambda trial: trial["scores"]["p_mtl"])["number"] == best
    strategy = configs.load(TrainConfig, run / "strategies" / "p_mtl.yaml")
    trained = configs.load(TrainConfig, run / "trials" / f"{best:04d}" / "config.yaml")
    assert strategy == trained
    ensemble = load_ensemble(run)
    au = f"trials/{summary['best']['au']:04d}"
    assert ensemble.weights["au"][ensemble.members.index(au)] == 1
    joined, alone = read_predictions(run), read_predictions(run / au)
    assert all((joined[video].outputs["au"] == alone[video].outputs["au"]).all() for video in alone)
    table = (run / "results.md").read_text()
    page = write_report([run]).read_text()
    for figure in ("search", "importances", "coordinates"):
        assert (run / "report" / f"{figure}_s.png").stat().st_size > 5000
    assert "Settings that matter most in the search s." in page and "| best by |" in page
    assert f"| {best} |" in table and "importance for" in table and "strategies/au.yaml" in table


def test_two_workers_of_which_one_is_killed_twice_try_the_same_trials(whole, toy_feats, tmp_path):
    killed = []

    def kill():
        me = psutil.Process()
        while len(killed) < 2:
            for child in me.children():
                with contextlib.suppress(psutil.Error):  # it ended meanwhile
                    works = "spawn_main" in " ".join(child.cmdline())
                    if works and len(list((tmp_path / "s" / "trials").glob("*/last.pt"))) > len(killed):
                        child.kill()
                        killed.append(child.pid)
                        time.sleep(1)
                        break
            time.sleep(0.05)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    summary = run_search(settings(), toy_feats, tmp_path / "s", workers=2)
    assert len(killed) == 2
    assert outcome(summary) == outcome(whole[1])


def test_a_search_that_is_killed_goes_on_and_leaves_no_process(whole, toy_feats, tmp_path):
    command = ["search", "--config", str(tmp_path / "s.yaml"), "--feats", str(toy_feats), "--run", str(tmp_path / "s")]
    (tmp_path / "s.yaml").write_text(configs.dump(settings()))
    program = "import sys; from abaw_seq.cli import main\nif __name__ == '__main__': main(sys.argv[1:])"
    (tmp_path / "abaw.py").write_text(program)
    started = subprocess.Popen([sys.executable, str(tmp_path / "abaw.py"), *command, "--device", "cpu"], cwd=ROOT,
                               env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    while not (tmp_path / "s" / "trials" / "0001" / "last.pt").exists():
        assert started.poll() is None
        time.sleep(0.05)
    children = psutil.Process(started.pid).children(recursive=True)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert not psutil.wait_procs(children, timeout=10)[1]
    summary = run_search(settings(), toy_feats, tmp_path / "s")
    assert outcome(summary) == outcome(whole[1])


def test_more_trials_can_be_asked_for_later_and_another_search_cannot_use_the_folder(whole, toy_feats, tmp_path):
    run = tmp_path / "s"
    shutil.copytree(whole[0], run)
    summary = run_search(settings(trials=7), toy_feats, run)
    assert len(summary["trials"]) == 7 and outcome(summary)[:6] == outcome(whole[1])
    with pytest.raises(UserError, match="the config differs in seed"):
        run_search(settings(seed=1), toy_feats, run)
    with pytest.raises(UserError, match="already holds a trained run"):
        run_search(settings(), toy_feats, run / "trials" / "0000")


def test_several_objectives_have_a_front_and_tasks_that_are_not_learnt_count_nothing(toy_feats, tmp_path):
    space = {"tasks": {"choice": [["au"], ["valence", "arousal"]]}}
    config = settings(space=space, objectives=("valence", "au"), trials=4, seeds=(0, 1))
    summary = run_search(config, toy_feats, tmp_path / "s")
    for trial in summary["trials"]:
        assert (trial["scores"]["au"] is None) == ("valence" in trial["params"]["tasks"])
        assert len(trial["epochs"]) == 2 and (tmp_path / "s/trials/0000/seed1/scores.json").exists()
    kinds = {summary["trials"][n]["params"]["tasks"] for n in summary["front"]}
    assert len(kinds) == 2 and not {"expression", "p_mtl"} - {"p_mtl"} & set(summary["best"])


def test_a_trial_that_cannot_be_trained_fails_alone_and_says_why(toy_feats, tmp_path):
    space = {"windows.carry": {"choice": [True, False]}}
    summary = run_search(settings(space=space, trials=6), toy_feats, tmp_path / "s")
    for trial in summary["trials"]:
        assert (trial["state"] == "FAIL") == trial["params"]["windows.carry"]
        assert ("windows.carry needs a recurrent encoder" in (trial["error"] or "")) == trial["params"]["windows.carry"]


@pytest.mark.parametrize(
    ("space", "reason"),
    [
        ({}, "space must name at least one setting"),
        ({"optim.lr": {}}, "exactly one of choice, int, float, log"),
        ({"optim.lr": {"log": [1, 2], "int": [1, 2]}}, "not int and log"),
        ({"optim.lr": {"log": [0, 1]}}, "log must begin above 0"),
        ({"optim.lr": {"float": [2, 1]}}, "from a number to a larger one"),
        ({"optim.lr": {"float": [0, float("inf")]}}, "from a number to a larger one"),
        ({"epochs": {"int": [1, 6], "step": 2}}, "in whole steps, not of 2"),
        ({"epochs": {"choice": [1], "step": 2}}, "step must be above 0, and belongs to int or float"),
        ({"epochs": {"choice": []}}, "choice must name at least one value"),
        ({"epochs": {"chioce": [1]}}, "did you mean choice"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(space, reason):
    with pytest.raises((UserError, ValueError), match=reason):
        settings(space=space)


@pytest.mark.parametrize(("key", "reason"), [("optim.rl", "mean optim.lr"), ("optim.kind", "optim.kind must be")])
def test_settings_that_no_training_takes_are_refused_before_the_search(key, reason, toy_feats, tmp_path):
    with pytest.raises(UserError, match=reason):
        run_search(settings(space={key: {"int": [1, 2]}}), toy_feats, tmp_path / "s")


def test_values_depend_on_earlier_generations_alone():
    space = {"x": Range(log=(1e-3, 1.0)), "k": Range(choice=["a", [1, 2], None, {"b": 1}])}
    proposals = Proposals(space, 1, 3, "tpe", 4, 1)
    study = optuna.create_study(direction="maximize")
    values = {}
    study.sampler = given_sampler(values.__getitem__)
    for number in range(12):
        values[number] = proposals.propose(number, study.trials)
        trial = study.ask({key: of_key.distribution() for key, of_key in space.items()})
        assert trial.params == values[number]
        study.tell(trial, -abs(values[number]["x"] - 0.1))
    for number in (5, 7):
        assert proposals.propose(number, study.trials) == values[number]
        assert proposals.propose(number, study.trials[:4]) == values[number]
    assert proposals.propose(8, study.trials[:4]) != values[8]
    chosen = {changes(space, each)[1] for each in values.values()}
    assert chosen <= {'k="a"', "k=[1, 2]", "k=null", 'k={"b": 1}'} and len(chosen) > 1


def test_a_trial_below_the_median_of_earlier_generations_is_hopeless():
    proposals = Proposals({"x": Range(int=(0, 9))}, 1, 0, "random", 4, 2)
    study = optuna.create_study(direction="maximize")
    for k in range(8):
        trial = study.ask({"x": proposals.space["x"].distribution()})
        for epoch in (1, 2, 3):
            trial.report(k + epoch / 10, epoch)
        study.tell(trial, k)
    # The first generation had 0.2, 1.2, 2.2 and 3.2 by the second epoch; trials 4 to 7 are of the same generation.
    for value, hopeless in ((1.6, True), (1.8, False)):
        assert proposals.is_hopeless(7, {1: 0.0, 2: value}, study.trials) == hopeless
    assert not proposals.is_hopeless(7, {1: 0.0}, study.trials)
    assert not proposals.is_hopeless(7, {1: 5.0, 2: 0.0}, study.trials)
    assert not proposals.is_hopeless(3, {2: -9.0}, study.trials)


@pytest.fixture(scope="module")
def postgres():
    """URL of a PostgreSQL server of its own."""
    pytest.importorskip("psycopg", reason="the PostgreSQL driver psycopg is not installed")
    if not (shutil.which("initdb") and shutil.which("pg_ctl")):
        pytest.skip("PostgreSQL (initdb, pg_ctl) is not installed")
    with tempfile.TemporaryDirectory() as folder:
        account = []
        if os.geteuid() == 0:  # which PostgreSQL refuses to run as
            shutil.chown(folder, "nobody")
            account = ["setpriv", "--reuid=nobody", "--clear-groups"]

        def run(*command):
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
            subprocess.run([*account, *command], check=True, **quiet)

        data = f"{folder}/data"
        run("initdb", "-D", data, "-U", "abaw", "-A", "trust", "--no-sync")
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        run("pg_ctl", "-D", data, "-o", options, "-w", "-l", f"{folder}/log", "start")
        yield f"postgresql+psycopg://abaw@/postgres?host={folder}"
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")


def test_two_machines_share_a_study_in_a_database(whole, toy_feats, tmp_path, postgres):
    summaries = {}

    def machine(name):
        summaries[name] = run_search(settings(), toy_feats, tmp_path / name / "s", storage=postgres)

    threads = [threading.Thread(target=machine, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcome(summaries["one"]) == outcome(summaries["two"]) == outcome(whole[1])
    trained = [len(list((tmp_path / name / "s" / "trials").iterdir())) for name in ("one", "two")]
    assert sum(trained) == 6


def test_a_database_that_does_not_answer_is_one_line_without_its_password(toy_feats, tmp_path):
    url = "postgresql+psycopg://me:secret@127.0.0.1:1/x"
    assert without_password(url) == "postgresql+psycopg://127.0.0.1:1/x"
    with pytest.raises(UserError, match="storage postgresql") as refusal:
        run_search(settings(), toy_feats, tmp_path / "s", storage=url)
    assert "secret" not in str(refusal.value) and "\n" not in str(refusal.value)


def test_the_command_needs_a_config(toy_feats, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["search", "--feats", str(toy_feats), "--run", str(tmp_path / "s")])
    assert end.value.code == 2 and "name what to search" in capsys.readouterr().err
