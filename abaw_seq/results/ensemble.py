"""Joining the predictions of several runs."""

from __future__ import annotations

import numpy as np

from abaw_seq.errors import UserError
from abaw_seq.results.prediction_file import VideoPredictions
from abaw_seq.tasks import TASKS


def average_predictions(members: dict[str, dict[str, VideoPredictions]]) -> dict[str, VideoPredictions]:
    """Mean of the members' probabilities, task by task, over the members that predict the task.

    members: {name: its predictions}. All must cover the same videos and frames; UserError names the
    first that does not.
    """
    (first_name, first), *rest = members.items()
    for name, other in rest:
        if differing := set(first) ^ set(other):
            raise UserError(f"{name} and {first_name} hold different videos (such as {sorted(differing)[0]})")
        for video, predictions in other.items():
            if not np.array_equal(predictions.frames, first[video].frames):
                raise UserError(f"{name} and {first_name} hold different frames of video {video}")
    result = {}
    for video, known in first.items():
        outputs = {}
        for task in TASKS:
            held = [member[video].outputs[task] for member in members.values() if task in member[video].outputs]
            if held:
                outputs[task] = np.mean(held, 0, dtype=np.float64).astype(np.float32)
        result[video] = VideoPredictions(known.frames, outputs, known.labels, known.split)
    return result
