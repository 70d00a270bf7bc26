"""`abaw-seq config`: pages that say what every setting means and read back as the same settings."""

import subprocess
import sys

import pytest
import yaml

from abaw_seq import config as configs
from abaw_seq.cli import main
from abaw_seq.config.page import meanings, page
from abaw_seq.experiments.recipe import load_recipe
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.models.encoders import EncoderConfig


@pytest.fixture
def printed(capsys):
    def printed(*arguments, code=0):
        with pytest.raises(SystemExit) as ended:
            main(["config", *arguments])
        assert ended.value.code == code
        streams = capsys.readouterr()
        return streams.err if code else streams.out

    return printed


def test_the_page_of_train_is_a_config_that_equals_the_defaults(printed, tmp_path, toy_feats):
    mine = tmp_path / "my.yaml"
    mine.write_text(printed("train"))
    assert configs.load(TrainConfig, mine) == TrainConfig()
    text = mine.read_text()
    assert "# Highest learning rate.\n  lr: 0.001  # a number in (0, inf)\n" in text
    assert "kind: gru  # one of none, lstm, gru, transformer, tcn\n" in text

    small = ["--set", "epochs=1", "--set", "model.encoder.dim=8", "--feats", str(toy_feats)]
    for run, config in (("page", ["--config", str(mine)]), ("default", [])):
        with pytest.raises(SystemExit) as ended:
            main(["train", "--run", str(tmp_path / run), *config, *small])
        assert ended.value.code == 0
    runs = [(tmp_path / run / "config.yaml").read_text() for run in ("page", "default")]
    assert runs[0] == runs[1]


def test_the_page_of_ensemble_is_a_recipe_of_shipped_configs(printed, tmp_path):
    mine = tmp_path / "my.yaml"
    mine.write_text(printed("ensemble"))
    recipe = load_recipe(mine)
    for member in recipe.members:
        assert configs.find(member, tmp_path) == configs.shipped()[member]


def test_a_shipped_config_is_printed_with_what_results_and_means_the_same_elsewhere(printed, tmp_path):
    shipped = configs.shipped()["abaw4/lstm"]
    copy = tmp_path / "copy.yaml"
    copy.write_text(printed("abaw4/lstm"))
    assert copy.read_text().startswith(shipped.read_text().split("like:")[0])
    assert configs.load(TrainConfig, copy) == configs.load(TrainConfig, shipped)
    below = copy.read_text().split("# Every value that results:\n")[1]
    values = yaml.safe_load("\n".join(line.removeprefix("# ") for line in below.splitlines()))
    assert values == configs.to_dict(configs.load(TrainConfig, shipped))

    copy.write_text(printed("abaw4/ensemble"))
    members = load_recipe(copy).members
    assert members == tuple(
        f"abaw4/{file.removesuffix('.yaml')}" for file in load_recipe(configs.find("abaw4/ensemble")).members
    )


def test_the_list_names_what_abaw_seq_takes(printed):
    lines = printed("--list").splitlines()
    names = [line.split()[0] for line in lines]
    assert names[:5] == ["train", "ensemble", "progressive", "search", "abaw2021/teacher_gru"] and "demo/gru" in names
    assert not any(name.startswith("backbones/") or name == "demo/mae" for name in names)
    assert next(line for line in lines if line.startswith("abaw4/gru ")).endswith("segment to segment of a video.")
    assert printed() == "\n".join(lines) + "\n"


def test_a_misspelt_name_is_one_line_with_the_nearest(printed):
    assert printed("trian", code=2) == "error: trian: no such config file; did you mean train?\n"
    assert "did you mean demo/transformer?" in printed("demo/transformers", code=2)


def test_a_file_of_ones_own_is_printed_as_it_is(printed, tmp_path):
    (tmp_path / "a.yaml").write_text("epochs: 3\n")
    assert printed(str(tmp_path / "a.yaml")) == "epochs: 3\n"


def test_meanings_come_from_the_source():
    assert meanings(EncoderConfig)["causal"] == "See only the present and earlier frames (tcn)."
    assert "causal: false" in page(EncoderConfig(), explained=False).splitlines()


def test_the_list_needs_no_heavy_import():
    code = (
        "import sys; from abaw_seq.config.page import show; show(None, {'train': None}); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
