"""What hides a part of a face: a hand, a phone, a microphone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from abaw_feats.demo.canvas import Canvas, Window, axis, bell, edge
from abaw_feats.demo.identity import Light

KINDS = ("hand", "hand", "phone", "microphone")
FINGERS = ((-11.5, 17), (-3.8, 21), (3.8, 20), (11.0, 15))  # position across the hand, half length


@dataclass(frozen=True)
class Obstacle:
    """A thing between the camera and the face."""

    kind: str  # one of KINDS
    x: float  # pixels from the centre of the crop
    y: float
    angle: float  # radians
    colour: np.ndarray  # (3,)


def draw_obstacles(rng: np.random.Generator, count: int, skin: np.ndarray) -> list[Obstacle]:
    """One obstacle for each of the `count` occlusions of a video."""
    obstacles = []
    for _ in range(count):
        kind = KINDS[rng.integers(len(KINDS))]
        side = float(rng.choice((-1, 1)))
        x, y = side * rng.uniform(2, 30), rng.uniform(-14, 34)
        if kind == "microphone":
            x, y = side * rng.uniform(0, 14), rng.uniform(26, 40)
        colour = skin if kind == "hand" else 0.13 + rng.uniform(0, 0.5) * rng.random(3)
        obstacles.append(Obstacle(kind, x, y, side * rng.uniform(0.2, 1.1), np.asarray(colour, np.float32)))
    return obstacles


def place_obstacle(picture: np.ndarray, obstacle: Obstacle, light: Light) -> None:
    """Draw an obstacle over the picture (3, SIDE, SIDE), in place."""
    canvas = Canvas(picture, axis(), axis())
    whole = canvas.whole()
    x, y = whole.x - np.float32(obstacle.x), whole.y - np.float32(obstacle.y)
    c, s = np.float32(np.cos(obstacle.angle)), np.float32(np.sin(obstacle.angle))
    along, across = c * x + s * y, c * y - s * x
    lit = ((light.fill + np.float32(0.6) * light.key) * obstacle.colour)[:, None, None]
    if obstacle.kind == "phone":
        box = edge(14 - np.abs(across)) * edge(24 - np.abs(along))
        canvas.paint(whole, box, lit * (0.9 + 0.012 * along + 0.25 * bell(across, 8, 3)))
    elif obstacle.kind == "microphone":
        ball = np.hypot(x, y)
        mesh = 0.8 + 0.2 * np.sin(2.2 * x) * np.sin(2.2 * y)
        stem = edge(4.5 - np.abs(x + 0.25 * y)) * edge(y)
        canvas.paint(whole, stem, 0.6 * lit * (1 + 0.3 * bell(x, -2, 2)))
        canvas.paint(whole, edge(11 - ball), lit * mesh * (1.15 - 0.05 * ball))
    else:
        _draw_capsule(canvas, whole, along - 30 * np.sign(obstacle.angle), across, 34, 15.0, 0.93 * lit)
        for position, length in FINGERS:
            _draw_capsule(canvas, whole, along, across - position, length, 4.1, lit)


def _draw_capsule(
    canvas: Canvas,
    whole: Window,
    along: np.ndarray,
    across: np.ndarray,
    length: float,
    radius: float,
    colour: np.ndarray,
) -> None:
    """A rounded, lit cylinder with a dark rim, centred where both axes are 0; `length` is half its length."""
    distance = np.hypot(np.maximum(np.abs(along) - length + radius, 0), across)
    roundness = 1.08 - 0.5 * (np.minimum(distance, 2 * radius) / radius) ** 3
    canvas.paint(whole, edge(radius - distance), colour * np.clip(roundness, 0.45, 1.1))
