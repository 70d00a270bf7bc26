"""The run folder, contract version 1: its file names, what they mean, and how a run begins and goes on.

| file | holds |
| --- | --- |
| `config.yaml` | every setting, resolved |
| `provenance.json` | versions, seed, device, command line, what the run was made from |
| `metrics.jsonl` | a line per epoch |
| `last.pt` | the state after the last whole epoch, to resume from |
| `best.pt`, `best_<task>.pt` | weights of the best epoch, and of each task's best where they are kept |
| `predictions.h5` | predictions of the validation split |
| `scores.json` | their scores; written last: a folder that has it is finished |
| `postprocess.yaml` | smoothing, thresholds and biases, and where they were fitted |
| `ensemble.yaml` | of an ensemble: its members and their weights |
| `folds.yaml` | of a cross-validation: its folds, each of which has a run folder below it |
| `members/` | of a recipe: the run folders of its members; `results.md` compares them |
| `out_of_fold.h5` | of a recipe with folds: the ensemble's out-of-fold predictions |
| `teacher.pt`, `rounds/` | of a distilled run: the teacher's outputs; the run folders of earlier rounds |
| `separate/`, `features/`, `joint/` | of progressive training: the folders of its steps |
| `features.h5` | of its second step: the penultimate features of its separate models |
| `study.log`, `trials/` | of a search: its journal, and a run folder for each trial |
| `strategies/`, `search.json` | of a search: the best configs, for each task and for P_MTL; all trials |
| `report.html`, `report/` | the report, and its figures |
| `backbone.yaml` | of a trained encoder: how to extract with it; written last |
| `.lock` | while a process writes the folder: its name |

Training, pre-training, fine-tuning, cross-validation, ensembles and recipes all write such folders; no other file
spells these names.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from abaw_seq import config as configs
from abaw_seq.errors import UserError
from abaw_seq.files import (
    check_folder,
    load_tensors,
    make_folder,
    remove_leftovers_in,
    save_tensors,
    write_json,
    write_text,
)
from abaw_seq.locks import held_lock

P = ParamSpec("P")
T = TypeVar("T")

CONFIG, PROVENANCE, METRICS = "config.yaml", "provenance.json", "metrics.jsonl"
LAST, BEST = "last.pt", "best.pt"
PREDICTIONS, SCORES, POSTPROCESS = "predictions.h5", "scores.json", "postprocess.yaml"
ENSEMBLE, FOLDS, MEMBERS, RESULTS, OUT_OF_FOLD = (
    "ensemble.yaml", "folds.yaml", "members", "results.md", "out_of_fold.h5",
)  # fmt: skip
SEPARATE, FEATURES, JOINT, FEATURE_FILE = "separate", "features", "joint", "features.h5"
TEACHER, ROUNDS = "teacher.pt", "rounds"
STUDY, TRIALS, STRATEGIES, SEARCH = "study.log", "trials", "strategies", "search.json"
REPORT, FIGURES = "report.html", "report"
BACKBONE, PUBLIC_CHECKPOINT = "backbone.yaml", "checkpoint.pth"
LOCK = ".lock"
KINDS = {FOLDS: "a cross-validation", RESULTS: "a recipe", ENSEMBLE: "an ensemble"}
"""Runs that are made of other runs, by the file that tells them from each other."""


def best_of(task: str) -> str:
    """Name of the checkpoint of a task's own best epoch."""
    return f"best_{task}.pt"


def is_finished(run: Path) -> bool:
    """Whether a run has its scores."""
    return (run / SCORES).is_file()


def holds_run(folder: Path) -> bool:
    """Whether a folder holds a run of any kind, finished or not."""
    return any((folder / name).is_file() for name in (CONFIG, ENSEMBLE, SCORES, PREDICTIONS))


@contextmanager
def held_run(run: Path) -> Iterator[None]:
    """Hold a run folder for writing until the end of the block; what killed processes left unfinished in it goes.

    The folder is made, and is gone again where nothing was written. Raises UserError where it cannot be written, and
    while another process writes it.
    """
    _check_place(run)
    new = [folder for folder in (run, *run.parents) if not folder.exists()]
    try:
        with held_lock(run / LOCK, output=run):
            remove_leftovers_in(run)
            yield
    finally:
        for folder in new:
            with suppress(OSError):  # it holds something
                folder.rmdir()


