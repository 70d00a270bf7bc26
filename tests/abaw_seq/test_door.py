"""`import abaw_seq`: a few names, cheap to import, that do what the commands do."""

import subprocess
import sys

import numpy as np
import pytest

import abaw_seq
from abaw_seq.cli import main

QUICK = {"model": {"encoder": {"dim": 8}, "head": [8]}, "windows": {"length": 32}, "epochs": 2}


def test_importing_is_cheap_and_every_name_is_there():
    code = "import sys, abaw_seq\nprint([name for name in ('torch', 'numpy', 'h5py', 'click') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
    assert all(getattr(abaw_seq, name) is not None and name in dir(abaw_seq) for name in abaw_seq.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        abaw_seq.trian  # noqa: B018


def test_training_scoring_and_predicting_from_python_equal_the_commands(toy_feats, tmp_path):
    run = abaw_seq.train(QUICK, toy_feats, run=tmp_path / "python", device="cpu")
    settings = ["model.encoder.dim=8", "model.head=[8]", "windows.length=32", "epochs=2"]
    arguments = ["train", "--feats", str(toy_feats), "--run", str(tmp_path / "command"), "--device", "cpu"]
    with pytest.raises(SystemExit) as done:
        main([*arguments, "--set", *settings])
    assert done.value.code == 0
    command = abaw_seq.Run(tmp_path / "command")
    assert run.config == command.config and run.scores == command.scores and len(run.history) == 2

    predictions = run.predict(toy_feats, device="cpu", raw=True)
    assert len(predictions) == 9 and isinstance(predictions["val0"], abaw_seq.VideoPredictions)
    assert predictions["val0"].outputs["expression"].shape == (120, 8)
    for video, known in run.predictions.items():
        for task, values in known.outputs.items():
            np.testing.assert_allclose(predictions[video].outputs[task], values, atol=1e-6)
    labels = np.concatenate([video.labels for video in run.predictions.values()])
    outputs = {"valence": np.concatenate([video.outputs["valence"] for video in run.predictions.values()])}
    assert abaw_seq.score(outputs, labels)["valence"] == pytest.approx(run.scores["untuned"]["valence"])


def test_configs_are_mappings_files_names_or_settings(toy_feats, tmp_path):
    file = tmp_path / "quick.yaml"
    file.write_text("like: abaw4/none\nepochs: 1\nmodel: {head: [8]}\n")
    mapping = {"like": "abaw4/none", "epochs": 1, "model": {"head": [8]}}
    one = abaw_seq.train(file, [toy_feats], run=tmp_path / "one", device="cpu")
    two = abaw_seq.train(mapping, toy_feats, run=tmp_path / "two", device="cpu")
    three = abaw_seq.train(one.config, toy_feats, run=tmp_path / "three", device="cpu")
    assert one.config == two.config == three.config and one.scores == two.scores == three.scores
    assert one.config.weighting.valence == 4


def test_mistakes_name_the_argument(toy_feats, tmp_path):
    with pytest.raises(abaw_seq.UserError, match="nothing: no such run folder"):
        abaw_seq.Run(tmp_path / "nothing")
    with pytest.raises(abaw_seq.UserError, match="has no scores yet"):
        abaw_seq.Run(tmp_path).scores  # noqa: B018
    with pytest.raises(abaw_seq.UserError, match="unknown key epoch; did you mean epochs"):
        abaw_seq.train({"epoch": 1}, toy_feats, run=tmp_path / "r")
    with pytest.raises(abaw_seq.UserError, match="memory 'disk': use auto"):
        abaw_seq.train({}, toy_feats, run=tmp_path / "r", memory="disk")
    with pytest.raises(abaw_seq.UserError, match="device 'gpu'"):
        abaw_seq.train({}, toy_feats, run=tmp_path / "r", device="gpu")


def test_features_open_as_a_file(toy_feats):
    with abaw_seq.open_features(toy_feats) as reader:
        assert reader.features("val0", "toy").shape == (120, 12)
