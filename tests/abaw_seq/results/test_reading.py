"""Labels that changed after a run: read afresh where the feature files are still there, and said."""

import json
import shutil

import h5py
import numpy as np
import pytest
import torch

from abaw_seq import config as configs
from abaw_seq.data.annotations import Annotations, VideoLabels, read_annotations, write_mtl_annotations
from abaw_seq.data.corpus import load_corpus
from abaw_seq.data.feature_file import FeatureReader
from abaw_seq.data.labelling import label_feature_file
from abaw_seq.data.prediction_file import read_predictions, score_videos
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.learn.train import train
from abaw_seq.metrics import score
from abaw_seq.results.ensemble import join_runs
from abaw_seq.results.evaluate import score_files
from abaw_seq.results.postprocess import fit_run
from abaw_seq.results.reading import read_current, with_current_labels
from abaw_seq.results.report.write import _read_run, write_report

CPU = torch.device("cpu")
SMALL = ("model.encoder.kind=none", "model.head=[8]", "epochs=1")


def trained(run, feats, annotations=None):
    config = configs.load(TrainConfig, None, list(SMALL))
    return train(config, load_corpus([feats], annotations=annotations), run, device=CPU)


def relabel(feats, *, videos=("val0", "val1"), split="val"):
    """Other labels for some videos, as `abaw-seq label` attaches them; returns {video: new labels}."""
    with FeatureReader(feats) as reader:
        known = {name: VideoLabels(reader.frames(name), -np.abs(reader.labels(name)), split) for name in videos}
    for one in known.values():
        one.labels[:, 2:] *= -1
        one.labels[:5] = np.nan
    label_feature_file(feats, Annotations(known), feats)
    return {name: one.labels for name, one in known.items()}


@pytest.fixture(scope="module")
def first(toy_feats, tmp_path_factory):
    """A folder with a feature file and a run that was trained on it."""
    folder = tmp_path_factory.mktemp("first")
    shutil.copyfile(toy_feats, folder / "feats.h5")
    trained(folder / "run", folder / "feats.h5")
    return folder