def holds_run_folder(argument: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A program that holds (`held_run`) the run folder which one of its arguments names, from beginning to end."""

    def decorate(program: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(program)

        @functools.wraps(program)
        def holding(*args: P.args, **kwargs: P.kwargs) -> T:
            with held_run(Path(signature.bind(*args, **kwargs).arguments[argument])):
                return program(*args, **kwargs)

        return holding

    return decorate


def open_run(
    run: Path, config: Any, *, resume: bool, writes: bool = True, free: tuple[str, ...] = ()
) -> dict[str, Any] | None:
    """Begin a run in a new or unused folder, or go on with one; the stored state, or None for a new run.

    The state has its `history`, a list of the lines of `metrics.jsonl`. `writes` is false in all but the first process
    of a group; `free` names settings that may differ from those the run was begun with.
    Raises UserError where the folder holds a run and `resume` is false, and where the settings differ.
    """
    check_unused(run, resume=resume)
    if (run / LAST).is_file():
        check_same_config(run, config, free=free)
        state = load_tensors(run / LAST)
        if "history" not in state:
            state["history"] = read_metrics(run)[: state["epoch"]]
        return state
    if writes:
        make_folder(run)
        for leftover in (*run.glob("best*.pt"), run / METRICS, run / SCORES, run / PREDICTIONS):
            leftover.unlink(missing_ok=True)
        write_text(run / CONFIG, configs.dump(config))
    return None


def check_unused(run: Path, *, resume: bool = False) -> None:
    """UserError where training cannot write to a folder, because of the place or because another run is there."""
    _check_place(run)
    if (run / LAST).exists() and not resume:
        raise UserError(f"{run} already holds a run; resume it, or name another folder")
    _check_other_kinds(run)
    if _lacks_only_its_state(run):
        reason = f"is finished, and {LAST}, from which it could go on, is gone" if resume else "holds a finished run"
        raise UserError(f"{run} {reason}; name another folder for the run")


def check_untrained(run: Path) -> None:
    """UserError where a folder cannot be written or holds a trained run."""
    _check_place(run)
    if (run / LAST).exists() or (run / BEST).exists() or _lacks_only_its_state(run):
        raise UserError(f"{run} already holds a trained run; name another folder")


def check_kind(run: Path, own: str) -> None:
    """UserError where a folder cannot be written, or holds a run of another kind than that of the file `own`.

    `own` is one of `KINDS`, or that of a search or a progressive training. A recipe goes on in a folder that has
    members, with or without an ensemble.
    """
    check_untrained(run)
    _check_other_kinds(run, own=own)


def _check_place(run: Path) -> None:
    if run.exists() and not run.is_dir():
        raise UserError(f"{run} is a file; name a folder for the run")
    check_folder(run)


def _check_other_kinds(run: Path, *, own: str = "") -> None:
    for folder, kind, their in ((TRIALS, "a search", SEARCH), (SEPARATE, "a progressive training", SEPARATE)):
        if (run / folder).is_dir():
            if own != their:
                raise UserError(f"{run} holds {kind}; name another folder for the run")
            return
    members = (run / MEMBERS).is_dir()
    for name, kind in KINDS.items():
        theirs = (run / name).is_file() or (name == RESULTS and members and own != ENSEMBLE)
        if theirs and name != own and not (own == RESULTS and name == ENSEMBLE and members):
            raise UserError(f"{run} holds {kind}; name another folder for the run")


def _lacks_only_its_state(run: Path) -> bool:
    """Whether a folder holds a finished run whose `last.pt` was deleted, to save room."""
    if (run / FOLDS).is_file() or (run / TRIALS).is_dir() or (run / SEPARATE).is_dir():
        return False
    finished = any((run / name).is_file() for name in (SCORES, BACKBONE))
    return finished and (run / CONFIG).is_file() and not (run / LAST).exists()


def check_same_config(run: Path, config: Any, *, free: tuple[str, ...] = ()) -> None:
    """UserError unless `config` is what the run was begun with; settings newer than the run count as their defaults."""
    before = configs.to_dict(configs.load(type(config), run / CONFIG))
    now = configs.to_dict(config)
    differing = [key for key in now if before[key] != now[key] and key not in free]
    if differing:
        changes = "; ".join(f"{key} was {before[key]!r}, is now {now[key]!r}" for key in differing)
        raise UserError(
            f"{run}: cannot resume, the config differs in {', '.join(differing)} ({changes}); "
            "use the same settings or name another folder"
        )


def save_epoch(run: Path, state: dict[str, Any]) -> None:
    """Write the state after an epoch, tensors and plain values, and `metrics.jsonl` from its `history`.

    The history is part of the state, so that a run killed between the two files resumes with the right lines.
    """
    write_text(run / METRICS, "".join(json.dumps(line) + "\n" for line in state["history"]))
    save_tensors(run / LAST, state)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, one per epoch; a last line that is still being written is left out."""
    path = run / METRICS
    if not path.exists():
        return []
    *lines, unfinished = path.read_bytes().split(b"\n")
    if unfinished.endswith(b"}"):
        lines.append(unfinished)
    return [_parse_json(line, f"{path}, line {k}") for k, line in enumerate(lines, start=1) if line.strip()]


def write_provenance(run: Path, record: dict[str, Any]) -> None:
    """Store what `engine.provenance.provenance` returns."""
    write_json(run / PROVENANCE, record)


def read_provenance(run: Path) -> dict[str, Any] | None:
    """What the run was made from, None where that is not recorded."""
    return _read_json(run / PROVENANCE)


def write_scores(run: Path, scores: dict[str, Any]) -> None:
    """Store the scores, which finishes the run."""
    write_json(run / SCORES, scores)


def read_scores(run: Path) -> dict[str, Any] | None:
    """The content of `scores.json`, None where there is none."""
    return _read_json(run / SCORES)


def read_search(run: Path) -> dict[str, Any] | None:
    """The content of `search.json`, None where there is none."""
    return _read_json(run / SEARCH)


def _read_json(path: Path) -> dict[str, Any] | None:
    return _parse_json(path.read_bytes(), str(path)) if path.is_file() else None


def _parse_json(data: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}): remove it or make the run again") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: a JSON object is expected, not a {type(value).__name__}")
    return value
