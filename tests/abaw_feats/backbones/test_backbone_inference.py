"""The fast form of a network gives what the plain one gives."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.models.vision_transformer import ParallelThingsBlock, VisionTransformer
from torch import nn

from abaw_feats.backbones import build, find_spec, load, prepare_for_inference, spec_from_dict
from abaw_feats.backbones.class_token import ClassTokenBlock, keep_class_token
from abaw_feats.backbones.inference import fold_batch_norm
from abaw_feats.reading.images import preprocess
from tests.parity import fixture_files

DENSEFACE = "denseface_densenet100bc"


def networks() -> dict[str, nn.Module]:
    """Small networks whose batch norms have seen data."""
    iresnet = {
        "options": {"blocks": [2, 1, 1, 1], "channels": [8, 16, 24, 32], "dim": 20},
        "preprocessing": {"size": 32},
    }
    vit = {"options": {"width": 64, "depth": 3, "heads": 2}, "preprocessing": {"size": 64}}
    specs = {
        "iresnet": spec_from_dict(iresnet, start=find_spec("iresnet18")),
        "densenet": spec_from_dict({"options": {"blocks": [3, 3, 3]}}, start=find_spec("densenet")),
        "vit": spec_from_dict(vit, start=find_spec("mae")),
        "timm": spec_from_dict({"preprocessing": {"size": 64}}, start=find_spec("timm:test_efficientnet")),
        "timm_vit": spec_from_dict({"preprocessing": {"size": 64}}, start=find_spec("timm:test_vit")),
    }
    torch.manual_seed(0)
    built = {}
    for name, spec in specs.items():
        module = build(spec)
        for part in module.modules():
            if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
                nn.init.uniform_(part.running_mean, -0.3, 0.3)
                nn.init.uniform_(part.running_var, 0.5, 2)
                nn.init.uniform_(part.bias, -0.3, 0.3)
        pre = spec.preprocessing
        built[name] = (module.eval().requires_grad_(False), torch.randn(5, pre.channels, pre.size, pre.size))
    return built


NETWORKS = networks()


def distance(features: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest cosine distance of a row."""
    return float((1 - torch.cosine_similarity(features.double(), expected.double())).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_fp32_is_the_same_network(name):
    module, x = NETWORKS[name]
    before = copy.deepcopy(module.state_dict())
    prepared = prepare_for_inference(module, device="cpu", precision="fp32")
    assert prepared.dim == module.dim
    torch.testing.assert_close(prepared(x), module(x), atol=2e-5, rtol=1e-5)
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert not any(value.requires_grad for value in prepared.parameters())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_close(name, precision):
    module, x = NETWORKS[name]
    prepared = prepare_for_inference(module, device="cpu", precision=precision)
    features, expected = prepared(x), module(x)
    assert features.dtype == torch.float32
    assert 0 < distance(features, expected) < 1e-3
    assert torch.equal(prepared(x.to(prepared.dtype)), features)
    norms = [part for part in prepared.modules() if isinstance(part, nn.BatchNorm2d)]
    assert all(norm.running_var.dtype == torch.float32 for norm in norms)


@pytest.mark.parametrize("name", NETWORKS)
def test_features_do_not_depend_on_the_batch(name):
    module, x = NETWORKS[name]
    prepared = prepare_for_inference(module, device="cpu", precision="fp32")
    together = prepared(x)
    alone = torch.cat([prepared(frame[None]) for frame in x])
    turned = prepared(x.flip(0)).flip(0)
    for other in (alone, turned, prepared(x[:3])):
        error = (other - together[: len(other)]).norm(dim=1) / together[: len(other)].norm(dim=1)
        assert error.max() < 1e-5


def test_folding_removes_what_follows_a_layer_and_is_exact():
    for name, remaining in (("iresnet", 5), ("densenet", 9 + 2 + 1)):
        module, x = NETWORKS[name]
        folded = fold_batch_norm(copy.deepcopy(module).double())
        norms = [part for part in folded.modules() if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d))]
        assert len(norms) == remaining
        torch.testing.assert_close(
            folded(x.double()), copy.deepcopy(module).double()(x.double()), atol=1e-11, rtol=1e-11
        )
        twice = fold_batch_norm(copy.deepcopy(folded))
        assert torch.equal(twice(x.double()), folded(x.double()))


@pytest.mark.parametrize("options", [{}, {"qk_norm": True}, {"init_values": 0.5}, {"qkv_bias": False}])
def test_the_last_layer_computes_the_class_token_alone(options):
    torch.manual_seed(0)
    vit = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=4, num_classes=0, global_pool="token", **options
    ).eval()
    x = torch.randn(2, 3, 32, 32)
    short = keep_class_token(copy.deepcopy(vit))
    assert short.blocks(torch.randn(2, 17, 48)).shape == (2, 1, 48)
    torch.testing.assert_close(short(x), vit(x), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("options", [{"global_pool": "avg"}, {"global_pool": "map"}, {"block_fn": ParallelThingsBlock}])
def test_layers_of_which_every_token_is_used_stay(options):
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4, num_classes=0, **options)
    assert not isinstance(keep_class_token(vit).blocks[-1], ClassTokenBlock)


def test_a_network_in_training_is_refused():
    with pytest.raises(ValueError, match="eval"):
        prepare_for_inference(build(find_spec("timm:test_vit")).train(), device="cpu", precision="fp32")


def test_fp32_products_are_true_and_the_switch_is_put_back():
    module, x = NETWORKS["vit"]
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    prepared = prepare_for_inference(module, device="cpu", precision="fp32")
    exact = copy.deepcopy(module).double()(x.double())
    assert (prepared(x).double() - exact).abs().max() < 1e-5 * exact.abs().max()
    assert matmul.fp32_precision == before
    with pytest.raises(RuntimeError), prepared.arithmetic(torch.device("cpu")):
        raise RuntimeError
    assert matmul.fp32_precision == before


def test_gpus_compute_convolutions_in_fp32():
    prepared = prepare_for_inference(NETWORKS["vit"][0], device="cpu", precision="fp32")
    with prepared.arithmetic(torch.device("cuda")):
        assert not torch.backends.cudnn.allow_tf32


def test_published_network_in_every_precision(tmp_path):
    loaded = load(find_spec("densenet"), fixture_files.write_checkpoint(DENSEFACE, tmp_path / "w.pt"))
    x = preprocess(fixture_files.images(DENSEFACE), loaded.spec.preprocessing)
    spec, expected = fixture_files.load(DENSEFACE)
    expected = torch.from_numpy(expected["features"])
    features = {
        precision: prepare_for_inference(loaded.module, device="cpu", precision=precision)(x)
        for precision in ("fp32", "bf16", "fp16")
    }
    torch.testing.assert_close(features["fp32"], expected, **spec["tolerance"]["features"])
    assert distance(features["bf16"], expected) < 1e-4 and distance(features["fp16"], expected) < 1e-5
