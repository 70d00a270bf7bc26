"""A whole system in one file: members trained with several seeds on one corpus, then joined and tuned.

run/members/<config>-<seed>/   a run folder, or a cross-validation, per member
    ensemble.yaml              their weights, and what they were fitted on
    predictions.h5  scores.json  postprocess.yaml   the ensemble on the validation split
    out_of_fold.h5             with folds: the ensemble's out-of-fold predictions, which postprocessing is fitted on
    results.md                 every config, over its seeds, beside the ensemble
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from abaw_seq import config as configs
from abaw_seq.config.ranges import Checked, Range, Seed
from abaw_seq.data.corpus import Corpus, load_corpus
from abaw_seq.data.folds import OFFICIAL
from abaw_seq.data.prediction_file import Videos, score_videos, write_predictions
from abaw_seq.errors import UserError
from abaw_seq.experiments.crossval import choose_folds, crossvalidate
from abaw_seq.experiments.side_by_side import Training, train_all
from abaw_seq.files import write_text
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.results.ensemble import store_joined
from abaw_seq.results.objective import cross_fitted, labelled_videos
from abaw_seq.results.postprocess import fit_held_run, fit_postprocess
from abaw_seq.results.reading import read_current
from abaw_seq.results.tables import SCORE_NAMES, spread
from abaw_seq.results.weights import cross_fitted_ensemble, fit_ensemble
from abaw_seq.run_folder import (
    MEMBERS,
    OUT_OF_FOLD,
    RESULTS,
    check_kind,
    check_same_config,
    holds_run_folder,
    is_finished,
)

COLUMNS = SCORE_NAMES | {"smoothed": "P_MTL smoothed", "tuned": "P_MTL smoothed and tuned"}


@dataclass(frozen=True)
class Recipe(Checked):
    """A whole system: which configs are trained, how often, and how their predictions are joined."""

    members: tuple[str, ...]
    """Training configs of the ensemble: files, named from the folder of this one, or shipped configs (abaw4/gru)."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Seeds with which each config is trained, one model per seed."""
    folds: Annotated[int, Range("[0, 1000]")] = 0
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

    def __post_init__(self) -> None:
        super().__post_init__()
        stems = [Path(name).stem for name in (*self.baselines, *self.members)]
        if not self.members or not self.seeds:
            raise ValueError("members and seeds must name at least one each")
        if len(set(stems)) < len(stems) or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("two configs of the same file name, or the same seed twice")
        if self.folds == 1:
            raise ValueError(f"folds must be 0 or at least 2, not {self.folds}")


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe; an override that is not one of its own settings, such as `epochs=2`, changes all its configs."""
    own = {field.name for field in dataclasses.fields(Recipe)}
    recipe = configs.load(Recipe, path, [change for change in overrides if change.partition("=")[0] in own])
    others = tuple(change for change in overrides if change.partition("=")[0] not in own)
    return dataclasses.replace(recipe, set=(*recipe.set, *others))


@holds_run_folder("run")
def follow(
    recipe: Recipe,
    folder: Path,
    feats: list[Path],
    run: Path,
    *,
    device: torch.device,
    jobs: int = 1,
    members: int | None = None,
) -> str:
    """Train what is not trained yet, join, tune, and compare; returns the table as Markdown.

    `folder`: where the recipe's configs lie. `jobs`, `members`: how many models train at a time, as for `train_all`. A
    finished member is passed over, an interrupted one goes on. Raises UserError where there is no validation split.
    """
    # Members, on corpora that are loaded once.
    check_kind(run, RESULTS)
    corpora: dict[tuple[str, ...], Corpus] = {}
    names_of: dict[str, list[str]] = {}
    trainings: list[Training] = []
    for file in (*recipe.baselines, *recipe.members):
        config = configs.load(TrainConfig, configs.find(file, folder), recipe.set)
        if config.backbones not in corpora:
            corpora[config.backbones] = load_corpus(feats, backbones=config.backbones or None, device=device)
        for seed in recipe.seeds:
            name = f"{MEMBERS}/{Path(file).stem}-{seed}"
            names_of.setdefault(Path(file).stem, []).append(name)
            seeded = dataclasses.replace(config, seed=seed)
            if recipe.folds:
                corpus = corpora[config.backbones]
                folds = choose_folds(corpus, str(recipe.folds))
                crossvalidate(seeded, corpus, folds, run / name, device=device, resume=True, jobs=jobs, members=members)
            elif is_finished(run / name):
                check_same_config(run / name, seeded)
            else:
                trainings.append(Training(seeded, run / name, f"{run / name}:"))
    if trainings and not all(corpus.in_split("val") for corpus in corpora.values()):
        raise UserError("no validation videos to compare and join on: attach labels and splits with abaw-seq label")
    train_all(trainings, corpora, device=device, jobs=jobs, members=members)

    # Their validation predictions, joined with weights fitted on these or on out-of-fold predictions.
    joining = [Path(file).stem for file in recipe.members]
    predictions = {name: read_current(_validated(run / name)) for names in names_of.values() for name in names}
    on_val = {name: predictions[name] for stem in joining for name in names_of[stem]}
    fit_on, where = on_val, "the validation split"
    if recipe.folds:
        fit_on = {name: read_current(run / name) for name in on_val}
        where = f"out-of-fold predictions of {recipe.folds} folds"
    ensemble = fit_ensemble(fit_on, recipe.method, fitted_on=where)
    joined = ensemble.apply(on_val)
    store_joined(run, joined, ensemble, members=None if recipe.folds else on_val)
    if recipe.folds:
        write_predictions(run / OUT_OF_FOLD, ensemble.apply(fit_on))
    if recipe.postprocess:
        fit_held_run(run, run / OUT_OF_FOLD if recipe.folds else None)

    # How they compare: each config and the mean of all, over the seeds, then the ensemble.
    rows = {stem: [_scored(predictions[name]) for name in names] for stem, names in names_of.items()}
    by_seed = [{name: on_val[name] for name in names} for names in zip(*map(names_of.get, joining), strict=True)]
    rows[f"mean of {len(joining)} configs"] = [_scored(fit_ensemble(one, "mean").apply(one)) for one in by_seed]
    by_halves = None if recipe.folds else cross_fitted_ensemble(on_val, recipe.method)
    rows[f"ensemble of {len(on_val)} ({recipe.method})"] = [_scored(by_halves or joined)]
    table = _table(recipe, rows, joined)
    write_text(run / RESULTS, table)
    return table


def _validated(member: Path) -> Path:
    """Where a member's validation predictions are: its run, or that of the official fold of its cross-validation."""
    return member / OFFICIAL if (member / OFFICIAL).is_dir() else member


