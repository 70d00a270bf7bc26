"""Vision packages that are missing or too old are named in one line."""

import tomllib
from pathlib import Path

import pytest

from abaw_feats import vision_packages
from abaw_feats.cli import main
from abaw_feats.vision_packages import NEEDED, require_feats
from abaw_seq.errors import UserError

ROOT = Path(__file__).parents[2]


def test_the_lowest_versions_are_those_that_are_declared():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    declared = dict(line.split(">=") for line in extras["feats"])
    assert {package: declared[package] for package, _ in NEEDED.values()} == dict(NEEDED.values())


@pytest.mark.parametrize(
    ("package", "installed", "needed"),
    [("timm", "1.0.20", "1.0.23"), ("timm", "0.9.16", "1.0.23"), ("pillow", "9.5.0", "10.3"), ("av", "13.1.0", "14")],
)
def test_a_package_that_is_too_old_is_named_with_the_version_that_is_needed(
    monkeypatch, capsys, package, installed, needed
):
    versions = dict(NEEDED.values()) | {package: installed}
    monkeypatch.setattr(vision_packages, "version", versions.__getitem__)
    with pytest.raises(UserError, match=f"{package} {installed} is too old, {needed} or newer is needed; type: pip"):
        require_feats()
    with pytest.raises(SystemExit) as ended:
        main(["backbones"])
    assert ended.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("installed", ["1.0.23", "1.0.100", "1.1", "2.0.0.dev0", "1.0.23+local"])
def test_newer_versions_will_do(monkeypatch, installed):
    versions = dict(NEEDED.values()) | {"timm": installed}
    monkeypatch.setattr(vision_packages, "version", versions.__getitem__)
    require_feats()
