"""`abaw-seq`: one short function per verb; heavy imports happen inside."""

from __future__ import annotations

from pathlib import Path

import click

from abaw_seq.errors import UserError
from abaw_seq.terminal import OneLineGroup, say

PATH = click.Path(path_type=Path)
feats_option = click.option(
    "--feats",
    "feats",
    type=PATH,
    multiple=True,
    required=True,
    help="Feature file, HDF5 file with /<video>/feature, or folder of <video>.npy; repeat to join several.",
)
config_option = click.option(
    "--config",
    "config_file",
    type=PATH,
    metavar="FILE|NAME",
    help="Settings: a YAML file, or a shipped config such as abaw4/gru (`abaw-seq config --list`).",
)
set_option = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one setting; repeats.")
labels_option = click.option(
    "--labels", type=PATH, multiple=True, help="Annotations, instead of those in the feature file."
)
raw_option = click.option("--raw", is_flag=True, help="Leave out the run's postprocess.yaml.")
memory_option = click.option(
    "--memory",
    type=click.Choice(["auto", "device", "host", "file"]),
    default="auto",
    show_default=True,
    help="Where the features are while training; auto: the first of device, host memory and file with room.",
)
jobs_option = click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Models trained at a time, each with its share of the CPU's threads, all on one copy of the features.",
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
@config_option
@set_option
@click.option("--run", type=PATH, help="Run folder [default: runs/<config or encoder>].")
@click.option("--resume", is_flag=True, help="Go on from the last whole epoch.")
@labels_option
@memory_option
@device_option
def train(feats, config_file, overrides, run, resume, labels, memory, device) -> None:
    """Train a multi-task head; validates each epoch and keeps the best."""
    from abaw_seq import config as configs
    from abaw_seq.learn.settings import TrainConfig
    from abaw_seq.run_folder import check_unused

    settings = configs.load(TrainConfig, config_file, overrides)
    run = run or Path("runs") / (config_file.stem if config_file else settings.model.encoder.kind)
    check_unused(run, resume=resume)

    from abaw_seq.engine.device import find_device
    from abaw_seq.learn.train import train as train_run
    from abaw_seq.results.tables import print_scores

    device = find_device(device)
    corpus = _corpus(feats, settings.backbones or None, labels, device, memory)
    result = train_run(settings, corpus, run, device=device, resume=resume)
    if not result.predictions:
        say(f"{run}: no validation videos, so nothing was scored; the last epoch was kept")
        return
    print_scores(f"{run}: validation, epoch {result.epoch}", {run.name: result.scores["untuned"]})


@main.command()
@feats_option
@config_option
@set_option
@click.option("--folds", default="5", show_default=True, metavar="K|FILE", help="How many, or a file of folds.")
@click.option("--run", type=PATH, required=True, help="Folder for folds.yaml, a run per fold, and all together.")
@click.option("--resume", is_flag=True, help="Pass over finished folds, go on with an interrupted one.")
@click.option("--write-only", is_flag=True, help="Write folds.yaml and train nothing.")
@labels_option
@memory_option
@jobs_option
@device_option
def crossval(feats, config_file, overrides, folds, run, resume, write_only, labels, memory, jobs, device) -> None:
    """Train the official split and K folds by source video; scores of each and of all together."""
    from abaw_seq import config as configs
    from abaw_seq.data.folds import FOLD_HEADER, fold_rows
    from abaw_seq.engine.device import find_device
    from abaw_seq.experiments.crossval import choose_folds, crossvalidate, fold_table, store_folds
    from abaw_seq.learn.settings import TrainConfig
    from abaw_seq.results.tables import print_comparison
    from abaw_seq.terminal import print_table

    settings, device = configs.load(TrainConfig, config_file, overrides), find_device(device)
    corpus = _corpus(feats, settings.backbones or None, labels, device, memory)
    chosen = choose_folds(corpus, folds)
    print_table("Folds", FOLD_HEADER, fold_rows(chosen, corpus.video_labels()))
    if write_only:
        click.echo(store_folds(run, chosen))
        return
    result = crossvalidate(settings, corpus, chosen, run, device=device, resume=resume, jobs=jobs)
    print_comparison(f"{run}: {len(chosen)} folds", fold_table(result))


@main.command()
@click.argument("runs", type=PATH, nargs=-1)
@click.option("--predictions", type=PATH, multiple=True, help="Prediction or submission file, or folder of these.")
@click.option("--annotations", type=PATH, multiple=True, help="Official annotations to score against.")
@click.option("--edition", default="mtl", show_default=True, help="mtl, va, expr, au, expr2020 or au2020.")
@click.option("--split", help="Only videos of this split: train, val or test.")
@click.option("--bootstrap", "resamples", type=click.IntRange(0), default=0, metavar="N",
              help="Add 95 % intervals from N drawings of the videos.")  # fmt: skip
