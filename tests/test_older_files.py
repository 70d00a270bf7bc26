r"""Feature files and run folders that version 0.1 made are read, and interrupted runs go on as they would have.

`tests/fixtures/older_files` was made with commit 58b7f67 (Python 3.11, PyTorch 2.15, one thread), in a folder that
held the YAML files beside this text, after `write_inputs(Path())` of this module:

    stop() { PROGRAM=$1 SAVE=$2 CLI=$3 COUNT=$4 python -c '
    import os, importlib
    program, name = importlib.import_module(os.environ["PROGRAM"]), os.environ["SAVE"]
    save, left = getattr(program, name), int(os.environ["COUNT"])
    def interrupt(path, content):
        global left
        save(path, content)
        left -= name == "save_epoch" or path.name == "last.pt"
        if not left: raise KeyboardInterrupt
    setattr(program, name, interrupt)
    importlib.import_module(os.environ["CLI"]).main()' "${@:5}"; }

    abaw-feats pretrain --config mae.yaml --videos frames --out encoders/mae
    abaw-feats finetune --config grey.yaml --videos frames --annotations labels --out encoders/grey
    stop abaw_feats.pretrain save_epoch abaw_feats.cli 1 \
        pretrain --config mae.yaml --videos frames --out encoders/mae-stopped
    stop abaw_feats.finetune save_epoch abaw_feats.cli 1 \
        finetune --config tuned.yaml --videos frames --annotations labels/training_set_annotations.txt \
        --out encoders/tuned-stopped
    abaw-extract --backbone encoders/mae encoders/grey --videos frames --annotations labels -o feats.h5
    abaw-seq train --feats feats.h5 --config gru.yaml --run runs/gru
    stop abaw_seq.learn.train save_checkpoint abaw_seq.cli 1 \
        train --feats feats.h5 --config stopped.yaml --run runs/stopped
    stop abaw_seq.learn.train save_checkpoint abaw_seq.cli 3 \
        crossval --feats feats.h5 --config gru.yaml --folds 2 --run runs/folds
    abaw-seq ensemble --config recipe.yaml --feats feats.h5 --run runs/results
    abaw-seq evaluate runs/gru --fit

A copy of that folder then went on with the same commit: every interrupted command again with `--resume`, `abaw-extract
--backbone encoders/grey encoders/tuned-stopped --videos frames --dtype float32 -o new.h5`, and for each run `abaw-seq
predict runs/NAME --feats feats.h5 -o predicted-NAME` (once more with `--raw -o predicted-raw` for gru). The resulting
losses, weights, features and predictions are in `expected.npz`, the scores of the folds in `expected-folds.json`.

Floating-point results differ in their last digits between processors and versions of PyTorch; the tolerances allow
for that after the few steps of training here, whose learning rates move weights by a thousand times more.
"""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.numpy import load_file

from abaw_feats import cli as feats_cli
from abaw_seq import cli as seq_cli
from abaw_seq.data.feature_file import FeatureReader

FIXTURES = Path(__file__).parent / "fixtures" / "older_files"
SPLITS = {"a": "training", "b": "training", "c": "validation", "d": "validation", "e": None}
UNREADABLE, ABSENT = ("b", 3), ("c", 4)
UNTRAINED, TRAINED = 1e-6, 1e-5


