"""A whole system in one file: members trained with several seeds on one corpus, then joined and tuned.

run/members/<config>-<seed>/   a run folder, or a cross-validation, per member
    ensemble.yaml              their weights, and where fitted
    predictions.h5  scores.json  postprocess.yaml   the ensemble on the validation split
    out_of_fold.h5             with folds: the ensemble of the out-of-fold predictions, fitted on
    results.md                 every config, over its seeds, beside the ensemble
"""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from abaw_seq import config as configs
from abaw_seq.data.corpus import Corpus, load_corpus
from abaw_seq.data.folds import OFFICIAL
from abaw_seq.data.prediction_file import concatenated, read_predictions, write_predictions
from abaw_seq.errors import UserError
from abaw_seq.experiments.crossval import choose_folds, crossvalidate
from abaw_seq.experiments.side_by_side import Training, train_all
from abaw_seq.files import write_text
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.metrics import score
from abaw_seq.results.ensemble import cross_fitted_ensemble, fit_ensemble
from abaw_seq.results.joined_runs import store_joined
from abaw_seq.results.objective import Videos, cross_fitted, labelled_videos
from abaw_seq.results.postprocess import fit_postprocess, fit_run
from abaw_seq.results.tables import number
from abaw_seq.run_folder import MEMBERS, OUT_OF_FOLD, RESULTS, check_same_config, is_finished

COLUMNS = {
    "p_mtl": "P_MTL",
    "valence": "CCC valence",
    "arousal": "CCC arousal",
    "expression": "F1 expression",
    "au": "F1 action units",
    "smoothed": "P_MTL smoothed",
    "tuned": "P_MTL smoothed and tuned",
}


@dataclass(frozen=True)
class Recipe:
    """A whole system: which configs are trained, how often, and how their predictions are joined."""

    members: tuple[str, ...]
    """Training configs of the ensemble: files, named from the folder of this one, or shipped configs (abaw4/gru)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds with which each config is trained, one model per seed."""
    folds: int = 0
    """0: weights and postprocessing are fitted on the validation split. K, at least 2: each model is trained on K
    folds by source video as well, and they are fitted on the out-of-fold predictions."""
    method: Literal["mean", "weighted", "greedy"] = "greedy"
    """Weights of the members for each task: equal, fitted, or by greedy selection."""
    postprocess: bool = True
    """Fit smoothing windows, thresholds and biases of the ensemble, too."""
    baselines: tuple[str, ...] = ()
    """Training configs that are trained and listed beside the members, but not joined."""
    set: tuple[str, ...] = ()
    """Changes to all training configs, such as [epochs=10, optim.lr=1e-4]."""

    def __post_init__(self):
        stems = [Path(name).stem for name in (*self.baselines, *self.members)]
        if not self.members or not self.seeds:
            raise ValueError("members and seeds must name at least one each")
        if len(set(stems)) < len(stems) or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("two configs of the same file name, or the same seed twice")
        if self.folds < 0 or self.folds == 1:
            raise ValueError(f"folds must be 0 or at least 2, not {self.folds}")


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe; an override of none of its own keys, such as `epochs=2`, changes all its configs."""
    own = {field.name for field in dataclasses.fields(Recipe)}
    recipe = configs.load(Recipe, path, [change for change in overrides if change.partition("=")[0] in own])
    others = tuple(change for change in overrides if change.partition("=")[0] not in own)
    return dataclasses.replace(recipe, set=(*recipe.set, *others))


def follow(recipe: Recipe, folder: Path, feats: list[Path], run: Path, *, device: torch.device, jobs: int = 1) -> str:
    """Train what is not trained yet, `jobs` at a time, join, tune, and compare; the table as Markdown.

    `folder`: where the recipe's configs lie. A member that is finished is passed over, an interrupted
    one goes on. Raises UserError where there is no validation split.
    """
    # Members, on corpora that are loaded once.
    corpora: dict[tuple[str, ...], Corpus] = {}
    members: dict[str, dict[int, Path]] = {}
    trainings: list[Training] = []
    for file in (*recipe.baselines, *recipe.members):
        config = configs.load(TrainConfig, configs.find(file, folder), recipe.set)
        if config.backbones not in corpora:
            corpora[config.backbones] = load_corpus(feats, backbones=config.backbones or None, device=device)
        for seed in recipe.seeds:
            path = run / MEMBERS / f"{Path(file).stem}-{seed}"
            members.setdefault(Path(file).stem, {})[seed] = path
            seeded = dataclasses.replace(config, seed=seed)
            if recipe.folds:
                corpus = corpora[config.backbones]
                folds = choose_folds(corpus, str(recipe.folds))
                crossvalidate(seeded, corpus, folds, path, device=device, resume=True, jobs=jobs)
            elif is_finished(path):
                check_same_config(path, seeded)
            else:
                trainings.append(Training(seeded, path, f"{path}:"))
    if trainings and not all(corpus.in_split("val") for corpus in corpora.values()):
        raise UserError("no validation videos to compare and join on: attach labels and splits with abaw-seq label")
    train_all(trainings, corpora, device=device, jobs=jobs)

    # Their validation predictions, joined with weights fitted on these or on out-of-fold predictions.
    stems = [Path(file).stem for file in recipe.members]
    paths = {str(p.relative_to(run)): p for stem in stems for p in members[stem].values()}
    on_val = {name: read_predictions(_official(path)) for name, path in paths.items()}
    fit_on, where = on_val, "the validation split"
    if recipe.folds:
        fit_on = {name: read_predictions(path) for name, path in paths.items()}
        where = f"out-of-fold predictions of {recipe.folds} folds"
    ensemble = fit_ensemble(fit_on, recipe.method, fitted_on=where)
    joined = ensemble.apply(on_val)
    store_joined(run, joined, ensemble, members=None if recipe.folds else on_val)
    if recipe.folds:
        write_predictions(run / OUT_OF_FOLD, ensemble.apply(fit_on))
    if recipe.postprocess:
        fit_run(run, run / OUT_OF_FOLD if recipe.folds else None)

    # How they compare.
    honest = joined if recipe.folds or recipe.method == "mean" else cross_fitted_ensemble(on_val, recipe.method)
    table = comparison(recipe, members, honest or joined)
    write_text(run / RESULTS, table)
    return table


def _official(path: Path) -> Path:
    """A member's validation predictions: its own, or those of the official fold of its cross-validation."""
    return path / OFFICIAL if (path / OFFICIAL).is_dir() else path


