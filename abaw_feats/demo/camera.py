"""From the drawn picture to the JPEG file: exposure, crop, blur, noise."""

from __future__ import annotations

import numpy as np
import simplejpeg
from PIL import Image, ImageFilter

from abaw_feats.demo.canvas import DENSITY, EXTENT, axis, edge
from abaw_feats.demo.identity import Light, smooth_noise
from abaw_feats.demo.nuisance import Disturbed

CROP = 112
GRAIN = 256  # side of the noise tile from which frames cut theirs


class Camera:
    """Random recording conditions that are constant over a video; the exposure is set for the skin, RGB in 0..1."""

    def __init__(self, rng: np.random.Generator, skin: np.ndarray):
        direction = np.array((rng.uniform(-0.65, 0.65), rng.uniform(-0.6, 0.05), rng.uniform(0.75, 1.0)))
        warmth = rng.uniform(-0.06, 0.06)
        cast = np.array((1 + warmth, 1.0, 1 - warmth))
        key = rng.uniform(0.50, 0.78)
        self.light = Light(
            direction=(direction / np.linalg.norm(direction)).astype(np.float32),
            key=(key * cast).astype(np.float32),
            fill=(rng.uniform(0.30, 0.44) * (2 - cast)).astype(np.float32),
        )
        exposure = rng.uniform(0.88, 1.1) * (0.66 / float(np.mean(skin))) ** 0.45
        self.gain = (exposure * (1 + 0.03 * rng.standard_normal(3))).astype(np.float32)  # (3,), with the colour cast
        self.quality = int(rng.integers(84, 95))  # of the JPEG
        self.background = _draw_background(rng)  # (3, SIDE, SIDE)
        self.grain = rng.standard_normal((GRAIN, GRAIN, 3)).astype(np.float32)


def _draw_background(rng: np.random.Generator) -> np.ndarray:
    """A room out of focus: a soft gradient with a few discs of light (3, SIDE, SIDE)."""
    x, y = axis()[None, :], axis()[:, None]
    base = rng.uniform(0.22, 0.75) + rng.uniform(-0.10, 0.10, 3)
    slope = rng.uniform(-0.0025, 0.0025, 2)
    field = base[:, None, None] + slope[0] * x + slope[1] * y + 0.05 * smooth_noise(rng, 40, 40)
    for _ in range(rng.integers(2, 7)):
        radius = rng.uniform(6, 16)
        disc = edge((radius - np.hypot(x - rng.uniform(-70, 70), y - rng.uniform(-70, 40))) / 3)
        tint = np.clip(base + rng.uniform(-0.05, 0.3) + rng.uniform(-0.1, 0.1, 3), 0, 1)
        field += 0.45 * disc * (tint[:, None, None] - field)
    return np.clip(field, 0.03, 1).astype(np.float32)


def take(picture: np.ndarray, camera: Camera, seen: Disturbed, k: int, rng: np.random.Generator) -> bytes:
    """Frame k of a video as the camera records it: a JPEG file of 112 x 112 pixels."""
    exposed = picture * (255 * seen.gain[k] * camera.gain).astype(np.float32)[:, None, None]
    np.clip(exposed, 0, 255, out=exposed)
    image = Image.fromarray(exposed.astype(np.uint8).transpose(1, 2, 0))
    scale = DENSITY / seen.zoom[k]
    c, s = scale * np.cos(seen.roll[k]), scale * np.sin(seen.roll[k])
    x, y = CROP / 2 + seen.shift[k]
    centre = EXTENT * DENSITY
    matrix = (c, s, centre - c * x - s * y, -s, c, centre + s * x - c * y)
    image = image.transform((CROP, CROP), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    if seen.blur[k].any():
        image = image.filter(ImageFilter.GaussianBlur(tuple(seen.blur[k].tolist())))
    top, left = rng.integers(GRAIN - CROP, size=2)
    grain = camera.grain[top : top + CROP, left : left + CROP] * np.float32(255 * seen.noise[k])
    frame = np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)
    return simplejpeg.encode_jpeg(frame, quality=max(1, round(camera.quality * seen.quality[k])), colorspace="RGB")
