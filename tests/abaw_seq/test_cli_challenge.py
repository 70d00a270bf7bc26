"""The challenge's own steps on the command line: folds, scores, submissions, features that people bring."""

import csv
import json

import h5py
import numpy as np
import pytest

from abaw_seq.cli import main
from abaw_seq.data.annotations import write_mtl_annotations
from abaw_seq.data.corpus import load_corpus
from abaw_seq.data.prediction_file import read_predictions

QUICK = ["--set", "epochs=2", "--set", "model.encoder.dim=8", "--set", "model.head=[8]"]
QUICK += ["--set", "model.encoder.kind=none"]


def run(*arguments) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return ended.value.code


@pytest.fixture(scope="module")
def trained(toy_feats, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert run("train", "--feats", toy_feats, "--run", folder, *QUICK) == 0
    return folder


@pytest.fixture(scope="module")
def official(toy_feats, tmp_path_factory):
    """The toy labels as the official multi-task files of the two splits."""
    folder = tmp_path_factory.mktemp("official")
    known = load_corpus([toy_feats]).video_labels()
    for split, name in (("train", "training_set_annotations"), ("val", "validation_set_annotations")):
        rows = [
            (f"{video}/{frame:05d}.jpg", labels)
            for video, one in known.items()
            if one.split == split
            for frame, labels in zip(one.frames, one.labels, strict=True)
        ]
        write_mtl_annotations(folder / f"{name}.txt", rows)
    return folder


def test_a_submission_is_written_checked_and_scores_like_its_run(trained, official, tmp_path, capsys):
    listed, out = official / "validation_set_annotations.txt", tmp_path / "predictions.txt"
    assert run("submit", trained, "--list", listed, "-o", out) == 0
    assert f"{out}: 210 rows, checked against {listed}; 0 filled" in capsys.readouterr().out
    assert run("submit", "--check", out, "--list", listed) == 0
    assert "210 rows" in capsys.readouterr().out
    arguments = ("--predictions", out, "--annotations", official, "--summary", "--bootstrap", 50)
    assert run("evaluate", trained, *arguments) == 0
    shown = capsys.readouterr()
    rows = [line.split("│")[2].strip() for line in shown.out.splitlines() if line.startswith("│")]
    assert len(rows) == 4 and float(rows[0]) == pytest.approx(float(rows[2]), abs=2e-3)
    low, high = map(float, rows[1].strip("[]").split(","))
    assert low < high and low <= float(rows[0]) <= high
    assert "labelled frames without a prediction: 552 of 552 in train, 0 of 210 in val" in shown.err
    lines = out.read_text().splitlines()
    out.write_text("\n".join([*lines[:3], lines[4], lines[3], *lines[5:]]) + "\n")
    assert run("submit", "--check", out, "--list", listed) == 2
    assert f"error: {out}, line 4: image " in capsys.readouterr().err


def test_files_per_video_of_an_early_edition(trained, tmp_path, capsys):
    frames = {name: int(video.frames.max()) for name, video in read_predictions(trained).items()}
    lengths = tmp_path / "lengths.csv"
    lengths.write_text("".join(f"{name},{count}\n" for name, count in frames.items()))
    arguments = ("--lengths", lengths, "--edition", "expr2020")
    assert run("submit", trained, *arguments, "-o", tmp_path / "out") == 0
    assert f"{sum(frames.values()):,} rows" in capsys.readouterr().out
    text = (tmp_path / "out" / "val0.txt").read_text().splitlines()
    assert text[0] == "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise" and len(text) == frames["val0"] + 1
    assert run("submit", "--check", tmp_path / "out", *arguments) == 0


def test_crossval_writes_folds_trains_them_and_goes_on(toy_feats, tmp_path, capsys):
    folder = tmp_path / "cv"
    arguments = ("crossval", "--feats", toy_feats, "--run", folder, *QUICK)
    assert run(*arguments, "--folds", 2, "--write-only") == 0
    assert [p.name for p in folder.iterdir()] == ["folds.yaml"]
    assert run(*arguments, "--folds", folder / "folds.yaml") == 0
    table = capsys.readouterr().out
    scores = json.loads((folder / "scores.json").read_text())
    for name, row_scores in [("fold 1", scores["folds"]["1"]), ("mean", scores["mean"]), ("pooled", scores["untuned"])]:
        row = next(line for line in table.splitlines() if f"│ {name} " in line)
        assert f"{row_scores['p_mtl']:.3f}" in row and f"{row_scores['au']:.3f}" in row
    assert run(*arguments, "--folds", 2) == 2
    assert "already holds folds: resume them" in capsys.readouterr().err
    assert run(*arguments, "--folds", 2, "--resume") == 0
    assert run("evaluate", folder, folder / "1", "--summary") == 0


def test_features_that_people_bring_are_trained_labelled_and_predicted(toy_feats, official, tmp_path, capsys):
    own = load_corpus([toy_feats])
    foreign = tmp_path / "theirs.h5"
    with h5py.File(foreign, "w") as file:
        for name, start, stop in zip(own.names, own.offsets[:-1], own.offsets[1:], strict=True):
            file[f"{name}/feature"] = own.features[start:stop].numpy()
    arguments = ("train", *QUICK, "--run")
    assert run(*arguments, tmp_path / "direct", "--feats", f"toy={foreign}", "--labels", official) == 0
    said = capsys.readouterr().err
    assert "frame numbers as annotated, row by row (9 videos)" in said
    assert "labels: split val, videos 3, frames with features 210, of them labelled 210" in said
    assert run("label", "--feats", f"toy={foreign}", "--annotations", official) == 2
    assert "name another output" in capsys.readouterr().err
    ours = tmp_path / "ours.h5"
    assert run("label", "--feats", f"toy={foreign}", "--annotations", official, "-o", ours) == 0
    said = capsys.readouterr().out
    assert "valence-arousal" in said and "label files read" in said and "labelled, no features" in said
    assert run(*arguments, tmp_path / "labelled", "--feats", ours) == 0
    assert run(*arguments, tmp_path / "own", "--feats", toy_feats) == 0
    scores = [json.loads((tmp_path / n / "scores.json").read_text())["untuned"] for n in ("direct", "labelled", "own")]
    assert scores[0] == scores[1]
    assert scores[0]["p_mtl"] == pytest.approx(scores[2]["p_mtl"], abs=1e-6)

    folder = tmp_path / "toy"
    folder.mkdir()
    np.save(folder / "new.npy", np.zeros((5, 12), np.float16))
    assert run("predict", tmp_path / "direct", "--feats", folder, "-o", tmp_path / "predicted") == 0
    with open(tmp_path / "predicted.csv") as handle:
        assert [row["frame"] for row in csv.DictReader(handle)] == ["1", "2", "3", "4", "5"]


MISTAKES = {
    "edition mlt is unknown": lambda t, r, f: ["evaluate", r, "--edition", "mlt"],
    "split dev is unknown": lambda t, r, f: ["evaluate", r, "--split", "dev"],
    "what to submit is not known": lambda t, r, f: ["submit", r, "-o", t / "o.txt"],
    "no such list": lambda t, r, f: ["submit", r, "-o", t / "o.txt", "--list", t / "none.txt"],
    "submit takes a run": lambda t, r, f: ["submit", "--list", t / "list.txt"],
    "no predictions of video v": lambda t, r, f: ["submit", r, "-o", t / "o.txt", "--list", t / "list.txt"],
    "cannot be made of 9 source videos": lambda t, r, f: ["crossval", "--feats", f, "--folds", "10", "--run", t / "r"],
    "1 folds cannot be made": lambda t, r, f: ["crossval", "--feats", f, "--folds", "1", "--run", t / "r"],
    "no/such.yaml": lambda t, r, f: ["crossval", "--feats", f, "--folds", "no/such.yaml", "--run", t / "r"],
    "holds no features": lambda t, r, f: ["train", "--feats", t, "--run", t / "r"],
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(words, trained, toy_feats, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("image,valence,arousal,expression,aus\nv/00001.jpg\n")
    before = sorted(tmp_path.rglob("*"))
    assert run(*MISTAKES[words](tmp_path, trained, toy_feats)) == 2
    said = capsys.readouterr().err.strip()
    assert words in said and "\n" not in said
    assert sorted(tmp_path.rglob("*")) == before