@click.option("--summary", is_flag=True, help="One row per run, no classes.")
@click.option("--constant", is_flag=True, help="Add what the best constant prediction scores.")
@click.option("--title", default="Scores", help="Title of the table.")
@click.option("--fit", is_flag=True, help="Fit smoothing, thresholds and biases of RUNS on their labels.")
@click.option("--fit-on", type=PATH, help="Fit them on these predictions instead, such as out-of-fold ones.")
def evaluate(
    runs, predictions, annotations, edition, split, resamples, summary, constant, title, fit, fit_on
) -> None:  # fmt: skip
    """Score runs, prediction files and submissions (RUNS are run folders).

    With --fit each run gets a postprocess.yaml, which predict and submit apply, and its tuned score
    stands beside the untuned one.
    """
    if fit or fit_on:
        _fit_runs(runs, fit_on)
        return
    from abaw_seq.results.evaluate import features_of, score_files
    from abaw_seq.results.tables import print_comparison, print_scores

    found = score_files(
        [*runs, *predictions], annotations, edition=edition, split=split, resamples=resamples, constant=constant
    )
    (print_comparison if summary else print_scores)(title, found.scores)
    for note in found.notes:
        say(note)
    for line in features_of(list(runs)):
        click.echo(line)


@main.command()
@click.argument("run", type=PATH)
@feats_option
@click.option("-o", "--output", type=PATH, required=True, help="Path without suffix: writes .csv and .h5.")
@raw_option
@click.option("--checkpoint", default="best.pt", show_default=True, help="Which one of the run, such as best_au.pt.")
@device_option
def predict(run, feats, output, raw, checkpoint, device) -> None:
    """Per-frame predictions of every video in feature files, as CSV and HDF5.

    RUN is a run folder, an ensemble (its members predict) or a cross-validation (the mean of its folds).
    """
    from abaw_seq.data.prediction_file import write_groups
    from abaw_seq.engine.device import find_device
    from abaw_seq.results.joined_runs import predict_run
    from abaw_seq.results.postprocess import postprocessed

    stem = output.with_suffix("") if output.suffix in (".csv", ".h5") else output
    found = predict_run(run, list(feats), find_device(device), checkpoint=checkpoint)
    frames, videos = write_groups(stem, (group if raw else postprocessed(run, group) for group in found))
    say(f"{frames} frames of {videos} videos -> {stem}.csv, {stem}.h5")


@main.command()
@feats_option
@click.option("--annotations", type=PATH, multiple=True, required=True, help="Official annotation files or folders.")
@click.option("-o", "--output", type=PATH, help="Write here instead of replacing the feature file.")
def label(feats, annotations, output) -> None:
    """Attach labels and splits to a feature file, aligned by frame number."""
    from abaw_seq.data.annotations import SUMMARY_HEADER, read_annotations
    from abaw_seq.data.labelling import label_feature_file
    from abaw_seq.terminal import print_table

    if len(feats) != 1:
        raise UserError("label takes one --feats file at a time")
    found = read_annotations(*annotations)
    header, rows = label_feature_file(feats[0], found, output or feats[0])
    print_table("Annotations", SUMMARY_HEADER, found.summary_rows())
    print_table(f"Labels in {output or feats[0]}", header, rows)


@main.command()
@click.argument("runs", type=PATH, nargs=-1)
@click.option("--run", type=PATH, required=True, help="Folder for the joined predictions and scores.")
@click.option("--method", type=click.Choice(["mean", "weighted", "greedy"]), default="mean", show_default=True,
              help="Weights of each task: equal, fitted, or by greedy selection, on the labels of RUNS.")  # fmt: skip
@click.option("--apply", "weights_of", type=PATH, help="Take the weights of this ensemble; RUNS are its members.")
@click.option("--config", "recipe", type=PATH, metavar="FILE|NAME",
              help="Train the members of this recipe first, on --feats.")  # fmt: skip
@click.option("--feats", type=PATH, multiple=True, help="Feature file for --config; repeat to join several.")
@set_option
@jobs_option
@device_option
def ensemble(runs, run, method, weights_of, recipe, feats, overrides, jobs, device) -> None:
    """Join the predictions of runs or raw prediction files (RUNS), task by task.

    With --config a recipe, such as abaw4/ensemble, trains the members, each with several seeds.
    """
    from abaw_seq.engine.device import find_device
    from abaw_seq.results.joined_runs import join_runs
    from abaw_seq.results.tables import print_comparison, print_scores

    if recipe is not None:
        _follow_recipe(recipe, overrides, runs, feats, run, find_device(device), jobs)
        return
    if not runs:
        raise UserError("nothing to join: name run folders or prediction files, or --config RECIPE --feats FILE")
    scores = join_runs(list(runs), run, method=method, weights_of=weights_of)
    if not scores:
        say(f"{run}: {len(runs)} predictions joined; they carry no labels, so nothing was scored")
        return
    (print_scores if len(scores) == 1 else print_comparison)(f"{run}: {len(runs)} members", scores)


