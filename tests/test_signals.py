"""Signals and closed pipes: one line, no traceback, the exit codes that shells expect, no child left behind."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[1]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
ENTRIES = {
    "abaw-seq": ("from abaw_seq.entry import main; main()", "config", "train"),
    "abaw-feats": ("from abaw_feats.entry import main; main()", "--help"),
    "abaw-extract": ("from abaw_feats.entry import extract; extract()", "--help"),
    "python -m abaw_feats": ("import runpy; runpy.run_module('abaw_feats', run_name='__main__')", "extract", "--help"),
    "python -m abaw_feats.pretrain": (
        "import runpy; runpy.run_module('abaw_feats.pretrain', run_name='__main__')",
        "-h",
    ),
}
# A process that sends itself a signal while it imports the module WHEN; ignored first where the third word says so.
SIGNALLED = """
import os, signal, sys
number, when, ignored = int(sys.argv.pop(1)), sys.argv.pop(1), sys.argv.pop(1) == "ignored"
usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
signal.signal(number, signal.SIG_IGN if ignored else usual)
class Watched:
    def find_spec(self, name, path=None, target=None):
        if name == when:
            os.kill(os.getpid(), number)
sys.meta_path.insert(0, Watched())
"""


HEARS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""For a shell's background, where Ctrl-C is ignored."""


def start(code, *arguments, **settings):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, **settings}
    )


@pytest.mark.parametrize(("entry", "number"), list(itertools.product(ENTRIES, CODES)))
def test_a_signal_during_the_imports_ends_in_one_line(entry, number):
    code, *arguments = ENTRIES[entry]
    when = "click" if number == signal.SIGINT else "abaw_seq.terminal"
    with start(SIGNALLED + code, int(number), when, "heard", *arguments) as process:
        said, errors = process.communicate(timeout=60)
    assert process.returncode == CODES[number] and said == ""
    assert errors.splitlines() in (
        ["interrupted: what was finished is kept"], [f"ended by {number.name}: what was finished is kept"],
    )  # fmt: skip


@pytest.mark.parametrize("number", CODES)
def test_a_signal_that_was_set_to_be_ignored_is_ignored(number):
    code, *arguments = ENTRIES["abaw-seq"]
    with start(SIGNALLED + code, int(number), "click", "ignored", *arguments) as process:
        said, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and "epochs: 30" in said and errors == ""


def test_a_signal_inside_a_command_ends_in_one_line_where_click_would_say_aborted(toy_feats, tmp_path):
    arguments = ["train", "--feats", toy_feats, "--run", tmp_path / "run"]
    for number, code in CODES.items():
        with start(SIGNALLED + ENTRIES["abaw-seq"][0], int(number), "torch", "heard", *arguments) as process:
            errors = process.communicate(timeout=60)[1]
        assert process.returncode == code and len(errors.split("kept")) == 2 and "Traceback" not in errors, errors
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_terminated_command_ends_its_children_keeps_what_is_finished_and_goes_on_later(number, toy_feats, tmp_path):
    run = tmp_path / "cv"
    arguments = ["crossval", "--feats", toy_feats, "--folds", "2", "--run", run, "--jobs", "2", "--resume", "--set"]
    arguments += ["epochs=100000", "model.encoder.kind=none", "model.encoder.dim=8", "model.head=[8]"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    code = HEARS + ENTRIES["abaw-seq"][0]
    with start(code, *arguments, env=environment, start_new_session=True) as process:
        until = time.monotonic() + 120
        while len(list(run.glob("*/last.pt"))) < 2:
            assert process.poll() is None and time.monotonic() < until, process.communicate()
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        if number == signal.SIGINT:  # as a terminal does: to the whole group
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        try:
            errors = process.communicate(timeout=60)[1]
        finally:
            process.kill()
    assert process.returncode == CODES[number] and "Traceback" not in errors, errors
    assert errors.rstrip().splitlines()[-1].endswith("what was finished is kept")
    assert len(children) >= 2 and not psutil.wait_procs(children, timeout=20)[1]
    assert len(list(run.glob("*/last.pt"))) == 2


def test_a_closed_pipe_is_no_success(toy_feats, tmp_path):
    seq = ENTRIES["abaw-seq"][0]
    with start(seq, "config", "train") as process:
        process.stdout.close()
        assert process.wait(60) == 141 and process.stderr.read() == ""
    arguments = [
        "train",
        "--feats",
        toy_feats,
        "--run",
        tmp_path / "run",
        "--set",
        "model.encoder.kind=none",
        "epochs=2",
    ]
    with start(seq, *arguments) as process:  # the messages are cut off: 2>&1 | head
        process.stderr.close()
        assert process.wait(60) == 141 and process.stdout.read() == ""
    with start(seq, *arguments, "--resume") as process:  # the table is cut off
        process.stdout.close()
        assert process.wait(60) == 141 and "Traceback" not in process.stderr.read()
    with start("\n".join(["import sys", seq]), "--help") as process:  # everything was read
        assert process.stdout.readline() and process.communicate(timeout=60) and process.returncode == 0
