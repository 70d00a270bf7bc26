"""Containers and prefixes are recognised; what is not a checkpoint gets one line; nothing in a file runs."""

from __future__ import annotations

import argparse
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from abaw_feats.backbones.checkpoint import CONTAINERS, fit, read_checkpoint, strip_prefix
from abaw_feats.backbones.weights import named_file
from abaw_seq.errors import UserError


def small() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(30, 40), nn.BatchNorm1d(40))


STATE = small().state_dict()
ARGS = argparse.Namespace(lr=1e-3, model="vit")


class Marker:
    """Unpickled by Python, this would create a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def same(state: dict[str, torch.Tensor]) -> bool:
    return state.keys() == STATE.keys() and all(torch.equal(state[key], STATE[key]) for key in STATE)


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE},
        {"model": STATE, "optimizer": {"state": {0: torch.zeros(2)}}, "epoch": 3, "scaler": None, "args": ARGS},
        {
            "epoch": 1,
            "global_step": 7,
            "state_dict_backbone": STATE,
            "state_dict_softmax_fc": {"weight": torch.ones(3)},
        },
        {"model": {"state_dict": STATE}},
    ],
    ids=["plain", "state_dict", "training", "arcface", "nested"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_containers(tmp_path, content, zipped):
    path = tmp_path / "w.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert same(read_checkpoint(path))


AVERAGED = {"n_averaged": torch.tensor(3)} | {f"module.{key}": value for key, value in STATE.items()}
OTHER = {key: value + 1 for key, value in STATE.items()}


@pytest.mark.parametrize("word", [*CONTAINERS, "my_weights", "generator"])
@pytest.mark.parametrize("inside", [None, "state_dict", "module"])
def test_words_for_weights(tmp_path, word, inside):
    weights = {inside: STATE} if inside else STATE
    optimizer = {"state": {0: {"exp_avg": torch.ones(9999)}}, "param_groups": [{"lr": 1.0}]}
    torch.save({word: weights, "epoch": 1, "optimizer": optimizer, "args": ARGS}, tmp_path / "w.pth")
    assert same(read_checkpoint(tmp_path / "w.pth"))


@pytest.mark.parametrize("content", [AVERAGED, {"model_ema": AVERAGED}, {"swa": AVERAGED, "epoch": 3}])
def test_averaged_models(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    state, beside = strip_prefix(read_checkpoint(tmp_path / "w.pth"), STATE)
    assert same(state) and beside == []


@pytest.mark.parametrize(
    "beside",
    [
        {"best": np.float64(0.5), "epoch": np.int64(3)},
        {"class_counts": np.arange(8), "names": np.array(["a", "b"])},
        {"args": argparse.Namespace(out=Path("runs"), mean=np.ones(3, np.float32))},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_plain_values_of_numpy_beside_tensors(tmp_path, beside, zipped):
    torch.save({"model": STATE, **beside}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert same(read_checkpoint(tmp_path / "w.pth"))


def test_arrays_of_numpy_are_weights_too(tmp_path):
    arrays = {key: value.numpy() for key, value in STATE.items()}
    arrays["0.weight"] = arrays["0.weight"].astype(">f4")
    torch.save({"params": arrays}, tmp_path / "w.pth")
    assert same(read_checkpoint(tmp_path / "w.pth"))


@pytest.mark.parametrize(
    ("content", "usual", "chosen"),
    [
        ({"model": OTHER, "model_ema": STATE}, "model", "model_ema"),
        ({"state_dict": OTHER, "ema": {"decay": 0.9, "shadow": STATE}}, "state_dict", "ema"),
        ({"model": OTHER, "ema": {"shadow": STATE}}, "model", "ema.shadow"),
        ({"student": STATE, "teacher": {"state_dict": OTHER}}, "teacher.state_dict", "student"),
        ({"net": {f"{word}.{key}": value for word, of in (("a", OTHER), ("b", STATE)) for key, value in of.items()},
          "net_ema": AVERAGED}, "net", "b"),
    ],
)  # fmt: skip
def test_one_of_several_sets(tmp_path, caplog, content, usual, chosen):
    path = tmp_path / "w.pth"
    torch.save(content, path)
    assert same(read_checkpoint(path, chosen)) and not caplog.messages
    with caplog.at_level(logging.INFO):
        assert not same(read_checkpoint(path))
    assert len(caplog.messages) == (chosen != "b")
    assert all(f"takes the weights under {usual}, not under {chosen}" in text for text in caplog.messages)


def test_parts_that_are_not_alike_need_no_choice(tmp_path, caplog):
    torch.save({"state_dict_backbone": STATE, "state_dict_softmax_fc": {"weight": torch.ones(3)}}, tmp_path / "w.pth")
    with caplog.at_level(logging.INFO):
        read_checkpoint(tmp_path / "w.pth")
    assert not caplog.messages


def test_a_set_that_is_not_there(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"model": STATE, "a": {"ema": STATE}, "b": {"ema": {"w": torch.ones(1)}}}, path)
    listed = r"it holds model \(7 tensors\), a\.ema \(7 tensors\), b\.ema \(1 tensor\)"
    with pytest.raises(UserError, match=f"nothing is called 'emma'; {listed}"):
        read_checkpoint(path, "emma")
    with pytest.raises(UserError, match=f"several things are called 'ema'; {listed}"):
        read_checkpoint(path, "ema")


def test_a_file_that_holds_itself(tmp_path):
    content: dict = {"model": STATE}
    content["again"] = content
    torch.save(content, tmp_path / "w.pth")
    assert same(read_checkpoint(tmp_path / "w.pth"))


@pytest.mark.parametrize("name", ["w.pth", "run:3.pth", "w.pth:ema", "C:w.pth"])
def test_an_existing_file_of_the_whole_name_wins(tmp_path, name):
    (tmp_path / "w.pth").touch()
    (tmp_path / name).touch()
    assert named_file(str(tmp_path / name)) == (tmp_path / name, name)
    assert named_file(str(tmp_path / name)).chosen is None
    assert named_file(f"{tmp_path / name}:model.ema") == (tmp_path / name, f"{name}:model.ema")
    assert named_file(f"{tmp_path / name}:model.ema").chosen == "model.ema"
    assert named_file(f"{tmp_path}/none.pth:ema").path.name == "none.pth:ema"


def test_safetensors_whatever_the_suffix(tmp_path):
    for name in ("w.safetensors", "w.pt"):
        save_file(STATE, tmp_path / name)
        assert same(read_checkpoint(tmp_path / name))


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_truncated_files(tmp_path, kind, share):
    path = tmp_path / "w"
    if kind == "safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match=r"(truncated|damaged).*copy it again"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "copy it again"),
        (b"hello", "copy it again"),
        (b"\xff\xd8\xff\xe0 a picture", "copy it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
        (pickle.dumps({"a": [1, 2]}), "copy it again"),
    ],
)
def test_other_files(tmp_path, content, named):
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=named) as error:
        read_checkpoint(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="none.pt: cannot read these weights: No such file"):
        read_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_modules_are_refused_with_the_way_out(tmp_path, zipped):
    path = tmp_path / "w.pt"
    for content in (small(), {"state_dict": small()}):
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match=r"Sequential.*throwaway environment.*\.state_dict\(\).*safetensors"):
            read_checkpoint(path)


def test_nothing_in_a_file_is_executed(tmp_path):
    path, marker = tmp_path / "w.pt", tmp_path / "marker"
    for zipped in (True, False):
        torch.save({"state_dict": STATE, "extra": Marker(marker)}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError):
            read_checkpoint(path)
    path.write_bytes(pickle.dumps(Marker(marker)))
    with pytest.raises(UserError):
        read_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"epoch": 3, "args": 1}, "no tensors: epoch, args"),
        ([1], "contains a list"),
        (torch.ones(2), "contains a Tensor"),
    ],
)
def test_files_without_named_tensors(tmp_path, content, named):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserError, match=named):
        read_checkpoint(tmp_path / "w.pt")


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "backbone.", "encoder.", "main.main.", "module.model.", "_orig_mod.", "model._orig_mod.module."],
)
def test_prefixes(prefix):
    state, beside = strip_prefix({prefix + key: value for key, value in STATE.items()}, STATE)
    assert same(state) and beside == []


def test_what_lies_beside_the_encoder_is_told_apart():
    heads = {"module.AUhead.0.weight": torch.ones(2), "module.lstm.bias": torch.ones(2)}
    wrapped = {f"module.model.{key}": value for key, value in STATE.items()}
    state, beside = strip_prefix(wrapped | heads, STATE)
    assert same(state) and beside == list(heads)
    run = {f"module.{key}": value for key, value in STATE.items()}
    state, beside = strip_prefix(run | {"module.extra": torch.ones(1), "stray": torch.ones(1)}, STATE)
    assert state.keys() - STATE.keys() == {"extra", "stray"} and beside == []


def test_two_networks_in_one_file():
    both = {f"{prefix}.{key}": value for prefix in ("encoder", "backbone") for key, value in STATE.items()}
    with pytest.raises(UserError, match=r"under backbone\. and encoder\."):
        strip_prefix(both, STATE)


def test_fit_copies_everything():
    module = small()
    nn.init.zeros_(module[0].weight)
    half = {key: value.half() if value.is_floating_point() else value for key, value in STATE.items()}
    fit(module, half, may_be_left=(), what="w")
    assert module[0].weight.dtype == torch.float32
    torch.testing.assert_close(module[0].weight, STATE["0.weight"], atol=1e-3, rtol=0)
    counted = {key: value for key, value in STATE.items() if not key.endswith("num_batches_tracked")}
    with torch.device("meta"):
        empty = small()
    fit(empty, counted, may_be_left=(), what="w")
    assert same(empty.state_dict())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("0.bias"), r"1 missing: 0\.bias"),
        (lambda state: state.update(extra=torch.ones(1)), "1 left over: extra"),
        (lambda state: state.update({"0.bias": torch.ones(41)}), r"0\.bias is 41, expected 40"),
        (lambda state: state.update({"0.bias": torch.ones(40).int()}), r"0\.bias is 40 int32, expected 40"),
        (
            lambda state: [state.pop(key) for key in list(state)] + [state.update(a=torch.ones(1))],
            "none of the 7.*contains a",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(change, named):
    state = dict(STATE)
    state["0.weight"] = state["0.weight"] + 1
    change(state)
    module = small()
    with pytest.raises(UserError, match=f"w: .*{named}"):
        fit(module, state, may_be_left=("head.*",), what="w")
    assert same(module.state_dict())


def test_listed_leftovers_are_dropped():
    module = small()
    fit(module, STATE | {"head.weight": torch.ones(1)}, may_be_left=(r"head\..*",), what="w")
    assert same(module.state_dict())
