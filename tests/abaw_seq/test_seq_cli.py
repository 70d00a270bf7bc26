"""`abaw-seq` as a person uses it: commands, files, and one line for every mistake."""

import csv
import json

import h5py
import numpy as np
import pytest

from abaw_seq.cli import main
from abaw_seq.data.prediction_file import read_predictions, write_predictions

QUICK = ["--set", "epochs=2", "--set", "model.encoder.dim=8", "--set", "model.head=[8]"]


def run(*arguments) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return ended.value.code


@pytest.fixture(scope="module")
def runs(toy_feats, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for kind in ("gru", "none"):
        argument = ["--set", f"model.encoder.kind={kind}"]
        assert run("train", "--feats", toy_feats, "--run", folder / kind, *QUICK, *argument) == 0
    return folder


def test_train_leaves_the_run_folder_of_the_contract(runs):
    assert {p.name for p in (runs / "gru").iterdir()} == {
        "config.yaml", "provenance.json", "metrics.jsonl", "last.pt", "best.pt", "scores.json", "predictions.h5"
    }  # fmt: skip
    with h5py.File(runs / "gru" / "predictions.h5") as file:
        video = file["videos/val0"]
        assert video["expression"].shape == (120, 8) and video["au"].shape == (120, 12)
        assert video["valence"].shape == (120,) and video["frames"].dtype == np.int32
        assert set(file["videos"]) == {"val0", "val1", "val2"}


def test_the_printed_table_is_the_stored_scores(runs, capsys):
    assert run("evaluate", runs / "gru", runs / "none", "--summary", "--constant") == 0
    out = capsys.readouterr().out
    for name in ("gru", "none"):
        stored = json.loads((runs / name / "scores.json").read_text())["untuned"]
        row = next(line for line in out.splitlines() if f" {name} " in line)
        assert f"{stored['p_mtl']:.3f}" in row and f"{stored['au']:.3f}" in row
    assert "best constant" in out and "features: toy (12) from" in out


def test_predict_writes_csv_and_hdf5_for_every_frame(runs, toy_feats, tmp_path):
    assert run("predict", runs / "gru", "--feats", toy_feats, "-o", tmp_path / "found") == 0
    videos = read_predictions(tmp_path / "found.h5")
    with open(tmp_path / "found.csv") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == sum(len(v.frames) for v in videos.values()) == 762
    first = next(row for row in rows if row["video"] == "val0")
    assert int(first["frame"]) == videos["val0"].frames[0]
    assert float(first["valence"]) == pytest.approx(videos["val0"].outputs["valence"][0], abs=1e-4)
    assert int(first["expression"]) == videos["val0"].outputs["expression"][0].argmax()
    stored = read_predictions(runs / "gru")["val0"].outputs["au"]
    np.testing.assert_allclose(videos["val0"].outputs["au"], stored, atol=1e-6)


def test_ensemble_is_the_average(runs, tmp_path):
    assert run("ensemble", runs / "gru", runs / "none", "--run", tmp_path / "both") == 0
    a, b, both = (read_predictions(p)["val1"].outputs["au"] for p in (runs / "gru", runs / "none", tmp_path / "both"))
    np.testing.assert_allclose(both, (a + b) / 2, atol=1e-6)
    assert json.loads((tmp_path / "both" / "scores.json").read_text())["untuned"]["p_mtl"] is not None


def test_train_does_not_overwrite_a_run_but_resumes_it(runs, toy_feats, capsys):
    before = (runs / "gru" / "metrics.jsonl").read_text()
    arguments = ("train", "--feats", toy_feats, "--run", runs / "gru", *QUICK, "--set", "model.encoder.kind=gru")
    assert run(*arguments) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert run(*arguments, "--resume") == 0
    assert (runs / "gru" / "metrics.jsonl").read_text() == before


def test_arguments_come_first_and_then_options_take_several_values(runs, tmp_path, capsys):
    assert run("evaluate", "--annotations", tmp_path / "none.txt", runs / "gru") == 2
    assert "none.txt: no such file" in capsys.readouterr().err
    assert run("evaluate", runs / "gru", "--annotations", tmp_path / "none.txt", runs / "none") == 2
    said = capsys.readouterr().err
    assert f"{runs / 'none'}: holds predictions, not annotations; name RUNS before the options" in said
    file = runs / "none" / "predictions.h5"
    assert run("evaluate", runs / "gru", "--annotations", tmp_path / "none.txt", file) == 2
    assert f"{file}: holds predictions, not annotations" in capsys.readouterr().err
    files = [tmp_path / "a.h5", tmp_path / "b.h5"]
    for file in files:
        file.write_bytes((runs / "none" / "predictions.h5").read_bytes())
    assert run("evaluate", runs / "gru", "--predictions", *files, "--summary") == 0


def test_label_then_evaluate_against_annotation_files(runs, toy_feats, tmp_path, capsys):
    header = "image,valence,arousal,expression,aus\n"
    frames = read_predictions(runs / "gru")["val0"].frames
    lines = [f"val0/{frame:05d}.jpg,0.{k % 10},0.5,4,{','.join('01' * 6)}\n" for k, frame in enumerate(frames)]
    annotation = tmp_path / "validation_set_annotations.txt"
    annotation.write_text(header + "".join(lines))
    out = tmp_path / "labelled.h5"
    assert run("label", "--feats", toy_feats, "--annotations", annotation, "-o", out) == 0
    with h5py.File(out) as file:
        assert file["videos/val0/labels"][3, 0] == pytest.approx(0.3) and file["videos/val0"].attrs["split"] == "val"
    capsys.readouterr()
    assert run("evaluate", "--predictions", runs / "gru" / "predictions.h5", "--annotations", annotation) == 0
    assert "P_MTL" in capsys.readouterr().out


MISTAKES = {
    "no such feature file": lambda t, f: ["train", "--feats", t / "none.h5"],
    "unknown key modle": lambda t, f: ["train", "--feats", f, "--set", "modle=1"],
    "no backbone 'mae'": lambda t, f: ["train", "--feats", f, "--set", "backbones=[mae]", "--run", t / "r"],
    "not a device": lambda t, f: ["train", "--feats", f, "--device", "gpu", "--run", t / "r"],
    "--feats": lambda t, f: ["train"],
    "no such prediction file": lambda t, f: ["evaluate", t / "nothing"],
    "nothing to score": lambda t, f: ["evaluate"],
    "no such checkpoint": lambda t, f: ["predict", t / "nothing", "--feats", f, "-o", t / "x"],
    "no such file or folder of annotations": lambda t, f: ["label", "--feats", f, "--annotations", t / "a.txt"],
    "its folder": lambda t, f: [
        "label",
        "--feats",
        f,
        "--annotations",
        t / "ok.txt",
        "-o",
        t / "ok.txt" / "x.h5",
    ],
    "ok.txt": lambda t, f: ["label", "--feats", f, "--annotations", t / "bad" / "ok.txt", "-o", t / "x.h5"],
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(words, toy_feats, tmp_path, capsys):
    (tmp_path / "bad").mkdir()
    good = "image,valence,arousal,expression,aus\nval0/00001.jpg,0,0,4,1,0,0,0,0,0,0,0,0,0,0,0\n"
    (tmp_path / "ok.txt").write_text(good)
    (tmp_path / "bad" / "ok.txt").write_text(good + "val0/00002.jpg,much,0,4,1,0,0,0,0,0,0,0,0,0,0,0\n")
    before = sorted(tmp_path.rglob("*"))
    assert run(*MISTAKES[words](tmp_path, toy_feats)) == 2
    said = capsys.readouterr().err.strip()
    assert words in said and "\n" not in said
    assert sorted(tmp_path.rglob("*")) == before


def test_features_of_other_weights_are_refused(runs, toy_feats, tmp_path, capsys):
    other = tmp_path / "other.h5"
    other.write_bytes(toy_feats.read_bytes())
    with h5py.File(other, "r+") as file:
        file["backbones/toy"].attrs["weights_sha256"] = "f" * 64
    assert run("predict", runs / "gru", "--feats", other, "-o", tmp_path / "x") == 2
    assert "trained on toy features of other weights" in capsys.readouterr().err


def test_spoiled_predictions_are_refused_by_name(runs, tmp_path, capsys):
    videos = read_predictions(runs / "gru")
    videos["val2"].outputs["au"] = videos["val2"].outputs["au"][:, :5]
    write_predictions(tmp_path / "p.h5", videos)
    assert run("evaluate", "--predictions", tmp_path / "p.h5") == 2
    assert "video val2: au has shape" in capsys.readouterr().err
