"""Sizes and parameter names of the networks, on the meta device."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from abaw_feats.backbones import BackboneSpec, build, find_spec, spec_from_dict
from abaw_feats.backbones.densenet import rename_old_keys
from abaw_seq.errors import UserError


def on_meta(spec: BackboneSpec) -> nn.Module:
    with torch.device("meta"):
        return build(spec)


def variant(like: str, **changes) -> BackboneSpec:
    return spec_from_dict(changes, start=find_spec(like))


@pytest.mark.parametrize(
    ("name", "parameters", "keys"),
    [
        ("iresnet18", 24_025_600, 187),
        ("iresnet34", 34_139_328, 331),
        ("iresnet50", 43_590_848, 475),
        ("iresnet100", 65_156_160, 925),
        ("iresnet200", 118_833_920, 1807),
    ],
)
def test_iresnet_sizes(name, parameters, keys):
    module = on_meta(find_spec(name))
    assert sum(value.numel() for value in module.parameters()) == parameters
    assert len(module.state_dict()) == keys
    assert module.dim == 512
    norms = [part for part in module.modules() if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d))]
    assert {norm.eps for norm in norms} == {1e-5}


def test_aliases():
    assert find_spec("iresnet").options == find_spec("iresnet100").options
    assert find_spec("densenet").options == find_spec("densenet100bc").options


def test_densenet_averages_over_cells():
    images = torch.rand(2, 1, 64, 64)
    options = {"blocks": [1, 1, 1], "growth": 4}
    whole, cells = (
        build(variant("densenet", options=options)),
        build(variant("densenet", options=options, pooling="grid4")),
    )
    cells.load_state_dict(whole.state_dict())
    with torch.no_grad():
        pooled = cells.eval()(images)
        assert pooled.shape == (2, cells.dim) and cells.dim == 16 * whole.dim
        torch.testing.assert_close(pooled.view(2, whole.dim, 16).mean(2), whole.eval()(images))
        upper = cells(torch.cat([images[:, :, :32], torch.zeros(2, 1, 32, 64)], 2)).view(2, whole.dim, 4, 4)
    torch.testing.assert_close(upper[:, :, 0], pooled.view(2, whole.dim, 4, 4)[:, :, 0])
    with pytest.raises(UserError, match="unknown pooling 'grid3' of densenet; there are gap, grid2, grid4"):
        build(variant("densenet", pooling="grid3"))


def test_densenet_sizes():
    with_classifier = on_meta(variant("densenet", options={"classes": 8}))
    assert sum(value.numel() for value in with_classifier.parameters()) == 768_044
    assert len(with_classifier.state_dict()) == 596
    assert {part.eps for part in with_classifier.modules() if isinstance(part, nn.BatchNorm2d)} == {1e-5}
    module = on_meta(find_spec("densenet"))
    assert module.dim == 342 and len(module.state_dict()) == 594
    assert "features.norm3.weight" in module.state_dict()
    stages = {}
    for name in ("conv0", "transition1", "transition2", "norm3"):
        module.features.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, value, name=name: stages.__setitem__(name, tuple(value.shape[1:]))
        )
    module(torch.empty(1, 1, 64, 64, device="meta"))
    assert stages == {
        "conv0": (24, 32, 32), "transition1": (108, 16, 16), "transition2": (150, 8, 8), "norm3": (342, 8, 8),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "dim", "keys", "patch", "tokens"),
    [("mae", 768, 150, 16, 197), ("mae_large", 1024, 294, 16, 197), ("mae_huge", 1280, 390, 14, 257)],
)
def test_vit_sizes(name, dim, keys, patch, tokens):
    module = on_meta(find_spec(name))
    assert (module.dim, len(module.state_dict())) == (dim, keys)
    assert module.pos_embed.shape == (1, tokens, dim)
    assert module.patch_embed.proj.weight.shape == (dim, 3, patch, patch)
    assert {part.eps for part in module.modules() if isinstance(part, nn.LayerNorm)} == {1e-6}
    assert all(part.approximate == "none" for part in module.modules() if isinstance(part, nn.GELU))
    depth = len(module.blocks)
    per_block = 12 * dim**2 + 13 * dim
    stem = dim * (3 * patch**2 + 1) + dim * (tokens + 1)
    assert sum(value.numel() for value in module.parameters()) == stem + depth * per_block + 2 * dim


@pytest.mark.parametrize(("width", "depth", "heads"), [(192, 12, 3), (384, 12, 6), (128, 12, 2), (96, 12, 2)])
def test_small_vits(width, depth, heads):
    spec = variant(
        "mae", options={"width": width, "depth": depth, "heads": heads, "patch": 8}, preprocessing={"size": 112}
    )
    module = on_meta(spec)
    assert module.pos_embed.shape == (1, 1 + 14 * 14, width)
    assert module(torch.empty(2, 3, 112, 112, device="meta")).shape == (2, width)


def test_poolings_differ_in_their_norm_alone():
    keys = {
        pooling: {key.partition(".")[0] for key in on_meta(variant("mae", pooling=pooling)).state_dict()}
        for pooling in ("cls", "gap", "gap_norm_as_fc_norm", "gap_normed", "auto")
    }
    assert keys["cls"] == keys["gap_normed"] == keys["auto"]
    assert keys["gap"] == keys["gap_norm_as_fc_norm"] == keys["cls"] - {"norm"} | {"fc_norm"}


def test_sizes_for_little_data():
    small = build(variant("iresnet18", options={"blocks": [1, 1, 1, 1], "channels": [8, 16, 24, 32], "dim": 20}))
    assert small.dim == 20 and small(torch.zeros(2, 3, 112, 112)).shape == (2, 20)
    assert build(variant("iresnet18", preprocessing={"size": 64})).fc.in_features == 512 * 4 * 4
    dense = build(variant("densenet", options={"blocks": [4, 4, 4], "growth": 12}))
    assert dense.dim == 90 and dense(torch.zeros(2, 1, 64, 64)).shape == (2, 90)


@pytest.mark.parametrize("name", ["iresnet100", "densenet", "mae"])
def test_random_networks_keep_activations_in_range(name):
    spec = find_spec(name)
    torch.manual_seed(0)
    pre = spec.preprocessing
    if name == "mae":
        spec = variant("mae", options={"width": 96, "depth": 12, "heads": 2}, preprocessing={"size": 112})
    module = build(spec).eval()
    with torch.inference_mode():
        features = module(torch.randn(2, pre.channels, spec.preprocessing.size, spec.preprocessing.size))
    assert 0.1 < features.std() < 20
    assert (features[0] - features[1]).abs().mean() > 1e-3


def test_old_densenet_names():
    value = torch.zeros(1)
    old = {
        "features.denseblock1.denselayer16.norm.1.weight": value,
        "features.denseblock1.denselayer2.conv.2.weight": value,
    }
    assert list(rename_old_keys(old)) == [
        "features.denseblock1.denselayer16.norm1.weight",
        "features.denseblock1.denselayer2.conv2.weight",
    ]
    assert list(rename_old_keys({"features.transition1.norm.weight": value})) == ["features.transition1.norm.weight"]


@pytest.mark.parametrize(
    ("like", "changes", "named"),
    [
        ("mae", {"pooling": "avg"}, "unknown pooling 'avg'"),
        ("mae", {"options": {"dept": 3}}, "did you mean 'depth'"),
        ("mae", {"preprocessing": {"size": 100}}, "not a multiple of the patch size 16"),
        ("mae", {"options": {"heads": 7}}, "cannot build this vit"),
        ("iresnet18", {"options": {"blocks": [1, 1]}}, "four stages"),
        ("iresnet18", {"options": {"blocks": "3"}}, "options.blocks must be a list of whole numbers in"),
        ("densenet", {"arch": "resnet"}, "unknown arch 'resnet'"),
        (
            "densenet",
            {"preprocessing": {"colour": "rgb", "mean": [0, 0, 0], "std": [1, 1, 1]}},
            "densenet takes grey images",
        ),
        ("timm:resnet18", {"pooling": "cls"}, "there are model, token"),
        ("timm:resnet18", {"options": {"nonsense": 1}}, "cannot build this timm"),
    ],
)
def test_impossible_networks_are_named(like, changes, named):
    with pytest.raises(UserError, match=named.replace("(", r"\(")):
        build(variant(like, **changes))


@pytest.mark.parametrize(
    ("model", "size", "dim"),
    [("tf_efficientnet_b0.ns_jft_in1k", 224, 1280), ("tf_efficientnet_b2.ns_jft_in1k", 260, 1408),
     ("vit_small_patch16_224.dino", 224, 384), ("mobilenetv3_large_100", 224, 1280)],
)  # fmt: skip
def test_timm_models_bring_their_own_settings(model, size, dim):
    spec = find_spec(f"timm:{model}")
    assert spec.preprocessing.size == size and spec.preprocessing.scale == 255.0
    module = on_meta(spec)
    assert module.dim == dim
    assert module.eval()(torch.empty(2, 3, size, size, device="meta")).shape == (2, dim)
    smaller = on_meta(spec_from_dict({"preprocessing": {"size": 112}}, start=spec))
    assert smaller.eval()(torch.empty(1, 3, 112, 112, device="meta")).shape == (1, dim)
