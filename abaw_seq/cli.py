"""`abaw-seq`: one short function per verb; heavy imports happen inside."""

from __future__ import annotations

from pathlib import Path

import click

from abaw_seq.errors import UserError
from abaw_seq.terminal import (
    PATH,
    OneLineGroup,
    config_option,
    device_option,
    many,
    out_option,
    print_table,
    say,
    set_option,
)

FEATURES = "Feature files; also HDF5 files with /<video>/feature, and folders of <video>.npy. Several are joined."
EDITION = "Edition of the challenge: mtl, va, expr, au, expr2020 or au2020."
feats_option = many("--feats", required=True, help=FEATURES)
annotations_option = many(
    "--annotations", "--labels", "annotations", help="Annotation files or folders, in place of the labels in --feats."
)
resume_option = click.option("--resume", is_flag=True, help="Go on with an interrupted run after its last whole epoch.")
raw_option = click.option("--raw", is_flag=True, help="Predictions as the model makes them, not smoothed or tuned.")
memory_option = click.option(
    "--memory", type=click.Choice(["auto", "device", "host", "file"]), default="auto", show_default=True,
    help="Where the features stay while training; auto: the first of device, host memory and file with room.",
)  # fmt: skip
jobs_option = click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True, metavar="N",
    help="How many models train at the same time; they share the processor's cores and the features.",
)  # fmt: skip


@click.group(cls=OneLineGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="abaw")
def main() -> None:
    """Sequence models for valence, arousal, expressions and action units on cached features.

    Arguments come before options; options that may be repeated also take several values: --feats a.h5 b.h5.
    Every command takes --debug, which shows a traceback instead of one line.
    """


@main.command()
@feats_option
@config_option("abaw4/gru")
@set_option
@click.option("--run", type=PATH, help="Run folder to write.  [default: runs/<config or encoder>]")
@resume_option
@annotations_option
@memory_option
@device_option
def train(feats, config_file, overrides, run, resume, annotations, memory, device) -> None:
    """Train a multi-task head and keep its best epoch.

    Videos of the training split train, and so do labelled videos without a split; those of the validation split
    validate, and those of the test split are never used.
    """
    from abaw_seq import config as configs
    from abaw_seq.learn.settings import TrainConfig
    from abaw_seq.run_folder import check_unused

    settings = configs.load(TrainConfig, config_file, overrides)
    run = run or Path("runs") / (config_file.stem if config_file else settings.model.encoder.kind)
    check_unused(run, resume=resume)

    from abaw_seq.engine.device import find_device
    from abaw_seq.learn.train import train as train_run
    from abaw_seq.results.tables import all_scores

    device = find_device(device)
    corpus = _corpus(feats, settings.backbones or None, annotations, device, memory)
    result = train_run(settings, corpus, run, device=device, resume=resume)
    if not result.predictions:
        say(f"{run}: no validation videos, so nothing was scored; the last epoch was kept")
        return
    print_table(f"{run}: validation, epoch {result.epoch}", *all_scores({run.name: result.scores["untuned"]}))


@main.command()
@feats_option
@config_option("abaw4/gru")
@set_option
@click.option("--folds", default="5", show_default=True, metavar="K|FILE", help="Number of folds, or a file of folds.")
@click.option("--run", type=PATH, required=True, help="Folder to write: a run folder per fold, and their scores.")
@click.option("--resume", is_flag=True, help="Go on: finished folds are kept, an interrupted one continues.")
@click.option("--write-only", is_flag=True, help="Write the folds to folds.yaml and train nothing.")
@annotations_option
@memory_option
@jobs_option
@device_option
def crossval(feats, config_file, overrides, folds, run, resume, write_only, annotations, memory, jobs, device) -> None:
    """Train on the official split and on K folds, and score them.

    The scores are those of each fold and of all folds together. Parts of one source video are never divided between
    training and validation.
    """
    from abaw_seq import config as configs
    from abaw_seq.data.folds import FOLD_HEADER, fold_rows
    from abaw_seq.engine.device import find_device
    from abaw_seq.experiments.crossval import choose_folds, crossvalidate, fold_table, store_folds
    from abaw_seq.learn.settings import TrainConfig
    from abaw_seq.results.tables import comparison
    from abaw_seq.run_folder import check_unused

    settings, device = configs.load(TrainConfig, config_file, overrides), find_device(device)
    check_unused(run)
    corpus = _corpus(feats, settings.backbones or None, annotations, device, memory)
    chosen = choose_folds(corpus, folds)
    print_table("Folds", FOLD_HEADER, fold_rows(chosen, corpus.video_labels()))
    if write_only:
        click.echo(store_folds(run, chosen))
        return
    result = crossvalidate(settings, corpus, chosen, run, device=device, resume=resume, jobs=jobs)
    print_table(f"{run}: {len(chosen)} folds", *comparison(fold_table(result)))


