"""Outputs equal those of the original authors' own code, through the public loader."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from abaw_feats.backbones import find_spec, load, prepare_for_inference, spec_from_dict
from abaw_feats.backbones.mae import resize_positions, sincos_positions
from abaw_feats.reading.images import preprocess
from tests.parity import fixture_files

MAE_BASE = "mae_vit_b16_224_encoder_from_pretrain"
MAE_TINY = "mae_vit_t16_112_pretrain"
DENSEFACE = "denseface_densenet100bc"


def close(name: str, output: str, value: torch.Tensor | np.ndarray) -> None:
    """Fail where a value leaves the fixture's tolerance for an output."""
    spec, expected = fixture_files.load(name)
    tolerance = spec["tolerance"]
    allowed = tolerance.get(output) or next(tolerance[key] for key in tolerance if key[:4] == output[:4])
    np.testing.assert_allclose(np.asarray(value), expected[output], **allowed, err_msg=f"{name}: {output}")


def taps(module: torch.nn.Module, names: dict[str, str], reduce) -> dict[str, torch.Tensor]:
    """Collect reduced outputs of submodules {module name: output name} during the next forwards."""
    tapped = {}

    def collect(output):
        return lambda _module, _inputs, value: tapped.__setitem__(output, reduce(value))

    for name, output in names.items():
        module.get_submodule(name).register_forward_hook(collect(output))
    return tapped


def features(loaded, name: str) -> torch.Tensor:
    with torch.inference_mode():
        return loaded.module(preprocess(fixture_files.images(name), loaded.spec.preprocessing))


def test_iresnet50(tmp_path):
    path = fixture_files.write_checkpoint("iresnet50", tmp_path / "w.pt", container="state_dict_backbone")
    loaded = load(find_spec("iresnet50"), path)
    stages = ("prelu", "layer1", "layer2", "layer3", "layer4")
    tapped = taps(loaded.module, {stage: f"tap_{stage}" for stage in stages}, lambda x: x.mean((2, 3)))
    embedding = features(loaded, "iresnet50")
    assert len(tapped) == 5
    for output, value in tapped.items():
        close("iresnet50", output, value)
    close("iresnet50", "embedding", embedding)
    x = preprocess(fixture_files.images("iresnet50"), loaded.spec.preprocessing)
    fast = prepare_for_inference(loaded.module, device="cpu", precision="fp32")
    close("iresnet50", "embedding", fast(x))
    half = prepare_for_inference(loaded.module, device="cpu", precision="bf16")
    assert (1 - torch.cosine_similarity(half(x), embedding)).max() < 2e-4


@pytest.fixture(scope="module")
def mae_checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("mae") / "mae_pretrain.pth"
    yield fixture_files.write_checkpoint(MAE_BASE, path, container="model")
    path.unlink()


@pytest.mark.parametrize(
    ("pooling", "output"),
    [
        ("cls", "cls"),
        ("gap", "gap_fresh_fc_norm"),
        ("gap_norm_as_fc_norm", "gap_norm_as_fc_norm"),
        ("gap_normed", "mean_of_normed_patches"),
    ],
)
def test_mae_base_from_a_pretraining_checkpoint(mae_checkpoint, pooling, output):
    spec = spec_from_dict({"pooling": pooling}, start=find_spec("mae"))
    loaded = load(spec, mae_checkpoint)
    blocks = {} if pooling != "cls" else {f"blocks.{k}": f"tap_block{k}" for k in range(12)}
    tapped = taps(loaded.module, blocks, lambda x: torch.stack([x[:, 0], x[:, 1:].mean(1)], 1))
    value = features(loaded, MAE_BASE)
    expected = fixture_files.load(MAE_BASE)[1]
    for tap in tapped.keys() & expected.keys():
        close(MAE_BASE, tap, tapped[tap])
    close(MAE_BASE, output, value)


def test_small_mae_encoder_on_the_patches_that_are_kept(tmp_path):
    path = fixture_files.write_checkpoint(MAE_TINY, tmp_path / "w.pth", container="model")
    spec = spec_from_dict(
        {
            "name": "mae_tiny",
            "options": {"width": 192, "depth": 12, "heads": 3},
            "preprocessing": {"size": 112},
        },
        start=find_spec("mae"),
    )
    loaded = load(spec, path)
    vit, kept = loaded.module, int(49 * 0.25)
    noise = torch.from_numpy(fixture_files.load(MAE_TINY)[1]["noise"])
    ids = noise.argsort(dim=1)[:, :kept, None].expand(-1, -1, 192)
    with torch.inference_mode():
        x = preprocess(fixture_files.images(MAE_TINY), spec.preprocessing)
        tokens = (vit.patch_embed(x) + vit.pos_embed[:, 1:]).gather(1, ids)
        tokens = torch.cat([(vit.cls_token + vit.pos_embed[:, :1]).expand(3, -1, -1), tokens], dim=1)
        latent = vit.norm(vit.blocks(tokens))
    close(MAE_TINY, "latent_cls", latent[:, 0])
    close(MAE_TINY, "latent_mean", latent[:, 1:].mean(1))


def test_denseface(tmp_path):
    path = fixture_files.write_checkpoint(DENSEFACE, tmp_path / "w.pt")
    spec = spec_from_dict({"options": {"classes": 8}}, start=find_spec("densenet"))
    loaded = load(spec, path)
    stages = [output for output in fixture_files.load(DENSEFACE)[1] if output.startswith("tap_")]
    names = {f"features.{output.removeprefix('tap_')}": output for output in stages}
    tapped = taps(loaded.module, names, lambda x: x.mean((2, 3)))
    value = features(loaded, DENSEFACE)
    assert len(tapped) == 7
    for output, tap in tapped.items():
        close(DENSEFACE, output, tap)
    close(DENSEFACE, "features", value)
    logits = loaded.module.classifier(value)
    close(DENSEFACE, "logits", logits)
    close(DENSEFACE, "probabilities", logits.softmax(1))
    assert torch.equal(features(load(find_spec("densenet"), path), DENSEFACE), value)


def test_position_tables():
    name, rows = "mae_sincos_pos_embed", [0, 1, 2, 14, 15, 100, 196]
    table = sincos_positions(768, 14)
    close(name, "pos768_rows", table[rows])
    close(name, "pos768_sum", table.sum())
    close(name, "pos768_abs_sum_per_row", np.abs(table).sum(1))
    close(name, "pos512_rows", sincos_positions(512, 14)[rows])
    close(name, "pos192_grid7", sincos_positions(192, 7))
    source = torch.from_numpy(sincos_positions(192, 14)).float()[None]
    close(name, "pos192_14_to_7_bicubic", resize_positions(source, 7))
