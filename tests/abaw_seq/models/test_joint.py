"""Joint models: the published one, its gradients, its parts."""

import pytest
import torch
from torch import nn

from abaw_seq.learn.losses import LossConfig, task_losses
from abaw_seq.models.encoders import EncoderConfig
from abaw_seq.models.frameworks import ModelConfig, MultiTaskModel
from abaw_seq.models.fusion import FusionConfig
from abaw_seq.models.joint import JointConfig, JointModel, PartConfig, build_model
from abaw_seq.models.outputs import probabilities

OUTPUTS = {"valence": 1, "arousal": 1, "expression": 8, "au": 12}
SMALL = ModelConfig(EncoderConfig("gru", dim=6), head=(5,), head_dropout=0.0)
LAYERS = FusionConfig(dim=8, dropout=0.0, heads=2)


class Published(nn.Module):
    """The published model after its encoders, from torch's own layers."""

    def __init__(self, dim: int = 768):
        super().__init__()
        self.fuse = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(0.3), nn.Linear(dim, dim))
        layer = nn.TransformerEncoderLayer(dim, 4, 2048, activation="relu", norm_first=False, batch_first=True)
        self.temporal = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.heads = nn.ModuleDict({task: nn.Linear(dim, width) for task, width in OUTPUTS.items()})

    def forward(self, sources):
        y = self.temporal(nn.functional.leaky_relu(self.fuse(sum(sources)), 0.1))
        out = {task: head(y) for task, head in self.heads.items()}
        for task in ("valence", "arousal"):
            out[task] = torch.tanh(out[task][..., 0])
        return out


def given_to(model: JointModel, reference: Published) -> None:
    """The reference's weights in the joint model, which must have no others."""
    state = {f"fusions.valence.fuse.layers.{key}": value for key, value in reference.fuse.state_dict().items()}
    names = {
        "self_attn.in_proj_": "qkv.", "self_attn.out_proj.": "out.", "linear1.": "up.", "linear2.": "down.",
        "norm1.": "norm_attention.", "norm2.": "norm_ffn.",
    }  # fmt: skip
    for key, value in reference.temporal.state_dict().items():
        for theirs, ours in names.items():
            key = key.replace(theirs, ours)
        state[f"tops.valence.{key}"] = value
    state |= {
        f"heads.{t}.output.{key}": v for t, head in reference.heads.items() for key, v in head.state_dict().items()
    }
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) == {"standardise.mean", "standardise.scale"}


def test_the_published_model_is_reproduced_from_its_weights():
    torch.manual_seed(0)
    reference = Published().eval()
    encoder = EncoderConfig("transformer", dim=768, layers=2, heads=4, ffn=2048, positions="none", norm="post")
    names = ("p7_va", "p7_expr", "p7_au")
    joint = JointConfig({task: names for task in OUTPUTS}, layers=FusionConfig(dim=768))
    model = JointModel(dict.fromkeys(names, 768), ModelConfig(encoder, head=()), joint, OUTPUTS).eval()
    given_to(model, reference)
    x = torch.randn(2, 20, 3 * 768)
    with torch.no_grad():
        ours, theirs = probabilities(model(x).outputs), reference(x.split(768, -1))
    theirs["expression"], theirs["au"] = theirs["expression"].softmax(-1), theirs["au"].sigmoid()
    for task in OUTPUTS:
        torch.testing.assert_close(ours[task], theirs[task], atol=1e-5, rtol=0)


def model_with_parts(fusion="sum", tasks=tuple(OUTPUTS), **changes):
    torch.manual_seed(0)
    parts = {
        "va": PartConfig(("a", "b"), {"valence": 1, "arousal": 1}, SMALL),
        "au": PartConfig(("b",), {"au": 12}, SMALL),
    }
    graph = {"valence": ("va",), "arousal": ("va", "au"), "expression": ("c", "va"), "au": ("au", "va")}
    joint = JointConfig(graph, parts, fusion, LAYERS, **changes)
    outputs = {task: OUTPUTS[task] for task in tasks}
    return JointModel({"b": 3, "c": 2, "a": 4}, SMALL, joint, outputs)


def test_parts_read_their_own_columns_in_their_own_order():
    model = model_with_parts().eval()
    x = torch.randn(2, 7, 9)
    own = model.parts["va"].model
    expected = own(torch.cat([x[..., 5:], x[..., :3]], -1)).hidden
    with_part = []
    model.fusions["valence"].register_forward_pre_hook(lambda module, given: with_part.append(given[0][0]))
    model(x)
    torch.testing.assert_close(with_part[0], torch.cat([expected["valence"], expected["arousal"]], -1))