def _postprocessing(decisions: bool, videos: Videos) -> Callable[[Videos], Videos]:
    return fit_postprocess(videos, decisions=decisions).apply


def _scored(videos: Videos) -> dict[str, Any]:
    """Scores of validation predictions: as they are, and P_MTL as smoothed and tuned on other videos."""
    known = labelled_videos(videos, "the validation split")
    scores = score_videos(known)
    for name, decisions in (("smoothed", False), ("tuned", True)):
        changed = cross_fitted(known, functools.partial(_postprocessing, decisions))
        scores[name] = None if changed is None else score_videos(changed)["p_mtl"]
    return scores


def _table(recipe: Recipe, rows: dict[str, list[dict[str, Any]]], joined: Videos) -> str:
    """A Markdown table of {name: scores with each seed}, and a note on how they were made."""
    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
    for name, by_seed in rows.items():
        cells = [spread([scores[key] for scores in by_seed]) for key in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    frames = sum(len(video.frames) for video in joined.values())
    how = f"on out-of-fold predictions of {recipe.folds} folds" if recipe.folds else "in the same way"
    note = (
        f"Mean ± deviation over {len(recipe.seeds)} seeds, {len(joined)} validation videos of {frames:,} frames. "
        "Smoothed and tuned: windows, then also thresholds and biases, fitted on one half of the videos and "
        f"scored on the other. {f'Weights of the ensemble: fitted {how}.' if recipe.method != 'mean' else ''}"
    ).strip()
    return "\n".join([*lines, "", note, ""])
