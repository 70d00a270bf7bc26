"""What a search ends with: trials, importances, Pareto front, the best strategies as configs, and their ensemble."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abaw_seq import config as configs
from abaw_seq.errors import UserError
from abaw_seq.experiments.search_config import SearchConfig
from abaw_seq.experiments.search_space import changes
from abaw_seq.files import write_json, write_text
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.results.ensemble import store_joined
from abaw_seq.results.reading import read_current
from abaw_seq.results.tables import SCORE_NAMES, number
from abaw_seq.results.weights import Ensemble
from abaw_seq.run_folder import RESULTS, SEARCH, STRATEGIES, TRIALS, is_finished
from abaw_seq.tasks import TASKS

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)

LISTED = 20


def finish(config: SearchConfig, base: Path, run: Path, study: optuna.Study) -> dict[str, Any]:
    """Write what a search found into its run folder; the content of `search.json`.

    base: the training config that trials changed. Raises UserError where no trial was finished.
    """
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.number < config.trials]
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    if not complete:
        reasons = [trial.user_attrs["error"] for trial in trials if "error" in trial.user_attrs]
        raise UserError(f"{run.name}: no trial was finished; {reasons[0] if reasons else 'they were interrupted'}")
    best = {}
    for key in SCORE_NAMES:
        scored = {trial.user_attrs["scores"][key]: trial for trial in reversed(complete)}
        scored.pop(None, None)
        if scored:
            best[key] = scored[max(scored)]
    summary = {
        "objectives": list(config.objectives),
        "space": list(config.space),
        "trials": [_described(trial) for trial in trials],
        "importances": {key: _importances(study, config, k) for k, key in enumerate(config.objectives)},
        "front": sorted(trial.number for trial in study.best_trials if trial.number < config.trials),
        "best": {key: trial.number for key, trial in best.items()},
    }
    for key, trial in best.items():
        settings = (*config.set, *changes(config.proposals.space, trial.params), f"seed={config.seeds[0]}")
        strategy = configs.load(TrainConfig, base, settings)
        score = number(trial.user_attrs["scores"][key])
        note = f"# The best of {len(trials)} trials by {SCORE_NAMES[key]}: trial {trial.number}, {score}.\n"
        write_text(run / STRATEGIES / f"{key}.yaml", note + configs.dump(strategy))
    _join(config, run, {task: best[task].number for task in TASKS if task in best})
    write_json(run / SEARCH, summary)
    write_text(run / RESULTS, results_table(summary))
    return summary


def results_table(summary: dict[str, Any]) -> str:
    """The trials with the best scores, importances and the best strategies, as Markdown."""
    trials, space = summary["trials"], summary["space"]
    counts = {state: sum(trial["state"] == state for trial in trials) for state in ("COMPLETE", "PRUNED", "FAIL")}
    first = summary["objectives"][0]
    ranked = sorted(
        (trial for trial in trials if trial["state"] == "COMPLETE"), key=lambda t: -(t["scores"][first] or 0)
    )
    front = set(summary["front"]) if len(summary["objectives"]) > 1 else set()
    lines = [
        f"{counts['COMPLETE']} trials complete, {counts['PRUNED']} stopped early, {counts['FAIL']} failed.",
        "",
        *_rows(["trial", *SCORE_NAMES.values(), *space], [
            [
                f"{trial['number']}{' (front)' if trial['number'] in front else ''}",
                *(number(trial["scores"][key]) for key in SCORE_NAMES),
                *(_short(trial["params"][key]) for key in space),
            ]
            for trial in ranked[:LISTED]
        ]),
        "",
        *_rows(["importance for", *space], [
            [SCORE_NAMES[key], *(number(values.get(name)) for name in space)]
            for key, values in summary["importances"].items() if values
        ]),
        "",
        *_rows(["best by", "trial", "score", "config"], [
            [SCORE_NAMES[key], str(n), number(trials[n]["scores"][key]), f"{STRATEGIES}/{key}.yaml"]
            for key, n in summary["best"].items()
        ]),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _rows(header: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _described(trial: Any) -> dict[str, Any]:
    """A trial as plain values."""
    return {
        "number": trial.number,
        "state": trial.state.name,
        "params": trial.params,
        "scores": trial.user_attrs.get("scores"),
        "epochs": trial.user_attrs.get("epochs"),
        "error": trial.user_attrs.get("error"),
        "seconds": trial.duration.total_seconds() if trial.duration else None,
    }


def _importances(study: optuna.Study, config: SearchConfig, objective: int) -> dict[str, float]:
    """How much of the variance of an objective each setting explains (fANOVA); empty where that is not known."""
    import optuna

    target = (lambda trial: trial.values[objective]) if len(config.objectives) > 1 else None
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=config.seed)
    try:
        values = optuna.importance.get_param_importances(study, evaluator=evaluator, target=target)
    except (ValueError, RuntimeError) as error:
        log.info(f"no importances: {' '.join(str(error).split())}")
        return {}
    return {name: float(value) for name, value in values.items()}


def _join(config: SearchConfig, run: Path, best: dict[str, int]) -> None:
    """The predictions of each task's best trial as an ensemble; with folds there are none for the validation split."""
    if config.folds:
        return
    if elsewhere := [n for n in sorted(set(best.values())) if not (run / TRIALS / f"{n:04d}").is_dir()]:
        log.info(f"{run.name}: trial {elsewhere[0]} was trained on another machine, so there is no ensemble here")
        return
    folders = {n: _predictions(run, n) for n in sorted(set(best.values()))}
    names = {n: [str(folder.relative_to(run)) for folder in of_trial] for n, of_trial in folders.items()}
    members = {name: read_current(run / name) for of_trial in names.values() for name in of_trial}
    weights = {}
    for task, n in best.items():
        share = 1 / len(names[n])  # over the seeds
        weights[task] = tuple(share if name in names[n] else 0.0 for name in members)
    ensemble = Ensemble(tuple(members), "weighted", weights, "the validation scores of the trials")
    store_joined(run, ensemble.apply(members), ensemble)


def _predictions(run: Path, trial: int) -> list[Path]:
    folder = run / TRIALS / f"{trial:04d}"
    return [folder] if is_finished(folder) else sorted(path for path in folder.iterdir() if is_finished(path))
