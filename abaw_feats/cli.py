"""`abaw-extract` and `abaw-feats`: what is typed, turned into calls of the programs.

Only click is imported here; each command imports its program when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path

import click

from abaw_feats.vision_packages import require_feats
from abaw_seq.errors import UserError
from abaw_seq.terminal import (
    HELP,
    PATH,
    OneLineCommand,
    OneLineGroup,
    config_option,
    device_option,
    many,
    out_option,
    print_result,
    print_table,
    progress,
    resume_option,
    say,
    set_option,
)

PRECISIONS = ["auto", "fp32", "bf16", "fp16"]
DTYPES = ["float16", "float32"]
run_option = click.option(
    "--run", "-o", "--out", "run", type=PATH, required=True,
    help="Run folder to write; abaw-extract takes it as a backbone.",
)  # fmt: skip


@click.command("abaw-extract", cls=OneLineCommand, context_settings=HELP)
@many(
    "--backbone", "backbones", type=str, required=True, metavar="NAME...",
    help="Encoders: names of `abaw-feats backbones`, timm:MODEL, YAML files, or run folders of pretrain and finetune.",
)  # fmt: skip
@many(
    "--videos", required=True,
    help="Folders of video folders (such as cropped_aligned), video folders, video files, or text files of such paths.",
)  # fmt: skip
@out_option("Feature file to write or add to.  [default: feats.h5]")
@many(
    "--weights", type=str, metavar="NAME=FILE...",
    help="Weight file of a backbone, NAME=FILE:SET for one of several sets of weights in it, or NAME=random.",
)  # fmt: skip
@many("--annotations", help="Annotation files or folders; labels and splits go into the feature file.")
@device_option
@click.option(
    "--batch-size", type=click.IntRange(min=1), metavar="N",
    help="Frames computed at once; on a CPU, by each core.  [default: automatic]",
)  # fmt: skip
@click.option(
    "--precision", default="auto", show_default=True, type=click.Choice(PRECISIONS),
    help="Precision of the computation; auto: bf16 where the hardware has it, else fp32. The features of the built-in "
    "encoders differ from those of fp32 by a cosine distance of at most 1.3e-4 (bf16) or 2.4e-5 (fp16).",
)  # fmt: skip
@click.option("--dtype", type=click.Choice(DTYPES), help="Precision of the stored features.  [default: float16]")
@click.option("--shard", metavar="I/N", help="Extract only the I-th of N shares of the videos.")
@click.option("--strict", is_flag=True, help="Fail (exit code 1) if any frame could not be read.")
def extract(backbones, videos, out, weights, shard, **settings):
    """Write features of every frame of every video to one file.

    Run it again with the same -o to go on after an interruption, or to add videos, backbones or labels. Videos whose
    images or video file have changed since are extracted again; those that were only copied or touched are not.
    """
    require_feats()
    from abaw_feats.extraction.extract import extract as run
    from abaw_feats.extraction.shard import parse_shard

    share = parse_shard(shard) if shard else None
    default = f"feats.{share[0]}-of-{share[1]}.h5" if share else "feats.h5"
    run(
        backbones=backbones,
        videos=videos,
        out=out or Path(default),
        weights=dict(_name_and_file(text) for text in weights),
        shard=share,
        **settings,
    )


def _name_and_file(text: str) -> tuple[str, str]:
    name, _, file = text.partition("=")
    if not name or not file:
        raise UserError(f"--weights {text}: expected NAME=FILE, or NAME=random")
    return name, file


@click.group("abaw-feats", cls=OneLineGroup, context_settings=HELP)
@click.version_option(package_name="abaw")
def main():
    """Demo data, training of encoders, and tools for feature files.

    Options that may be repeated also take several values: --videos a b. Every command takes --debug, which shows a
    traceback instead of one line.
    """


@main.command()
@click.argument("out", type=PATH)
@click.option("--count", type=int, default=32, show_default=True, metavar="N", help="Number of videos with labels.")
@click.option(
    "--total-frames", type=int, default=8000, show_default=True, metavar="N", help="Number of frames of all videos."
)
@click.option(
    "--seed", type=int, default=0, show_default=True, metavar="N", help="Another seed draws other people and videos."
)
@click.option("--videos", "old_count", type=int, hidden=True)
@click.option("--frames", "old_total", type=int, hidden=True)
def demo(out, count, total_frames, seed, old_count, old_total):
    """Write generated face videos and their annotations.

    The folder OUT is laid out like Aff-Wild2.
    """
    require_feats()
    from abaw_feats.demo import generate_demo

    count, total_frames = old_count or count, old_total or total_frames
    with progress("demo", total_frames, "frames") as advance:
        made = generate_demo(out, count=count, total_frames=total_frames, seed=seed, advance=advance)
    say(f"{out}: {sum(made.videos.values())} videos, {sum(made.frames.values())} frames; see {made.contact_sheet}")


@main.command()
@config_option("demo/mae")
@many("--videos", required=True, help="Frames to learn from: folders of images at any depth, or video files.")
@run_option
@set_option
@resume_option
@device_option
def pretrain(config_file, videos, run, overrides, resume, device):
    """Train an encoder without labels, as a masked autoencoder."""
    require_feats()
    from abaw_feats.learning import pretrain as program
    from abaw_seq.config import load

    settings = load(program.PretrainConfig, config_file, overrides)
    program.pretrain(settings, videos, run, device=device, resume=resume)


@main.command()
@config_option("demo/iresnet")
@many("--videos", help="Frames to learn from, in place of the sources of the config.")
@many("--annotations", help="Annotation files or folders of these frames.")
@many("--tasks", type=str, metavar="TASK...", help="Some of valence, arousal, expression, au.  [default: all]")
@run_option
@set_option
@resume_option
@device_option
def finetune(config_file, videos, annotations, tasks, run, overrides, resume, device):
    """Train an encoder on labelled frames.

    Videos of the training split train, and so do labelled videos without a split; those of the validation split
    validate, and those of the test split are never used.
    """
    require_feats()
    from abaw_feats.learning import finetune as program
    from abaw_feats.learning.finetune_config import FinetuneConfig
    from abaw_seq.config import load

    chosen = [f"tasks=[{','.join(tasks)}]"] if tasks else []
    settings = load(FinetuneConfig, config_file, [*overrides, *chosen])
    program.finetune(settings, run, videos=videos, annotations=annotations, device=device, resume=resume)


@main.command("config")
@click.argument("name", required=False)
@click.option("--list", "listed", is_flag=True, help="List the kinds of config and the shipped configs.")
def show_config(name, listed):
    """Print every setting, with its default and meaning, as YAML.

    It can be edited and given to --config. NAME is pretrain, finetune or backbone, or a shipped config such as
    demo/mae, or a file; without it all are listed.
    """
    require_feats()
    from abaw_seq.config.page import show

    kinds = {"pretrain": _pretrain_settings, "finetune": _finetune_settings, "backbone": _backbone}
    print_result(show(None if listed else name, kinds))


def _pretrain_settings(file: Path | None = None):
    from abaw_feats.learning.pretrain import PretrainConfig
    from abaw_seq.config import load

    return load(PretrainConfig, file)


def _finetune_settings(file: Path | None = None):
    from abaw_feats.learning.finetune_config import FinetuneConfig
    from abaw_seq.config import load

    return load(FinetuneConfig, file)


def _backbone(file: Path | None = None):
    from abaw_feats.backbones import find_spec

    return find_spec(file or "mae")


@main.command()
def backbones():
    """List the backbones, their cost, and where their weights are."""
    require_feats()
    from abaw_feats.backbones import ALIASES, describe_backbones

    also = {name: f" = {alias}" for alias, name in ALIASES.items()}
    header = ["backbone", "input", "features", "pooling", "million weights", "GFLOP", "weights", "licence"]
    rows = []
    for row in describe_backbones():
        sizes = [str(row.size), str(row.dim), row.pooling, f"{row.parameters / 1e6:.1f}", f"{row.gflops:.1f}"]
        rows.append([row.name + also.get(row.name, ""), *sizes, row.weights, row.licence])
    print_table("Backbones", header, rows)
    print_result(
        "--backbone takes one of these, timm:<model>, a YAML file, the name of a shipped one such as "
        "backbones/mae_abaw7, or the folder of a pretrain or finetune run"
    )


@main.command()
@click.argument("files", type=PATH, nargs=-1, required=True)
@out_option("Feature file to write.", default="feats.h5", show_default=True)
def merge(files, out):
    """Join feature FILES, of shards or of several backbones."""
    from abaw_feats.extraction.join import merge_files

    merge_files(files, out)


@main.command()
@click.argument("file", type=PATH)
def info(file):
    """Show the backbones, videos and labels of a feature FILE."""
    from abaw_feats.extraction.info import describe_file

    for table in describe_file(file):
        print_table(*table)
