"""The list of backbones: sizes and costs, and where the weights are."""

from __future__ import annotations

import pytest

from abaw_feats.backbones import describe_backbones, save, weights
from abaw_feats.backbones.loading import build
from abaw_feats.backbones.registry import find_spec


@pytest.fixture(autouse=True)
def no_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("ABAW_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(weights, "_cached", lambda hub: None)
    monkeypatch.setattr(weights, "_hub_answers", lambda: pytest.fail("asked the network"))


def test_costs_are_those_of_the_networks():
    rows = {row.name: row for row in describe_backbones(["mae", "mae_gap", "iresnet", "iresnet18", "densenet"])}
    assert list(rows) == ["mae", "mae_gap", "iresnet", "iresnet18", "densenet"]
    assert rows["mae"].gflops == pytest.approx(35.126, abs=0.001)
    assert rows["iresnet"].gflops == pytest.approx(24.179, abs=0.001)
    assert rows["densenet"].gflops == pytest.approx(0.575, abs=0.001)
    assert [(row.dim, row.size) for row in rows.values()] == [(768, 224), (768, 224), (512, 112), (512, 112), (342, 64)]
    assert rows["iresnet"].parameters == 65_156_160 and rows["mae"].parameters == 85_798_656
    assert (rows["mae"].pooling, rows["mae_gap"].pooling) == ("cls", "gap")
    assert rows["mae"].gflops == rows["mae_gap"].gflops


def test_models_of_timm_and_own_files(tmp_path):
    (tmp_path / "own.yaml").write_text("{like: densenet, options: {blocks: [2, 2]}, weights: gone.pt}")
    vit, own = describe_backbones(["timm:test_vit", str(tmp_path / "own.yaml")])
    assert (vit.name, vit.dim, vit.size) == ("timm:test_vit", 64, 160) and vit.gflops > 0.01
    assert own.name == "own" and own.weights == f"missing: {tmp_path / 'gone.pt'}"


def test_where_the_weights_are(tmp_path):
    (tmp_path / "densenet.pt").touch()
    dense, face, vit = describe_backbones(["densenet", "iresnet18", "timm:test_vit"])
    assert dense.weights == str(tmp_path / "densenet.pt")
    assert face.weights == "none"
    assert vit.weights == "hub: timm/test_vit.r160_in1k"
    spec = find_spec("timm:test_vit")
    save(tmp_path / "run", spec, build(spec))
    assert describe_backbones([tmp_path / "run"])[0].weights == str(tmp_path / "run" / "weights.safetensors")
