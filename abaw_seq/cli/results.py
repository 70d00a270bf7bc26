"""`abaw-seq label`, `predict`, `evaluate`, `submit` and `report`: from a run to what is made of it."""

from __future__ import annotations

from contextlib import nullcontext

import click

from abaw_seq.errors import UserError
from abaw_seq.terminal import (
    PATH,
    ManyValues,
    device_option,
    feats_option,
    many,
    out_option,
    print_result,
    print_table,
    say,
)

EDITION = "Edition of the challenge: mtl, va, expr, au, expr2020 or au2020."
raw_option = click.option("--raw", is_flag=True, help="Predictions as the model makes them, not smoothed or tuned.")


@click.command(cls=ManyValues)
@many("--feats", required=True, help="The feature file; features of another layout are converted.")
@many("--annotations", required=True, help="Annotation files or folders, in the official formats.")
@out_option("Feature file to write.  [default: replace the one of --feats]")
def label(feats, annotations, out) -> None:
    """Attach labels and splits to a feature file.

    They are matched by video and frame number.
    """
    from abaw_seq.data.annotations import read_annotations
    from abaw_seq.data.labelling import ALIGNMENT_HEADER, alignment_rows, attach_labels
    from abaw_seq.data.matching import log_matches
    from abaw_seq.data.video_labels import SUMMARY_HEADER
    from abaw_seq.files import check_output

    if len(feats) != 1:
        raise UserError("label takes one --feats file at a time")
    if out:
        check_output(out)
    labels, out = read_annotations(*annotations), out or feats[0]
    frames, used = attach_labels(feats[0], labels, out)
    print_table("Annotations", SUMMARY_HEADER, labels.summary_rows())
    print_table(f"Labels in {out}", ALIGNMENT_HEADER, alignment_rows(frames, used))
    log_matches(frames, used)


@click.command(cls=ManyValues)
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
    from abaw_seq.run_folder import BEST, PREDICTIONS, held_run, holds_run

    stem = out.with_suffix("") if out.suffix in (".csv", ".h5") else out
    for suffix in (".csv", ".h5"):
        check_output(stem.with_name(stem.name + suffix))
    groups = predict_run(run, list(feats), find_device(device), checkpoint=checkpoint or BEST)
    replaces_those_of_a_run = f"{stem.name}.h5" == PREDICTIONS and holds_run(stem.parent)
    with held_run(stem.parent) if replaces_those_of_a_run else nullcontext():
        frames, videos = write_groups(stem, (group if raw else postprocessed(run, group) for group in groups))
    say(f"{frames} frames of {videos} videos -> {stem}.csv, {stem}.h5")


@click.command(cls=ManyValues)
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
        if holds_run(path) or path.suffix == ".h5":
            raise UserError(f"{path}: holds predictions, not annotations; name RUNS before the options")
    evaluation = score_files(
        [*runs, *predictions], annotations, edition=edition, split=split, resamples=resamples, constant=constant
    )
    print_table(title, *(comparison if summary else all_scores)(evaluation.scores))
    for note in evaluation.notes:
        say(note)
    for line in features_of(list(runs)):
        print_result(line)


@click.command(cls=ManyValues)
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
        print_result(f"{check}: {check_submission(check, wanted):,} rows, as {wanted.source} asks for")
        return
    if source is None or out is None:
        raise UserError("submit takes a run or prediction file and -o FILE, or --check FILE")
    for name in wanted.files:
        check_output(out / name)
    predictions = read_predictions(source) if raw else read_postprocessed(source)
    print_result(write_checked(out, wanted, predictions, fill=fill))


@click.command(cls=ManyValues)
@click.argument("runs", type=PATH, nargs=-1, required=True)
@out_option("Folder for report.html.  [default: the first run]")
@click.option("--frames", type=PATH, help="Folder of the face images (cropped_aligned), to show them.")
def report(runs, out, frames) -> None:
    """Make an HTML page about RUNS.

    It shows learning curves, scores, confusion matrices, action units, and each video frame by frame.
    """
    from abaw_seq.results.report.write import write_report

    print_result(write_report(list(runs), out, frames_root=frames))


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
