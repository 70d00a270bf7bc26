"""The person in a generated video: the face at rest, its colours and hair, and what the face does in one frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from abaw_feats.demo.canvas import SIDE
from abaw_seq.tasks import ACTION_UNITS

SKINS = (
    (0.97, 0.84, 0.76), (0.94, 0.78, 0.66), (0.88, 0.70, 0.56), (0.80, 0.60, 0.45),
    (0.68, 0.48, 0.35), (0.54, 0.37, 0.27), (0.43, 0.29, 0.21),
)  # fmt: skip
HAIRS = (
    (0.11, 0.09, 0.09), (0.20, 0.13, 0.09), (0.33, 0.21, 0.13), (0.47, 0.31, 0.18),
    (0.70, 0.54, 0.32), (0.52, 0.22, 0.12), (0.62, 0.60, 0.58),
)  # fmt: skip
IRISES = ((0.30, 0.19, 0.11), (0.22, 0.13, 0.08), (0.38, 0.33, 0.18), (0.30, 0.45, 0.60), (0.33, 0.48, 0.38))
CLOTHES = ((0.20, 0.25, 0.36), (0.48, 0.16, 0.18), (0.22, 0.36, 0.30), (0.75, 0.73, 0.70), (0.16, 0.16, 0.18))
STYLES = ("short", "side", "long", "fringe", "bun", "curly", "bald")


class Identity:
    """A random person. Colours are RGB in 0..1, lengths are in pixels of the crop.

    resting: how far a face at rest departs from the average face. A low brow, drooping mouth corners or narrow eyes at
    rest look like an action unit in one frame.
    """

    def __init__(self, rng: np.random.Generator, resting: float = 1.0):
        skin = np.array(SKINS[rng.integers(len(SKINS))]) * rng.uniform(0.95, 1.05)
        dark = skin[0] < 0.7
        hair = np.array(HAIRS[rng.integers(2 if dark else len(HAIRS))]) * rng.uniform(0.85, 1.15)
        lips = skin * (0.92, 0.66, 0.66) + np.array((0.06, 0.0, 0.01)) * rng.uniform(0, 1.5)
        style = STYLES[rng.choice(len(STYLES), p=(0.24, 0.16, 0.2, 0.14, 0.1, 0.1, 0.06))]
        bearded = style in ("short", "bald", "curly") and rng.random() < 0.4
        glasses = np.array((0.12, 0.11, 0.12)) + rng.uniform(0, 0.25) if rng.random() < 0.2 else None
        offset = resting * rng.standard_normal(6).clip(-1.8, 1.8)
        self.skin = skin.clip(0, 1).astype(np.float32)
        self.hair = hair.astype(np.float32)
        self.iris = np.array(IRISES[rng.integers(2 if dark else len(IRISES))], np.float32)
        self.lips = lips.clip(0, 1).astype(np.float32)
        self.clothes = np.array(CLOTHES[rng.integers(len(CLOTHES))], np.float32)
        self.style = style
        self.hairline = rng.uniform(-40, -35)
        self.face_width = rng.uniform(39.5, 44)
        self.jaw_square = rng.uniform(1.8, 2.6)
        self.chin = rng.uniform(47.5, 51.5)
        self.eye_spacing = rng.uniform(16.8, 18.8)
        self.eye_width = rng.uniform(8.9, 10.2)
        self.eye_open = 1.0 + 0.07 * offset[0]
        self.eye_tilt = 0.6 + 0.5 * offset[1]
        self.brow_height = 1.1 * offset[2]
        self.brow_tilt = 0.8 * offset[3]
        self.brow_thick = rng.uniform(3.0, 4.6)
        self.nose_width = rng.uniform(5.2, 7.4)
        self.nose_length = rng.uniform(12.0, 15.0)
        self.mouth_width = 14.5 + 0.9 * offset[4]
        self.mouth_curve = 0.9 * offset[5]
        self.lip_upper = rng.uniform(2.8, 4.2)
        self.lip_lower = rng.uniform(4.0, 5.6)
        self.beard = rng.uniform(0.35, 0.8) if bearded else 0.0
        self.moustache = rng.uniform(0.3, 0.7) if bearded and rng.random() < 0.6 else 0.0
        self.folds = 0.15 * resting * rng.random()
        self.freckles = rng.uniform(0.3, 1.0) if rng.random() < 0.25 and not dark else 0.0
        self.glasses = None if glasses is None else glasses.astype(np.float32)
        texture = 1 + 0.018 * smooth_noise(rng, 9, 9) + 0.012 * rng.standard_normal((SIDE, SIDE))
        self.skin_texture = texture.astype(np.float32)  # (SIDE, SIDE), around 1
        curly = style == "curly"
        strands = smooth_noise(rng, 4 if curly else 40, 4 if curly else 1.6)
        locks = smooth_noise(rng, 7 if curly else 60, 7)
        texture = 1 + 0.16 * strands + 0.10 * locks
        self.hair_texture = texture.clip(0.5, 1.6).astype(np.float32)  # (SIDE, SIDE), around 1


@dataclass(frozen=True)
class Light:
    """A light and the light that surrounds it."""

    direction: np.ndarray  # (3,) unit vector towards the light; x right, y down, z to the viewer
    key: np.ndarray  # (3,) colour of the light
    fill: np.ndarray  # (3,) colour of what comes from all sides


@dataclass(frozen=True)
class FaceState:
    """Muscles, lids, mood and turn of the head."""

    au: Sequence[float] | np.ndarray = (0.0,) * len(ACTION_UNITS)
    """Intensities of the action units (12,) in the official order: 0 at rest, 1 fully contracted."""
    tilt: float = 0.0  # -1..1: the right (positive) or the left half of the picture contracts more
    blink: float = 0.0  # 0 open .. 1 shut
    widen: float = 0.0  # eyes opened wider (positive) or half closed (negative)
    corners: float = 0.0  # lip corners up (positive) or down, in pixels, from mood and not from an action unit
    flush: float = 0.0  # redness of the skin, 0..1
    gaze: tuple[float, float] = (0.0, 0.0)  # of the iris, in pixels
    turn: tuple[float, float] = (0.0, 0.0)  # yaw and pitch: shift of the nose to the right and down, in pixels

    @property
    def jaw(self) -> float:
        """Pixels by which the chin sinks."""
        return 8.5 * self["AU26"]

    def __getitem__(self, unit: str) -> float:
        """Intensity of an action unit by its name."""
        return float(self.au[ACTION_UNITS.index(unit)])

    def side(self, unit: str, side: int) -> float:
        """Intensity of an action unit on the left (-1) or the right (+1) half of the picture."""
        return self[unit] * (1 + side * self.tilt)


def smooth_noise(rng: np.random.Generator, cell_y: float, cell_x: float) -> np.ndarray:
    """Noise of unit variance (SIDE, SIDE), smooth between the corners of cells of the given size."""
    grid = rng.standard_normal((int(SIDE / cell_y) + 3, int(SIDE / cell_x) + 3))
    return _stretch(_stretch(grid, cell_y).T, cell_x).T.astype(np.float32)


def _stretch(grid: np.ndarray, cell: float) -> np.ndarray:
    at = np.arange(SIDE) / cell
    low = at.astype(int)
    part = (at - low)[:, None]
    part = part * part * (3 - 2 * part)
    return grid[low] * (1 - part) + grid[low + 1] * part
