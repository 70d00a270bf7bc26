"""What every command shares on the terminal: one-line errors, progress, tables.

Importing this module is cheap (click only), so that `--help` answers at once.
"""

from __future__ import annotations

import errno
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from abaw_seq.errors import AbawError
from abaw_seq.signals import ending_signals, is_received, leave_if_nobody_reads

PLAIN_PROGRESS_SECONDS = 10.0
PATH = click.Path(path_type=Path)
HELP = {"help_option_names": ["-h", "--help"]}

# Control characters but for tabs and line ends, what turns the direction of writing, and what no encoding can write.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_shows_progress = False


def visible(text: object) -> str:
    r"""A text with its control characters written out, so that a name from outside cannot act on a terminal or a page.

    >>> visible("seed\x1b[31m")
    'seed\\x1b[31m'
    """
    return _UNSEEN.sub(lambda unseen: unseen[0].encode("unicode_escape").decode("ascii"), str(text))


def visible_line(text: object) -> str:
    """The same of a text that is one line, its line ends and tabs written out as well."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


class _ToTerminal(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(visible_line(record.getMessage()))


def show_messages() -> None:
    """Show the messages and the progress of both packages on standard error, as the commands do.

    Without it the packages print nothing: messages go to the loggers `abaw_seq` and `abaw_feats`.
    """
    global _shows_progress
    _shows_progress = True
    for package in ("abaw_seq", "abaw_feats"):
        logger = logging.getLogger(package)
        if not any(isinstance(handler, _ToTerminal) for handler in logger.handlers):
            logger.addHandler(_ToTerminal())
            logger.setLevel(logging.INFO)


def say(text: str) -> None:
    """Print one line to standard error, where everything goes that is not a result."""
    click.echo(visible(text), err=True)


def print_result(text: object) -> None:
    """Print a result to standard output."""
    click.echo(visible(text))


class _OneLineErrors(click.Command):
    """A command whose errors are one line each; tracebacks appear with `--debug` alone."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        args = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in args
        args = [arg for arg in args if arg != "--debug"]
        show_messages()
        with ending_signals():
            try:
                code = super().main(args, prog_name, **{**extra, "standalone_mode": False})
                sys.stdout.flush()
            except (click.Abort, KeyboardInterrupt):  # click turns the second into the first
                say("interrupted: what was finished is kept")
                code = 130
            except (Exception, SystemExit) as error:
                code = self._failed(error, debug=debug)
        sys.exit(code if isinstance(code, int) else 0)

    def _failed(self, error: Exception | SystemExit, *, debug: bool) -> int:
        """The exit code for what ended the command, of which one line tells."""
        if is_received():
            raise error
        if isinstance(error, BrokenPipeError | SystemExit):  # click exits where a pipe is closed
            leave_if_nobody_reads()
        if debug or isinstance(error, SystemExit):
            raise error
        message, code = _explain(error)
        say(f"error: {message}")
        return code


