import numpy as np
import pytest
import torch

from abaw_seq.data.corpus import load_corpus
from abaw_seq.data.windows import batches_of_overlapping, centre_weights
from abaw_seq.models.encoders import EncoderConfig
from abaw_seq.models.frameworks import ModelConfig, MultiTaskModel
from abaw_seq.models.inference import _Average, _turns, predict_videos
from abaw_seq.models.outputs import BINS, bin_expectation, probabilities
from abaw_seq.tasks import TASKS

OUTPUTS = {name: task.outputs for name, task in TASKS.items()}


@pytest.fixture
def corpus(toy_feats):
    return load_corpus([toy_feats])


def model_of(kind, **extra):
    torch.manual_seed(0)
    config = ModelConfig(encoder=EncoderConfig(kind=kind, dim=16, heads=2, layers=1, ffn=16, **extra), head=(8,))
    return MultiTaskModel(12, config, OUTPUTS).eval()


@pytest.mark.parametrize("kind, carry", [("gru", True), ("lstm", True), ("gru", False), ("transformer", False)])
def test_every_frame_of_every_video_gets_a_prediction(corpus, kind, carry):
    videos = [3, 0, 5]
    predictions = predict_videos(model_of(kind), corpus, videos, length=64, carry=carry)
    total = sum(corpus.lengths[v] for v in videos)
    assert {t: tuple(v.shape) for t, v in predictions.items()} == {
        "valence": (total,), "arousal": (total,), "expression": (total, 8), "au": (total, 12)
    }  # fmt: skip
    assert all(torch.isfinite(values).all() for values in predictions.values())
    torch.testing.assert_close(predictions["expression"].sum(-1), torch.ones(total))


@pytest.mark.parametrize("length", [7, 64, 1000])
def test_carried_segments_equal_one_pass_over_the_video(corpus, length):
    model = model_of("lstm")
    predictions = predict_videos(model, corpus, [0, 3, 4], length=length, carry=True)
    whole = [probabilities(model(corpus.features[corpus.rows([v])][None]).outputs)["au"][0] for v in (0, 3, 4)]
    torch.testing.assert_close(predictions["au"], torch.cat(whole).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind, carry", [("gru", True), ("transformer", False), ("tcn", False)])
def test_a_videos_predictions_do_not_depend_on_its_company(corpus, kind, carry):
    model = model_of(kind)
    together = predict_videos(model, corpus, [0, 1, 2, 3, 4, 5], length=32, carry=carry, batch=5)
    alone = predict_videos(model, corpus, [1], length=32, carry=carry, batch=1)
    start, stop = corpus.lengths[0], corpus.lengths[0] + corpus.lengths[1]
    for task in TASKS:
        torch.testing.assert_close(together[task][start:stop], alone[task], atol=1e-5, rtol=1e-5)


def test_a_window_as_long_as_the_video_is_one_plain_pass(corpus):
    model = model_of("transformer")
    predictions = predict_videos(model, corpus, [1], length=500, carry=False)
    plain = probabilities(model(corpus.features[corpus.rows([1])][None]).outputs)
    torch.testing.assert_close(predictions["valence"], plain["valence"][0].detach(), atol=1e-6, rtol=1e-5)


def test_prediction_leaves_the_model_as_it_was(corpus):
    model = model_of("gru").train()
    predict_videos(model, corpus, [5], length=64, carry=True)
    assert model.training and all(p.grad is None for p in model.parameters())


def test_bins_become_their_expected_value():
    logits = torch.full((2, BINS), -50.0)
    logits[0, 0] = logits[1, BINS - 1] = 50.0
    torch.testing.assert_close(bin_expectation(logits), torch.tensor([-0.95, 0.95]))
    assert bin_expectation(torch.zeros(3, BINS)).abs().max() < 1e-6
    assert probabilities({"valence": logits})["valence"].shape == (2,)


@pytest.mark.parametrize("lengths", [[200, 30], [64, 65, 130], [7], [49, 48, 97]])
def test_windows_of_one_turn_share_no_frame_and_the_turns_sum_to_the_same_bits(lengths):
    windows = np.concatenate(list(batches_of_overlapping(lengths, 48, 36, 32))[:1])
    outputs = {"valence": torch.randn(len(windows), int(windows[0, 2]), 1)}
    offsets = np.cumsum([0, *lengths])
    average = _Average(int(offsets[-1]), torch.device("cpu"), probabilities)
    average.add(outputs, windows, offsets, centre_weights(int(windows[0, 2])))

    turns = _turns(windows)
    rows = [np.arange(offsets[v] + start, offsets[v] + start + size) for v, start, size in windows]
    for turn in range(turns.max() + 1):
        together = np.concatenate([own for own, its in zip(rows, turns, strict=True) if its == turn])
        assert len(np.unique(together)) == len(together)
    in_order = torch.zeros(int(offsets[-1]))
    share = torch.from_numpy(centre_weights(int(windows[0, 2]))).float().repeat(len(windows))
    in_order.index_add_(0, torch.from_numpy(np.concatenate(rows)), torch.tanh(outputs["valence"]).flatten() * share)
    assert torch.equal(average._sum["valence"], in_order)
