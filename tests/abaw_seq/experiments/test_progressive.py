"""Progressive training for real on small data: its steps, what they leave, and what is never done again."""

import json
import re
import shutil

import h5py
import numpy as np
import pytest
import torch

from abaw_seq import config as configs
from abaw_seq.cli import main
from abaw_seq.data.corpus import load_corpus
from abaw_seq.data.feature_file import FeatureReader, atomic_feature_file
from abaw_seq.data.prediction_file import read_predictions
from abaw_seq.errors import UserError
from abaw_seq.experiments.progressive import progress_through
from abaw_seq.experiments.progressive_config import ProgressiveConfig, load_progressive
from abaw_seq.files import load_tensors
from abaw_seq.learn import member
from abaw_seq.learn import train as training
from abaw_seq.models.joint import JointModel, TaskFeatures
from abaw_seq.results.ensemble import join_runs
from abaw_seq.results.predict import load_run, predict_run
from abaw_seq.results.report.write import write_report
from tests.conftest import backbone_info, toy_video

CPU = torch.device("cpu")
COMMON = {
    "model": {"encoder": {"kind": "gru", "dim": 8}, "head": [6]},
    "windows": {"length": 32},
    "epochs": 2,
}
SEPARATE = {"au": {"tasks": ["au"], "windows": {"step": 16}}, "va": {"tasks": ["valence", "arousal"]}}


def settings(**changes):
    values = {
        "separate": SEPARATE, "common": COMMON, "joint": {"model": {"head": []}, "optim": {"group_lr": {"parts": 0.1}}},
        "layers": {"dim": 8}, "seeds": [3], "compare_fusions": ["none", "gate"],
    } | changes  # fmt: skip
    return configs.from_dict(ProgressiveConfig, values)


def stamps(run):
    """{file: when it was written} of what must not be made again."""
    names = ("best.pt", "last.pt", "features.h5")
    return {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name in names}


@pytest.fixture(scope="module")
def done(toy_feats, tmp_path_factory):
    run = tmp_path_factory.mktemp("progressive") / "run"
    table = progress_through(settings(), [toy_feats], run, device=CPU)
    return run, table


def test_every_step_is_a_folder_and_the_comparison_a_table(done):
    run, table = done
    assert {path.name for path in (run / "separate").iterdir()} == {"au-3", "va-3", "all-3"}
    assert {path.name for path in (run / "joint").iterdir()} == {
        "frozen-sum-3", "trained-sum-3", "scratch-sum-3", "frozen-none-3", "frozen-gate-3"
    }  # fmt: skip
    assert (run / "results.md").read_text() == table
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in table.splitlines()[2:] if "|" in line}
    assert list(rows) == [
        "separate",
        "joint from separate (frozen), sum",
        "joint from separate (trained on), sum",
        "joint from scratch, sum",
        "joint from separate (frozen), without fusion",
        "joint from separate (frozen), gate",
    ]
    scores = json.loads((run / "separate/all-3/scores.json").read_text())["untuned"]
    own = json.loads((run / "separate/au-3/scores.json").read_text())["untuned"]
    assert float(rows["separate"][4]) == pytest.approx(scores["au"], abs=6e-4)
    assert scores["au"] == pytest.approx(own["au"]) and scores["valence"] is not None


def test_features_are_the_models_own_hidden_states(done, toy_feats):
    run, _ = done
    with FeatureReader(run / "features/3/features.h5") as reader, FeatureReader(toy_feats) as raw:
        assert set(reader.videos) == set(raw.videos) and list(reader.backbones) == ["p7_au", "p7_va"]
        model, config, _ = load_run(run / "separate/va-3", CPU)
        for video in ("train5", "val2"):  # shorter than a window, so that one forward pass is all there is
            assert np.array_equal(reader.frames(video), raw.frames(video)) and reader.split(video) == raw.split(video)
            np.testing.assert_array_equal(reader.labels(video), raw.labels(video))
            with torch.no_grad():
                hidden = model(torch.from_numpy(raw.features(video, "toy"))[None]).hidden
            expected = torch.cat([hidden["valence"], hidden["arousal"]], -1)[0]
            np.testing.assert_allclose(reader.features(video, "p7_va"), expected, rtol=1e-3, atol=1e-4)
        assert reader.backbones["p7_va"].dim == 12 and reader.backbones["p7_au"].dim == 6


