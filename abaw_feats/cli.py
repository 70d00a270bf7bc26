"""`abaw-extract` and `abaw-feats`: what is typed, turned into calls of the programs.

Only click is imported here; each command imports its program when it runs, so `--help` answers at once.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click

from abaw_seq.errors import UserError
from abaw_seq.terminal import OneLineCommand, OneLineGroup, print_table, progress, say

NEEDED = ("timm", "torchvision", "simplejpeg", "av", "PIL", "safetensors")
PRECISIONS = ["auto", "fp32", "bf16", "fp16"]
DTYPES = ["float16", "float32"]
PATHS = click.Path(path_type=Path)

config_option = click.option(
    "--config",
    type=PATHS,
    metavar="FILE|NAME",
    help="Settings: a YAML file, or a shipped config such as demo/mae (`abaw-feats config --list`).",
)


def require_feats() -> None:
    """Raise UserError, with the command to type, if the vision packages are not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{', '.join(missing)} not installed; type: pip install 'abaw[feats]'")


@click.command("abaw-extract", cls=OneLineCommand)
@click.option(
    "--backbone",
    "backbones",
    multiple=True,
    required=True,
    metavar="NAME...",
    help="Encoders: names of `abaw-feats backbones`, timm:MODEL, YAML files or run folders.",
)
@click.option(
    "--videos",
    multiple=True,
    required=True,
    type=PATHS,
    metavar="PATH...",
    help="Folders of video folders (cropped_aligned), video folders, video files, lists of these.",
)
@click.option("-o", "--out", type=PATHS, help="Feature file to write or add to.  [default: feats.h5]")
@click.option("--weights", multiple=True, metavar="NAME=FILE...", help="A backbone's weights, or NAME=random.")
@click.option(
    "--annotations",
    multiple=True,
    type=PATHS,
    metavar="PATH...",
    help="Official annotation files or folders: labels and splits go into the file.",
)
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Frames computed at once, on a CPU by each core.  [default: automatic]",
)
@click.option(
    "--precision",
    default="auto",
    show_default=True,
    type=click.Choice(PRECISIONS),
    help="Of the products. auto: bf16 where the hardware has it, else fp32. Features differ from fp32's by a "
    "cosine distance of at most 1.3e-4 (bf16) and 2.4e-5 (fp16) over the built-in encoders.",
)
@click.option("--dtype", type=click.Choice(DTYPES), help="Of the stored features.  [default: float16]")
@click.option("--shard", metavar="I/N", help="Extract only the I-th of N shares of the videos.")
@click.option("--strict", is_flag=True, help="Fail (exit code 1) if any frame could not be read.")
def extract(backbones, videos, out, weights, shard, **settings):
    """Write features of every frame of every video to one file.

    Run it again with the same -o to go on after an interruption, or to add videos, backbones or labels.
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


@click.group("abaw-feats", cls=OneLineGroup)
def main():
    """Demo data, training of encoders, and tools for feature files."""


@main.command()
@click.argument("out", type=PATHS)
@click.option("--videos", default=32, show_default=True, help="Number of videos with labels.")
@click.option("--frames", default=8000, show_default=True, help="Number of frames over all videos.")
@click.option("--seed", type=int, default=0, show_default=True)
def demo(out, videos, frames, seed):
    """Write generated face videos with annotations, laid out like Aff-Wild2, to the folder OUT."""
    require_feats()
    from abaw_feats.demo import generate_demo

    with progress("demo", frames, "frames") as advance:
        made = generate_demo(out, videos=videos, frames=frames, seed=seed, advance=advance)
    say(f"{out}: {sum(made.videos.values())} videos, {sum(made.frames.values())} frames; see {made.contact_sheet}")


@main.command()
@config_option
@click.option("--videos", multiple=True, required=True, type=PATHS, metavar="PATH...", help="Frames to learn from.")
@click.option("--out", type=PATHS, required=True, help="Run folder to write: an encoder, ready to extract with.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE...", help="Change one setting.")
@click.option("--resume", is_flag=True, help="Go on after the last whole epoch.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]")
def pretrain(config, videos, out, overrides, resume, device):
    """Train a masked autoencoder on frames without labels."""
    require_feats()
    from abaw_feats.learning import pretrain as program
    from abaw_seq.config import load

    settings = load(program.PretrainConfig, config, overrides)
    program.pretrain(settings, videos, out, device=device, resume=resume)


@main.command()
@config_option
@click.option("--videos", multiple=True, type=PATHS, metavar="PATH...", help="Frames, instead of the config's.")
@click.option("--annotations", multiple=True, type=PATHS, metavar="PATH...", help="Their labels.")
@click.option("--tasks", multiple=True, metavar="TASK...", help="Of valence, arousal, expression, au.  [default: all]")
@click.option("--out", type=PATHS, required=True, help="Run folder to write: an encoder, ready to extract with.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE...", help="Change one setting.")
@click.option("--resume", is_flag=True, help="Go on after the last whole epoch.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]")
def finetune(config, videos, annotations, tasks, out, overrides, resume, device):
    """Train an encoder on labelled frames.

    Videos of the training split train, and so do labelled videos without a split; those of the validation split
    validate, and those of the test split are never used.
    """
    require_feats()
    from abaw_feats.learning import finetune as program
    from abaw_feats.learning.finetune_config import FinetuneConfig
    from abaw_seq.config import load

    chosen = [f"tasks=[{','.join(tasks)}]"] if tasks else []
    settings = load(FinetuneConfig, config, [*overrides, *chosen])
    program.finetune(settings, out, videos=videos, annotations=annotations, device=device, resume=resume)


@main.command("config")
@click.argument("name", required=False)
@click.option("--list", "listed", is_flag=True, help="List the kinds of config and the shipped configs.")
def show_config(name, listed):
    """Print every setting with its default and meaning, as YAML to edit and use.

    NAME is pretrain, finetune or backbone, or a shipped config such as demo/mae, or a file; without it all are listed.
    """
    require_feats()
    from abaw_seq.config.page import show

    kinds = {"pretrain": _pretrain_settings, "finetune": _finetune_settings, "backbone": _backbone}
    click.echo(show(None if listed else name, kinds))


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
    """List the backbones: size, input, cost per frame and where their weights are."""
    require_feats()
    from abaw_feats.backbones import ALIASES, describe_backbones

    also = {name: f" = {alias}" for alias, name in ALIASES.items()}
    header = ["backbone", "input", "features", "pooling", "million weights", "GFLOP", "weights found", "licence"]
    rows = []
    for row in describe_backbones():
        sizes = [str(row.size), str(row.dim), row.pooling, f"{row.parameters / 1e6:.1f}", f"{row.gflops:.1f}"]
        rows.append([row.name + also.get(row.name, ""), *sizes, row.weights, row.licence])
    print_table("Backbones", header, rows)
    click.echo("--backbone takes one of these, timm:<model>, a YAML file, or the folder of a pretrain or finetune run")


@main.command()
@click.argument("files", type=PATHS, nargs=-1, required=True)
@click.option("-o", "--out", type=PATHS, default="feats.h5", show_default=True)
def merge(files, out):
    """Join feature FILES of shards, or of several backbones, into one."""
    from abaw_feats.extraction.join import merge_files

    merge_files(files, out)


@main.command()
@click.argument("file", type=PATHS)
def info(file):
    """Show what a feature FILE holds."""
    from abaw_feats.extraction.info import show

    show(file)
