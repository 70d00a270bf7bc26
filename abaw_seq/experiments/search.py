"""A search over settings: trials in generations, by several workers and on several machines.

run/config.yaml      what is searched, and how
    provenance.json
    study.log        the trials, as Optuna's journal (unless a database has them)
    trials/0007/     the run folder of a trial, or with several seeds or folds one below it for each
    strategies/      configs of the best trials: for P_MTL and for each task
    results.md       trials, importances, Pareto front
    ensemble.yaml  predictions.h5  scores.json    for each task its best trial, joined

A worker that dies is replaced and its trial goes on after its last whole epoch, under its number. A search that was
killed goes on in the same way. The values of trials and the decisions to stop them depend on finished generations
alone, so that a search of the same seed tries the same settings with any number of workers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from abaw_seq import config as configs
from abaw_seq.engine.device import find_device
from abaw_seq.engine.provenance import provenance
from abaw_seq.errors import UserError
from abaw_seq.experiments.search_config import SearchConfig
from abaw_seq.experiments.search_results import finish
from abaw_seq.experiments.search_trials import Crew, Trials
from abaw_seq.experiments.search_worker import Worker
from abaw_seq.files import make_folder, write_text
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.run_folder import (
    CONFIG,
    SEARCH,
    STUDY,
    TRIALS,
    check_kind,
    check_same_config,
    holds_run_folder,
    write_provenance,
)
from abaw_seq.terminal import progress

if TYPE_CHECKING:
    import optuna


@holds_run_folder("run")
def search(
    config: SearchConfig,
    folder: Path,
    feats: Sequence[Path],
    run: Path,
    *,
    device: str = "auto",
    workers: int = 1,
    storage: str | None = None,
) -> dict[str, Any]:
    """Run the trials that are missing, `workers` at a time, and sum them up; the content of `search.json`.

    folder: where the search config lies. storage: URL of a database that several machines share; None for a journal in
    `run`. Raises UserError where the run folder or the study is of another search, or no trial can be trained.
    """
    file = configs.find(config.base, folder)
    configs.load(TrainConfig, file, config.set)
    check_kind(run, SEARCH)
    if (run / TRIALS).is_dir():
        check_same_config(run, config, free=("trials", "hours"))
    make_folder(run / TRIALS)
    write_text(run / CONFIG, configs.dump(config))
    study = open_study(config, run, storage)
    facts: dict[str, Any] = {
        "features": [str(path) for path in feats],
        "storage": without_password(storage) if storage else None,
    }
    write_provenance(run, provenance(seed=config.seed, device=find_device(device), **facts))

    threads = max(torch.get_num_threads() // workers, 1)
    trials = Trials(config, file, run, study, shared=storage is not None)
    trials.check_space()
    with (
        progress(f"search {run.name}", trials.remaining(), "trials") as advance,
        closing(Crew(lambda: Worker(feats, device, threads))) as crew,
        ThreadPoolExecutor(workers) as pool,
        trials.kept_alive(),
    ):
        try:
            for ended in [pool.submit(trials.work, crew, advance) for _ in range(workers)]:
                ended.result()
        finally:
            trials.stopped.set()
            crew.close()
    return finish(config, file, run, study)


def open_study(config: SearchConfig, run: Path, storage: str | None) -> optuna.Study:
    """The study of a search, new or as far as it is; UserError where the database or its study cannot serve."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    place: Any = storage
    if storage is None:
        place = JournalStorage(JournalFileBackend(str(run / STUDY)))
    try:
        study = _opened(place, run.name, len(config.objectives))
    except Exception as error:  # of any database's driver
        if storage is None:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"storage {without_password(storage)}: {reason}") from None
    kept = {key: value for key, value in configs.to_dict(config).items() if key not in ("trials", "hours")}
    before = study.user_attrs.get("config")
    if before is None:
        study.set_user_attr("config", kept)
    elif before != kept:
        differing = next(key for key in kept if before.get(key) != kept[key])
        raise UserError(f"study {run.name}: was begun with another {differing}; name another run folder")
    return study


def _opened(place: Any, name: str, objectives: int) -> optuna.Study:
    """The study, which is made where it is missing; of machines that make its tables at once, all but one try again."""
    import optuna
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    for last in (False, False, True):
        try:
            return optuna.create_study(
                storage=place, study_name=name, load_if_exists=True, directions=["maximize"] * objectives
            )
        except (IntegrityError, ProgrammingError):
            if last:
                raise
            time.sleep(1)
    raise AssertionError


def without_password(storage: str) -> str:
    """A database URL as it may be shown."""
    scheme, _, rest = storage.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
