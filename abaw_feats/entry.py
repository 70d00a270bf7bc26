"""Where the installed commands begin; see `abaw_seq.entry`."""

from __future__ import annotations

from typing import NoReturn

from abaw_seq.entry import run


def main(args: list[str] | None = None) -> NoReturn:
    """`abaw-feats`."""
    run("abaw_feats.cli", "main", args)


def extract(args: list[str] | None = None) -> NoReturn:
    """`abaw-extract`."""
    run("abaw_feats.cli", "extract", args)
