"""Where weights are looked for, in which order, and what is said when there are none."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch

from abaw_feats.backbones import find_spec, weights
from abaw_seq.errors import AbawError, UserError

MAE, DENSE = find_spec("mae"), find_spec("densenet")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """An empty weights folder and an empty cache of the hub."""
    monkeypatch.setenv("ABAW_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *names: None)
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def offline(monkeypatch) -> None:
    def refuse(*arguments, **named):
        raise OSError("no network")

    monkeypatch.setattr(weights.urllib.request, "urlopen", refuse)


def test_the_folder_and_its_default(folder, monkeypatch):
    assert weights.weights_folder() == folder
    monkeypatch.delenv("ABAW_WEIGHTS")
    assert weights.weights_folder() == Path("~/.cache/abaw/weights").expanduser()


def test_the_order(folder, tmp_path):
    assert weights.find_local(DENSE) is None
    for name in (
        "densenet100bc.pth",
        "densenet100bc.safetensors",
        "densenet.pth",
        "densenet.pt",
        "densenet.safetensors",
    ):
        (folder / name).touch()
        assert weights.find_local(DENSE).path == folder / name
    own = tmp_path / "own.pt"
    own.touch()
    assert weights.find_local(replace(DENSE, weights=str(own))) == (own, "own.pt")
    own.unlink()
    with pytest.raises(UserError, match=r"own\.pt: the weights of backbone 'densenet' are not there"):
        weights.find_local(replace(DENSE, weights=str(own)))


def test_timm_models_and_hub_files_in_the_folder(folder):
    path = folder / "vit_base_patch16_224.mae.safetensors"
    path.touch()
    for name in ("mae", "mae_gap", "timm:vit_base_patch16_224.mae"):
        assert weights.find_local(find_spec(name)).path == path


def test_the_cache_of_the_hub_comes_last(folder, tmp_path, monkeypatch):
    asked = []

    def cached(repository, name):
        asked.append((repository, name))
        return str(tmp_path / name) if name == "pytorch_model.bin" else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    file = weights.locate(MAE)
    assert file == (tmp_path / "pytorch_model.bin", "timm/vit_base_patch16_224.mae/pytorch_model.bin")
    assert asked[0] == ("timm/vit_base_patch16_224.mae", "model.safetensors")
    (folder / "mae.pt").touch()
    assert weights.locate(MAE).label == "mae.pt"


def test_without_weights_and_network_the_options_are_listed_at_once(folder, monkeypatch):
    offline(monkeypatch)
    started = time.monotonic()
    with pytest.raises(UserError) as error:
        weights.locate(MAE)
    assert time.monotonic() - started < 1
    message = str(error.value)
    assert "\n" not in message
    for option in (
        "'mae'", "timm/vit_base_patch16_224.mae", "weights mae=FILE", f"mae.safetensors into {folder}",
        "abaw-feats pretrain", "weights mae=random",
    ):  # fmt: skip
        assert option in message
    with pytest.raises(UserError, match="abaw-feats finetune"):
        weights.locate(DENSE)


def test_a_network_that_does_not_answer_is_not_waited_for(monkeypatch):
    def hang(*arguments, **named):
        time.sleep(3)
        raise OSError("timed out")

    monkeypatch.setattr(weights.urllib.request, "urlopen", hang)
    monkeypatch.setattr(weights, "HUB_PROBE_SECONDS", 0.05)
    started = time.monotonic()
    with pytest.raises(UserError, match="cannot be reached"):
        weights.locate(MAE)
    assert time.monotonic() - started < 2


def test_a_backbone_without_a_hub_asks_no_network(monkeypatch):
    monkeypatch.setattr(weights, "_hub_answers", lambda: pytest.fail("asked the network"))
    with pytest.raises(UserError, match="no weights for backbone 'densenet'"):
        weights.locate(DENSE)


def test_the_download(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "_hub_answers", lambda: True)

    def download(repository, name):
        if name == "model.safetensors":
            raise huggingface_hub.errors.EntryNotFoundError("no such file")
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert weights.locate(MAE).label == "timm/vit_base_patch16_224.mae/pytorch_model.bin"

    for kind in (OSError, huggingface_hub.errors.LocalEntryNotFoundError):

        def fail(repository, name, kind=kind):
            raise kind("connection reset")

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
        with pytest.raises(AbawError, match="download of the weights of 'mae' failed: connection reset"):
            weights.locate(MAE)


def test_an_offline_switch_is_obeyed(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(weights.urllib.request, "urlopen", lambda *arguments, **named: pytest.fail("asked the network"))
    with pytest.raises(UserError, match="cannot be reached"):
        weights.locate(MAE)


def test_hashes(tmp_path):
    (tmp_path / "w").write_bytes(b"weights")
    assert weights.sha256_of_file(tmp_path / "w") == hashlib.sha256(b"weights").hexdigest()
    state = {"b": torch.tensor([1.0, -2.0]), "a": torch.tensor(3), "c": torch.ones(2, 3, dtype=torch.bfloat16)}
    arrays = [state["a"].numpy(), state["b"].numpy(), state["c"].view(torch.int16).numpy()]
    assert weights.sha256_of_state(state) == hashlib.sha256(b"".join(x.tobytes() for x in arrays)).hexdigest()
