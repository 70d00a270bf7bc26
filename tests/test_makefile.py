"""The Makefile's steps, without running them."""

import os
import re
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """`make` with further variables in its environment; not with those of a `make` that runs these tests."""
    ours = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS")}
    return subprocess.run(["make", "-C", ROOT, *arguments], capture_output=True, text=True, env={**ours, **environment})


def test_make_alone_lists_the_targets():
    said = make().stdout
    for target in ("make all", "make test", "make bench"):
        assert target in said


def test_the_demo_pipeline_trains_its_encoders_before_it_extracts(tmp_path):
    plan = make("-n", "all", f"OUT={tmp_path}/out").stdout
    steps = [
        "abaw-feats demo",
        "abaw-feats pretrain",
        "abaw-extract",
        "abaw-seq train",
        "abaw-seq ensemble",
        "abaw-seq report",
    ]
    positions = [plan.index(step) for step in steps]
    assert positions == sorted(positions)
    assert plan.count("abaw-feats finetune") == 2
    for head in ("lstm", "gru", "transformer", "none"):
        assert f"--config configs/demo/{head}.yaml" in plan


def test_progressive_training_in_small_follows_the_features(tmp_path):
    plan = make("-n", "abaw7", f"OUT={tmp_path}/out").stdout
    steps = ["abaw-extract", "abaw-seq progressive --config demo/progressive", "abaw-seq report"]
    positions = [plan.index(step) for step in steps]
    assert positions == sorted(positions) and "make abaw7" in make().stdout


def test_a_result_that_was_deleted_is_made_again(tmp_path):
    made = {"data/contact_sheet.png": 1, "report.html": 9, "feats.h5": 3}
    made |= {f"encoders/{name}/backbone.yaml": 2 for name in ("mae", "iresnet", "densenet")}
    made |= {f"runs/{name}/scores.json": 4 for name in ("lstm", "gru", "transformer", "none")}
    made["runs/average/scores.json"] = 5
    soon = time.time() + 1000
    for name, age in made.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (soon + age, soon + age))
    plan = make("-n", "all", f"OUT={tmp_path}").stdout
    assert "abaw-seq train" not in plan and "abaw-feats" not in plan and "abaw-seq report" not in plan
    (tmp_path / "runs" / "gru" / "scores.json").unlink()
    plan = make("-n", "all", f"OUT={tmp_path}").stdout
    assert plan.count("abaw-seq train") == 1 and "abaw-seq report" in plan


def test_the_real_pipeline_takes_the_full_size_encoders_and_published_settings(tmp_path):
    plan = make("-n", "all", f"OUT={tmp_path}/out", "DATA=/d", "ANNOTATIONS=/a", "WEIGHTS=/w").stdout
    assert "--backbone mae --backbone iresnet --backbone densenet --videos /d --annotations /a" in plan
    assert "configs/abaw4/gru.yaml" in plan
    assert "abaw-feats" not in plan.replace("import abaw_feats", "")


def test_the_real_pipeline_asks_for_the_annotations():
    done = make("-n", "all", "DATA=/d")
    assert done.returncode != 0 and "ANNOTATIONS is missing" in done.stderr


NAMES = (
    "DATA", "OUT", "WEIGHTS", "JOBS", "ANNOTATIONS", "PYTHON", "VENV", "BIN", "READY", "LOWEST", "CONFIGS", "HEADS",
    "VIDEOS", "BACKBONES", "ENCODERS", "DEMO", "FEATS", "RUNS", "SCORES", "AVERAGE", "REPORT", "RESULTS", "ABAW7",
)  # fmt: skip


def test_a_shell_that_happens_to_have_such_variables_changes_nothing():
    real = ("DATA=/d", "ANNOTATIONS=/a")
    for target, given in (("all", ()), ("results", ()), ("all", real), ("results", real), ("bench", ()), ("test", ())):
        plan = make("-n", target, *given).stdout
        assert plan == make("-n", target, *given, **dict.fromkeys(NAMES, "/elsewhere")).stdout, target
        assert "/elsewhere" not in plan and plan


def test_the_command_line_counts():
    plan = make("-n", "results", "DATA=/d", "ANNOTATIONS=/a", "OUT=/o", "JOBS=7", DATA="/e", JOBS="9").stdout
    assert "--videos /d --annotations /a -o /o/feats.h5" in plan and "--jobs 7" in plan
    assert "--out out/demo/encoders/mae" in make("-n", "-B", "all").stdout
    assert "-o out/data/feats.h5" in make("-n", "-B", "all", *("DATA=/d", "ANNOTATIONS=/a")).stdout


def test_every_variable_of_the_makefile_is_set_in_it():
    names = set(re.findall(r"\$\((\w+)\)", (ROOT / "Makefile").read_text()))
    assert names <= {*NAMES, "MAKE"}, "add it to NAMES, and set it with := so that the environment does not count"
