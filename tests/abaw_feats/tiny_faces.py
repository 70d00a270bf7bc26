"""A small data set whose images show their labels, for the tests of pre-training and fine-tuning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from abaw_seq.data.annotations import write_mtl_annotations

SIDE = 32
NOTHING = slice(0, 0)


def face(valence: float, expression: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 (32, 32, 3): the brightness of the upper half shows valence, a bright column the expression."""
    image = rng.normal(90, 12, (SIDE, SIDE, 3))
    image[: SIDE // 2] += 70 * valence
    image[SIDE // 2 :, 4 * expression : 4 * expression + 4, 0] += 140
    return image.clip(0, 255).astype(np.uint8)


def write_faces(
    folder: Path, *, train: int = 3, val: int = 1, frames: int = 24, seed: int = 0, unlabelled: slice = NOTHING
) -> tuple[Path, Path]:
    """(frames, annotations) folders of some videos; the columns `unlabelled` have no label in training.

    Arousal is the negative of valence, every action unit is active where valence is above zero.
    """
    rng = np.random.default_rng(seed)
    rows: dict[str, list] = {"training": [], "validation": []}
    for number in range(train + val):
        split = "training" if number < train else "validation"
        video = folder / "faces" / f"{folder.name}-{number}"
        video.mkdir(parents=True)
        for frame in range(1, frames + 1):
            valence, expression = rng.uniform(-1, 1), int(rng.integers(8))
            Image.fromarray(face(valence, expression, rng)).save(video / f"{frame:05d}.png")
            labels = np.array([valence, -valence, expression, *[float(valence > 0)] * 12], np.float32)
            if split == "training":
                labels[unlabelled] = np.nan
            rows[split].append((f"{video.name}/{frame:05d}.png", labels))
    (folder / "labels").mkdir()
    for split, lines in rows.items():
        if lines:
            write_mtl_annotations(folder / "labels" / f"{split}_set_annotations.txt", lines)
    return folder / "faces", folder / "labels"
