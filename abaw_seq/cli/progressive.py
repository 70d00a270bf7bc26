"""`abaw-seq progressive`: separate models, their features, joint models, and how they compare."""

from __future__ import annotations

import click

from abaw_seq.cli.training import annotations_option, jobs_option
from abaw_seq.errors import UserError
from abaw_seq.terminal import (
    PATH,
    ManyValues,
    config_option,
    device_option,
    feats_option,
    print_result,
    say,
    set_option,
)


@click.command(cls=ManyValues)
@feats_option
@config_option("abaw7/progressive")
@set_option
@click.option("--run", type=PATH, required=True, help="Folder to write: run folders of all models, and results.md.")
@click.option("--until", type=click.Choice(["separate", "features", "joint", "comparison"]), default="comparison",
              show_default=True, help="The last step to do.")  # fmt: skip
@annotations_option
@jobs_option
@device_option
def progressive(feats, config_file, overrides, run, until, annotations, jobs, device) -> None:
    """Train a model per task, then joint models on their features.

    The steps are: separate models; their features, as a feature file; joint models, which fuse these features; the
    comparison. Called again it goes on where it was interrupted, and does nothing twice. --set changes all models, or,
    as in --set joint.epochs=5, those of a section.
    """
    if config_file is None:
        raise UserError("name what to train: --config FILE, or a shipped config such as abaw7/progressive")
    from abaw_seq import config as configs
    from abaw_seq.data.annotations import read_annotations
    from abaw_seq.engine.device import find_device
    from abaw_seq.experiments.progressive import progress_through
    from abaw_seq.experiments.progressive_config import load_progressive

    settings = load_progressive(configs.find(config_file), overrides)
    labels = read_annotations(*annotations) if annotations else None
    table = progress_through(
        settings, list(feats), run, device=find_device(device), annotations=labels, jobs=jobs, until=until
    )
    if table:
        print_result(table)
    else:
        say(f"{run}: done up to the step {until}; without --until the others follow")
