"""Every shipped config: its header, and the settings that result from it; and no setting without a meaning."""

import dataclasses
import json
import re
import typing
from pathlib import Path

import pytest

from abaw_feats.backbones import BackboneSpec, find_spec
from abaw_feats.cli import main as feats_main
from abaw_feats.learning.finetune_config import FinetuneConfig
from abaw_feats.learning.pretrain import PretrainConfig
from abaw_seq import config as configs
from abaw_seq.config.page import meanings, page
from abaw_seq.experiments.progressive_config import ProgressiveConfig
from abaw_seq.experiments.recipe import Recipe, load_recipe
from abaw_seq.experiments.search_config import SearchConfig
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.results.postprocess import Postprocess
from abaw_seq.results.weights import Ensemble

ROOT = Path(__file__).parents[1]
# What differs from the defaults, by full key, from before configs could build on each other; backbones in full.
EXPECTED = json.loads((Path(__file__).parent / "shipped_settings.json").read_text())
PROGRAMS = {
    "abaw-seq train --config": (TrainConfig, TrainConfig()),
    "abaw-seq distill --config": (TrainConfig, TrainConfig()),
    "abaw-seq ensemble --config": (Recipe, Recipe(members=("none",))),
    "abaw-seq progressive --config": (ProgressiveConfig, ProgressiveConfig({"au": {"tasks": ["au"]}})),
    "abaw-seq search --config": (SearchConfig, SearchConfig("none", {"epochs": {"int": [1, 2]}})),
    "abaw-feats pretrain --config": (PretrainConfig, PretrainConfig()),
    "abaw-feats finetune --config": (FinetuneConfig, FinetuneConfig()),
}


def flat(mapping, prefix=""):
    for key, value in mapping.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def dataclasses_below(cls):
    yield cls
    for hint in typing.get_type_hints(cls).values():
        for kind in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(kind):
                yield from dataclasses_below(kind)


def test_the_shipped_configs_are_those_of_the_repository():
    files = sorted((ROOT / "configs").glob("*/*.yaml"))
    assert sorted(configs.shipped().values()) == files and configs.shipped().keys() == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_every_shipped_config_says_what_it_is_and_how_to_run_it(name):
    what, command, *_ = configs.shipped()[name].read_text().splitlines()
    assert what.startswith("# ") and what.endswith(".")
    if name.startswith("backbones/"):
        assert command.startswith("#   abaw-extract --backbone") and f"--backbone {name} " in command
    else:
        assert re.match(rf"#   abaw-(seq|feats) \w+ --config {name} ", command)


@pytest.mark.parametrize("name", EXPECTED)
def test_every_shipped_config_has_the_settings_it_always_had(name):
    path = configs.shipped()[name]
    if name.startswith("backbones/"):
        assert configs.to_dict(find_spec(path)) == EXPECTED[name]
        assert find_spec(name) == find_spec(path)
        return
    command = path.read_text().splitlines()[1].removeprefix("#   ")
    cls, default = next(known for program, known in PROGRAMS.items() if command.startswith(program))
    before, now = dict(flat(configs.to_dict(default))), dict(flat(configs.to_dict(configs.load(cls, path))))
    assert {key: value for key, value in now.items() if before.get(key, ...) != value} == EXPECTED[name]


@pytest.mark.parametrize("name", ["abaw4/ensemble", "demo/ensemble"])
def test_the_members_of_shipped_recipes_are_configs_beside_them(name):
    recipe = load_recipe(configs.find(name))
    folder = configs.find(name).parent
    for member in (*recipe.members, *recipe.baselines):
        file = configs.find(member, folder)
        assert file.parent == folder and configs.load(TrainConfig, file, recipe.set).epochs > 1


def test_the_abaw4_configs_hold_the_published_settings():
    names = {name for name in EXPECTED if name.startswith("abaw4/")} - {"abaw4/ensemble"}
    assert len(names) == 7
    for name in names:
        config = configs.load(TrainConfig, name)
        assert (config.windows.length, config.windows.batch, config.epochs) == (64, 4, 50)
        optim = config.optim
        assert (optim.kind, optim.lr, optim.clip, optim.weight_decay) == ("adam", 5e-5, 5, 0)
        assert config.windows.carry == (name in ("abaw4/lstm", "abaw4/gru"))
        weights = config.weighting
        assert (weights.valence, weights.arousal, weights.au, weights.expression) == (4, 4, 1, 0.35)
        assert config.loss.valence_arousal == "mse" and not config.loss.balance
        assert config.model.head == (512, 256)


@pytest.mark.parametrize(
    "root",
    [
        TrainConfig, Recipe, ProgressiveConfig, SearchConfig, Ensemble, Postprocess, PretrainConfig, FinetuneConfig,
        BackboneSpec,
    ],
)  # fmt: skip
def test_no_setting_is_without_a_meaning(root):
    for cls in dataclasses_below(root):
        known = meanings(cls)
        for field in dataclasses.fields(cls):
            assert len(known.get(field.name, "").split()) > 1, f"{cls.__name__}.{field.name}: no string below it"


@pytest.mark.parametrize("kind, default", [("pretrain", PretrainConfig()), ("finetune", FinetuneConfig())])
def test_pages_of_abaw_feats_read_back_as_the_defaults(kind, default, tmp_path, capsys):
    with pytest.raises(SystemExit):
        feats_main(["config", kind])
    (tmp_path / "my.yaml").write_text(capsys.readouterr().out)
    assert configs.load(type(default), tmp_path / "my.yaml") == default


def test_the_page_of_a_backbone_reads_back_as_that_backbone(tmp_path, capsys):
    with pytest.raises(SystemExit):
        feats_main(["config", "backbone"])
    (tmp_path / "my.yaml").write_text(capsys.readouterr().out)
    assert find_spec(tmp_path / "my.yaml") == find_spec("mae")


def test_the_list_of_abaw_feats_names_what_it_takes(capsys):
    with pytest.raises(SystemExit):
        feats_main(["config", "--list"])
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names[:3] == ["pretrain", "finetune", "backbone"]
    assert {"demo/mae", "demo/iresnet", "backbones/mae_abaw7"} <= set(names) and "demo/gru" not in names


def test_sections_that_are_not_there_by_default_can_be_uncommented(tmp_path):
    lines = page(FinetuneConfig()).splitlines()
    start = lines.index("# teacher:")
    section = [
        line.removeprefix("# ") for line in lines[start : lines.index("# Random changes of the images in training.")]
    ]
    text = "\n".join(section).replace("run:", "run: runs/teacher")
    (tmp_path / "a.yaml").write_text(text)
    assert configs.load(FinetuneConfig, tmp_path / "a.yaml").teacher.weight == 0.4