def comparison(recipe: Recipe, members: dict[str, dict[int, Path]], joined: Videos) -> str:
    """A Markdown table: each config and the mean of all, over the seeds, then the ensemble `joined`."""
    stems = [Path(file).stem for file in recipe.members]
    rows, by_seed = [], []
    for stem, paths in members.items():
        rows.append((stem, [_scored(read_predictions(_official(path))) for path in paths.values()]))
    for seed in recipe.seeds:
        one = {stem: read_predictions(_official(members[stem][seed])) for stem in stems}
        by_seed.append(_scored(fit_ensemble(one, "mean").apply(one)))
    rows.append((f"mean of {len(stems)} configs", by_seed))
    rows.append((f"ensemble of {len(stems) * len(recipe.seeds)} ({recipe.method})", [_scored(joined)]))
    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
    for name, scores in rows:
        cells = [_spread([found[key] for found in scores]) for key in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    frames = sum(len(video.frames) for video in joined.values())
    weights = "Weights of the ensemble: fitted in the same way."
    if recipe.folds:
        weights = f"Weights of the ensemble: fitted on out-of-fold predictions of {recipe.folds} folds."
    note = (
        f"Mean ± deviation over {len(recipe.seeds)} seeds, {len(joined)} validation videos of {frames:,} frames. "
        "Smoothed and tuned: windows, then also thresholds and biases, fitted on one half of the videos and "
        f"scored on the other. {weights if recipe.method != 'mean' else ''}"
    ).strip()
    return "\n".join([*lines, "", note, ""])


def _scored(videos: Videos) -> dict[str, Any]:
    """Scores of validation predictions: untuned, and P_MTL as smoothed and tuned on other videos."""
    known = labelled_videos(videos, "the validation split")
    found = score(*concatenated(known))
    for name, decisions in (("smoothed", False), ("tuned", True)):
        changed = cross_fitted(known, lambda part, d=decisions: fit_postprocess(part, decisions=d).apply)
        found[name] = None if changed is None else score(*concatenated(changed))["p_mtl"]
    return found


def _spread(values: list[float | None]) -> str:
    if None in values:
        return number(None)
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return number(statistics.fmean(values)) + deviation
