"""`abaw-seq train`, `crossval` and `ensemble`: sequence models from cached features."""

from __future__ import annotations

from pathlib import Path

import click

from abaw_seq.errors import UserError
from abaw_seq.terminal import (
    PATH,
    ManyValues,
    config_option,
    device_option,
    feats_option,
    many,
    print_result,
    print_table,
    resume_option,
    say,
    set_option,
)

annotations_option = many(
    "--annotations", "--labels", "annotations", help="Annotation files or folders, in place of the labels in --feats."
)
memory_option = click.option(
    "--memory", type=click.Choice(["auto", "device", "host", "file"]), default="auto", show_default=True,
    help="Where the features stay while training; auto: the first of device, host memory and file with room.",
)  # fmt: skip
jobs_option = click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True, metavar="N",
    help="How many processes train at the same time; they share the processor's cores and the features.",
)  # fmt: skip
members_option = click.option(
    "--members", type=click.IntRange(1), metavar="N",
    help="How many models of one shape train at once in each process; 1: each by itself.  "
    "[default: on a GPU as many as memory allows, on a CPU 1]",
)  # fmt: skip


@click.command(cls=ManyValues)
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


@click.command(cls=ManyValues)
@many(
    "--teacher",
    "teachers",
    required=True,
    metavar="RUN...",
    help="Trained runs, ensembles or cross-validations; the student learns from the mean of their outputs.",
)
@feats_option
@config_option("abaw2021/student_gru")
@set_option
@click.option("--run", type=PATH, required=True, help="Run folder to write: that of the student.")
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="How often a student becomes the teacher of the next one.",
)
@resume_option
@annotations_option
@memory_option
@device_option
def distill(teachers, feats, config_file, overrides, run, rounds, resume, annotations, memory, device) -> None:
    """Train a student on labels and on the outputs of teachers.

    Where a label is missing the student learns from the teachers alone. Videos of the training split and those without
    a split train, labelled or not. --feats must hold what the teachers were trained on, besides what the student
    learns from. A student may be of any kind: an ensemble's, for example, small and fast.
    """
    from abaw_seq import config as configs
    from abaw_seq.learn.settings import TrainConfig
    from abaw_seq.run_folder import check_unused

    settings = configs.load(TrainConfig, config_file, overrides)
    check_unused(run, resume=resume)

    from abaw_seq.engine.device import find_device
    from abaw_seq.experiments.distill import distill as run_distillation
    from abaw_seq.results.tables import all_scores

    device = find_device(device)
    corpus = _corpus(feats, settings.backbones or None, annotations, device, memory)
    result = run_distillation(
        settings, corpus, list(teachers), list(feats), run, device=device, rounds=rounds, resume=resume
    )
    if result.predictions:
        print_table(f"{run}: validation, epoch {result.epoch}", *all_scores({run.name: result.scores["untuned"]}))


@click.command(cls=ManyValues)
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
@members_option
@device_option
def crossval(
    feats, config_file, overrides, folds, run, resume, write_only, annotations, memory, jobs, members, device
) -> None:
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
    from abaw_seq.run_folder import FOLDS, check_kind

    settings, device = configs.load(TrainConfig, config_file, overrides), find_device(device)
    check_kind(run, FOLDS)
    corpus = _corpus(feats, settings.backbones or None, annotations, device, memory)
    chosen = choose_folds(corpus, folds)
    print_table("Folds", FOLD_HEADER, fold_rows(chosen, corpus.video_labels()))
    if write_only:
        print_result(store_folds(run, chosen))
        return
    result = crossvalidate(settings, corpus, chosen, run, device=device, resume=resume, jobs=jobs, members=members)
    print_table(f"{run}: {len(chosen)} folds", *comparison(fold_table(result)))


@click.command(cls=ManyValues)
@click.argument("runs", type=PATH, nargs=-1)
@click.option("--run", type=PATH, required=True, help="Run folder to write: joined predictions and their scores.")
@click.option("--method", type=click.Choice(["mean", "weighted", "greedy"]), default="mean", show_default=True,
              help="Weights of the members, for each task: equal, fitted, or by greedy selection.")  # fmt: skip
@click.option("--apply", "weights_of", type=PATH, help="Use the weights of this ensemble; RUNS are its members.")
@config_option("abaw4/ensemble", "recipe")
@many("--feats", help="Features on which --config trains its members.")
@set_option
@jobs_option
@members_option
@device_option
def ensemble(runs, run, method, weights_of, recipe, feats, overrides, jobs, members, device) -> None:
    """Join the predictions of several runs, task by task.

    RUNS are run folders or prediction files. Weights are fitted on the labels that the predictions carry. With --config
    and --feats the members of a recipe, such as abaw4/ensemble, are trained first, each with several seeds.
    """
    from abaw_seq.engine.device import find_device
    from abaw_seq.results.ensemble import join_runs
    from abaw_seq.results.tables import all_scores, comparison

    if recipe is not None:
        _follow_recipe(recipe, overrides, runs, feats, run, find_device(device), jobs, members)
        return
    if not runs:
        raise UserError("nothing to join: name run folders or prediction files, or --config RECIPE --feats FILE")
    scores = join_runs(list(runs), run, method=method, weights_of=weights_of)
    if not scores:
        say(f"{run}: {len(runs)} predictions joined; they carry no labels, so nothing was scored")
        return
    print_table(f"{run}: {len(runs)} members", *(all_scores if len(scores) == 1 else comparison)(scores))


def _follow_recipe(recipe_file, overrides, runs, feats, run, device, jobs, members) -> None:
    from abaw_seq.config import find
    from abaw_seq.experiments.recipe import follow, load_recipe

    if runs:
        raise UserError(f"{runs[0]}: --config trains its own members and joins no RUNS; write --feats before each file")
    if not feats:
        raise UserError("--config trains its own members: give --feats FILE")
    recipe_file = find(recipe_file)
    recipe = load_recipe(recipe_file, overrides)
    print_result(follow(recipe, recipe_file.parent, list(feats), run, device=device, jobs=jobs, members=members))


def _corpus(feats, backbones, annotations, device, memory):
    from abaw_seq.data.annotations import read_annotations
    from abaw_seq.data.corpus import load_corpus

    labels = read_annotations(*annotations) if annotations else None
    return load_corpus(list(feats), backbones=backbones, annotations=labels, device=device, memory=memory)