def write_inputs(folder: Path) -> None:
    """`frames/` of five videos, one frame unreadable, one absent, and `labels/` of the first four."""
    rows: dict[str, list[str]] = {"training": [], "validation": []}
    for v, (video, split) in enumerate(SPLITS.items()):
        (folder / "frames" / video).mkdir(parents=True)
        for k in range(1, 10):
            if (video, k) == ABSENT:
                continue
            y, x, c = np.mgrid[:16, :16, :3]
            pixels = (40 * v + 23 * k * (c + 1) + x * (5 + k) + y * (3 + v)) % 256
            file = folder / "frames" / video / f"{k:05d}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(file)
            if (video, k) == UNREADABLE:
                file.write_text("not an image")
            if split:
                affect = [(7 * k + 3 * v) % 21 / 10 - 1, (5 * k + 8 * v) % 21 / 10 - 1] if k != 8 else [-5, -5]
                units = [int((k + v + unit) % 3 == 0) for unit in range(12)]
                numbers = [*affect, (k + 3 * v) % 8 if k != 7 else -1, *units]
                rows[split].append(",".join([f"{video}/{k:05d}.jpg", *map(str, numbers)]))
    (folder / "labels").mkdir()
    for split, lines in rows.items():
        lines.insert(0, "image,valence,arousal,expression,aus")
        (folder / "labels" / f"{split}_set_annotations.txt").write_text("\n".join([*lines, ""]))
    (folder / "labels" / "test_set_videos.txt").write_text("e\n")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """One copy of the older files, with frames and labels beside them."""
    folder = tmp_path_factory.mktemp("older") / "files"
    shutil.copytree(FIXTURES, folder)
    write_inputs(folder)
    return folder


@pytest.fixture
def older(copy, monkeypatch):
    """The copy as the working folder: config files name their sources relative to it."""
    monkeypatch.chdir(copy)
    monkeypatch.setenv("COLUMNS", "200")
    return copy


@pytest.fixture(scope="module")
def expected():
    with np.load(FIXTURES / "expected.npz") as file:
        return dict(file)


def run(command, *arguments) -> str:
    """What a command line prints."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def seq(*arguments) -> str:
    return run(seq_cli.main, *arguments)


def feats(*arguments) -> str:
    return run(feats_cli.main, *arguments)


def predicted(name: str, *arguments) -> dict[str, np.ndarray]:
    """{video/task: values} of a run's predictions for the older feature file."""
    seq("predict", f"runs/{name}", "--feats", "feats.h5", "-o", f"predicted-{name}", *arguments)
    with h5py.File(f"predicted-{name}.h5") as file:
        tasks = ("valence", "arousal", "expression", "au")
        return {f"{video}/{task}": group[task][:] for video, group in file["videos"].items() for task in tasks}


def check_same(values: dict[str, np.ndarray], expected: dict[str, np.ndarray], name: str, tolerance: float) -> None:
    """The named part of what is expected, and nothing else, to within a tolerance."""
    wanted = {key.removeprefix(f"{name}:"): array for key, array in expected.items() if key.startswith(f"{name}:")}
    assert wanted and values.keys() == wanted.keys()
    for key, array in wanted.items():
        np.testing.assert_allclose(values[key], array, rtol=tolerance, atol=tolerance, err_msg=f"{name} {key}")


def check_losses(folder: str, expected: dict[str, np.ndarray]) -> None:
    """The training losses of a run that went on, epoch by epoch, are those of the older code."""
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    losses = np.array([line["train"]["loss"] for line in lines])
    check_same({"losses": losses}, {f"{folder}:losses": expected[f"{folder}:losses"]}, folder, TRAINED)


