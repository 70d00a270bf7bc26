"""Reading and scoring as many annotation lines as all of Aff-Wild2 has, beside line-by-line code and scikit-learn."""

from __future__ import annotations

import csv
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from sklearn.metrics import f1_score

from abaw_seq.data.annotations import read_annotations
from abaw_seq.metrics import score
from abaw_seq.tasks import ACTION_UNITS, EXPRESSIONS

LINES = 3_000_000
VIDEO_LINES = 5_000
REFERENCE_LINES = 200_000
READ_BOUND, SCORE_BOUND = 15.0, 3.0
FOLDERS = {
    "VA_Estimation_Challenge": "valence,arousal",
    "EXPR_Recognition_Challenge": ",".join(EXPRESSIONS),
    "AU_Detection_Challenge": ",".join(ACTION_UNITS),
}


def run() -> Iterator[str]:
    """A Markdown table: seconds, the bound, and how much faster than the plain way."""
    with tempfile.TemporaryDirectory() as folder:
        joint = _write_joint(Path(folder) / "training_set_annotations.txt", LINES)
        sample = _write_joint(Path(folder) / "sample.txt", REFERENCE_LINES)
        separate = _write_separate(Path(folder) / "annotations", LINES)
        plain_read = _seconds(lambda: _read_line_by_line(sample)) * LINES / REFERENCE_LINES
        rows = [
            ("read one multi-task file", READ_BOUND, _seconds(lambda: _read(joint, LINES)), plain_read),
            ("read per-task folders", READ_BOUND, _seconds(lambda: _read(separate, LINES // 3)), None),
        ]
    outputs, labels = _predictions(LINES)
    scored = _seconds(lambda: score(outputs, labels))
    part = slice(0, REFERENCE_LINES)
    plain_score = _seconds(lambda: _score_with_scikit_learn({t: v[part] for t, v in outputs.items()}, labels[part]))
    rows.append(("score all four tasks", SCORE_BOUND, scored, plain_score * LINES / REFERENCE_LINES))

    table = [
        f"### Annotations: {LINES:,} lines",
        "",
        "| step | seconds | bound (s) | bound / seconds | plain way (s) | plain / seconds |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for step, bound, seconds, plain in rows:
        reference = f"{plain:.1f} | {plain / seconds:.1f}" if plain is not None else " | "
        table.append(f"| {step} | {seconds:.2f} | {bound:.0f} | {bound / seconds:.1f} | {reference} |")
    plain = "csv and float line by line; scikit-learn's F1 and numpy's CCC"
    table += ["", f"Plain way: {plain}, on {REFERENCE_LINES:,} lines, scaled to {LINES:,}."]
    yield "\n".join(table)


def _seconds(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def _read(path: Path, frames: int) -> None:
    found = read_annotations(path)
    assert sum(len(video.frames) for video in found.videos.values()) == frames


def _write_joint(path: Path, lines: int) -> Path:
    """A multi-task file: the rows of every video differ in their path alone."""
    rng = np.random.default_rng(0)
    rows = [
        f"{v:.3f},{a:.3f},{e},{','.join(map(str, units))}"
        for v, a, e, units in zip(
            rng.uniform(-1, 1, VIDEO_LINES),
            rng.uniform(-1, 1, VIDEO_LINES),
            rng.integers(-1, 8, VIDEO_LINES),
            rng.integers(0, 2, (VIDEO_LINES, 12)),
            strict=True,
        )
    ]
    with open(path, "w", encoding="ascii") as file:
        file.write("image,valence,arousal,expression,aus\n")
        for video in range(lines // VIDEO_LINES):
            file.writelines(f"{video}-30-1280x720/{k:05d}.jpg,{row}\n" for k, row in enumerate(rows, 1))
    return path


def _write_separate(folder: Path, lines: int) -> Path:
    """The three per-task folders, a third of the lines each."""
    rng = np.random.default_rng(0)
    rows = {
        "VA_Estimation_Challenge": [f"{v:.3f},{a:.3f}" for v, a in rng.uniform(-1, 1, (VIDEO_LINES, 2))],
        "EXPR_Recognition_Challenge": [str(e) for e in rng.integers(-1, 8, VIDEO_LINES)],
        "AU_Detection_Challenge": [",".join(map(str, units)) for units in rng.integers(0, 2, (VIDEO_LINES, 12))],
    }
    for name, header in FOLDERS.items():
        text = "\n".join([header, *rows[name]]) + "\n"
        place = folder / name / "Train_Set"
        place.mkdir(parents=True)
        for video in range(lines // 3 // VIDEO_LINES):
            (place / f"{video}-30-1280x720.txt").write_text(text)
    return folder


def _read_line_by_line(path: Path) -> dict[str, list[tuple[int, list[float]]]]:
    videos: dict[str, list[tuple[int, list[float]]]] = {}
    with open(path, newline="") as file:
        rows = csv.reader(file)
        next(rows)
        for image, *values in rows:
            video, name = image.split("/")
            videos.setdefault(video, []).append((int(name.split(".")[0]), [float(value) for value in values]))
    return videos


def _predictions(lines: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(1)
    labels = np.concatenate(
        [
            rng.uniform(-1, 1, (lines, 2)).astype(np.float32),
            rng.integers(0, 8, (lines, 1)).astype(np.float32),
            rng.integers(0, 2, (lines, 12)).astype(np.float32),
        ],
        1,
    )
    labels[rng.random(lines) < 0.3, 2] = np.nan
    labels[rng.random(lines) < 0.3, 3:] = np.nan
    outputs = {
        "valence": rng.random(lines, np.float32),
        "arousal": rng.random(lines, np.float32),
        "expression": rng.random((lines, 8), np.float32),
        "au": rng.random((lines, 12), np.float32),
    }
    return outputs, labels


def _score_with_scikit_learn(outputs: dict[str, np.ndarray], labels: np.ndarray) -> float:
    total = 0.0
    for column, task in enumerate(("valence", "arousal")):
        x, y = outputs[task].astype(float), labels[:, column].astype(float)
        covariance = ((x - x.mean()) * (y - y.mean())).mean()
        total += covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    known = ~np.isnan(labels[:, 2])
    chosen = outputs["expression"][known].argmax(1)
    total += f1_score(labels[known, 2].astype(int), chosen, average="macro", labels=range(8), zero_division=0)
    for unit in range(12):
        known = ~np.isnan(labels[:, 3 + unit])
        total += f1_score(labels[known, 3 + unit].astype(int), outputs["au"][known, unit] >= 0.5, zero_division=0) / 12
    return total
