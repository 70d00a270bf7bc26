import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from abaw_seq import config as configs
from abaw_seq.errors import UserError
from abaw_seq.experiments.recipe import Recipe
from abaw_seq.learn.settings import TrainConfig

ROOT = Path(__file__).parents[2]
HEADS = ("lstm", "gru", "transformer", "none", "sbe", "sbe_hsf")
RECIPES = [ROOT / "configs" / folder / "ensemble.yaml" for folder in ("abaw4", "demo")]
SHIPPED = [
    *sorted(path for path in (ROOT / "configs/abaw4").glob("*.yaml") if path not in RECIPES),
    *(ROOT / "configs/demo" / f"{head}.yaml" for head in HEADS),
]


@dataclass(frozen=True)
class Inner:
    lr: float = 0.1
    kind: Literal["adam", "sgd"] = "adam"

    def __post_init__(self):
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, not {self.lr}")


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    names: tuple[str, ...] = ()
    limit: int | None = None
    flag: bool = False
    by: dict[str, float] = field(default_factory=dict)


def test_numbers_in_exponent_notation_are_numbers(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("inner: {lr: 1e-5}\n")
    assert configs.load(Outer, path).inner.lr == 1e-5
    assert configs.load(Outer, None, ["inner.lr=2E-3"]).inner.lr == 2e-3


def test_overrides_reach_nested_keys_and_win_over_the_file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("inner: {lr: 1.0, kind: sgd}\nnames: [a]\n")
    found = configs.load(Outer, path, ["inner.lr=2", "names=[b, c]", "limit=null", "by={x: 1}"])
    assert found == Outer(Inner(2.0, "sgd"), ("b", "c"), None, False, {"x": 1.0})


@pytest.mark.parametrize(
    "override, words",
    [
        ("iner.lr=1", "unknown key iner; did you mean inner?"),
        ("inner.lrr=1", "unknown key inner.lrr; did you mean inner.lr?"),
        ("inner.lr=fast", "inner.lr must be a number"),
        ("inner.kind=adm", "did you mean adam?"),
        ("inner.lr=-1", "inner.lr must be positive"),
        ("names=a", "names must be a list"),
        ("limit=1.5", "limit must be"),
        ("flag=1", "flag must be true or false"),
        ("by={x: y}", "by.x must be a number"),
        ("inner=3", "inner must be a section"),
        ("inner", "expected key=value"),
    ],
)
def test_what_does_not_fit_is_named(override, words):
    with pytest.raises(UserError, match="(?s).*") as caught:
        configs.load(Outer, None, [override])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_yaml_is_named(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("a: [1\n")
    with pytest.raises(UserError, match="bad.yaml: not valid YAML"):
        configs.load(Outer, path)
    with pytest.raises(UserError, match="no such config file"):
        configs.load(Outer, tmp_path / "none.yaml")


def test_dump_reads_back_as_the_same_config(tmp_path):
    config = configs.load(TrainConfig, None, ["model.encoder.kind=lstm", "optim.lr=1e-5", "tasks=[au]"])
    path = tmp_path / "resolved.yaml"
    path.write_text(configs.dump(config))
    assert configs.load(TrainConfig, path) == config


def test_code_in_yaml_is_refused(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text("names: !!python/object/apply:os.system [id]\n")
    with pytest.raises(UserError, match="not valid YAML"):
        configs.load(Outer, path)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_shipped_training_config_parses_and_says_how_to_run(path):
    assert dataclasses.is_dataclass(configs.load(TrainConfig, path))
    assert path.read_text().startswith(f"# abaw-seq train --config {path.relative_to(ROOT)}")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.parent.name)
def test_every_shipped_recipe_parses_and_names_configs_that_do(path):
    recipe = configs.load(Recipe, path)
    assert path.read_text().startswith(f"# abaw-seq ensemble --config {path.relative_to(ROOT)}")
    for name in (*recipe.members, *recipe.baselines):
        assert configs.load(TrainConfig, path.parent / name, recipe.set).epochs > 1


def test_the_abaw4_configs_hold_the_published_settings():
    names = {path.stem for path in SHIPPED if path.parent.name == "abaw4"}
    assert names == {"lstm", "gru", "transformer", "sbe", "sbe_hsf", "prediction_feedback", "none"}
    for name in names:
        config = configs.load(TrainConfig, ROOT / f"configs/abaw4/{name}.yaml")
        assert (config.windows.length, config.windows.batch, config.epochs) == (64, 4, 50)
        optim = config.optim
        assert (optim.kind, optim.lr, optim.clip, optim.weight_decay) == ("adam", 5e-5, 5, 0)
        assert config.windows.carry == (name in ("lstm", "gru"))
        weights = config.weighting
        assert (weights.valence, weights.arousal, weights.au, weights.expression) == (4, 4, 1, 0.35)
        assert config.loss.valence_arousal == "mse" and not config.loss.balance
        assert config.model.head == (512, 256)
