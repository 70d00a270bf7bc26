"""The data of the report's scrubber: every run's frames, labels and predictions, small enough to be inlined.

A frame costs about 50 bytes of the page for its labels and 32 for each run's predictions.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

import numpy as np

from abaw_seq.data.prediction_file import Videos
from abaw_seq.tasks import ACTION_UNITS, EXPRESSIONS, TASKS

VA_ERROR = 0.25
"""A larger difference in valence or arousal is shown as an error."""

# Okabe and Ito's colour-blind-safe set, with grey in place of black, which would not be seen on a dark page.
EXPRESSION_COLOURS = {
    "Neutral": "#9aa0a8",
    "Anger": "#d55e00",
    "Disgust": "#009e73",
    "Fear": "#cc79a7",
    "Happiness": "#e69f00",
    "Sadness": "#0072b2",
    "Surprise": "#f0e442",
    "Other": "#56b4e9",
}
ACTION_UNIT_MEANINGS = {
    "AU1": "inner brow raiser",
    "AU2": "outer brow raiser",
    "AU4": "brow lowerer",
    "AU6": "cheek raiser",
    "AU7": "lid tightener",
    "AU10": "upper lip raiser",
    "AU12": "lip corner puller",
    "AU15": "lip corner depressor",
    "AU23": "lip tightener",
    "AU24": "lip pressor",
    "AU25": "lips part",
    "AU26": "jaw drop",
}

# Values are stored as small integers: probabilities as 0..253 (253 puts 0.5 exactly between two steps, so that rounding
# moves none over it), valence and arousal in thousandths.
PROBABILITY_STEPS = 253
VALUE_STEPS = 1000
NO_BYTE = 255
NO_VALUE = -32768


def scrubber_data(runs: Mapping[str, Videos], image_base: str | None) -> dict:
    """The data of the page's script, {name of a run: predictions}, as plain values that JSON can hold.

    `image_base`: URL of the folder of video folders, or None. Arrays are base64 of little-endian integers, row by row.
    Frames and labels that runs have in common are stored once, under `truths`.
    """
    truths: dict[tuple[bytes, bytes], dict] = {}
    packed_runs = []
    for run, predictions in runs.items():
        videos = []
        for name, video in sorted(predictions.items()):
            if len(video.frames) == 0:
                continue
            labels = None if video.labels is None else np.asarray(video.labels, np.float32)
            key = (np.asarray(video.frames, "<i4").tobytes(), b"" if labels is None else labels.tobytes())
            truths.setdefault(key, {"index": len(truths), **_pack_truth(video.frames, labels)})
            videos.append({"name": name, "truth": truths[key]["index"], **_pack_outputs(video.outputs)})
        packed_runs.append({"name": run, "videos": videos})
    return {
        "expressions": EXPRESSIONS,
        "colours": [EXPRESSION_COLOURS[name] for name in EXPRESSIONS],
        "actionUnits": ACTION_UNITS,
        "meanings": [ACTION_UNIT_MEANINGS[name] for name in ACTION_UNITS],
        "probabilitySteps": PROBABILITY_STEPS,
        "valueSteps": VALUE_STEPS,
        "vaError": VA_ERROR,
        "labelled": any(truth[task] is not None for truth in truths.values() for task in TASKS),
        "images": image_base,
        "truths": list(truths.values()),
        "runs": packed_runs,
    }


def _pack_truth(frames: np.ndarray, labels: np.ndarray | None) -> dict:
    packed = {"frames": _base64(frames, "<i4"), **dict.fromkeys(TASKS)}
    if labels is None:
        return packed
    columns = {task.name: labels[:, task.columns] for task in TASKS.values()}
    known = {name: column for name, column in columns.items() if np.isfinite(column).any()}
    for name, column in known.items():
        count = {"expression": len(EXPRESSIONS), "au": 2}.get(name)
        packed[name] = _values(column) if count is None else _classes(column, count)
    return packed


def _pack_outputs(outputs: dict[str, np.ndarray]) -> dict:
    packed = dict.fromkeys((*TASKS, "decision"))
    for task, values in outputs.items():
        packed[task] = _values(values) if task in ("valence", "arousal") else _probabilities(values)
    if "expression" in outputs:
        # Chosen before rounding, which can make the two largest probabilities equal.
        packed["decision"] = _base64(outputs["expression"].argmax(axis=1), "u1")
    return packed


def _values(values: np.ndarray) -> str:
    values = np.asarray(values, np.float64).reshape(-1)
    scaled = np.clip(np.rint(np.nan_to_num(values) * VALUE_STEPS), NO_VALUE + 1, 32767)
    return _base64(np.where(np.isfinite(values), scaled, NO_VALUE), "<i2")


def _probabilities(values: np.ndarray) -> str:
    scaled = np.floor(np.asarray(values, np.float64) * PROBABILITY_STEPS + 0.5)
    return _base64(np.clip(scaled, 0, PROBABILITY_STEPS), "u1")


def _classes(values: np.ndarray, count: int) -> str:
    return _base64(np.where(np.isin(values, np.arange(count)), values, NO_BYTE), "u1")


def _base64(values: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values).astype(dtype).tobytes()).decode("ascii")