def test_features_of_long_videos_are_averaged_as_predictions_are(done, toy_feats):
    run, _ = done
    model, config, _ = load_run(run / "separate/au-3", CPU)
    corpus = load_corpus([toy_feats])
    video = corpus.names.index("train0")
    predicted = training.predict_frames(model, corpus, [video], config)["au"]
    with FeatureReader(run / "features/3/features.h5") as reader:
        hidden = torch.from_numpy(reader.features("train0", "p7_au")).float()
    middle = slice(10, 12)  # one window alone covers these
    np.testing.assert_allclose(
        model.heads["au"].output(hidden).sigmoid().detach()[middle], predicted[middle], atol=2e-3
    )


def test_the_hash_of_the_weights_stands_beside_the_features(done):
    import hashlib

    run, _ = done
    with FeatureReader(run / "features/3/features.h5") as reader:
        for name in ("au", "va"):
            digest = hashlib.sha256((run / f"separate/{name}-3/best.pt").read_bytes()).hexdigest()
            assert reader.backbones[f"p7_{name}"].weights_sha256 == digest


def test_joint_models_begin_with_the_weights_of_the_separate_ones(toy_feats, done, monkeypatch):
    run, _ = done
    config = settings()
    began = {}

    def build(*arguments):
        began["model"] = build_model(*arguments)
        return began["model"]

    def stop(*_, **__):
        began["weights"] = {key: value.clone() for key, value in began["model"].state_dict().items()}
        raise KeyboardInterrupt

    build_model = member.build_model
    monkeypatch.setattr(member, "build_model", build)
    monkeypatch.setattr(training, "train_epoch", stop)
    corpus = load_corpus([toy_feats])
    for kind in ("trained", "scratch"):
        start = {f"parts.{name}.model": run / f"separate/{name}-3" for name in SEPARATE}
        one = config.joint_config((kind, "sum"), 3, ("toy",))
        with pytest.raises(KeyboardInterrupt):
            training.train(one, corpus, run.parent / kind, device=CPU, start=start if kind == "trained" else None)
        for name in SEPARATE:
            for key, value in load_tensors(run / f"separate/{name}-3/best.pt")["model"].items():
                same = torch.equal(began["weights"][f"parts.{name}.model.{key}"], value)
                assert same == (kind == "trained" or key.startswith("standardise.")), key
        assert one.optim.group_lr == ({"parts": 0.1} if kind == "trained" else {})


def test_trained_parts_move_and_frozen_features_are_all_that_is_read(done):
    run, _ = done
    model, config, backbones = load_run(run / "joint/trained-sum-3", CPU)
    assert isinstance(model, JointModel) and list(backbones) == ["toy"]
    before = load_tensors(run / "separate/au-3/best.pt")["model"]
    assert not torch.equal(
        model.state_dict()["parts.au.model.heads.au.hidden.1.weight"], before["heads.au.hidden.1.weight"]
    )
    model, config, backbones = load_run(run / "joint/frozen-none-3", CPU)
    assert list(backbones) == ["p7_au", "p7_va"] and not list(model.parts)
    assert model.sources == {"valence": ("p7_va",), "au": ("p7_au",)}


def test_nothing_is_done_twice(done, toy_feats):
    run, table = done
    before = stamps(run)
    assert progress_through(settings(), [toy_feats], run, device=CPU) == table
    assert stamps(run) == before


def test_more_seeds_and_fusions_add_to_what_is_there(done, toy_feats, tmp_path):
    run = shutil.copytree(done[0], tmp_path / "run", copy_function=shutil.copy2)
    before = stamps(run)
    more = settings(compare_fusions=["none", "gate", "attention"])
    table = progress_through(more, [toy_feats], run, device=CPU)
    assert "attention" in table and stamps(run).items() > before.items()


def test_other_settings_are_refused_for_finished_models(done, toy_feats, tmp_path):
    run = shutil.copytree(done[0], tmp_path / "run")
    with pytest.raises(UserError, match=r"separate/au-3: cannot resume, the config differs in epochs"):
        progress_through(settings(set=["epochs=3"]), [toy_feats], run, device=CPU)


def test_stopped_anywhere_it_ends_with_the_same_numbers(done, toy_feats, tmp_path, monkeypatch):
    run, table = tmp_path / "run", None
    left = {"epochs": 0}
    train_epoch = training.train_epoch

    def dying(*arguments, **options):
        left["epochs"] -= 1
        if left["epochs"] < 0:
            raise KeyboardInterrupt
        return train_epoch(*arguments, **options)

    monkeypatch.setattr(training, "train_epoch", dying)
    interruptions = 0
    while table is None:
        left["epochs"] = 3
        try:
            table = progress_through(settings(), [toy_feats], run, device=CPU)
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions >= 4 and table == done[1]


