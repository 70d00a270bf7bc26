import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from abaw_feats.backbones import find_spec, load
from abaw_feats.learning.pretrain import PretrainConfig, pretrain
from abaw_seq.config import from_dict
from abaw_seq.errors import AbawError, UserError
from tests.abaw_feats.tiny_faces import write_faces

SETTINGS = {
    "backbone": {
        "like": "mae", "name": "tiny", "pooling": "gap_normed", "preprocessing": {"size": 32},
        "options": {"patch": 8, "width": 32, "depth": 1, "heads": 2},
    },
    "decoder": {"width": 32, "depth": 1, "heads": 2},
    "epochs": 4,
    "batch_size": 16,
    "base_lr": 2e-2,
    "warmup_epochs": 1,
    "save_every": 2,
}  # fmt: skip


def config(**changes) -> PretrainConfig:
    return from_dict(PretrainConfig, {**SETTINGS, **changes})


def history(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    images, _ = write_faces(tmp_path_factory.mktemp("faces"), train=3, val=0, frames=32)
    return images


@pytest.fixture(scope="module")
def run(faces, tmp_path_factory):
    """A whole, uninterrupted run."""
    return pretrain(config(), [faces], tmp_path_factory.mktemp("runs") / "whole", device="cpu")


def test_loss_falls_and_every_epoch_is_recorded(run):
    lines = history(run)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert all(line["steps"] == 6 for line in lines)
    assert lines[-1]["train"]["loss"] < lines[0]["train"]["loss"] - 0.1
    assert lines[0]["lr"] == pytest.approx(2e-2 * 16 / 256)
    assert lines[-1]["lr"] < 0.1 * lines[1]["lr"]
    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance["image_count"] == 96
    assert provenance["batch"] == 16


def test_result_is_a_backbone_with_the_trained_encoder(run):
    loaded = load(find_spec(run))
    state = torch.load(run / "checkpoint.pth", weights_only=True)
    assert loaded.dim == 32
    assert loaded.spec.pooling == "gap_normed"
    assert torch.equal(loaded.module.blocks[0].mlp.fc1.weight, state["model"]["blocks.0.mlp.fc1.weight"])


def test_checkpoint_has_the_names_of_the_public_format(run):
    state = torch.load(run / "checkpoint.pth", weights_only=True)
    assert state["epoch"] == 4
    names = set(state["model"])
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.bias", "norm.bias"} <= names
    decoder = {"mask_token", "decoder_embed.weight", "decoder_pos_embed", "decoder_norm.bias", "decoder_pred.weight"}
    assert decoder <= names
    assert state["model"]["decoder_pred.weight"].shape == (192, 32)


def test_pictures_show_original_masked_and_reconstruction(run):
    assert sorted(path.name for path in run.glob("*.png")) == ["reconstruction-0002.png", "reconstruction-0004.png"]
    sheet = np.asarray(Image.open(run / "reconstruction-0004.png"))
    assert sheet.shape == (8 * 34 - 2, 3 * 34 - 2, 3)
    original, masked, painted = sheet[:32, :32], sheet[:32, 34:66], sheet[:32, 68:]
    hidden = (masked == 127).all(-1)
    assert 0.7 < hidden.mean() < 0.8
    assert np.array_equal(masked[~hidden], original[~hidden])
    assert np.array_equal(painted[~hidden], original[~hidden])
    assert not np.array_equal(painted[hidden], original[hidden])


def test_interrupted_and_resumed_equals_uninterrupted(run, faces, tmp_path, monkeypatch):
    import abaw_feats.learning.pretrain as program

    whole, epochs = program.train_epoch, []

    def dies_in_the_third_epoch(*args, **kwargs):
        epochs.append(1)
        if len(epochs) == 3:
            raise KeyboardInterrupt
        return whole(*args, **kwargs)

    monkeypatch.setattr(program, "train_epoch", dies_in_the_third_epoch)
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        pretrain(config(), [faces], out, device="cpu")
    assert len(history(out)) == 2
    assert not (out / "backbone.yaml").exists()
    pretrain(config(), [faces], out, device="cpu", resume=True)
    assert (out / "weights.safetensors").read_bytes() == (run / "weights.safetensors").read_bytes()
    assert [line["train"] for line in history(out)] == [line["train"] for line in history(run)]
    ours, theirs = (torch.load(folder / "last.pt", weights_only=True)["model"] for folder in (out, run))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_finished_run_is_left_as_it_is(run, faces):
    before = (run / "last.pt").stat().st_mtime_ns
    pretrain(config(), [faces], run, device="cpu", resume=True)
    assert (run / "last.pt").stat().st_mtime_ns == before


def test_existing_run_is_not_overwritten_nor_continued_differently(run, faces, tmp_path):
    with pytest.raises(UserError, match="already holds a run; resume it"):
        pretrain(config(), [faces], run, device="cpu")
    with pytest.raises(UserError, match="mask_ratio was 0.75, is now 0.5"):
        pretrain(config(mask_ratio=0.5), [faces], run, device="cpu", resume=True)
    others, _ = write_faces(tmp_path / "others", train=1, val=0, frames=2)
    with pytest.raises(UserError, match="other images"):
        pretrain(config(), [others], run, device="cpu", resume=True)


def test_effective_batch_scales_the_rate_and_sets_the_updates(faces, tmp_path):
    out = pretrain(config(epochs=1, batch_size=8, accumulate=3, clip=1.0), [faces], tmp_path / "r", device="cpu")
    line = history(out)[0]
    assert line["steps"] == 96 // 24
    assert line["lr"] == pytest.approx(2e-2 * 24 / 256)


def test_starts_from_a_checkpoint(run, faces, tmp_path):
    start = config(epochs=1, base_lr=1e-9, weights=str(run / "checkpoint.pth"))
    out = pretrain(start, [faces], tmp_path / "r", device="cpu")
    assert history(out)[0]["train"]["loss"] == pytest.approx(history(run)[-1]["train"]["loss"], abs=0.05)


def test_what_cannot_work_is_said_in_one_line(faces, tmp_path):
    with pytest.raises(UserError, match="densenet; a masked autoencoder needs a vit"):
        pretrain(config(backbone="densenet"), [faces], tmp_path / "a", device="cpu")
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        pretrain(config(precision="fp16"), [faces], tmp_path / "b", device="cpu")
    with pytest.raises(UserError, match="did you mean mask_ratio"):
        config(mask_ration=0.5)
    with pytest.raises(AbawError, match="not finite in epoch 1"):
        pretrain(replace(config(), base_lr=1e30, warmup_epochs=0.0), [faces], tmp_path / "d", device="cpu")
    assert not (tmp_path / "d" / "last.pt").exists()
