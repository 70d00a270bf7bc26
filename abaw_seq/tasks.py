"""The four tasks of the challenge: their names, label columns and class names.

Labels travel as one float32 array of 15 columns per frame, NaN where a frame has no label:
valence, arousal, expression, then the twelve action units in the official order.
"""

from __future__ import annotations

from dataclasses import dataclass

EXPRESSIONS = ("Neutral", "Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Other")
ACTION_UNITS = (
    "AU1", "AU2", "AU4", "AU6", "AU7", "AU10", "AU12", "AU15", "AU23", "AU24", "AU25", "AU26",
)  # fmt: skip
LABEL_COLUMNS = ("valence", "arousal", "expression", *ACTION_UNITS)
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Task:
    """One prediction task.

    `columns` are its columns in the 15-column label array, `outputs` the width of a model's
    output for it (logits for classes and action units, one value for valence and arousal).
    """

    name: str
    columns: slice
    outputs: int


VALENCE = Task("valence", slice(0, 1), 1)
AROUSAL = Task("arousal", slice(1, 2), 1)
EXPRESSION = Task("expression", slice(2, 3), len(EXPRESSIONS))
AU = Task("au", slice(3, 15), len(ACTION_UNITS))
TASKS = {task.name: task for task in (VALENCE, AROUSAL, EXPRESSION, AU)}