def test_other_kinds_of_run_keep_out_of_the_folder_and_it_out_of_theirs(done, toy_feats):
    run, _ = done
    own, corpus = settings().separate_config("au"), load_corpus([toy_feats])
    for program in (
        lambda: training.train(own, corpus, run, device=CPU),
        lambda: training.train(own, corpus, run, device=CPU, resume=True),
        lambda: join_runs([run / "separate/au-3", run / "separate/va-3"], run, method="mean"),
    ):
        with pytest.raises(UserError, match="holds a progressive training; name another folder"):
            program()
    for other in ("separate/au-3", "joint/frozen-sum-3", "separate/all-3"):
        with pytest.raises(UserError, match="another folder"):
            progress_through(settings(), [toy_feats], run / other, device=CPU)


def test_a_feature_file_of_other_weights_is_made_again(done, toy_feats, tmp_path):
    run = shutil.copytree(done[0], tmp_path / "run", copy_function=shutil.copy2)
    path = run / "features/3/features.h5"
    with h5py.File(path, "r+") as file:
        file["backbones/p7_au"].attrs["weights_sha256"] = "0" * 64
    progress_through(settings(), [toy_feats], run, device=CPU, until="features")
    with FeatureReader(path) as reader:
        assert reader.backbones["p7_au"].weights_sha256 != "0" * 64


def test_features_of_new_videos_are_added_for_frozen_joint_models(done, toy_feats, tmp_path):
    run = shutil.copytree(done[0], tmp_path / "run", copy_function=shutil.copy2)
    with atomic_feature_file(tmp_path / "new.h5") as writer:
        writer.add_backbone("toy", backbone_info(12))
        video = toy_video("new", 40, 12, 9, None)
        video.labels = None
        writer.add_video(video)
    before = {path: stamp for path, stamp in stamps(run).items() if path.suffix == ".pt"}
    progress_through(settings(), [toy_feats, tmp_path / "new.h5"], run, device=CPU, until="features")
    assert stamps(run).items() > before.items()
    predicted = next(iter(predict_run(run / "joint/frozen-sum-3", [run / "features/3/features.h5"], CPU)))
    assert predicted["new"].outputs["au"].shape == (40, 12)
    stored = read_predictions(run / "joint/frozen-sum-3")
    np.testing.assert_allclose(predicted["val0"].outputs["au"], stored["val0"].outputs["au"], atol=1e-6)


@pytest.mark.parametrize(("until", "made"), [("separate", {"separate"}), ("features", {"separate", "features"})])
def test_it_stops_after_a_step(until, made, toy_feats, tmp_path):
    quick = settings(set=["epochs=1"])
    assert progress_through(quick, [toy_feats], tmp_path / "run", device=CPU, until=until) == ""
    assert {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()} == made


def test_the_whole_is_an_ensemble_that_predicts_and_is_reported(done, toy_feats):
    run, _ = done
    own = read_predictions(run)
    new = next(iter(predict_run(run, [run / "features/3/features.h5"], CPU)))
    np.testing.assert_allclose(new["val1"].outputs["au"], own["val1"].outputs["au"], atol=1e-6)
    raw = next(iter(predict_run(run / "joint/trained-sum-3", [toy_feats], CPU)))
    stored = read_predictions(run / "joint/trained-sum-3")
    np.testing.assert_allclose(raw["val1"].outputs["valence"], stored["val1"].outputs["valence"], atol=1e-6)
    assert "joint from scratch, sum" in write_report([run]).read_text()


def test_train_takes_the_task_features_like_any_other(done, toy_feats, tmp_path, capsys):
    run, _ = done
    with pytest.raises(SystemExit) as ended:
        main(
            ["train", "--feats", str(toy_feats), str(run / "features/3/features.h5"), "--run", str(tmp_path / "r"),
             "--device", "cpu", "--set", "epochs=1", "windows.carry=false", "backbones=[toy, p7_va]"]
        )  # fmt: skip
    assert not ended.value.code and (tmp_path / "r/scores.json").is_file(), capsys.readouterr().err