@main.command()
@click.argument("source", type=PATH, required=False)
@click.option("--list", "listed", type=PATH, help="Test list or template; or, for a file per video, the videos.")
@click.option("--lengths", type=PATH, help="Frames per video, for a file per video: lines `video,frames`.")
@click.option("--edition", help="mtl, va, expr, au, expr2020 or au2020; a template tells it by itself.")
@click.option("--fill", type=click.Choice(["nearest", "interpolate"]), default="nearest", show_default=True,
              help="Where valence and arousal of frames without a prediction come from.")  # fmt: skip
@click.option("-o", "--output", type=PATH, help="File to write, or folder for a file per video.")
@click.option("--check", type=PATH, metavar="FILE", help="Only check this submission.")
@raw_option
def submit(source, listed, lengths, edition, fill, output, check, raw) -> None:
    """Write the official submission from a run or prediction file (SOURCE), and check it."""
    from abaw_seq.data.prediction_file import read_predictions
    from abaw_seq.results.submission.submit import checked, predictions_to_submit, wanted_rows, write_checked

    wanted = wanted_rows(listed, lengths, edition)
    if check is not None:
        click.echo(f"{check}: {checked(check, wanted):,} rows, as {wanted.source} asks for")
        return
    if source is None or output is None:
        raise UserError("submit takes a run or prediction file and -o FILE, or --check FILE")
    found = read_predictions(source) if raw else predictions_to_submit(source)
    click.echo(write_checked(output, wanted, found, fill=fill))


@main.command("config")
@click.argument("name", required=False)
@click.option("--list", "listed", is_flag=True, help="List the kinds of config and the shipped configs.")
def show_config(name, listed) -> None:
    """Print every setting with its default and meaning, as YAML to edit and use.

    NAME is train or ensemble, or a shipped config such as abaw4/gru, or a file; without it all are listed.
    """
    from abaw_seq.config.page import show

    click.echo(show(None if listed else name, {"train": _train_settings, "ensemble": _recipe}))


@main.command()
@click.argument("runs", type=PATH, nargs=-1, required=True)
@click.option("-o", "--output", type=PATH, help="Folder for report.html [default: the first run].")
@click.option("--frames", type=PATH, help="The cropped_aligned folder, to show the faces.")
def report(runs, output, frames) -> None:
    """Curves, confusion matrix, action units and a page to scrub through the videos."""
    from abaw_seq.results.report.write import write_report

    click.echo(write_report(list(runs), output, frames_root=frames))


def _fit_runs(runs, fit_on) -> None:
    from abaw_seq.results.postprocess import fit_run
    from abaw_seq.results.tables import print_comparison

    if not runs:
        raise UserError("--fit needs run folders, in which it stores postprocess.yaml")
    table = {}
    for run in runs:
        scores = fit_run(run, fit_on)
        table[f"{run.name}, untuned"] = scores["untuned"]
        table[f"{run.name}, tuned on {scores['tuned_on']}"] = scores["tuned"]
        if scores["cross_fitted"]:
            table[f"{run.name}, each half tuned on the other"] = scores["cross_fitted"]
    print_comparison("Untuned and tuned scores", table)


def _train_settings(file: Path | None = None):
    from abaw_seq.config import load
    from abaw_seq.learn.settings import TrainConfig

    return load(TrainConfig, file)


def _recipe(file: Path | None = None):
    from abaw_seq.experiments.recipe import Recipe, load_recipe

    return load_recipe(file) if file else Recipe(members=("abaw4/lstm", "abaw4/gru", "abaw4/transformer"))


def _follow_recipe(recipe_file, overrides, runs, feats, run, device, jobs) -> None:
    from abaw_seq.config import find
    from abaw_seq.experiments.recipe import follow, load_recipe

    if runs or not feats:
        raise UserError("--config trains its own members: give --feats FILE and no RUNS")
    recipe_file = find(recipe_file)
    recipe = load_recipe(recipe_file, overrides)
    click.echo(follow(recipe, recipe_file.parent, list(feats), run, device=device, jobs=jobs))


def _corpus(feats, backbones, labels, device, memory):
    from abaw_seq.data.annotations import read_annotations
    from abaw_seq.data.corpus import load_corpus
    from abaw_seq.data.labelling import ALIGNMENT_HEADER, alignment_rows

    annotations = read_annotations(*labels) if labels else None
    corpus = load_corpus(list(feats), backbones=backbones, annotations=annotations, device=device, memory=memory)
    if annotations is not None:
        held = {name: video.frames for name, video in corpus.video_labels().items()}
        for row in alignment_rows(held, annotations):
            say("labels: " + ", ".join(f"{name} {count}" for name, count in zip(ALIGNMENT_HEADER, row, strict=True)))
    return corpus