@pytest.fixture
def folder(first, tmp_path, monkeypatch):
    """A copy of it, whose run names the feature file as it was typed there."""
    shutil.copytree(first, tmp_path, dirs_exist_ok=True)
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    (tmp_path / "run" / "provenance.json").write_text(json.dumps(provenance | {"features": ["feats.h5"]}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_labels_that_did_not_change_are_those_of_the_run(folder):
    stored = read_predictions(folder / "run")
    assert with_current_labels(stored, folder / "run") == (stored, "")
    assert score_files([folder / "run"]).notes == []


def test_changed_labels_are_scored_and_said(folder):
    before = score_files([folder / "run"]).scores["run"]
    labels = relabel(folder / "feats.h5")
    result = score_files([folder / "run"])
    assert result.notes == ["run: labels of 2 of 3 videos have changed and are read afresh from feats.h5"]
    videos = read_predictions(folder / "run")
    labels["val2"] = videos["val2"].labels
    outputs = {task: np.concatenate([video.outputs[task] for video in videos.values()]) for task in before["frames"]}
    expected = score(outputs, np.concatenate([labels[name] for name in videos]))
    assert result.scores["run"] == expected and expected["p_mtl"] != before["p_mtl"]
    assert score_files([folder / "run" / "predictions.h5"]).scores["run"] == expected


def test_a_changed_split_counts_too(folder):
    with FeatureReader("feats.h5") as reader:
        known = {"val2": VideoLabels(reader.frames("val2"), reader.labels("val2"), "test")}
    label_feature_file(folder / "feats.h5", Annotations(known), folder / "feats.h5")
    result = score_files([folder / "run"], split="val")
    assert "labels of 1 of 3 videos have changed" in result.notes[0]
    assert result.scores["run"]["frames"]["valence"] == 190


def test_a_feature_file_that_is_gone_or_holds_no_labels_changes_nothing(folder):
    relabel(folder / "feats.h5")
    stored = read_predictions(folder / "run")
    (folder / "feats.h5").rename(folder / "elsewhere.h5")
    assert with_current_labels(stored, folder / "run") == (stored, "")
    with h5py.File(folder / "elsewhere.h5", "a") as file:
        for video in file["videos"].values():
            del video["labels"]
    (folder / "elsewhere.h5").rename(folder / "feats.h5")
    assert with_current_labels(stored, folder / "run") == (stored, "")


@pytest.mark.parametrize("recorded", ["labels", "command"])
def test_labels_from_annotations_are_not_taken_for_those_of_the_feature_file(recorded, folder):
    labels = relabel(folder / "feats.h5", videos=("val0", "val1", "val2", *(f"train{k}" for k in range(6))))
    rows = [
        (f"{name}/{frame:05d}.jpg", row)
        for name in ("val0", "train3")
        for frame, row in zip(load_corpus([folder / "feats.h5"]).video_labels()[name].frames, labels[name], strict=True)
    ]
    write_mtl_annotations(folder / "validation_set.txt", rows[: len(labels["val0"])])
    write_mtl_annotations(folder / "training_set.txt", rows[len(labels["val0"]) :])
    annotations = read_annotations(folder / "validation_set.txt", folder / "training_set.txt")
    trained(folder / "annotated", folder / "feats.h5", annotations)
    provenance = json.loads((folder / "annotated" / "provenance.json").read_text())
    assert provenance["labels"] == [str(folder / "validation_set.txt"), str(folder / "training_set.txt")]
    if recorded == "command":  # as earlier versions record it
        del provenance["labels"]
        provenance["command"] = ["abaw-seq", "train", "--labels=validation_set.txt"]
        (folder / "annotated" / "provenance.json").write_text(json.dumps(provenance))
    relabel(folder / "feats.h5", videos=("val0",), split="test")
    assert score_files([folder / "annotated"]).notes == []
    assert score_files([folder / "run"]).notes != []


def test_runs_of_earlier_versions_took_the_labels_of_their_feature_file(folder):
    provenance = json.loads((folder / "run" / "provenance.json").read_text())
    del provenance["labels"]
    (folder / "run" / "provenance.json").write_text(json.dumps(provenance))
    relabel(folder / "feats.h5")
    assert "labels of 2 of 3 videos" in score_files([folder / "run"]).notes[0]


def test_an_ensemble_has_the_labels_of_its_members(folder, capsys):
    shutil.copytree(folder / "run", folder / "other")
    join_runs([folder / "run", folder / "other"], folder / "both", method="mean")
    relabel(folder / "feats.h5")
    assert "labels of 2 of 3 videos" in score_files([folder / "both"]).notes[0]
    assert capsys.readouterr().err == ""
    scores = join_runs([folder / "run", folder / "other"], folder / "again", method="greedy")
    assert f"{folder / 'run'}: labels of 2 of 3 videos have changed" in capsys.readouterr().err
    assert scores["again"] == score_files([folder / "both"]).scores["both"]


def test_postprocessing_is_fitted_to_the_current_labels(folder, capsys):
    relabel(folder / "feats.h5")
    scores = fit_run(folder / "run")
    assert scores["untuned"] == score_videos(read_current(folder / "run"))
    assert "have changed and are read afresh from feats.h5" in capsys.readouterr().err


def test_the_page_shows_and_says_the_new_scores(folder):
    fit_run(folder / "run")
    relabel(folder / "feats.h5")
    stored = json.loads((folder / "run" / "scores.json").read_text())
    current = score_files([folder / "run"]).scores["run"]
    run = _read_run(folder / "run", "run")
    assert run.scores["untuned"] == current != stored["untuned"]
    assert run.scores["tuned"]["frames"] == current["frames"] and run.scores["tuned"] != stored["tuned"]
    page = write_report([folder / "run"]).read_text()
    assert "run: labels of 2 of 3 videos have changed and are read afresh from feats.h5; scores per epoch" in page
    assert f'data-key="valence">{current["valence"]:.3f}<' in page


def test_labels_of_several_feature_files_are_joined_as_in_training(folder):
    shutil.copyfile(folder / "feats.h5", folder / "more.h5")
    with h5py.File(folder / "more.h5", "a") as file:  # other labels for some frames, and none for a few
        file["videos/val0/labels"][10:30] = np.abs(file["videos/val0/labels"][10:30])
        file["videos/val0/labels"][:10] = np.nan
        file["videos/val0"].attrs["split"] = "val"
    provenance = json.loads((folder / "run" / "provenance.json").read_text())
    (folder / "run" / "provenance.json").write_text(json.dumps(provenance | {"features": ["more.h5", "feats.h5"]}))
    videos, note = with_current_labels(read_predictions(folder / "run"), folder / "run")
    assert note.startswith("labels of 1 of 3 videos have changed")
    corpus = load_corpus([folder / "more.h5", folder / "feats.h5"])
    np.testing.assert_array_equal(videos["val0"].labels, corpus.video_labels()["val0"].labels)
