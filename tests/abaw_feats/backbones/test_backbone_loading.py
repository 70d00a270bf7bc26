"""Public checkpoints of every kind load into frozen networks, or fail by name; saved ones come back."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from abaw_feats.backbones import BackboneSpec, build, find_spec, load, save, spec_from_dict
from abaw_feats.backbones.mae import resize_positions
from abaw_feats.backbones.weights import sha256_of_file
from abaw_seq.errors import UserError
from tests.parity import filler, fixture_files

TINY = "mae_vit_t16_112_pretrain"


def vit(pooling: str = "cls", **changes) -> BackboneSpec:
    sizes = {"width": 96, "depth": 2, "heads": 2}
    values = {"name": "small", "options": sizes, "pooling": pooling, "preprocessing": {"size": 64}, "hub": None}
    return spec_from_dict({**values, **changes}, start=find_spec("mae"))


def small(like: str) -> BackboneSpec:
    options = {"iresnet18": {"blocks": [1, 1, 1, 1], "channels": [8, 16, 24, 32]}, "densenet": {"blocks": [2, 2, 2]}}
    return spec_from_dict({"name": "small", "options": options[like]}, start=find_spec(like))


def filled(spec: BackboneSpec) -> dict[str, torch.Tensor]:
    """Parameters of a network of this spec, far from any initialisation."""
    torch.manual_seed(5)
    state = build(spec).state_dict()
    return {key: value + torch.rand_like(value) * 0.1 if value.ndim else value for key, value in state.items()}


def stored(state: dict, folder: Path) -> Path:
    path = folder / "w.pth"
    torch.save(state, path)
    return path


def pretraining(folder: Path) -> Path:
    decoder = {
        "mask_token": torch.ones(1, 1, 8),
        "decoder_embed.weight": torch.ones(8, 96),
        "decoder_pred.bias": torch.ones(3),
    }
    arguments = argparse.Namespace(mask_ratio=0.75)
    return stored({"model": filled(vit()) | decoder, "optimizer": {}, "epoch": 9, "args": arguments}, folder)


def features(spec: BackboneSpec, path: Path) -> torch.Tensor:
    torch.manual_seed(1)
    pre = spec.preprocessing
    with torch.inference_mode():
        return load(spec, path).module(torch.randn(2, pre.channels, pre.size, pre.size))


def test_random_weights_are_repeatable():
    spec = small("iresnet18")
    before = torch.random.get_rng_state()
    first, again, other = load(spec, "random"), load(spec, "random:0"), load(spec, "random:7")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (first.weights, other.weights) == ("random:0", "random:7")
    assert first.weights_sha256 == again.weights_sha256 != other.weights_sha256
    assert not first.module.training and not any(value.requires_grad for value in first.module.parameters())
    assert first.dim == 512
    with pytest.raises(UserError, match="whole number"):
        load(spec, "random:x")


def test_one_of_several_sets_of_weights(tmp_path):
    spec = small("iresnet18")
    first, second = filled(spec), {key: value + 1 for key, value in filled(spec).items()}
    path = stored({"model": first, "model_ema": second}, tmp_path)
    usual, chosen = load(spec, path), load(replace(spec, weights=f"{path}:model_ema"))
    assert (usual.weights, chosen.weights) == ("w.pth", "w.pth:model_ema")
    assert usual.weights_sha256 == sha256_of_file(path) != chosen.weights_sha256
    assert torch.equal(chosen.module.state_dict()["fc.weight"], second["fc.weight"])
    assert torch.equal(usual.module.state_dict()["fc.weight"], first["fc.weight"])
    path = stored({"model": {"a": torch.ones(1)}, "gan": first}, tmp_path)
    with pytest.raises(UserError, match=r"none of the .*; the file holds gan \(\d+ tensors\), model \(1 tensor\)"):
        load(spec, path)
    assert load(spec, f"{path}:gan").dim == 512


def test_loading_leaves_the_random_state_alone(tmp_path):
    path = pretraining(tmp_path)
    before = torch.random.get_rng_state()
    load(vit(), path)
    load(find_spec("timm:test_vit"), stored(load(find_spec("timm:test_vit"), "random").module.state_dict(), tmp_path))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("spec", [vit(), vit("gap"), small("iresnet18"), small("densenet"), find_spec("timm:test_vit")])
def test_saved_networks_come_back(tmp_path, spec):
    torch.manual_seed(3)
    module = build(spec)
    save(tmp_path / "run", spec, module)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["backbone.yaml", "weights.safetensors"]
    saved = find_spec(tmp_path / "run")
    path = tmp_path / "run" / "weights.safetensors"
    assert saved == replace(spec, weights=str(path), hub=None)
    loaded = load(saved)
    assert (loaded.weights, loaded.weights_sha256) == ("weights.safetensors", sha256_of_file(path))
    for key, value in module.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[key], value), key
    by_folder = load(spec, tmp_path / "run")
    assert by_folder.weights_sha256 == loaded.weights_sha256


def test_a_pretraining_checkpoint_leaves_the_pooling_open(tmp_path):
    path = pretraining(tmp_path)
    by_pooling = {name: features(vit(name), path) for name in ("cls", "gap", "gap_norm_as_fc_norm", "gap_normed")}
    values = list(by_pooling.values())
    assert min((a - b).abs().mean() for k, a in enumerate(values) for b in values[:k]) > 1e-3
    loaded = load(vit("gap"), path)
    assert torch.equal(loaded.module.fc_norm.weight, torch.ones(96)) and not loaded.module.fc_norm.bias.any()
    kept = load(vit("gap_norm_as_fc_norm"), path)
    assert torch.equal(kept.module.fc_norm.weight, filled(vit())["norm.weight"])
    automatic = load(vit("auto"), path)
    assert automatic.spec.pooling == "cls"
    assert torch.equal(features(vit("auto"), path), by_pooling["cls"])


def test_a_fine_tuned_checkpoint_decides_the_pooling(tmp_path):
    head = {"head.weight": torch.ones(8, 96), "head.bias": torch.ones(8)}
    pooled = stored({"model": filled(vit("gap")) | head}, tmp_path)
    assert load(vit("auto"), pooled).spec.pooling == load(vit("gap"), pooled).spec.pooling == "gap"
    assert torch.equal(load(vit("gap"), pooled).module.fc_norm.weight, filled(vit("gap"))["fc_norm.weight"])
    for asked in ("cls", "gap_normed"):
        with pytest.raises(UserError, match=f"fc_norm.*pooling 'gap', but backbone 'small' asks for '{asked}'"):
            load(vit(asked), pooled)
    probe = {"head.1.weight": torch.ones(8, 96), "head.0.running_mean": torch.ones(96)}
    for heads in (head, probe):
        token = stored({"model": filled(vit()) | heads}, tmp_path)
        assert load(vit("auto"), token).spec.pooling == load(vit("cls"), token).spec.pooling == "cls"
        with pytest.raises(UserError, match="norm.* and a head.*pooling 'cls', but backbone 'small' asks for 'gap'"):
            load(vit("gap"), token)


@pytest.mark.parametrize("prefix", ["module.model.", "model.", "main.main.", "backbone.", "encoder."])
def test_multi_task_files(tmp_path, prefix):
    heads = {"module.AUhead.0.weight": torch.ones(12, 96), "module.EXPRhead.bias": torch.ones(8)}
    path = stored({prefix + key: value for key, value in filled(vit()).items()} | heads, tmp_path)
    plain = stored(filled(vit()), tmp_path)
    assert torch.equal(features(vit(), path), features(vit(), plain))


def test_positions_are_resized_to_the_image(tmp_path):
    path = pretraining(tmp_path)
    larger = vit(preprocessing={"size": 112})
    table = load(larger, path).module.pos_embed
    assert table.shape == (1, 50, 96)
    assert torch.equal(table, resize_positions(filled(vit())["pos_embed"], 7))
    bad = filled(vit()) | {"pos_embed": torch.ones(1, 19, 96)}
    with pytest.raises(UserError, match="pos_embed has 19 rows"):
        load(vit(), stored(bad, tmp_path))


def test_small_pretraining_checkpoint_of_the_authors(tmp_path):
    spec = vit(options={"width": 192, "depth": 12, "heads": 3}, preprocessing={"size": 112})
    path = fixture_files.write_checkpoint(TINY, tmp_path / "w.pth", container="model")
    loaded = load(spec, path)
    expected = filler.state(fixture_files.load(TINY)[0])
    for key, value in loaded.module.state_dict().items():
        assert torch.equal(value, torch.from_numpy(expected[key])), key


def test_arcface_and_denseface_containers(tmp_path):
    face = small("iresnet18")
    plain = features(face, stored(filled(face), tmp_path))
    for content in (
        {"epoch": 3, "global_step": 5, "state_dict_backbone": filled(face), "state_optimizer": {}},
        {"state_dict": {f"module.{key}": value for key, value in filled(face).items()}},
        {f"backbone.{key}": value for key, value in filled(face).items()},
        {key: value for key, value in filled(face).items() if not key.endswith("num_batches_tracked")},
    ):
        assert torch.equal(features(face, stored(content, tmp_path)), plain)
    dense = small("densenet")
    plain = features(dense, stored(filled(dense), tmp_path))
    old = {
        key.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2.") if "denselayer" in key else key: value
        for key, value in filled(dense).items()
    }
    with_classifier = old | {"classifier.weight": torch.ones(8, 1), "classifier.bias": torch.ones(8)}
    assert "features.denseblock1.denselayer1.norm.1.weight" in with_classifier
    assert torch.equal(features(dense, stored(with_classifier, tmp_path)), plain)


@pytest.mark.parametrize(
    ("spec", "foreign"),
    [(vit(), small("iresnet18")), (small("iresnet18"), small("densenet")), (small("densenet"), vit())],
)
def test_foreign_checkpoints(tmp_path, spec, foreign):
    path = stored(filled(foreign), tmp_path)
    with pytest.raises(UserError, match=r"w\.pth: weights for backbone 'small': (none of|does not fit)") as error:
        load(spec, path)
    assert "\n" not in str(error.value)


def test_other_sizes_and_unknown_parameters_are_named(tmp_path):
    path = stored(filled(vit()), tmp_path)
    deeper = vit(options={"width": 96, "depth": 3, "heads": 2})
    with pytest.raises(UserError, match=r"12 missing: blocks\.2\."):
        load(deeper, path)
    with pytest.raises(UserError, match=r"cls_token is 1x1x96, expected 1x1x192"):
        load(vit(options={"width": 192, "depth": 2, "heads": 2}), path)
    with pytest.raises(UserError, match="1 left over: surprise"):
        load(vit(), stored(filled(vit()) | {"surprise": torch.ones(1)}, tmp_path))


def test_timm_state_dicts_with_and_without_a_classifier(tmp_path):
    spec = spec_from_dict({"preprocessing": {"size": 64}}, start=find_spec("timm:test_efficientnet"))
    state = load(spec, "random:3").module.state_dict()
    plain = features(spec, stored(state, tmp_path))
    classified = state | {"classifier.weight": torch.ones(8, 256), "classifier.0.bias": torch.ones(8)}
    assert torch.equal(features(spec, stored(classified, tmp_path)), plain)
    with pytest.raises(UserError, match=r"1 left over: surprise"):
        load(spec, stored(state | {"surprise": torch.ones(1)}, tmp_path))
    with pytest.raises(UserError, match=r"1 missing: conv_stem\.weight"):
        load(spec, stored({key: value for key, value in state.items() if key != "conv_stem.weight"}, tmp_path))


def test_timm_vits_of_another_size_and_of_dino(tmp_path):
    spec = find_spec("timm:test_vit")
    state = load(spec, "random").module.state_dict()
    smaller = spec_from_dict({"preprocessing": {"size": 96}}, start=spec)
    assert load(smaller, stored(state, tmp_path)).module.pos_embed.shape[1] == 1 + 6 * 6
    teacher = {f"module.backbone.{key}": value for key, value in state.items()}
    beside = {"module.head.mlp.0.weight": torch.ones(3)}
    path = stored({"student": {}, "teacher": teacher | beside, "epoch": 1}, tmp_path)
    assert torch.equal(load(spec, path).module.pos_embed, state["pos_embed"])
    assert torch.equal(
        features(spec, stored(state | {"mask_token": torch.ones(1, 64)}, tmp_path)), features(spec, path)
    )


def test_timm_reads_the_release_of_mae_as_this_package_does(tmp_path):
    path = pretraining(tmp_path)
    sizes = {"embed_dim": 96, "depth": 2, "num_heads": 2}
    spec = spec_from_dict(
        {"options": sizes, "preprocessing": {"size": 64}}, start=find_spec("timm:vit_base_patch16_224.mae")
    )
    torch.testing.assert_close(features(spec, path), features(vit(), path), atol=2e-6, rtol=0)


def test_timm_reads_the_release_of_dinov2(tmp_path):
    start = find_spec("timm:vit_small_patch14_reg4_dinov2.lvd142m")
    spec = spec_from_dict({"options": {"depth": 1, "embed_dim": 64, "num_heads": 2}}, start=start)
    state = dict(load(spec, "random").module.state_dict())
    expected = state["pos_embed"]
    state["register_tokens"] = state.pop("reg_token")
    state["pos_embed"] = torch.cat([torch.zeros(1, 1, 64), expected], dim=1)
    path = stored(state | {"mask_token": torch.zeros(1, 64)}, tmp_path)
    assert torch.equal(load(spec, path).module.pos_embed, expected)
    smaller = spec_from_dict({"preprocessing": {"size": 112}}, start=spec)
    assert load(smaller, path).module.pos_embed.shape == (1, 8 * 8, 64)
