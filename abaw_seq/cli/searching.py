"""`abaw-seq search`: settings, tried by several workers."""

from __future__ import annotations

from pathlib import Path

import click

from abaw_seq.terminal import PATH, ManyValues, config_option, device_option, feats_option, print_result, set_option


@click.command(cls=ManyValues)
@feats_option
@config_option("abaw7/search")
@set_option
@click.option("--run", type=PATH, required=True, help="Run folder to write: the trials and what they showed.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, metavar="N",
              help="How many models train at the same time, each in a process of its own.")  # fmt: skip
@click.option(
    "--storage",
    metavar="URL",
    help="Database that holds the trials, when several machines share a search.  [default: a file in --run]",
)
@device_option
def search(feats, config_file, overrides, run, workers, storage, device) -> None:
    """Search for the best settings among those that a config names.

    Called again it goes on where it was interrupted, or to more trials (--set trials=80). It ends with a table, a
    config for each task's best trial, and the ensemble of these trials.
    """
    from abaw_seq import config as configs
    from abaw_seq.errors import UserError

    if config_file is None:
        raise UserError("name what to search: --config FILE, or a shipped config such as abaw7/search")
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UserError('searching needs Optuna: pip install "abaw[search]"') from None
    from abaw_seq.experiments.search import search as run_search
    from abaw_seq.experiments.search_config import SearchConfig
    from abaw_seq.experiments.search_results import results_table

    settings = configs.load(SearchConfig, config_file, overrides)
    folder = configs.find(config_file).parent
    summary = run_search(settings, folder, list(feats), Path(run), device=device, workers=workers, storage=storage)
    print_result(results_table(summary))
