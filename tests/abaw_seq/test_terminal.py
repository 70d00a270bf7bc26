import logging

import click
import pytest

from abaw_feats.cli import main as feats_main
from abaw_seq.cli import main as seq_main
from abaw_seq.errors import AbawError, UserError
from abaw_seq.terminal import (
    OneLineGroup,
    print_result,
    print_table,
    progress,
    say,
    show_messages,
    visible,
    visible_line,
)


@click.group(cls=OneLineGroup)
def tool():
    pass


@tool.command()
@click.argument("what")
def fail(what):
    raise {
        "user": UserError("no\nsuch thing"),
        "tool": AbawError("it broke"),
        "bug": ZeroDivisionError("oh"),
        "os": FileNotFoundError(2, "No such file or directory", "x.h5"),
        "full": OSError(28, "No space left on device", "y.h5"),
        "stop": KeyboardInterrupt(),
    }[what]


@tool.command()
@click.argument("what")
def name(what):
    raise UserError(what)


@pytest.mark.parametrize(
    "what, code, words",
    [
        ("user", 2, "no such thing"),
        ("tool", 1, "it broke"),
        ("bug", 1, "ZeroDivisionError: oh"),
        ("os", 2, "x.h5"),
        ("full", 1, "No space left"),
        ("stop", 130, "interrupted"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(what, code, words, capsys):
    with pytest.raises(SystemExit) as ended:
        tool.main(["fail", what])
    said = capsys.readouterr().err
    assert ended.value.code == code
    assert words in said and said.strip().count("\n") == 0


def test_a_wrong_option_is_one_line_too(capsys):
    with pytest.raises(SystemExit) as ended:
        tool.main(["fail", "--colour"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_debug_shows_the_traceback():
    with pytest.raises(ZeroDivisionError):
        tool.main(["fail", "bug", "--debug"])


def test_progress_off_a_terminal_is_plain_lines(capsys, monkeypatch):
    monkeypatch.setattr("abaw_seq.terminal.PLAIN_PROGRESS_SECONDS", 0.0)
    with progress("extract", 4, "frames") as advance:
        advance(1)
        advance(3, "a note")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("extract: 1/4 frames") and "left" in lines[0]
    assert lines[-1].startswith("extract: 4/4 frames in") and lines[-1].endswith("a note")


def test_table_holds_its_cells(capsys):
    print_table("Scores", ["", "P_MTL"], [["gru", "1.234"]])
    out = capsys.readouterr().out
    assert out.startswith("Scores\n") and "gru" in out and "1.234" in out


@tool.command()
@click.option("--feats", multiple=True)
@click.option("--set", "overrides", multiple=True)
@click.option("--run")
def train(feats, overrides, run):
    click.echo(f"{feats} {overrides} {run}")


@tool.command()
@click.argument("runs", nargs=-1)
@click.option("--frames", multiple=True)
def report(runs, frames):
    click.echo(f"{runs} {frames}")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("train --feats a b --set x=1 y=2 --run r", "('a', 'b') ('x=1', 'y=2') r"),
        ("train --feats a --feats=b c --run r", "('a', 'b', 'c') () r"),
        ("report --frames v a b", "('a', 'b') ('v',)"),
    ],
)
def test_a_repeatable_option_takes_several_values_where_nothing_is_given_by_position(typed, meant, capsys):
    with pytest.raises(SystemExit) as ended:
        tool.main(typed.split())
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == meant


@pytest.mark.parametrize("group", [seq_main, feats_main])
def test_each_verb_is_listed_with_a_whole_sentence(group):
    listed = group.get_help(click.Context(group, terminal_width=80)).split("Commands:\n")[1].splitlines()
    assert len(listed) == len(group.commands) and all(line.endswith(".") for line in listed)
    assert not [line for line in listed if line.endswith("...")]


NAMES = {
    "seed[a]": "seed[a]",
    "[/x]": "[/x]",
    "[bold]run[/bold]": "[bold]run[/bold]",
    "a:smile:b": "a:smile:b",
    "\x1b[31mred\x1b]0;title\x07": "\\x1b[31mred\\x1b]0;title\\x07",
    "over\rwritten": "over\\rwritten",
    "\x9b2Jcleared\x7f": "\\x9b2Jcleared\\x7f",
    "safe\u202egnp.exe": "safe\\u202egnp.exe",
    "\u2066turned\u2069": "\\u2066turned\\u2069",
    "not \udcff text": "not \\udcff text",
    "Zoë 视频 می\u200cخواهم 👩\u200d🎤": "Zoë 视频 می\u200cخواهم 👩\u200d🎤",
}


@pytest.mark.parametrize(("name", "shown"), NAMES.items())
def test_names_are_shown_as_they_are_and_cannot_act(name, shown, capsys):
    assert visible(name) == shown
    print_table(f"Runs of {name}", [name, "score"], [[name, "1"]])
    print_result(name)
    printed = capsys.readouterr().out
    assert printed.count(shown) == 4
    say(name)
    show_messages()
    logging.getLogger("abaw_seq.learn").info(f"{name}: done")
    with progress(name, total=1, unit="frames") as advance:
        advance(note=name)
    said = capsys.readouterr().err
    assert said.count(shown) == 4 and len(said.splitlines()) == 3


@pytest.mark.parametrize(("name", "shown"), NAMES.items())
def test_names_in_errors_and_in_bars(name, shown, capsys, monkeypatch):
    with pytest.raises(SystemExit):
        tool.main(["name", f"video {name}: damaged"])
    assert shown in capsys.readouterr().err
    show_messages()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "300")
    with progress(name, total=1, unit="frames") as advance:
        advance(note=name)
    assert capsys.readouterr().err.count(shown) >= 2


def test_a_name_in_a_line_has_no_line_end(capsys):
    assert visible("a\nb\tc") == "a\nb\tc" and visible_line("a\nb\tc") == "a\\nb\\tc"
    show_messages()
    logging.getLogger("abaw_feats").warning("video a\nerror: b")
    assert capsys.readouterr().err == "video a\\nerror: b\n"
