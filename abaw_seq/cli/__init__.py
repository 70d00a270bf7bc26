"""`abaw-seq`: one short function per verb; heavy imports happen inside."""

from __future__ import annotations

from pathlib import Path

import click

from abaw_seq.cli.progressive import progressive
from abaw_seq.cli.results import evaluate, label, predict, report, submit
from abaw_seq.cli.searching import search
from abaw_seq.cli.training import crossval, distill, ensemble, train
from abaw_seq.terminal import HELP, OneLineGroup, print_result

VERBS = (train, distill, crossval, progressive, search, evaluate, predict, label, ensemble, submit, report)


@click.group(cls=OneLineGroup, context_settings=HELP, commands=VERBS)
@click.version_option(package_name="abaw")
def main() -> None:
    """Sequence models for valence, arousal, expressions and action units on cached features.

    Arguments come before options; options that may be repeated also take several values: --feats a.h5 b.h5.
    Every command takes --debug, which shows a traceback instead of one line.
    """


@main.command("config")
@click.argument("name", required=False)
@click.option("--list", "listed", is_flag=True, help="List the kinds of config and the shipped configs.")
def show_config(name, listed) -> None:
    """Print every setting, with its default and meaning, as YAML.

    It can be edited and given to --config. NAME is train, ensemble, progressive or search, or a shipped config such
    as abaw4/gru, or a file; without it all are listed.
    """
    from abaw_seq.config.page import show

    kinds = {
        "train": _train_settings, "ensemble": _recipe, "progressive": _progressive_settings, "search": _search_settings,
    }  # fmt: skip
    print_result(show(None if listed else name, kinds))


def _train_settings(file: Path | None = None):
    from abaw_seq.config import load
    from abaw_seq.learn.settings import TrainConfig

    return load(TrainConfig, file)


def _progressive_settings(file: Path | None = None):
    from abaw_seq.experiments.progressive_config import ProgressiveConfig, load_progressive

    return load_progressive(file) if file else ProgressiveConfig({"va": {"tasks": ["valence", "arousal"]}})


def _search_settings(file: Path | None = None):
    from abaw_seq.config import load
    from abaw_seq.experiments.search_config import SearchConfig

    return load(SearchConfig, file or {"base": "abaw4/gru", "space": {"optim.lr": {"log": [1e-5, 1e-3]}}})


def _recipe(file: Path | None = None):
    from abaw_seq.experiments.recipe import Recipe, load_recipe

    return load_recipe(file) if file else Recipe(members=("abaw4/lstm", "abaw4/gru", "abaw4/transformer"))
