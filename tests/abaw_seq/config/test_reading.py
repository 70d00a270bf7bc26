"""Config files: what is not YAML, shipped names, and one config that builds on another."""

from dataclasses import dataclass, field

import pytest

from abaw_seq import config as configs
from abaw_seq.config import reading
from abaw_seq.errors import UserError
from abaw_seq.learn.settings import TrainConfig


@dataclass(frozen=True)
class Inner:
    a: int = 0
    b: int = 0


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    items: tuple[str, ...] = ()


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def error(path, cls=Outer):
    with pytest.raises(UserError) as caught:
        configs.load(cls, path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_that_is_not_yaml_is_named(write, tmp_path):
    assert "bad.yaml: not valid YAML" in error(write("bad.yaml", "a: [1\n"))
    assert "expected `key: value` lines, not a list" in error(write("list.yaml", "- a\n"))
    assert "no such config file" in error(tmp_path / "none.yaml")


def test_code_in_yaml_is_refused(write):
    assert "not valid YAML" in error(write("evil.yaml", "items: !!python/object/apply:os.system [id]\n"))


def test_a_config_changes_what_it_is_like_section_by_section(write):
    write("base.yaml", "inner: {a: 1, b: 2}\nitems: [x, y]\n")
    write("middle.yaml", "like: base\ninner: {b: 3}\n")
    top = write("top.yaml", "like: middle.yaml\nitems: [z]\n")
    assert configs.load(Outer, top) == Outer(Inner(1, 3), ("z",))
    assert configs.load(Outer, top, ["inner.a=5"]).inner == Inner(5, 3)
    elsewhere = write("sub/other.yaml", f"like: {top}\n")
    assert configs.load(Outer, elsewhere) == configs.load(Outer, write("sub/same.yaml", "like: ../top.yaml\n"))


def test_a_config_may_build_on_a_shipped_one(write):
    mine = write("mine.yaml", "like: abaw4/gru\noptim: {lr: 1e-3}\n")
    config = configs.load(TrainConfig, mine)
    assert (config.optim.lr, config.optim.kind, config.model.encoder.dim) == (1e-3, "adam", 512)


def test_like_that_leads_nowhere_or_in_a_circle_is_named(write):
    write("base.yaml", "{}")
    assert "top.yaml: like: bass: no such config file; did you mean base?" in error(write("top.yaml", "like: bass\n"))
    write("a.yaml", "like: b\n")
    assert "a.yaml: like: b leads in a circle" in error(write("b.yaml", "like: a\n"))
    assert "self.yaml: like: self leads in a circle" in error(write("self.yaml", "like: self\n"))


def test_names_of_shipped_configs(write, monkeypatch, tmp_path):
    assert configs.find("abaw4/gru") == configs.shipped()["abaw4/gru"]
    assert configs.load(TrainConfig, "abaw4/gru") == configs.load(TrainConfig, configs.shipped()["abaw4/gru"])
    for name, near in [("abaw4/gruu", "abaw4/gru?"), ("lstm", "abaw4/lstm or demo/lstm?"), ("x/sbe.yaml", "abaw4/sbe")]:
        with pytest.raises(UserError, match=f"{name}: no such config file; did you mean {near}".replace("?", r"\?")):
            configs.find(name)
    mine = write("abaw4/gru.yaml", "epochs: 3\n")
    monkeypatch.chdir(tmp_path)
    assert configs.find("abaw4/gru").resolve() == mine  # a file of one's own comes first


def test_shipped_configs_are_read_inside_an_installed_package_and_beside_a_checkout(write, monkeypatch):
    installed = write("site/abaw_seq/configs/abaw4/inside.yaml", "").parents[2]
    write("checkout/configs/demo/beside.yaml", "")
    for package, name in [(installed, "abaw4/inside"), (installed.parents[1] / "checkout/abaw_seq", "demo/beside")]:
        monkeypatch.setattr(reading.resources, "files", lambda _, package=package: package)
        assert list(configs.shipped()) == [name]
