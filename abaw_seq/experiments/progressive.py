"""Progressive training (Liu et al., ABAW7, arXiv 2407.16945): separate models, their features, joint models.

run/separate/<model>-<seed>/           step 1: a run folder per separate model
    separate/all-<seed>/               their predictions together
    features/<seed>/features.h5        step 2: their penultimate features, as backbones of a feature file
    joint/<start>-<fusion>-<seed>/     step 3: a run folder per joint model
    ensemble.yaml predictions.h5 scores.json   the mean of the main joint model over its seeds
    results.md                         step 4: all of them, over the seeds
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, Literal

import torch

from abaw_seq import config as configs
from abaw_seq.data.annotations import Annotations
from abaw_seq.data.corpus import Corpus, load_corpus
from abaw_seq.data.prediction_file import score_videos
from abaw_seq.errors import UserError
from abaw_seq.experiments.progressive_config import ProgressiveConfig, Variant
from abaw_seq.experiments.side_by_side import Corpora, Training, train_all
from abaw_seq.experiments.task_features import write_task_features
from abaw_seq.files import write_text
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.results.ensemble import store_joined
from abaw_seq.results.reading import read_current
from abaw_seq.results.tables import SCORE_NAMES, is_number, spread
from abaw_seq.results.weights import fit_ensemble
from abaw_seq.run_folder import (
    CONFIG,
    FEATURE_FILE,
    FEATURES,
    JOINT,
    RESULTS,
    SEPARATE,
    check_kind,
    check_same_config,
    holds_run_folder,
    is_finished,
)  # fmt: skip

Step = Literal["separate", "features", "joint", "comparison"]
STARTS = {
    "frozen": "joint from separate (frozen)",
    "trained": "joint from separate (trained on)",
    "scratch": "joint from scratch",
}


@holds_run_folder("run")
def progress_through(
    config: ProgressiveConfig,
    feats: list[Path],
    run: Path,
    *,
    device: torch.device,
    annotations: Annotations | None = None,
    jobs: int = 1,
    until: Step = "comparison",
) -> str:
    """Do the steps up to `until`, `jobs` models at a time; returns the comparison as Markdown, empty before that step.

    What is finished is passed over, an interrupted model goes on. Raises UserError where there is no validation split,
    where a finished model was made with other
    settings, and while another process writes the folder.
    """
    check_kind(run, SEPARATE)
    write_text(run / CONFIG, configs.dump(config))

    # Step 1: separate models, on corpora that are loaded once.
    corpora: Corpora = {}
    separate = {(name, seed): config.separate_config(name, seed) for name in config.separate for seed in config.seeds}
    _load(corpora, list(separate.values()), feats, annotations, device)
    first = next(iter(corpora.values()))
    if not first.in_split("val"):
        raise UserError("no validation videos to compare on: attach labels and splits with abaw-seq label")
    folders = {(name, seed): run / SEPARATE / f"{name}-{seed}" for name, seed in separate}
    _train([Training(separate[key], folders[key], f"{folders[key]}:") for key in separate], corpora, device, jobs)
    if until == "separate":
        return ""

    # Step 2: their features of every video.
    files = {seed: run / FEATURES / str(seed) / FEATURE_FILE for seed in config.seeds}
    for seed, file in files.items():
        models = {config.backbone(name): folders[name, seed] for name in config.separate}
        write_task_features(models, feats, file, device=device, annotations=annotations)
    if until == "features":
        return ""

    # Step 3: joint models; those that hold the separate models as parts read what these read.
    everything = _backbones(feats, annotations)
    for seed, file in files.items():
        start = {f"parts.{name}.model": folders[name, seed] for name in config.separate}
        trainings = {variant: config.joint_config(variant, seed, everything) for variant in config.variants}
        corpora = {key: corpus for key, corpus in corpora.items() if not _made_here(config, key)}
        _load(corpora, [t for (kind, _), t in trainings.items() if kind != "frozen"], feats, annotations, device)
        _load(corpora, [t for (kind, _), t in trainings.items() if kind == "frozen"], [file], annotations, device)
        joint = [
            Training(one, _joint(run, variant, seed), f"{_joint(run, variant, seed)}:",
                     start=start if variant[0] == "trained" else None)
            for variant, one in trainings.items()
        ]  # fmt: skip
        _train(joint, corpora, device, jobs)
    if until == "joint":
        return ""
    return _compare(config, run)


def _load(
    corpora: Corpora, wanted: list[TrainConfig], feats: list[Path], labels: Annotations | None, device: torch.device
) -> None:
    for key in {config.backbones for config in wanted} - set(corpora):
        corpora[key] = load_corpus(feats, backbones=key or None, annotations=labels, device=device)


def _backbones(feats: list[Path], annotations: Annotations | None) -> tuple[str, ...]:
    """The backbones of feature files, in order of appearance."""
    return tuple(load_corpus(feats, annotations=annotations, memory="file").backbones)


def _made_here(config: ProgressiveConfig, key: tuple[str, ...]) -> bool:
    return key == tuple(map(config.backbone, config.separate))


def _train(trainings: list[Training], corpora: dict[tuple[str, ...], Corpus], device: torch.device, jobs: int) -> None:
    """Train what is not finished; UserError for a finished run of other settings."""
    for training in trainings:
        if is_finished(training.run):
            check_same_config(training.run, training.config)
    train_all([one for one in trainings if not is_finished(one.run)], corpora, device=device, jobs=jobs)


def _joint(run: Path, variant: Variant, seed: int) -> Path:
    return run / JOINT / f"{'-'.join(variant)}-{seed}"


def _compare(config: ProgressiveConfig, run: Path) -> str:
    """Join what belongs together, and write `results.md`."""
    rows: dict[str, list[dict[str, Any]]] = {"separate": []}
    for seed in config.seeds:
        members = {f"../{name}-{seed}": read_current(run / SEPARATE / f"{name}-{seed}") for name in config.separate}
        ensemble = fit_ensemble(members, "mean")
        joined = ensemble.apply(members)
        store_joined(run / SEPARATE / f"all-{seed}", joined, ensemble)
        rows["separate"].append(score_videos(joined))
    for variant in config.variants:
        label = f"{STARTS[variant[0]]}, {'without fusion' if variant[1] == 'none' else variant[1]}"
        rows[label] = [score_videos(read_current(_joint(run, variant, seed))) for seed in config.seeds]
    best = {
        str(_joint(run, config.variants[0], seed).relative_to(run)): read_current(_joint(run, config.variants[0], seed))
        for seed in config.seeds
    }
    ensemble = fit_ensemble(best, "mean")
    store_joined(run, ensemble.apply(best), ensemble)
    table = _table(config, rows)
    write_text(run / RESULTS, table)
    return table


def _table(config: ProgressiveConfig, rows: dict[str, list[dict[str, Any]]]) -> str:
    """A Markdown table of {name: scores with each seed}, and a note on how they were made."""
    columns = [*SCORE_NAMES.values(), "P_MTL over separate"]
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    apart = [scores["p_mtl"] for scores in rows["separate"]]
    for name, by_seed in rows.items():
        cells = [spread([scores[key] for scores in by_seed]) for key in SCORE_NAMES]
        cells.append("" if name == "separate" else _gain([scores["p_mtl"] for scores in by_seed], apart))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    note = (
        f"Mean ± deviation over {len(config.seeds)} seeds on the validation split, whose best epoch each model keeps. "
        "The last column is the mean ± deviation of the difference with the same seed."
    )
    return "\n".join([*lines, "", note, ""])


def _gain(values: list[float | None], others: list[float | None]) -> str:
    pairs = [(a, b) for a, b in zip(values, others, strict=True) if is_number(a) and is_number(b)]
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    if len(differences) < len(values):
        return spread([None])
    deviation = f" ± {statistics.stdev(differences):.3f}" if len(differences) > 1 else ""
    return f"{statistics.fmean(differences):+.3f}{deviation}"
