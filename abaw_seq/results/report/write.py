"""`report.html` of one or more runs: their scores, how they were made, and where they are wrong.

Beside the page, which needs no other file, the figures are written as PNG files under `report/`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from abaw_seq.data.prediction_file import Videos, read_predictions, score_videos
from abaw_seq.errors import UserError
from abaw_seq.files import check_folder, write_bytes, write_text
from abaw_seq.results.postprocess import postprocessed
from abaw_seq.results.reading import distinct_names, with_current_labels
from abaw_seq.results.report.frame_images import image_names
from abaw_seq.results.report.page import Plot, ReportedRun, render_page
from abaw_seq.run_folder import (
    CONFIG,
    FIGURES,
    METRICS,
    POSTPROCESS,
    PREDICTIONS,
    PROVENANCE,
    REPORT,
    RESULTS,
    SCORES,
    read_metrics,
    read_scores,
    read_search,
)  # fmt: skip

DOCUMENTS = (RESULTS, CONFIG, POSTPROCESS, PROVENANCE)
SCORE_TABLES = ("expression_f1", "au_f1", "frames")
"""Parts of a run's scores that are tables themselves."""


def write_report(runs: list[Path], out: Path | None = None, *, frames_root: Path | None = None) -> Path:
    """Write `report.html` and `report/*.png` for runs; returns the page's path.

    `runs`: run folders, or prediction files. What a run folder lacks is left out of the report, but either scores or
    predictions must be there. `out`: the folder to write to, by default the first run's. `frames_root`: the folder that
    holds `cropped_aligned/<video>/<NNNNN>.jpg`, or that folder itself; the page links to the images there, which may be
    called whatever extraction takes for frames.

    Raises UserError, naming the file, for what cannot be read, and when matplotlib is not installed.
    """
    if not runs:
        raise UserError("no runs to report on: name at least one run folder")
    runs = [Path(run) for run in runs]
    folder = check_folder(out if out is not None else runs[0].parent if runs[0].is_file() else runs[0])
    images = None if frames_root is None else _image_folder(Path(frames_root))
    reported = [_read_run(path, name) for path, name in zip(runs, distinct_names(runs), strict=True)]

    plots = _draw(reported)
    image_base = None if images is None else quote(_relative(images, folder)) + "/"
    names = {} if images is None else image_names(images, (video for run in reported for video in run.predictions))
    page = render_page(reported, plots, image_base=image_base, images=names)

    for plot in plots:
        write_bytes(folder / FIGURES / plot.file_name, plot.light)
    write_text(folder / REPORT, page)
    return folder / REPORT


def _read_run(path: Path, name: str) -> ReportedRun:
    """A run folder, as far as it is complete, or a prediction file."""
    if not path.exists():
        raise UserError(f"{path}: no such run folder")
    scores: dict[str, Any] | None = None
    epochs: list[dict] = []
    documents: dict[str, str] = {}
    note = ""
    if path.is_dir():
        scores, epochs = _read_scores(path), _read_epochs(path)
        kept = [path / document for document in DOCUMENTS if (path / document).is_file()]
        documents = {file.name: file.read_text(encoding="utf-8", errors="replace") for file in kept}
    predictions: Videos = {}
    if path.is_file() or (path / PREDICTIONS).exists():
        predictions, note = with_current_labels(read_predictions(path), path)
    elif scores is None:
        raise UserError(f"{path}: neither {SCORES} nor {PREDICTIONS} in it: train or predict first")
    if not scores and any(video.labels is not None for video in predictions.values()):
        splits = sorted({str(video.split) for video in predictions.values() if video.split})
        scores = {"edition": "mtl", "split": ", ".join(splits), "untuned": score_videos(predictions)}
    elif scores and note:
        edition = scores.get("edition", "mtl")
        tuned = scores.get("tuned") and score_videos(postprocessed(path, predictions), edition=edition)
        scores = scores | {"untuned": score_videos(predictions, edition=edition), "tuned": tuned}
    searched = read_search(path) if path.is_dir() else None
    return ReportedRun(name, scores, epochs, predictions, documents, note, searched)


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


def _image_folder(frames_root: Path) -> Path:
    inner = frames_root / "cropped_aligned"
    root = inner if inner.is_dir() else frames_root
    if not root.is_dir():
        raise UserError(f"{frames_root}: no such folder of frames: give the one that holds cropped_aligned/")
    return root


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _draw(runs: list[ReportedRun]) -> list[Plot]:
    try:
        from abaw_seq.results.report.figures import draw_figures
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("matplotlib", "PIL"):
            raise
        raise UserError('the report needs matplotlib: pip install "abaw[report]"') from error
    return draw_figures(runs)