@main.command()
@click.argument("runs", type=PATH, nargs=-1)
@many("--predictions", help="Prediction files, submissions, or folders of these.")
@many("--annotations", help="Annotation files or folders to score against, in place of stored labels.")
@click.option("--edition", default="mtl", show_default=True, metavar="NAME", help=EDITION)
@click.option("--split", metavar="NAME", help="Score only the videos of this split: train, val or test.")
@click.option("--bootstrap", "resamples", type=click.IntRange(0), default=0, metavar="N",
              help="Add 95 % confidence intervals from N bootstrap resamples of the videos.")  # fmt: skip
@click.option("--summary", is_flag=True, help="One row per run, without single classes.")
@click.option("--constant", is_flag=True, help="Add the scores of the best constant prediction.")
@click.option("--title", default="Scores", help="Title of the table.")
@click.option("--fit", is_flag=True, help="Fit smoothing, thresholds and biases of RUNS on their labels.")
@click.option("--fit-on", type=PATH, help="Fit them on these predictions instead, such as out-of-fold ones.")
def evaluate(
    runs, predictions, annotations, edition, split, resamples, summary, constant, title, fit, fit_on
) -> None:  # fmt: skip
    """Score run folders (RUNS), prediction files and submissions.

    With --fit each run gets a postprocess.yaml, which predict and submit apply; the scores before and after are
    shown.
    """
    from abaw_seq.results.evaluate import features_of, score_files
    from abaw_seq.results.tables import all_scores, comparison
    from abaw_seq.run_folder import holds_run

    if fit or fit_on:
        print_table("Untuned and tuned scores", *comparison(_fit_runs(runs, fit_on)))
        return
    for path in annotations:
        if holds_run(path):
            raise UserError(f"{path}: is a run, not annotations; name runs before the options")
    evaluation = score_files(
        [*runs, *predictions], annotations, edition=edition, split=split, resamples=resamples, constant=constant
    )
    print_table(title, *(comparison if summary else all_scores)(evaluation.scores))
    for note in evaluation.notes:
        say(note)
    for line in features_of(list(runs)):
        click.echo(line)


@main.command()
@click.argument("run", type=PATH)
@feats_option
@out_option("Path without suffix: writes OUT.csv and OUT.h5.", required=True)
@raw_option
@click.option("--checkpoint", metavar="NAME", help="Weights to use, such as best_au.pt.  [default: best.pt]")
@device_option
def predict(run, feats, out, raw, checkpoint, device) -> None:
    """Predict every frame of feature files, as CSV and HDF5.

    RUN is a run folder, an ensemble (its members predict) or a cross-validation (the mean of its folds).
    """
    from abaw_seq.data.prediction_file import write_groups
    from abaw_seq.engine.device import find_device
    from abaw_seq.files import check_output
    from abaw_seq.results.postprocess import postprocessed
    from abaw_seq.results.predict import predict_run
    from abaw_seq.run_folder import BEST

    stem = out.with_suffix("") if out.suffix in (".csv", ".h5") else out
    for suffix in (".csv", ".h5"):
        check_output(stem.with_name(stem.name + suffix))
    groups = predict_run(run, list(feats), find_device(device), checkpoint=checkpoint or BEST)
    frames, videos = write_groups(stem, (group if raw else postprocessed(run, group) for group in groups))
    say(f"{frames} frames of {videos} videos -> {stem}.csv, {stem}.h5")


@main.command()
@many("--feats", required=True, help="The feature file; features of another layout are converted.")
@many("--annotations", required=True, help="Annotation files or folders, in the official formats.")
@out_option("Feature file to write.  [default: replace the one of --feats]")
def label(feats, annotations, out) -> None:
    """Attach labels and splits to a feature file.

    They are matched by video and frame number.
    """
    from abaw_seq.data.annotations import SUMMARY_HEADER, read_annotations
    from abaw_seq.data.labelling import label_feature_file
    from abaw_seq.files import check_output

    if len(feats) != 1:
        raise UserError("label takes one --feats file at a time")
    if out:
        check_output(out)
    labels, out = read_annotations(*annotations), out or feats[0]
    header, rows = label_feature_file(feats[0], labels, out)
    print_table("Annotations", SUMMARY_HEADER, labels.summary_rows())
    print_table(f"Labels in {out}", header, rows)


@main.command()
@click.argument("runs", type=PATH, nargs=-1)
@click.option("--run", type=PATH, required=True, help="Run folder to write: joined predictions and their scores.")
@click.option("--method", type=click.Choice(["mean", "weighted", "greedy"]), default="mean", show_default=True,
              help="Weights of the members, for each task: equal, fitted, or by greedy selection.")  # fmt: skip
