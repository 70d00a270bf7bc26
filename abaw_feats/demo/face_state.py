"""What a face does in one frame."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from abaw_seq.tasks import ACTION_UNITS


@dataclass(frozen=True)
class FaceState:
    """Muscles, lids, mood and turn of the head."""

    au: np.ndarray = field(default_factory=lambda: np.zeros(len(ACTION_UNITS), np.float32))
    """Intensities of the action units (12,) in the official order: 0 at rest, 1 fully contracted."""
    tilt: float = 0.0  # -1..1: the right (positive) or the left half of the picture contracts more
    blink: float = 0.0  # 0 open .. 1 shut
    widen: float = 0.0  # eyes opened wider (positive) or half closed (negative)
    corners: float = 0.0  # lip corners up (positive) or down, in pixels, from mood and not from an action unit
    flush: float = 0.0  # redness of the skin, 0..1
    gaze: tuple[float, float] = (0.0, 0.0)  # of the iris, in pixels
    yaw: float = 0.0  # shift of the nose to the right, in pixels
    pitch: float = 0.0  # shift of the nose down, in pixels

    def __getitem__(self, unit: str) -> float:
        """Intensity of an action unit by its name."""
        return float(self.au[ACTION_UNITS.index(unit)])

    def side(self, unit: str, side: int) -> float:
        """Intensity of an action unit on the left (-1) or the right (+1) half of the picture."""
        return self[unit] * (1 + side * self.tilt)
