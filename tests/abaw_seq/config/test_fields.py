from dataclasses import dataclass, field
from typing import Literal

import pytest

from abaw_seq import config as configs
from abaw_seq.errors import UserError
from abaw_seq.learn.settings import TrainConfig


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
    weights: tuple[float, ...] = ()


def test_numbers_in_exponent_notation_are_numbers(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("inner: {lr: 1e-5}\n")
    assert configs.load(Outer, path).inner.lr == 1e-5
    assert configs.load(Outer, None, ["inner.lr=2E-3"]).inner.lr == 2e-3


def test_overrides_reach_nested_keys_and_win_over_the_file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("inner: {lr: 1.0, kind: sgd}\nnames: [a]\n")
    config = configs.load(Outer, path, ["inner.lr=2", "names=[b, c]", "limit=null", "by={x: 1}"])
    assert config == Outer(Inner(2.0, "sgd"), ("b", "c"), None, False, {"x": 1.0})


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


def test_a_whole_number_may_be_written_as_any_number_and_a_list_of_one_as_a_number():
    assert configs.load(Outer, None, ["limit=2e3"]) == Outer(limit=2000)
    assert configs.from_dict(Outer, {"weights": 3}) == Outer(weights=(3.0,))


def test_dump_reads_back_as_the_same_config(tmp_path):
    config = configs.load(TrainConfig, None, ["model.encoder.kind=lstm", "optim.lr=1e-5", "tasks=[au]"])
    path = tmp_path / "resolved.yaml"
    path.write_text(configs.dump(config))
    assert configs.load(TrainConfig, path) == config