class ManyValues(click.Command):
    """A command whose repeatable options take several values at once: `--feats a b`, `--set x=1 y=2`.

    In a command that also takes arguments by position, these must come first: `predict RUN --feats a b`. After
    an option they would be taken for its values, so that there each option takes one value.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options_first = bool(args) and args[0].startswith("-")
        if options_first and any(isinstance(parameter, click.Argument) for parameter in self.params):
            return super().parse_args(ctx, args)
        repeatable = {
            name
            for option in self.params
            if isinstance(option, click.Option) and option.multiple
            for name in option.opts
        }
        spread: list[str] = []
        current, values = "", 0
        for arg in args:
            if arg.startswith("-") and arg != "-":
                name, _, value = arg.partition("=")
                current, values = (name, int(bool(value))) if name in repeatable else ("", 0)
            elif current:
                if values:
                    spread.append(current)
                values += 1
            spread.append(arg)
        return super().parse_args(ctx, spread)


class OneLineCommand(_OneLineErrors, ManyValues):
    """A stand-alone command with one-line errors."""


class OneLineGroup(_OneLineErrors, click.Group):
    """A group of verbs with one-line errors."""

    command_class = ManyValues


def many(*names: str, help: str, metavar: str = "PATH...", **settings: Any) -> Callable:
    """An option that may be repeated, or be followed by several values."""
    return click.option(*names, multiple=True, metavar=metavar, help=help, **{"type": PATH, **settings})


def out_option(help: str, **settings: Any) -> Callable:
    """The option for the file or folder that a command writes."""
    return click.option("-o", "--out", "--output", "out", type=PATH, help=help, **settings)


def config_option(example: str, name: str = "config_file") -> Callable:
    """The option for settings: a file, or the name of a config that is shipped."""
    words = f"Settings: a YAML file, or the name of a shipped config such as {example}; see the verb config."
    return click.option("--config", name, type=PATH, metavar="FILE|NAME", help=words)


feats_option = many(
    "--feats", required=True,
    help="Feature files; also HDF5 files with /<video>/feature, and folders of <video>.npy. Several are joined.",
)  # fmt: skip
resume_option = click.option("--resume", is_flag=True, help="Go on with an interrupted run after its last whole epoch.")
set_option = many("--set", "overrides", type=str, metavar="KEY=VALUE...", help="Change single settings.")
device_option = click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]", help="Where to compute."
)


def _explain(error: Exception) -> tuple[str, int]:
    """(one line, exit code) for what ended a command."""
    if isinstance(error, AbawError):
        return _one_line(error), error.exit_code
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return error.format_message(), 2
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        where = context.command_path if context else "abaw"
        return f"{_one_line(error.format_message())} (see {where} --help)", 2
    if isinstance(error, OSError) and error.errno is not None:
        named = f"{error.filename}: " if error.filename else ""
        usage = error.errno in (errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOTDIR, errno.EROFS)
        return f"{named}{error.strerror or _one_line(error)}", 2 if usage else 1
    return f"{type(error).__name__}: {_one_line(error)} (run again with --debug for the traceback)", 1


def _one_line(error: object) -> str:
    return " ".join(visible(error).split()) or type(error).__name__


@contextmanager
def progress(label: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
    """Show how a long step advances: a bar with rate and time left, or plain lines off a terminal.

    Yields `advance(count=1, note="")`; `note` replaces the text shown behind the bar.

    >>> with progress("extract", total=2, unit="frames") as advance:
    ...     advance(2)
    """
    if not _shows_progress:
        yield lambda count=1, note="": None
    elif sys.stderr.isatty():
        yield from _bar(label, total, unit)
    else:
        yield from _lines(label, total, unit)


def _bar(label: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}  {{task.fields[rate]}}", markup=False),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=60) as bar:
        task = bar.add_task(visible_line(label), total=total, note="", rate="")
        started = time.monotonic()
        done = 0

        def advance(count: int = 1, note: str = "") -> None:
            nonlocal done
            done += count
            fields: dict[str, Any] = {"rate": _rate(done, started)} | ({"note": visible_line(note)} if note else {})
            bar.update(task, advance=count, **fields)

        yield advance


def _lines(label: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
    label = visible_line(label)
    started = last = time.monotonic()
    done = 0
    last_note = ""

    def advance(count: int = 1, note: str = "") -> None:
        nonlocal done, last, last_note
        done += count
        last_note = visible_line(note) or last_note
        now = time.monotonic()
        if now - last >= PLAIN_PROGRESS_SECONDS and done < total:
            last = now
            left = (now - started) / max(done, 1) * (total - done)
            say(f"{label}: {done}/{total} {unit}, {_rate(done, started)}, {left:.0f} s left {last_note}".rstrip())

    yield advance
    if done:
        seconds = time.monotonic() - started
        say(f"{label}: {done}/{total} {unit} in {seconds:.1f} s, {_rate(done, started)} {last_note}".rstrip())


def _rate(done: int, started: float) -> str:
    rate = done / max(time.monotonic() - started, 1e-9)
    return f"{rate:.0f}/s" if rate >= 10 else f"{rate:.2f}/s"


def print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print a table to standard output; the first column is left-aligned, the others right.

    A cell may have several lines, except in the first column, where names from outside stand.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()  # of Text, in which nothing is markup
    for k, name in enumerate(header):
        table.add_column(Text(visible_line(name)), justify="left" if k == 0 else "right", overflow="fold")
    for row in rows:
        first, *others = row
        cells = ["\n".join(map(visible_line, cell.split("\n"))) for cell in others]
        table.add_row(*map(Text, [visible_line(first), *cells]))
    width = None if sys.stdout.isatty() else 120
    print_result(title)
    Console(width=width).print(table)