@click.option("--apply", "weights_of", type=PATH, help="Use the weights of this ensemble; RUNS are its members.")
@config_option("abaw4/ensemble", "recipe")
@many("--feats", help="Features on which --config trains its members.")
@set_option
@jobs_option
@device_option
def ensemble(runs, run, method, weights_of, recipe, feats, overrides, jobs, device) -> None:
    """Join the predictions of several runs, task by task.

    RUNS are run folders or prediction files. Weights are fitted on the labels that the predictions carry. With --config
    and --feats the members of a recipe, such as abaw4/ensemble, are trained first, each with several seeds.
    """
    from abaw_seq.engine.device import find_device
    from abaw_seq.results.ensemble import join_runs
    from abaw_seq.results.tables import all_scores, comparison

    if recipe is not None:
        _follow_recipe(recipe, overrides, runs, feats, run, find_device(device), jobs)
        return
    if not runs:
        raise UserError("nothing to join: name run folders or prediction files, or --config RECIPE --feats FILE")
    scores = join_runs(list(runs), run, method=method, weights_of=weights_of)
    if not scores:
        say(f"{run}: {len(runs)} predictions joined; they carry no labels, so nothing was scored")
        return
    print_table(f"{run}: {len(runs)} members", *(all_scores if len(scores) == 1 else comparison)(scores))


@main.command()
@click.argument("source", type=PATH, required=False)
@click.option("--list", "listed", type=PATH, help="The test set's list or template; or a list of its videos.")
@click.option("--lengths", type=PATH, help="Frames per video (lines `video,frames`), for one file per video.")
@click.option("--edition", metavar="NAME", help=EDITION + " A template names its own.")
@click.option("--fill", type=click.Choice(["nearest", "interpolate"]), default="nearest", show_default=True,
              help="Valence and arousal of frames without a prediction.")  # fmt: skip
@out_option("File to write, or folder for one file per video.")
@click.option("--check", type=PATH, metavar="FILE", help="Check this submission, and write nothing.")
@raw_option
def submit(source, listed, lengths, edition, fill, out, check, raw) -> None:
    """Write the official submission files, and check them.

    SOURCE is a run folder or a prediction file.
    """
    from abaw_seq.data.prediction_file import read_predictions
    from abaw_seq.files import check_output
    from abaw_seq.results.postprocess import read_postprocessed
    from abaw_seq.results.submission.checking import check_submission
    from abaw_seq.results.submission.wanted import wanted_rows
    from abaw_seq.results.submission.writing import write_checked

    wanted = wanted_rows(listed, lengths, edition)
    if check is not None:
        click.echo(f"{check}: {check_submission(check, wanted):,} rows, as {wanted.source} asks for")
        return
    if source is None or out is None:
        raise UserError("submit takes a run or prediction file and -o FILE, or --check FILE")
    for name in wanted.files:
        check_output(out / name)
    predictions = read_predictions(source) if raw else read_postprocessed(source)
    click.echo(write_checked(out, wanted, predictions, fill=fill))


@main.command("config")
@click.argument("name", required=False)
@click.option("--list", "listed", is_flag=True, help="List the kinds of config and the shipped configs.")
def show_config(name, listed) -> None:
    """Print every setting, with its default and meaning, as YAML.

    It can be edited and given to --config. NAME is train or ensemble, or a shipped config such as abaw4/gru, or a
    file; without it all are listed.
    """
    from abaw_seq.config.page import show

    click.echo(show(None if listed else name, {"train": _train_settings, "ensemble": _recipe}))


@main.command()
@click.argument("runs", type=PATH, nargs=-1, required=True)
@out_option("Folder for report.html.  [default: the first run]")
@click.option("--frames", type=PATH, help="Folder of the face images (cropped_aligned), to show them.")
def report(runs, out, frames) -> None:
    """Make an HTML page about RUNS.

    It shows learning curves, scores, confusion matrices, action units, and each video frame by frame.
    """
    from abaw_seq.results.report.write import write_report

    click.echo(write_report(list(runs), out, frames_root=frames))


def _fit_runs(runs, fit_on) -> dict[str, dict]:
    from abaw_seq.results.postprocess import fit_run

    if not runs:
        raise UserError("--fit needs run folders, in which it stores postprocess.yaml")
    table = {}
    for run in runs:
        scores = fit_run(run, fit_on)
        table[f"{run.name}, untuned"] = scores["untuned"]
        table[f"{run.name}, tuned on {scores['tuned_on']}"] = scores["tuned"]
        if scores["cross_fitted"]:
            table[f"{run.name}, each half tuned on the other"] = scores["cross_fitted"]
    return table


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

    if runs:
        raise UserError(f"{runs[0]}: --config trains its own members and joins no RUNS; write --feats before each file")
    if not feats:
        raise UserError("--config trains its own members: give --feats FILE")
    recipe_file = find(recipe_file)
    recipe = load_recipe(recipe_file, overrides)
    click.echo(follow(recipe, recipe_file.parent, list(feats), run, device=device, jobs=jobs))


def _corpus(feats, backbones, annotations, device, memory):
    from abaw_seq.data.annotations import read_annotations
    from abaw_seq.data.corpus import load_corpus
    from abaw_seq.data.labelling import ALIGNMENT_HEADER, alignment_rows

    labels = read_annotations(*annotations) if annotations else None
    corpus = load_corpus(list(feats), backbones=backbones, annotations=labels, device=device, memory=memory)
    if labels is not None:
        frames = {name: video.frames for name, video in corpus.video_labels().items()}
        for row in alignment_rows(frames, labels):
            say("labels: " + ", ".join(f"{name} {count}" for name, count in zip(ALIGNMENT_HEADER, row, strict=True)))
    return corpus
