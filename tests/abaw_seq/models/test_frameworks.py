"""What each framework means, seen in its gradients and its order."""

import pytest
import torch

from abaw_seq.models.encoders import EncoderConfig
from abaw_seq.models.frameworks import ModelConfig, MultiTaskModel, dependency_order
from abaw_seq.tasks import TASKS

OUTPUTS = {name: task.outputs for name, task in TASKS.items()}


def build(framework="se", kind="gru", layers=3, task_layers=0, **extra):
    torch.manual_seed(0)
    encoder = EncoderConfig(kind=kind, dim=16, layers=layers, heads=2, ffn=32, dropout=0.0)
    config = ModelConfig(
        encoder=encoder, framework=framework, task_layers=task_layers, head=(8,), head_dropout=0.0,
        embedding=5, **extra,
    )  # fmt: skip
    return MultiTaskModel(6, config, OUTPUTS)


def touched(model, task):
    """Names of the parameters that a task's output depends on through its gradient."""
    model.zero_grad()
    model(torch.randn(2, 7, 6)).outputs[task].sum().backward()
    return {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


@pytest.mark.parametrize("kind", ["none", "lstm", "gru", "transformer", "tcn"])
def test_share_encoder_shares_everything_but_the_heads(kind):
    model = build(kind=kind)
    for task in TASKS:
        names = touched(model, task)
        assert {n.split(".")[1] for n in names if n.startswith("heads.")} == {task}
        assert {n for n in names if n.startswith("trunk.")} == {
            n for n, _ in model.named_parameters() if n.startswith("trunk.")
        }


@pytest.mark.parametrize("kind", ["lstm", "gru", "transformer", "tcn"])
def test_share_bottom_gives_each_task_its_own_top_layers(kind):
    model = build("sbe", kind, task_layers=2)
    counts = {}
    for task in TASKS:
        names = touched(model, task)
        assert {n.split(".")[1] for n in names if n.startswith("tops.")} == {task}
        assert any(n.startswith("trunk.") for n in names)
        counts[task] = sum(p.numel() for p in model.tops[task].parameters())
    weights = [next(model.tops[t].parameters()) for t in TASKS]
    assert len(set(counts.values())) == 1
    assert not torch.equal(weights[0], weights[1])


def test_all_layers_may_belong_to_the_tasks():
    model = build("sbe", "transformer", task_layers=3)
    assert not list(model.trunk.parameters())
    assert model(torch.randn(1, 4, 6)).outputs["au"].shape == (1, 4, 12)


@pytest.mark.parametrize("framework", ["sbe_hsf", "prediction_feedback"])
def test_feedback_reaches_the_target_but_sends_no_gradient_back(framework):
    model = build(framework, task_layers=1, feedback={"arousal": ("valence", "au")})
    x = torch.randn(2, 7, 6)
    names = touched(model, "arousal")
    assert not any(n.startswith(("heads.valence", "tops.valence", "heads.au", "tops.au")) for n in names)
    assert any(n.startswith("embeddings.valence") for n in names) == (framework == "prediction_feedback")
    before = model(x).outputs["arousal"]
    with torch.no_grad():
        for parameter in model.heads["au"].parameters():
            parameter.add_(1.0)
    assert not torch.allclose(before, model(x).outputs["arousal"])
    assert torch.allclose(before, before) and model.order.index("arousal") > model.order.index("au")


def test_hidden_states_are_what_is_fed():
    model = build("sbe_hsf", task_layers=1, feedback={"arousal": ("valence", "au")}).eval()
    plain = build("sbe", task_layers=1)
    wider = model.tops["arousal"].rnn.input_size - plain.tops["arousal"].rnn.input_size
    assert wider == model.heads["valence"].hidden_dim + model.heads["au"].hidden_dim


def test_tasks_follow_their_sources():
    feedback = {"expression": ("au", "valence"), "valence": ("arousal",), "arousal": ("au",)}
    order = dependency_order(tuple(TASKS), feedback)
    for target, sources in feedback.items():
        assert all(order.index(source) < order.index(target) for source in sources)


def test_a_circle_and_an_unknown_task_are_refused():
    with pytest.raises(ValueError, match="circle"):
        dependency_order(tuple(TASKS), {"au": ("valence",), "valence": ("au",)})
    with pytest.raises(ValueError, match="'pain'"):
        dependency_order(tuple(TASKS), {"au": ("pain",)})


@pytest.mark.parametrize(
    "wrong",
    [
        {"framework": "se", "task_layers": 1},
        {"framework": "sbe", "task_layers": 0},
        {"framework": "sbe", "task_layers": 2},
        {"framework": "sbe_hsf", "task_layers": 1},
        {"framework": "se", "feedback": {"au": ("valence",)}},
        {"gt_rate": 2.0},
    ],
)
def test_contradictory_settings_are_refused(wrong):
    with pytest.raises(ValueError):
        ModelConfig(encoder=EncoderConfig(layers=1), **wrong)


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_the_share_of_frames_taught_from_the_ground_truth(rate):
    model = build("prediction_feedback", task_layers=1, feedback={"arousal": ("au",)}).train()
    embedding = model.embeddings["au"]
    prediction = torch.zeros(40, 50, 12)
    truth = torch.ones(40, 50, 12)
    truth[:20, :, 3] = float("nan")
    vectors = embedding(prediction, truth, rate)
    from_truth = vectors.abs().sum(-1) > 0
    assert not from_truth[:20].any()
    assert from_truth[20:].float().mean().item() == pytest.approx(rate, abs=0.04)


def test_ground_truth_is_never_used_outside_training():
    model = build("prediction_feedback", task_layers=1, feedback={"arousal": ("au",)}, gt_rate=1.0)
    x, labels = torch.randn(2, 5, 6), torch.ones(2, 5, 15)
    trained = model.train()(x, labels=labels, gt_rate=1.0).outputs["arousal"]
    plain = model.eval()(x, labels=labels, gt_rate=1.0).outputs["arousal"]
    assert not torch.allclose(trained, plain)
    torch.testing.assert_close(plain, model(x).outputs["arousal"])


def test_any_subset_of_tasks():
    encoder = EncoderConfig(kind="gru", dim=8)
    model = MultiTaskModel(6, ModelConfig(encoder=encoder), {"au": 12, "valence": 20})
    assert {t: o.shape[-1] for t, o in model(torch.randn(1, 3, 6)).outputs.items()} == {
        "au": 12,
        "valence": 20,
    }
