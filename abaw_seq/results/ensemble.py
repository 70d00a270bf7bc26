"""Joining the predictions of several runs in a run folder of their own, with the weights and what they score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from abaw_seq.data.prediction_file import Videos, save_scored, score_videos, write_predictions
from abaw_seq.errors import UserError
from abaw_seq.files import make_folder
from abaw_seq.results.postprocess import load_postprocess, save_postprocess
from abaw_seq.results.reading import read_current
from abaw_seq.results.weights import Ensemble, Method, cross_fitted_ensemble, fit_ensemble, load_ensemble, save_ensemble
from abaw_seq.run_folder import ENSEMBLE, POSTPROCESS, PREDICTIONS, SCORES, check_kind, holds_run_folder


@holds_run_folder("run")
def join_runs(paths: list[Path], run: Path, *, method: Method, weights_of: Path | None = None) -> dict[str, dict]:
    """Join runs and prediction files into the run folder `run`; {name: scores} of the ensemble and its variants.

    The weights are fitted by `method` on the labels that the predictions carry. Or they are those of the ensemble
    `weights_of`, whose members the paths are, in its order; its postprocessing comes along. Raises UserError where
    `run` holds a run of another kind.
    """
    check_kind(run, ENSEMBLE)
    if len(set(paths)) < len(paths):
        raise UserError(f"the same member is named twice: {next(p for p in paths if paths.count(p) > 1)}")
    # A member inside the ensemble's folder is stored by its place there, so that the folder can be moved.
    members = {str(p.relative_to(run) if p.is_relative_to(run) else p): read_current(p) for p in paths}
    if weights_of is None:
        videos = next(iter(members.values()))
        ensemble = fit_ensemble(members, method, fitted_on=f"predictions of {len(videos)} videos by these members")
        return store_joined(run, ensemble.apply(members), ensemble, members=members)
    ensemble = load_ensemble(weights_of)
    scores = store_joined(run, ensemble.apply(members), ensemble)
    if (stored := load_postprocess(weights_of)) is not None:
        save_postprocess(run, stored)
    return scores


def store_joined(
    run: Path, joined: Videos, ensemble: Ensemble, *, members: dict[str, Videos] | None = None
) -> dict[str, dict[str, Any]]:
    """Write predictions, weights and, where there are labels, scores of an ensemble; returns {name: scores}.

    `members`: the predictions that the weights were fitted on, where these are the ones scored here. Then the scores of
    the plain mean, and of weights fitted on the other half of the videos, stand beside, in `scores.json` too.
    """
    make_folder(run)
    (run / POSTPROCESS).unlink(missing_ok=True)
    save_ensemble(run, ensemble)
    if all(video.labels is None for video in joined.values()):
        write_predictions(run / PREDICTIONS, joined)
        (run / SCORES).unlink(missing_ok=True)
        return {}
    variants = {}
    if members is not None and ensemble.method != "mean":
        variants["mean"] = score_videos(fit_ensemble(members, "mean").apply(members))
        if (by_halves := cross_fitted_ensemble(members, ensemble.method)) is not None:
            variants["cross_fitted_weights"] = score_videos(by_halves)
    scores = save_scored(run, joined, method=ensemble.method, fitted_on=ensemble.fitted_on, **variants)
    rows = {"untuned": run.name, "mean": "plain mean", "cross_fitted_weights": "weights cross-fitted"}
    return {row: scores[key] for key, row in rows.items() if key in scores}
