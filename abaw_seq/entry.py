"""Where the installed command begins: Ctrl-C is heard before the verbs are imported."""

from __future__ import annotations

import signal
from importlib import import_module
from typing import NoReturn

from abaw_seq.signals import ending_signals


def run(module: str, name: str, args: list[str] | None = None) -> NoReturn:
    """Run a click command, given by its place, on `args` or on what was typed."""
    try:
        with ending_signals():
            getattr(import_module(module), name)(args)
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is left that an exception could clean up
    raise AssertionError("a command ends by itself")


def main() -> NoReturn:
    """`abaw-seq`."""
    run("abaw_seq.cli", "main")
