"""Students: what they learn from a label, from a teacher, and from neither."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from abaw_seq.cli import main
from abaw_seq.config import from_dict, load
from abaw_seq.data.corpus import load_corpus
from abaw_seq.errors import UserError
from abaw_seq.experiments import distill as program
from abaw_seq.experiments.distill import distill, taught_outputs
from abaw_seq.learn.losses import teacher_distance, with_teacher
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.learn.train import train
from abaw_seq.models.outputs import BINS, as_raw, bin_expectation, distributions
from abaw_seq.results.ensemble import join_runs
from abaw_seq.results.predict import predict_run
from abaw_seq.run_folder import read_metrics, read_scores
from abaw_seq.tasks import TASKS

CPU = torch.device("cpu")
SMALL = {"epochs": 2, "model": {"encoder": {"kind": "gru", "dim": 8}, "head": [8]}, "windows": {"length": 32}}


def settings(**changes) -> TrainConfig:
    return from_dict(TrainConfig, {**SMALL, **changes})


@pytest.fixture(scope="module")
def teacher(toy_feats, tmp_path_factory):
    run = tmp_path_factory.mktemp("teacher") / "gru"
    train(settings(), load_corpus([toy_feats]), run, device=CPU)
    return run


@pytest.fixture(scope="module")
def binned(toy_feats, tmp_path_factory):
    run = tmp_path_factory.mktemp("teacher") / "bins"
    train(settings(loss={"valence_arousal": "bins"}, seed=3), load_corpus([toy_feats]), run, device=CPU)
    return run


def training(corpus):
    return [k for k, split in enumerate(corpus.splits) if split in ("train", None)]


WIDTHS = {"valence": (1, BINS), "arousal": (1, BINS), "expression": (8,), "au": (12,)}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("taught", [True, False])
@pytest.mark.parametrize("values", ["mse", "ccc"])
def test_gradients_of_every_combination_of_label_and_teacher(task, labelled, taught, values):
    torch.manual_seed(0)
    for width in WIDTHS[task]:
        output = torch.randn(2, 5, width, requires_grad=True)
        target = torch.randn(2, 5, width) if taught else torch.full((2, 5, width), torch.nan)
        labels = torch.full((2, 5, 15), torch.nan)
        if labelled:
            labels[..., TASKS[task].columns] = 0.0
        supervised = (output**2).mean() if labelled else output.sum() * 0.0
        loss = with_teacher(
            {task: supervised}, {task: output}, {task: target}, labels, weight=0.4, temperature=1.5, values=values
        )[task]
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(output.grad).all()
        assert bool(output.grad.abs().sum() > 0) == (labelled or taught)
        if labelled and not taught:
            torch.testing.assert_close(loss, supervised)
        if taught and values == "mse":
            distance = teacher_distance(task, output, target, 1.5).mean()
            torch.testing.assert_close(loss, 0.6 * supervised + 0.4 * distance if labelled else distance)


def test_frames_behind_the_end_of_a_window_count_for_nothing():
    output = torch.randn(1, 4, 8)
    target = torch.cat([torch.randn(1, 3, 8), torch.full((1, 1, 8), torch.nan)], 1)
    labels = torch.full((1, 4, 15), torch.nan)
    labels[0, 0, 2] = 1.0
    mixed = with_teacher(
        {"expression": torch.tensor(2.0)}, {"expression": output}, {"expression": target}, labels,
        weight=0.25, temperature=1.0,
    )["expression"]  # fmt: skip
    distance = teacher_distance("expression", output[:, :3], target[:, :3], 1.0)[0]
    torch.testing.assert_close(mixed, (0.75 * 2 + 0.25 * distance[0] + distance[1] + distance[2]) / 3)


@pytest.mark.parametrize(("student", "of_teacher"), [(BINS, 1), (1, BINS)])
def test_bins_on_one_side_and_values_on_the_other_are_compared_as_values(student, of_teacher):
    torch.manual_seed(1)
    output, target = torch.randn(6, student), torch.randn(6, of_teacher)
    as_value = {1: lambda x: torch.tanh(x[:, 0]), BINS: bin_expectation}
    expected = (as_value[student](output) - as_value[of_teacher](target)) ** 2
    torch.testing.assert_close(teacher_distance("valence", output, target, 3.0), expected)


def test_raw_outputs_give_back_the_distributions_they_were_made_of():
    torch.manual_seed(2)
    outputs = {"valence": torch.randn(9, 1), "arousal": torch.randn(9, BINS), "expression": torch.randn(9, 8),
               "au": torch.randn(9, 12)}  # fmt: skip
    given = distributions(outputs)
    assert given["arousal"].shape == (9, BINS)
    again = distributions({task: as_raw(task, values) for task, values in given.items()})
    for task, values in given.items():
        torch.testing.assert_close(again[task], values, atol=1e-5, rtol=1e-5)


def test_a_teachers_outputs_are_its_predictions_and_are_computed_once(teacher, toy_feats, tmp_path, monkeypatch):
    corpus = load_corpus([toy_feats])
    videos = training(corpus)
    fresh = taught_outputs([teacher], [toy_feats], corpus, videos, tmp_path, device=CPU)
    predicted = {name: video for group in predict_run(teacher, [toy_feats], CPU) for name, video in group.items()}
    for video in range(len(corpus.names)):
        rows = slice(corpus.offsets[video], corpus.offsets[video + 1])
        for task, values in distributions({task: table[rows] for task, table in fresh.items()}).items():
            if video in videos:
                np.testing.assert_allclose(values, predicted[corpus.names[video]].outputs[task], atol=2e-5)
            else:
                assert torch.isnan(values).all()
    monkeypatch.setattr(program, "load_run", None)  # would fail
    kept = taught_outputs([teacher], [toy_feats], corpus, videos, tmp_path, device=CPU)
    for task, table in fresh.items():
        assert torch.equal(kept[task].nan_to_num(9), table.nan_to_num(9))


def test_losses_are_the_same_from_the_cache_and_from_computed_outputs(teacher, toy_feats, tmp_path):
    corpus = load_corpus([toy_feats])
    distill(settings(), corpus, [teacher], [toy_feats], tmp_path / "a", device=CPU)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "teacher.pt").write_bytes((tmp_path / "a" / "teacher.pt").read_bytes())
    distill(settings(), corpus, [teacher], [toy_feats], tmp_path / "b", device=CPU)
    one, other = read_metrics(tmp_path / "a"), read_metrics(tmp_path / "b")
    assert [line["train"] for line in one] == [line["train"] for line in other]


def test_a_student_learns_tasks_and_videos_without_any_label(teacher, toy_feats, tmp_path):
    corpus = load_corpus([toy_feats])
    labels = corpus.labels.clone()
    labels[:, 2] = torch.nan
    blank = dataclasses.replace(corpus, labels=labels, splits=(None, *corpus.splits[1:]))
    with pytest.raises(UserError, match="no training frame has a label for expression"):
        train(settings(), blank, tmp_path / "alone", device=CPU)
    result = distill(settings(), blank, [teacher], [toy_feats], tmp_path / "student", device=CPU)
    assert result.predictions[corpus.names[-1]].outputs["expression"].shape[1] == 8
    assert read_metrics(tmp_path / "student")[-1]["train"]["expression"] > 0


def test_ensembles_teach_with_their_weights_and_several_teachers_as_their_mean(teacher, binned, toy_feats, tmp_path):
    join_runs([teacher, binned], tmp_path / "both", method="weighted")
    corpus = load_corpus([toy_feats])
    videos = training(corpus)

    def outputs(*teachers):
        return distributions(
            taught_outputs(list(teachers), [toy_feats], corpus, videos, tmp_path / str(len(teachers)), device=CPU)
        )

    one, two = outputs(tmp_path / "both"), outputs(teacher, binned)
    predicted = {
        name: video for group in predict_run(tmp_path / "both", [toy_feats], CPU) for name, video in group.items()
    }
    rows = corpus.rows(videos)
    for task, values in one.items():
        joined = np.concatenate([predicted[corpus.names[v]].outputs[task] for v in videos])
        if values.shape[-1] == BINS:  # the one member that has a weight is the one with bins
            values = bin_expectation(values.log())
        np.testing.assert_allclose(values[rows], joined, atol=2e-5)
    parts = [
        {name: v for g in predict_run(run, [toy_feats], CPU) for name, v in g.items()} for run in (teacher, binned)
    ]
    for task, values in two.items():
        mean = np.mean([np.concatenate([p[corpus.names[v]].outputs[task] for v in videos]) for p in parts], 0)
        np.testing.assert_allclose(values[rows], mean, atol=2e-5)


def test_bins_are_handed_on_as_bins(binned, toy_feats, tmp_path):
    corpus = load_corpus([toy_feats])
    taught = taught_outputs([binned], [toy_feats], corpus, training(corpus), tmp_path, device=CPU)
    assert taught["valence"].shape[1] == taught["arousal"].shape[1] == BINS
    config = settings(loss={"valence_arousal": "bins"}, model={"encoder": {"kind": "tcn", "dim": 8}})
    assert distill(config, corpus, [binned], [toy_feats], tmp_path / "s", device=CPU).scores["untuned"]["p_mtl"]


def test_rounds_make_each_student_the_next_ones_teacher(teacher, toy_feats, tmp_path):
    run = tmp_path / "born"
    named = ["distill", "--teacher", str(teacher), "--feats", str(toy_feats), "--run", str(run), "--rounds", "2"]
    changes = ["--set", "epochs=1", "model.encoder.dim=8", "windows.length=32", "teacher.temperature=2"]
    with pytest.raises(SystemExit) as end:
        main([*named, *changes, "--device", "cpu"])
    assert end.value.code == 0
    first, last = load(TrainConfig, run / "rounds" / "1" / "config.yaml"), load(TrainConfig, run / "config.yaml")
    assert (first.seed, last.seed) == (0, 1) and last.teacher.temperature == 2 and last.teacher.weight == 0.4
    corpus = load_corpus([toy_feats])
    again = taught_outputs([run / "rounds" / "1"], [toy_feats], corpus, training(corpus), tmp_path / "x", device=CPU)
    used = taught_outputs([run / "rounds" / "1"], [], corpus, training(corpus), run, device=CPU)
    assert all(torch.equal(again[task].nan_to_num(9), used[task].nan_to_num(9)) for task in again)
    assert read_scores(run)["best_epoch"] == 1


def test_what_cannot_teach_is_refused(teacher, toy_feats, tmp_path):
    corpus = load_corpus([toy_feats])
    with pytest.raises(UserError, match="nowhere: has no best.pt; a teacher is a trained run"):
        distill(settings(), corpus, [tmp_path / "nowhere"], [toy_feats], tmp_path / "s", device=CPU)
    taught = settings(teacher={"weight": 0.5})
    with pytest.raises(UserError, match="abaw-seq distill --teacher RUN names"):
        train(taught, corpus, tmp_path / "t", device=CPU)
    distill(settings(), corpus, [teacher], [toy_feats], tmp_path / "u", device=CPU)
    train(settings(seed=9), corpus, tmp_path / "other", device=CPU)
    with pytest.raises(UserError, match="was begun with other teachers"):
        distill(settings(), corpus, [tmp_path / "other"], [toy_feats], tmp_path / "u", device=CPU, resume=True)