def test_from_the_command_line(toy_feats, tmp_path, capsys):
    (tmp_path / "my.yaml").write_text(configs.dump(settings()))
    command = ["progressive", "--config", str(tmp_path / "my.yaml"), "--feats", str(toy_feats), "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--run", str(tmp_path / "run"), "--set", "joint.epochs=1", "epochs=1", "compare_starts=[]"])
    assert not ended.value.code
    out = capsys.readouterr().out
    assert "joint from separate (frozen), gate" in out


def test_an_override_of_ones_own_or_of_all_models(tmp_path):
    (tmp_path / "my.yaml").write_text(configs.dump(settings()))
    config = load_progressive(
        tmp_path / "my.yaml", ("epochs=5", "seeds=[1]", "separate.au.windows.length=8", "separate.au.windows.step=4")
    )
    assert config.seeds == (1,) and config.set == ("epochs=5",)
    assert config.separate_config("au").epochs == 5 == config.joint_config(("frozen", "sum"), 0, ()).epochs
    assert config.separate_config("au").windows.length == 8 and config.separate_config("va").windows.length == 32


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"separate": {"au": {"tasks": ["au"]}, "more": {"tasks": ["au", "valence"]}}}, "au and more both learn au"),
        ({"separate": {}}, "must name at least one"),
        ({"separate": {"a/b": {"tasks": ["au"]}}}, "separate: 'a/b' cannot be part of a name"),
        ({"separate": {"a.b": {"tasks": ["au"]}}}, "separate: 'a.b' cannot be part of a name"),
        ({"prefix": "p7/"}, "prefix: 'p7/' cannot be part of a name"),
        ({"separate": {"au": {"tasks": ["au"], "epoch": 3}}}, "separate.au: unknown key epoch; did you mean epochs"),
        ({"joint": {"windows": {"length": "long"}}}, "joint: windows.length must be a whole number"),
        ({"joint": {"tasks": ["expression"]}}, "no separate model learns expression"),
        ({"graph": {"expression": ["au"]}}, "no separate model learns 'expression'"),
        ({"graph": {"au": ["au", "expr"]}}, "no separate model 'expr'"),
        ({"graph": {"au": ["va", "au"]}}, "the first source of au is its own model, au"),
        ({"graph": {"au": []}}, "the first source of au"),
        ({"seeds": [1, 1]}, "no seed twice"),
        ({"fusion": "product"}, "fusion must be one of none, sum"),
        ({"seeds": [-1]}, r"seeds\[0\] must be"),
        ({"layers": {"dim": 0}}, "layers.dim must be"),
        (
            {"separate": {"au": {"tasks": ["au"], "windows": {"step": 65}}}},
            "separate.au: .*step must be at most",
        ),
        ({"layers": {"dim": 6}}, "layers.dim 6 must be a multiple"),
        ({"joint": {"model": {"framework": "sbe", "task_layers": 1}}}, "joint: model.framework must be se"),
    ],
)
def test_configs_that_cannot_work_are_refused_in_one_line(changes, fault):
    with pytest.raises(UserError, match=fault) as refused:
        settings(**changes)
    assert len(str(refused.value).splitlines()) == 1


def test_backbones_are_standardised_in_one_way_within_a_joint_model():
    config = settings(
        separate={"au": {"tasks": ["au"], "standardise": "none"}, "va": {"tasks": ["valence", "arousal"]}}
    )
    with pytest.raises(UserError, match="separate.va: standardise is train for toy, another model has none"):
        config.joint_config(("trained", "sum"), 0, ("toy",))
    assert config.joint_config(("frozen", "sum"), 0, ("toy",)).standardise == "train"


def test_without_a_validation_split_nothing_is_trained(toy_feats, tmp_path):
    feats = shutil.copy(toy_feats, tmp_path / "feats.h5")
    with h5py.File(feats, "r+") as file:
        for video in file["videos"].values():
            video.attrs["split"] = "train"
    with pytest.raises(UserError, match="no validation videos to compare on"):
        progress_through(settings(), [feats], tmp_path / "run", device=CPU)
    assert not re.search("au-3", " ".join(map(str, (tmp_path / "run").rglob("*"))))


def test_task_features_have_the_width_of_the_heads_side_by_side(done):
    model, _, _ = load_run(done[0] / "separate/va-3", CPU)
    reading = TaskFeatures(model)
    assert reading.dim == 12 and reading(torch.randn(1, 4, 12)).outputs["features"].shape == (1, 4, 12)