@pytest.mark.parametrize("trained", ["valence", "expression", "au"])
def test_a_task_without_labels_gets_no_gradient(trained):
    model = model_with_parts()
    labels = torch.full((2, 7, 15), torch.nan)
    columns = {"valence": slice(0, 1), "expression": slice(2, 3), "au": slice(3, 15)}[trained]
    labels[..., columns] = 1.0
    losses = task_losses(model(torch.randn(2, 7, 9)).outputs, labels, LossConfig(balance=False))
    sum(losses.values()).backward()
    for task in OUTPUTS:
        moved = any(p.grad is not None and p.grad.any() for p in model.heads[task].parameters())
        assert moved == (task == trained), task
        moved = any(p.grad is not None and p.grad.any() for p in model.tops[model.branch_of[task]].parameters())
        assert moved == (task == trained), task
    for name in ("va", "au"):
        gets = name in {"valence": ("va",), "expression": ("va",), "au": ("va", "au")}[trained]
        assert any(p.grad is not None and p.grad.any() for p in model.parts[name].parameters()) == gets


def test_what_no_trained_task_asks_for_is_not_there():
    model = model_with_parts(tasks=("valence",))
    assert list(model.parts) == ["va"] and list(model.heads) == ["valence"] and list(model.tops) == ["valence"]
    assert list(model_with_parts("none", tasks=("expression",)).parts) == []


def test_tasks_that_ask_for_the_same_share_a_branch_unless_told_otherwise():
    graph = {"valence": ("x", "y"), "arousal": ("x", "y"), "au": ("y", "x")}
    outputs = {task: OUTPUTS[task] for task in graph}

    def branches(**changes):
        return list(JointModel({"x": 8, "y": 8}, SMALL, JointConfig(graph, layers=LAYERS, **changes), outputs).tops)

    assert branches() == ["valence", "au"]
    assert branches(shared=False) == ["valence", "arousal", "au"]
    assert branches(fusion={"arousal": "gate"}) == ["valence", "arousal", "au"]
    assert branches(fusion="none") == ["valence", "au"]


@pytest.mark.parametrize("shared", [True, False])
def test_the_state_of_parts_and_branches_is_carried(shared):
    model = model_with_parts(shared=shared).eval()
    x = torch.randn(2, 10, 9)
    whole = model(x)
    first = model(x[:, :6])
    second = model(x[:, 6:], first.state)
    for task, output in whole.outputs.items():
        torch.testing.assert_close(torch.cat([first.outputs[task], second.outputs[task]], 1), output)


def test_the_statistics_of_all_features_are_those_of_the_parts_too():
    model = model_with_parts()
    rows = torch.randn(50, 9) * 3 + 1
    model.standardise.fit(lambda index: rows[index], torch.arange(50), [slice(0, 3), slice(5, 9)])
    own = model.parts["va"].model.standardise
    torch.testing.assert_close(own.mean, rows.mean(0)[[5, 6, 7, 8, 0, 1, 2]])
    assert torch.equal(model.parts["au"].model.standardise.scale, model.standardise.scale[:3])
    assert not model.standardise.mean[3:5].any()
    assert not any(key.startswith("standardise._") for key in model.state_dict())


def test_a_source_that_is_nowhere_is_named():
    with pytest.raises(ValueError, match="no part or backbone 'z' .there are: x"):
        JointModel({"x": 8}, SMALL, JointConfig({"au": ("z",)}), {"au": 12})


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"graph": {"smile": ("x",)}}, "graph: no task 'smile'"),
        ({"graph": {"au": ()}}, "au needs at least one source"),
        ({"graph": {"au": ("x", "x")}}, "each once"),
        ({"graph": {"au": ("x",)}, "fusion": {"smile": "sum"}}, "fusion: no task 'smile'"),
    ],
)
def test_graphs_that_cannot_be_are_refused(settings, fault):
    with pytest.raises(ValueError, match=fault):
        JointConfig(**settings)


def test_without_a_joint_section_a_run_has_the_model_it_always_had():
    assert isinstance(build_model({"x": 8, "y": 2}, SMALL, None, {"au": 12}), MultiTaskModel)
