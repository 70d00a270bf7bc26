"""The plain reference of the published loop: that it is what it says, and that training scores no less."""

import dataclasses
import statistics

import pytest
import torch

from abaw_seq import config as configs
from abaw_seq.data.windows import lane_steps
from abaw_seq.learn.losses import LossConfig, task_losses
from abaw_seq.learn.settings import TrainConfig
from tests.benchmarks import bench_train
from tests.benchmarks.bench_train import CONFIGS, Sizes, compare_scores, made_up_corpus
from tests.benchmarks.published_loop import PlainModel, padded, published_losses, published_training

TINY = Sizes(
    20, 8, 40, 500, 32, 2.0,
    overrides=(
        "model.encoder.dim=32", "model.encoder.heads=2", "model.encoder.ffn=64", "model.encoder.layers=1",
        "model.encoder.dropout=0.1", "model.head=[32]", "optim.lr=8e-3",
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def corpus():
    return made_up_corpus(TINY)


def settings(kind, *overrides) -> TrainConfig:
    return configs.load(TrainConfig, CONFIGS / f"{kind}.yaml", [*TINY.overrides, *overrides])


def test_it_steps_through_padded_batches_as_long_as_the_longest_video_lasts(corpus):
    config = settings("lstm", "epochs=1", "windows.length=32")
    lengths = [corpus.lengths[v] for v in corpus.in_split("train")]
    spent = published_training(config, corpus, batch=len(lengths)).seconds[0]
    assert spent.steps == -(-max(lengths) // 32)
    assert (spent.computed, spent.frames) == (len(lengths) * max(lengths), sum(lengths))
    ours = [step.window for step in lane_steps(lengths, 32, len(lengths))]
    assert sum(len(w) * w[:, 2].max() for w in ours) < spent.computed


def test_its_squared_error_is_averaged_over_padding_and_its_other_losses_are_not(corpus):
    videos = corpus.in_split("train")[:3]
    x, labels = padded(corpus, corpus.features.float(), videos)
    outputs = {
        t: torch.randn(*x.shape[:2], w) for t, w in {"valence": 1, "arousal": 1, "expression": 8, "au": 12}.items()
    }
    theirs = published_losses(outputs, labels)
    ours = task_losses(outputs, labels, LossConfig(valence_arousal="mse"))
    share = (~torch.isnan(labels[..., 0])).float().mean()
    assert share < 0.8
    torch.testing.assert_close(theirs["valence"], ours["valence"] * share)
    torch.testing.assert_close(theirs["expression"], ours["expression"])
    torch.testing.assert_close(theirs["au"], ours["au"])


@pytest.mark.parametrize("kind", ["lstm", "gru", "transformer"])
def test_its_model_has_as_many_parameters_as_ours(kind, corpus):
    config = settings(kind)
    torch.manual_seed(0)
    plain = PlainModel(32, config.model.encoder, config.model.head, 0.1, 64)
    ours, *_ = bench_train._fresh(config, corpus)
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in ours.parameters())


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_training_scores_no_less_than_the_published_loop(kind, corpus):
    config = settings(kind, "epochs=30", "optim.constant=10", "optim.warmup=2")
    published, ours = compare_scores(config, corpus, (0, 1))
    deviation = max(statistics.stdev(published), statistics.stdev(ours), 0.06)
    assert statistics.fmean(published) > 1.2
    assert statistics.fmean(ours) > statistics.fmean(published) - deviation


def test_the_benchmark_states_its_ratios():
    sizes = dataclasses.replace(TINY, training=4, validation=2, rounds=1, overrides=(*TINY.overrides, "epochs=1"))
    cells = [cell.strip() for cell in bench_train.speed_table(("gru",), sizes).splitlines()[-1].split("|")[1:-1]]
    assert cells[0] == "gru" and float(cells[3]) > 0 and float(cells[5]) > 0
    table = bench_train.score_table(("gru",), sizes, (0,))
    assert "4 + 2 videos" in table and table.splitlines()[-1].startswith("| gru |")
