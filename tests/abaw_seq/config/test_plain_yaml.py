"""YAML texts that are large, deep, endless or ambiguous are refused in one line, at once."""

import time

import pytest

from abaw_seq import config as configs
from abaw_seq.config.plain_yaml import parse
from abaw_seq.errors import UserError
from abaw_seq.learn.settings import TrainConfig

LISTS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 30)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{k}: &a{k} {{p: *a{k - 1}, q: *a{k - 1}}}\n" for k in range(1, 30))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LISTS, "values, aliases followed"),
        (MERGES, "values, aliases followed"),
        ("a: &a [*a]\n", "values, aliases followed"),
        ("a: " + "[" * 10000, "line 1, column 43: nested deeper than 40 levels"),
        ("a: " + "{b: " * 100 + "1" + "}" * 100, "nested deeper"),
        ("\n".join("  " * k + "a:" for k in range(200)), "nested deeper"),
        ("seed: " + "1" * 5000, "line 1, column 7: a number of 5000 characters"),
        ("optim: {lr: 0." + "1" * 200000 + "}", "a number of 200002 characters"),
        ("seed: 0x" + "f" * 5000, "a number of 5002 characters"),
        ("epochs: 1\nepochs: 2\n", "line 2, column 1: the key epochs a second time"),
        ("optim:\n  lr: 1\n  clip: 1\n  lr: 2\n", "line 4, column 3: the key lr a second time"),
        ("epochs: !!timestamp x", "the tag !!timestamp"),
        ("epochs: !!binary aGk=", "the tag !!binary"),
        ("epochs: !!int x", "a value that its tag does not fit"),
        ("epochs: !!bool maybe", "a value that its tag does not fit"),
        ("x: " + "y" * 2**21, "characters, more than"),
        ("epochs: 010", "epochs must be a whole number, not '010'"),
        ("epochs: 1:30", "not '1:30'"),
        ("epochs: 2024-01-01", "not '2024-01-01'"),
        ("epochs: 1\0", "not valid YAML"),
        ("? [a]\n: 1\n", "not valid YAML"),
        ("1: 2\n", "unknown key 1"),
    ],
)
def test_texts_that_are_refused(tmp_path, text, words):
    path, started = tmp_path / "a.yaml", time.monotonic()
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        configs.load(TrainConfig, path)
    message = str(caught.value)
    assert message.startswith(str(path)) and words in message and "\n" not in message and len(message) < 600
    assert time.monotonic() - started < 5
    with pytest.raises(UserError):
        configs.load(TrainConfig, None, [f"model={{a: {text}"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5), ("-1E+3", -1000.0), ("1.", 1.0), (".5", 0.5), ("1.5e3", 1500.0), ("1_000", 1000), ("0x1F", 31),
        ("-.inf", float("-inf")), ("0", 0), ("-7", -7), ("null", None), ("yes", True), ("!!str 5", "5"), ("e5", "e5"),
        ("007", "007"), ("12:30:45", "12:30:45"), ("2024-01-01", "2024-01-01"), ("", None), ("1.2.3", "1.2.3"),
        ("[&a {x: 1}, {<<: *a, y: 2}, *a]", [{"x": 1}, {"x": 1, "y": 2}, {"x": 1}]),
    ],
)  # fmt: skip
def test_texts_that_are_read(text, value):
    assert parse(text) == value and type(parse(text)) is type(value)


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-of-this-name/x", "a\0b"])
def test_names_that_no_file_has(name):
    with pytest.raises(UserError, match="no such config file"):
        configs.load(TrainConfig, name)
    with pytest.raises(UserError, match="no such config file"):
        configs.load(TrainConfig, {"like": name})