def without_key_biases(parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without the biases of attention's keys: their gradients are rounding errors, which Adam scales to whole steps."""
    return {
        name: np.delete(values, np.s_[len(values) // 3 : len(values) * 2 // 3]) if name.endswith("qkv.bias") else values
        for name, values in parameters.items()
    }


def check_weights(folder: str, expected: dict[str, np.ndarray]) -> None:
    """The weights that a run kept are those of the older code."""
    if (file := Path(folder) / "weights.safetensors").exists():
        weights = load_file(file)
    else:
        model = torch.load(Path(folder) / "best.pt", weights_only=True)["model"]
        weights = {key: value.numpy() for key, value in model.items()}
    wanted = {key: array for key, array in expected.items() if key != f"{folder}:losses"}
    check_same(without_key_biases(weights), without_key_biases(wanted), folder, TRAINED)


def scores(folder: str | Path) -> dict:
    return json.loads((Path(folder) / "scores.json").read_text())


def test_a_feature_file_is_read(older):
    with FeatureReader("feats.h5") as reader:
        assert {name: info.dim for name, info in reader.backbones.items()} == {"grey": 4, "mae": 8}
        assert reader.videos == ("a", "b", "c", "d", "e")
        assert [reader.split(video) for video in reader.videos] == ["train", "train", "val", "val", "test"]
        assert reader.frames("c").tolist() == [1, 2, 3, 5, 6, 7, 8, 9]
        assert np.flatnonzero(~reader.valid("b")).tolist() == [2] and reader.valid("a").all()
        assert not reader.features("b", "mae")[2].any() and reader.features("b", "mae")[1].any()
        labels = reader.labels("a")
        np.testing.assert_allclose(labels[0, :3], [-0.3, -0.5, 1], atol=1e-6)
        assert np.isnan(labels[7, :2]).all() and np.isnan(labels[6, 2]) and not np.isnan(labels[0]).any()
        assert reader.labels("e") is None or np.isnan(reader.labels("e")).all()
    assert "mae" in feats("info", "feats.h5")


def test_the_encoders_of_finished_runs_give_the_features_in_the_file(older):
    backbones = ["--backbone", "encoders/mae", "encoders/grey"]
    run(feats_cli.extract, *backbones, "--videos", "frames", "-o", "again.h5", "--precision", "fp32")
    with FeatureReader("feats.h5") as before, FeatureReader("again.h5") as now:
        for name, info in before.backbones.items():
            assert now.backbones[name].identity == info.identity
            for video in before.videos:
                np.testing.assert_allclose(now.features(video, name), before.features(video, name), atol=2e-3)


def test_an_encoder_is_added_to_a_feature_file(older):
    shutil.copyfile("feats.h5", "more.h5")
    Path("random.yaml").write_text(Path("encoders/grey/backbone.yaml").read_text().replace("name: grey", "name: new"))
    backbones = ["--backbone", "encoders/mae", "random.yaml", "--weights", "new=random"]
    said = run(feats_cli.extract, *backbones, "--videos", "frames", "-o", "more.h5", "--precision", "fp32")
    assert "grey (4), mae (8), new (4)" in said
    with FeatureReader("feats.h5") as before, FeatureReader("more.h5") as now:
        for video in before.videos:
            assert np.array_equal(now.features(video, "mae"), before.features(video, "mae"))
            assert now.split(video) == before.split(video)


def test_finished_runs_predict_as_before(older, expected):
    check_same(predicted("gru", "--raw"), expected, "predicted-raw", UNTRAINED)
    check_same(predicted("gru"), expected, "predicted-gru", UNTRAINED)
    check_same(predicted("results"), expected, "predicted-results", UNTRAINED)


def test_finished_runs_are_scored_as_before(older):
    table = seq("evaluate", "runs/gru", "runs/results", "runs/results/members/none-0", "--summary")
    for folder in ("runs/gru", "runs/results", "runs/results/members/none-0"):
        assert f"{scores(folder)['untuned']['p_mtl']:.3f}" in table
    assert "features: grey (4) + mae (8) from feats.h5" in table


def test_weights_and_postprocessing_are_fitted_and_applied_as_before(older):
    before = scores("runs/gru")
    seq("evaluate", "runs/gru", "--fit")
    for kind in ("untuned", "tuned", "cross_fitted"):
        assert scores("runs/gru")[kind]["p_mtl"] == pytest.approx(before[kind]["p_mtl"], abs=1e-6)
    members = [f"runs/results/members/{name}-0" for name in ("gru", "none")]
    seq("ensemble", *members, "--run", "joined", "--apply", "runs/results")
    assert scores("joined")["untuned"]["p_mtl"] == pytest.approx(scores("runs/results")["untuned"]["p_mtl"], abs=1e-6)


def test_a_finished_recipe_trains_nothing_again(older):
    before = Path("runs/results/results.md").read_text()
    states = {path: path.stat().st_mtime_ns for path in Path("runs/results").rglob("*.pt")}
    seq("ensemble", "--config", "recipe.yaml", "--feats", "feats.h5", "--run", "runs/results")
    cells = [[row.split("|") for row in text.splitlines() if row.startswith("| ")] for text in
             (before, Path("runs/results/results.md").read_text())]  # fmt: skip
    assert cells[0] == cells[1]
    assert states == {path: path.stat().st_mtime_ns for path in Path("runs/results").rglob("*.pt")}


def test_runs_are_reported(older):
    seq("report", "runs/gru", "runs/results", "--frames", "frames", "-o", "page")
    assert "<canvas" in Path("page/report.html").read_text()


def test_an_interrupted_training_goes_on(older, expected):
    seq("train", "--feats", "feats.h5", "--config", "stopped.yaml", "--run", "runs/stopped", "--resume")
    check_losses("runs/stopped", expected)
    check_weights("runs/stopped", expected)
    check_same(predicted("stopped"), expected, "predicted-stopped", TRAINED)


def test_an_interrupted_cross_validation_goes_on(older, expected):
    official = Path("runs/folds/official/last.pt").stat().st_mtime_ns
    seq("crossval", "--feats", "feats.h5", "--config", "gru.yaml", "--folds", 2, "--run", "runs/folds", "--resume")
    assert Path("runs/folds/official/last.pt").stat().st_mtime_ns == official
    for fold in ("official", "1", "2"):
        check_losses(f"runs/folds/{fold}", expected)
        check_weights(f"runs/folds/{fold}", expected)
    check_same(predicted("folds"), expected, "predicted-folds", TRAINED)
    wanted = json.loads((FIXTURES / "expected-folds.json").read_text())
    for part in ("untuned", "mean", "deviation"):
        assert scores("runs/folds")[part]["p_mtl"] == pytest.approx(wanted[part]["p_mtl"], abs=1e-4)


def test_an_interrupted_pretraining_goes_on(older, expected):
    feats("pretrain", "--config", "mae.yaml", "--videos", "frames", "--out", "encoders/mae-stopped", "--resume")
    check_losses("encoders/mae-stopped", expected)
    check_weights("encoders/mae-stopped", expected)


@pytest.fixture
def tuned(older):
    """An interrupted fine-tuning that went on."""
    sources = ["--videos", "frames", "--annotations", "labels/training_set_annotations.txt"]
    feats("finetune", "--config", "tuned.yaml", *sources, "--out", "encoders/tuned-stopped", "--resume")
    return "encoders/tuned-stopped"


def test_an_interrupted_finetuning_goes_on(tuned, expected):
    check_losses(tuned, expected)


def test_an_interrupted_finetuning_gives_the_same_encoder(tuned, expected):
    check_weights(tuned, expected)
    extracting = ["--backbone", "encoders/grey", tuned, "--videos", "frames", "--dtype", "float32"]
    run(feats_cli.extract, *extracting, "--precision", "fp32", "-o", "new.h5")
    with FeatureReader("new.h5") as file:
        features = {f"{video}/{name}": file.features(video, name) for video in file.videos for name in file.backbones}
    check_same(features, expected, "new", TRAINED)


def test_finished_runs_stay_as_they_are_when_resumed(older):
    before = {path: path.read_bytes() for path in Path("encoders").rglob("weights.safetensors")}
    feats("pretrain", "--config", "mae.yaml", "--videos", "frames", "--out", "encoders/mae", "--resume")
    feats("finetune", "--config", "grey.yaml", "--videos", "frames", "--annotations", "labels", "--out",
          "encoders/grey", "--resume")  # fmt: skip
    seq("train", "--feats", "feats.h5", "--config", "gru.yaml", "--run", "runs/gru", "--resume")
    assert before == {path: path.read_bytes() for path in before}
    assert scores("runs/gru")["untuned"]["p_mtl"] == pytest.approx(0.338, abs=1e-3)
