"""Absurd values of every setting, damaged and made-up YAML texts, and backbones of absurd sizes."""

from __future__ import annotations

import dataclasses
import json
from functools import partial

import pytest
import torch

from abaw_feats.backbones import build, find_spec, spec_from_dict
from abaw_feats.learning.finetune_config import FinetuneConfig
from abaw_feats.learning.pretrain import PretrainConfig
from abaw_seq import config as configs
from abaw_seq.engine.memory import check_fits
from abaw_seq.experiments.recipe import Recipe
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.models.frameworks import MultiTaskModel
from abaw_seq.results.postprocess import Postprocess
from abaw_seq.results.weights import Ensemble
from tests.fuzz.changes import changed_bytes, read_or_refused

KINDS = [TrainConfig, Recipe, PretrainConfig, FinetuneConfig, Postprocess, Ensemble]
ABSURD = [
    *("0", "-1", "1", "2", "0.5", "-0.0", "1e-320", "1e300", "1e999", "-1e25", ".nan", ".inf", "-.inf", "1" * 25),
    *("9" * 5000, "010", "1:30", "0xffffffffffff", "65536", "1000", "null", "true", "text", "''", "2024-01-01"),
    *("[]", "[[]]", "[0]", "[.nan, .nan]", "[1, 1]", "{}", "{a: 1}", "{au: -1}", "{au: .nan}", "[1e25]", "&a [*a]"),
    *("[" * 500, "{a: " * 50 + "}" * 50, "!!binary aa", "!!python/name:os.system", "'\\0'", '"\\e[31m"', "x" * 3000),
]
PIECES = [
    *("a", "optim", ":", ": ", "\n", "  ", "- ", "[", "]", "{", "}", "&a ", "*a", "<<", "1", "1e5", "'", '"', "!!int "),
    *("lr", "#", "|", ">", "?", "%", "@", "`", "\t", "\0", "\x85", "\ufeff", "---", "...", "~", "é", ","),
]


def settings(cls):
    """The dotted names of all settings of a config, sections included."""
    for name, value in vars(cls() if cls is not Recipe and cls is not Ensemble else example(cls)).items():
        yield name
        if dataclasses.is_dataclass(value):
            yield from (f"{name}.{inner}" for inner in settings(type(value)))


def example(cls):
    return cls(("a",)) if cls is Recipe else cls(("a",), "mean")


def test_absurd_settings_are_read_or_refused(cases):
    names = [(cls, name) for cls in KINDS for name in settings(cls)]
    for case, rng in cases:
        cls, name = names[rng.integers(len(names))]
        start = configs.to_dict(example(cls)) if cls in (Recipe, Ensemble) else None
        changes = [f"{name}={ABSURD[rng.integers(len(ABSURD))]}"]
        with read_or_refused(f"{case}: {changes}"):
            config = configs.load(cls, start, changes)
            configs.dump(config)
            if isinstance(config, TrainConfig):
                widths = dict.fromkeys(config.tasks, 8)
                check_fits(partial(MultiTaskModel, 32, config.model, widths), "model")


@pytest.mark.parametrize("name", ["abaw4/sbe_hsf", "demo/ensemble", "backbones/mae_abaw7"])
def test_damaged_configs_are_read_or_refused(tmp_path, cases, name):
    text, path = configs.shipped()[name].read_bytes(), tmp_path / "a.yaml"
    for case, rng in cases:
        path.write_bytes(changed_bytes(text, rng))
        with read_or_refused(case):
            if name.startswith("backbones"):
                find_spec(path)
            else:
                configs.load(Recipe if name.endswith("ensemble") else TrainConfig, path)


def test_made_up_yaml_is_read_or_refused(tmp_path, cases):
    path = tmp_path / "a.yaml"
    for case, rng in cases:
        text = "".join(PIECES[k] for k in rng.integers(len(PIECES), size=rng.integers(1, 60)))
        if rng.random() < 0.2:
            text = text * int(rng.integers(2, 2000))
        path.write_text(text, encoding="utf-8")
        with read_or_refused(f"{case}: {text[:200]!r}"):
            configs.load(TrainConfig, path)


def test_absurd_backbones_are_built_or_refused(cases):
    values = [0, 1, -1, 3, 2.5, 10**25, float("nan"), float("inf"), 65536, 1000, None, "x", [], [1], [10**25] * 4, {}]
    starts = {
        "mae": ("patch", "width", "depth", "heads", "mlp_ratio"),
        "iresnet18": ("blocks", "channels", "dim"),
        "densenet": ("blocks", "growth", "classes"),
        "timm:test_vit": ("model", "depth", "embed_dim", "num_heads", "drop_rate", "img_size", "layers"),
    }
    for case, rng in cases:
        like = list(starts)[rng.integers(len(starts))]
        chosen = rng.integers(len(starts[like]), size=rng.integers(1, 3))
        options = {starts[like][k]: values[rng.integers(len(values))] for k in chosen}
        with read_or_refused(f"{case}: {like} {json.dumps(options)}"):
            spec = spec_from_dict({"name": "fuzz", "options": options}, start=find_spec(like))
            with torch.device("meta"):
                build(spec)
