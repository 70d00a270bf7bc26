"""`report.html` of one or more runs: what they scored, how they were made, and where they are wrong.

Beside the page, which needs no other file, the figures are written as PNG under `report/`.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from abaw_seq.data.prediction_file import VideoPredictions, concatenated, read_predictions
from abaw_seq.errors import UserError
from abaw_seq.files import write_bytes, write_text
from abaw_seq.metrics import score
from abaw_seq.results.report.page import Plot, Run, render_page
from abaw_seq.run_folder import (
    CONFIG,
    FIGURES,
    METRICS,
    POSTPROCESS,
    PREDICTIONS,
    PROVENANCE,
    REPORT,
    SCORES,
    read_metrics,
    read_scores,
)  # fmt: skip

DOCUMENTS = (CONFIG, POSTPROCESS, PROVENANCE)
SCORE_TABLES = ("expression_f1", "au_f1", "frames")  # parts of a score that are tables themselves


def write_report(runs: list[Path], out: Path | None = None, *, frames_root: Path | None = None) -> Path:
    """Write `report.html` and `report/*.png` for runs and return the page's path.

    runs: run folders, or prediction files; parts of a run folder that are missing are left out of the
    report, but either scores or predictions must be there. out: the folder to write to, by default the
    first run's. frames_root: the folder that holds `cropped_aligned/<video>/<NNNNN>.jpg`, or that folder
    itself; the page links to its images and does not copy them.

    Raises UserError, naming the file, for what cannot be read, and when matplotlib is not installed.
    """
    if not runs:
        raise UserError("no runs to report on: name at least one run folder")
    folder = Path(out) if out is not None else _folder_of(Path(runs[0]))
    image_base = None if frames_root is None else _image_base(Path(frames_root), folder)
    found = [_read_run(Path(path), name) for path, name in zip(runs, _names(runs), strict=True)]

    drawn = _draw(found)
    page = render_page(found, drawn, image_base=image_base)

    for plot in drawn:
        write_bytes(folder / FIGURES / plot.file_name, plot.light)
    write_text(folder / REPORT, page)
    return folder / REPORT


def _read_run(path: Path, name: str) -> Run:
    """One run folder, or one prediction file, as far as it goes."""
    folder = path if path.is_dir() else None
    predictions_path = path / PREDICTIONS if folder else path
    if not path.exists():
        raise UserError(f"{path}: no such run folder")
    predictions = read_predictions(predictions_path) if predictions_path.exists() else {}
    scores = _read_scores(path) if folder else None
    if not predictions and scores is None:
        raise UserError(f"{path}: neither {SCORES} nor {PREDICTIONS} in it: train or predict first")
    epochs = _read_epochs(path) if folder else []
    documents = {
        document: (path / document).read_text(encoding="utf-8", errors="replace")
        for document in DOCUMENTS
        if folder and (path / document).is_file()
    }
    return Run(name, scores or _scored(predictions), epochs, predictions, documents)


def _read_scores(run: Path) -> dict | None:
    scores = read_scores(run)
    if scores is None:
        return None
    for kind in ("untuned", "tuned"):
        table = scores.get(kind) or {}
        parts = [table, *map(table.get, SCORE_TABLES)] if isinstance(table, dict) else [table]
        if not all(part is None or isinstance(part, dict) for part in parts):
            raise UserError(f"{run / SCORES}: {kind} is not a table of scores: evaluate the run again")
    return scores


def _read_epochs(run: Path) -> list[dict]:
    epochs = read_metrics(run)
    for k, epoch in enumerate(epochs, start=1):
        if not all(isinstance(epoch.get(part) or {}, dict) for part in ("train", "val")):
            raise UserError(f"{run / METRICS}, epoch {k}: train and val must be tables of numbers")
    return epochs


def _scored(predictions: dict[str, VideoPredictions]) -> dict | None:
    """Scores of predictions that carry labels, for a prediction file without a scores.json."""
    if all(video.labels is None for video in predictions.values()):
        return None
    splits = sorted({str(video.split) for video in predictions.values() if video.split})
    return {"edition": "mtl", "split": ", ".join(splits), "untuned": score(*concatenated(predictions))}


def _names(runs: list[Path]) -> list[str]:
    """A distinct name for each run: the last parts of its path, as many as it takes."""
    parts = [_named_by(Path(path)).resolve().parts for path in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"the same run is given twice: {', '.join(map(str, runs))}")


def _named_by(run: Path) -> Path:
    if run.name == PREDICTIONS:
        return run.parent
    return run.with_suffix("") if run.suffix == ".h5" else run


def _folder_of(run: Path) -> Path:
    return run.parent if run.is_file() else run


def _image_base(frames_root: Path, folder: Path) -> str:
    inner = frames_root / "cropped_aligned"
    root = inner if inner.is_dir() else frames_root
    if not root.is_dir():
        raise UserError(f"{frames_root}: no such folder of frames: give the one that holds cropped_aligned/")
    relative = Path(os.path.relpath(root.resolve(), folder.resolve())).as_posix()
    return quote(relative) + "/"


def _draw(runs: list[Run]) -> list[Plot]:
    try:
        from abaw_seq.results.report.figures import draw_figures
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("matplotlib", "PIL"):
            raise
        raise UserError('the report needs matplotlib: pip install "abaw[report]"') from error
    return draw_figures(runs)
