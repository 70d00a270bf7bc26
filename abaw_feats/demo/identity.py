"""Who is in a generated video: the face at rest, its colours and its hair."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from abaw_feats.demo.canvas import SIDE

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


@dataclass(frozen=True)
class Identity:
    """A person. Colours are RGB in 0..1, lengths are pixels of the crop; see `draw_identity` for their ranges."""

    skin: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    lips: np.ndarray
    clothes: np.ndarray
    style: str
    hairline: float
    face_width: float
    jaw_square: float
    chin: float
    eye_spacing: float
    eye_width: float
    eye_open: float
    eye_tilt: float
    brow_height: float
    brow_tilt: float
    brow_thick: float
    nose_width: float
    nose_length: float
    mouth_width: float
    mouth_curve: float
    lip_upper: float
    lip_lower: float
    beard: float
    moustache: float
    folds: float
    freckles: float
    glasses: np.ndarray | None
    skin_texture: np.ndarray  # (SIDE, SIDE), around 1
    hair_texture: np.ndarray  # (SIDE, SIDE), around 1


@dataclass(frozen=True)
class Light:
    """A light and the light that surrounds it."""

    direction: np.ndarray  # (3,) unit vector towards the light; x right, y down, z to the viewer
    key: np.ndarray  # (3,) colour of the light
    fill: np.ndarray  # (3,) colour of what comes from all sides


def draw_identity(rng: np.random.Generator, resting: float = 1.0) -> Identity:
    """A random person; `resting` scales how far the face at rest departs from the average face.

    In a single frame, a low brow, drooping mouth corners or narrow eyes at rest look like an action unit.
    """
    skin = np.array(SKINS[rng.integers(len(SKINS))]) * rng.uniform(0.95, 1.05)
    dark = skin[0] < 0.7
    hair = np.array(HAIRS[rng.integers(2 if dark else len(HAIRS))]) * rng.uniform(0.85, 1.15)
    lips = skin * (0.92, 0.66, 0.66) + np.array((0.06, 0.0, 0.01)) * rng.uniform(0, 1.5)
    style = STYLES[rng.choice(len(STYLES), p=(0.24, 0.16, 0.2, 0.14, 0.1, 0.1, 0.06))]
    bearded = style in ("short", "bald", "curly") and rng.random() < 0.4
    glasses = np.array((0.12, 0.11, 0.12)) + rng.uniform(0, 0.25) if rng.random() < 0.2 else None
    offset = resting * rng.standard_normal(6).clip(-1.8, 1.8)
    return Identity(
        skin=skin.clip(0, 1).astype(np.float32),
        hair=hair.astype(np.float32),
        iris=np.array(IRISES[rng.integers(2 if dark else len(IRISES))], np.float32),
        lips=lips.clip(0, 1).astype(np.float32),
        clothes=np.array(CLOTHES[rng.integers(len(CLOTHES))], np.float32),
        style=style,
        hairline=rng.uniform(-40, -35),
        face_width=rng.uniform(39.5, 44),
        jaw_square=rng.uniform(1.8, 2.6),
        chin=rng.uniform(47.5, 51.5),
        eye_spacing=rng.uniform(16.8, 18.8),
        eye_width=rng.uniform(8.9, 10.2),
        eye_open=1.0 + 0.07 * offset[0],
        eye_tilt=0.6 + 0.5 * offset[1],
        brow_height=1.1 * offset[2],
        brow_tilt=0.8 * offset[3],
        brow_thick=rng.uniform(3.0, 4.6),
        nose_width=rng.uniform(5.2, 7.4),
        nose_length=rng.uniform(12.0, 15.0),
        mouth_width=14.5 + 0.9 * offset[4],
        mouth_curve=0.9 * offset[5],
        lip_upper=rng.uniform(2.8, 4.2),
        lip_lower=rng.uniform(4.0, 5.6),
        beard=rng.uniform(0.35, 0.8) if bearded else 0.0,
        moustache=rng.uniform(0.3, 0.7) if bearded and rng.random() < 0.6 else 0.0,
        folds=0.15 * resting * rng.random(),
        freckles=rng.uniform(0.3, 1.0) if rng.random() < 0.25 and not dark else 0.0,
        glasses=None if glasses is None else glasses.astype(np.float32),
        skin_texture=_skin_texture(rng),
        hair_texture=_hair_texture(rng, curls=style == "curly"),
    )


def smooth_noise(rng: np.random.Generator, height: int, width: int, cell_y: float, cell_x: float) -> np.ndarray:
    """Noise of unit variance (height, width), smooth between the corners of cells of the given size."""
    rows, columns = int(height / cell_y) + 3, int(width / cell_x) + 3
    grid = rng.standard_normal((rows, columns))
    return _stretch(_stretch(grid, height, cell_y).T, width, cell_x).T.astype(np.float32)


def _stretch(grid: np.ndarray, length: int, cell: float) -> np.ndarray:
    at = np.arange(length) / cell
    low = at.astype(int)
    part = (at - low)[:, None]
    part = part * part * (3 - 2 * part)
    return grid[low] * (1 - part) + grid[low + 1] * part


def _skin_texture(rng: np.random.Generator) -> np.ndarray:
    blotches = 0.018 * smooth_noise(rng, SIDE, SIDE, 9, 9)
    pores = 0.012 * rng.standard_normal((SIDE, SIDE))
    return (1 + blotches + pores).astype(np.float32)


def _hair_texture(rng: np.random.Generator, curls: bool) -> np.ndarray:
    strands = smooth_noise(rng, SIDE, SIDE, 4 if curls else 40, 4 if curls else 1.6)
    locks = smooth_noise(rng, SIDE, SIDE, 7 if curls else 60, 7)
    return (1 + 0.16 * strands + 0.10 * locks).clip(0.5, 1.6).astype(np.float32)
