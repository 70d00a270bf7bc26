"""`abaw-seq`: one short function per verb; heavy imports happen inside."""

from __future__ import annotations

from pathlib import Path

import click

from abaw_seq.errors import UserError
from abaw_seq.terminal import OneLineGroup, say

PATH = click.Path(path_type=Path)
feats_option = click.option(
    "--feats", "feats", type=PATH, multiple=True, required=True, help="Feature file; repeat to join several."
)
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")


@click.group(cls=OneLineGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="abaw")
def main() -> None:
    """Sequence models for valence, arousal, expressions and action units on cached features.

    Any command takes --debug for a traceback instead of one line.
    """


@main.command()
@feats_option
@click.option("--config", "config_file", type=PATH, help="Settings (YAML); see configs/.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one setting; repeats.")
@click.option("--run", type=PATH, help="Run folder [default: runs/<config or encoder>].")
@click.option("--resume", is_flag=True, help="Go on from the last whole epoch.")
@click.option("--labels", type=PATH, multiple=True, help="Annotations, instead of those in the feature file.")
@device_option
def train(feats, config_file, overrides, run, resume, labels, device) -> None:
    """Train a multi-task head; validates each epoch and keeps the best."""
    from abaw_seq import config as configs
    from abaw_seq.learn.settings import TrainConfig

    settings = configs.load(TrainConfig, config_file, overrides)
    run = run or Path("runs") / (config_file.stem if config_file else settings.model.encoder.kind)
    if (run / "last.pt").exists() and not resume:
        raise UserError(f"{run} already holds a run; add --resume to go on with it, or name another with --run")

    from abaw_seq.learn.train import train as train_run
    from abaw_seq.results.predict import predict_corpus, save_results
    from abaw_seq.results.tables import print_scores

    device = _device(device)
    corpus = _corpus(feats, settings.backbones or None, labels)
    result = train_run(settings, corpus, run, device=device, resume=resume)
    if not (videos := corpus.in_split("val")):
        say(f"{run}: no validation videos, so nothing was scored; the last epoch was kept")
        return
    predictions = predict_corpus(result.model, settings, corpus.to(device), videos)
    scores = save_results(run, predictions, epoch=result.epoch)
    print_scores(f"{run}: validation, epoch {result.epoch}", {run.name: scores["untuned"]})


@main.command()
@click.argument("runs", type=PATH, nargs=-1)
@click.option("--predictions", type=PATH, multiple=True, help="Prediction or submission file.")
@click.option("--annotations", type=PATH, multiple=True, help="Official annotations to score against.")
@click.option("--edition", default="mtl", show_default=True, help="mtl, va, expr, au, expr2020 or au2020.")
@click.option("--summary", is_flag=True, help="One row per run, no classes.")
@click.option("--constant", is_flag=True, help="Add what the best constant prediction scores.")
@click.option("--title", default="Scores", help="Title of the table.")
def evaluate(runs, predictions, annotations, edition, summary, constant, title) -> None:
    """Score runs and prediction files (RUNS are run folders)."""
    from abaw_seq.results.evaluate import best_constant_scores, features_of, score_files
    from abaw_seq.results.tables import print_comparison, print_scores

    scores = score_files([*runs, *predictions], annotations, edition=edition)
    if constant:
        scores["best constant"] = best_constant_scores((*runs, *predictions)[0])
    (print_comparison if summary else print_scores)(title, scores)
    for line in features_of(list(runs)):
        click.echo(line)


@main.command()
@click.argument("run", type=PATH)
@feats_option
@click.option("-o", "--output", type=PATH, required=True, help="Path without suffix: writes .csv and .h5.")
@device_option
def predict(run, feats, output, device) -> None:
    """Per-frame predictions of every video in feature files, as CSV and HDF5."""
    from abaw_seq.data.corpus import load_corpus
    from abaw_seq.results.predict import check_features, load_run, predict_corpus
    from abaw_seq.results.prediction_file import write_csv, write_predictions

    device = _device(device)
    model, config, backbones = load_run(run, device)
    corpus = load_corpus(list(feats), backbones=tuple(backbones))
    check_features(run, backbones, corpus)
    found = predict_corpus(model, config, corpus.to(device), list(range(len(corpus.names))))
    stem = output.with_suffix("") if output.suffix in (".csv", ".h5") else output
    write_predictions(stem.with_name(stem.name + ".h5"), found)
    write_csv(stem.with_name(stem.name + ".csv"), found)
    say(f"{sum(len(v.frames) for v in found.values())} frames of {len(found)} videos -> {stem}.csv, {stem}.h5")


@main.command()
@feats_option
@click.option("--annotations", type=PATH, multiple=True, required=True, help="Official annotation files or folders.")
@click.option("-o", "--output", type=PATH, help="Write here instead of replacing the feature file.")
def label(feats, annotations, output) -> None:
    """Attach labels and splits to a feature file, aligned by frame number."""
    from abaw_seq.data.annotations import read_annotations
    from abaw_seq.data.labelling import label_feature_file
    from abaw_seq.terminal import print_table

    if len(feats) != 1:
        raise UserError("label takes one --feats file at a time")
    found = read_annotations(*annotations)
    header, rows = label_feature_file(feats[0], found, output or feats[0])
    print_table("Annotations", ["", "count"], [list(map(str, row)) for row in found.summary_rows()])
    print_table(f"Labels in {output or feats[0]}", header, rows)


@main.command()
@click.argument("runs", type=PATH, nargs=-1, required=True)
@click.option("--run", type=PATH, required=True, help="Folder for the joined predictions and scores.")
def ensemble(runs, run) -> None:
    """Average the predictions of runs or prediction files (RUNS)."""
    from abaw_seq.results.ensemble import average_predictions
    from abaw_seq.results.predict import save_results
    from abaw_seq.results.prediction_file import read_predictions
    from abaw_seq.results.tables import print_scores

    joined = average_predictions({str(member): read_predictions(member) for member in runs})
    run.mkdir(parents=True, exist_ok=True)
    scores = save_results(run, joined, epoch=None)
    print_scores(f"{run}: average of {len(runs)}", {run.name: scores["untuned"]})


@main.command()
@click.argument("runs", type=PATH, nargs=-1, required=True)
@click.option("-o", "--output", type=PATH, help="Folder for report.html [default: the first run].")
@click.option("--frames", type=PATH, help="The cropped_aligned folder, to show the faces.")
def report(runs, output, frames) -> None:
    """Curves, confusion matrix, action units and a page to scrub through the videos."""
    from abaw_seq.results.report import write_report

    click.echo(write_report(list(runs), output, frames_root=frames))


def _device(name: str):
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: not a device; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: no CUDA device on this machine; use --device cpu")
    return device


def _corpus(feats, backbones, labels):
    from abaw_seq.data.annotations import read_annotations
    from abaw_seq.data.corpus import load_corpus

    corpus = load_corpus(list(feats), backbones=backbones)
    return corpus.labelled(read_annotations(*labels)) if labels else corpus
