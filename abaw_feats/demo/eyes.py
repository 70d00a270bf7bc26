"""Eyes with lids, iris and lashes; brows; glasses."""

from __future__ import annotations

import numpy as np

from abaw_feats.demo.canvas import Canvas, Window, bell, edge
from abaw_feats.demo.identity import FaceState, Identity

EYE_LEVEL = -5.0


def draw_eye(canvas: Canvas, person: Identity, state: FaceState, side: int) -> None:
    """One eye; action unit 7 tightens both lids to a slit, 6 pushes the lower lid up."""
    centre, half = side * person.eye_spacing, person.eye_width
    area = canvas.window(centre - half - 4, centre + half + 4, EYE_LEVEL - 12, EYE_LEVEL + 10)
    t = (area.x - centre) / half * side  # -1 at the inner corner, 1 at the outer
    arch = np.clip(1 - t**2, 0, 1)
    inside = np.abs(t) < 1
    tight = np.clip(0.60 * state["AU7"] + 0.10 * state["AU4"], 0, 0.72)
    open_up = 5.6 * person.eye_open * (1 + 0.30 * state.widen + 0.12 * state["AU1"]) * (1 - tight)
    open_low = 3.2 * person.eye_open * (1 + 0.15 * state.widen) * (1 - tight) - 1.2 * state.side("AU6", side)
    shut = np.clip(state.blink, 0, 1)
    slant = -person.eye_tilt * t
    lower = EYE_LEVEL + slant + max(open_low, 0.3) * arch**0.8
    upper = EYE_LEVEL + slant - open_up * arch**0.62
    upper = upper + (lower - upper) * shut
    crease = EYE_LEVEL + slant - (open_up * (1 - 0.15 * shut) + 2.6) * arch**0.55
    lid = edge(area.y - crease) * edge(upper - area.y) * inside
    canvas.darken(area, 0.16 * lid)
    canvas.darken(area, (0.30 + 0.12 * tight) * bell(area.y, crease, 0.75) * np.clip(arch, 0, 1) ** 0.4)
    opening = edge(area.y - upper) * edge(lower - area.y) * inside
    canvas.paint(area, opening, _eyeball(person, state, area, centre, upper))
    lashes = bell(area.y, upper - 0.2, 0.75 + 0.35 * np.clip(t, 0, 1)) * inside
    canvas.darken(area, 0.75 * lashes)
    canvas.darken(area, (0.25 + 0.2 * tight) * bell(area.y, lower + 0.3, 0.65) * inside)
    canvas.darken(area, 0.30 * state["AU7"] * bell(area.y, lower + 2.0, 0.8) * np.clip(arch, 0, 1) ** 0.5)


def _eyeball(person: Identity, state: FaceState, area: Window, centre: float, upper: np.ndarray) -> np.ndarray:
    """Colours (3, height, width) of the white of the eye, iris, pupil and reflection."""
    x, y = area.x - centre - state.gaze[0], area.y - EYE_LEVEL + 0.6 - state.gaze[1]
    radius = np.sqrt(x**2 + y**2)
    ball = np.array((0.95, 0.93, 0.92), np.float32)[:, None, None] * np.ones_like(radius)
    size = 4.7
    ring = 0.75 + 0.5 * np.clip(radius / size, 0, 1) * np.clip(0.6 + 0.12 * y, 0, 1.2)
    iris = person.iris[:, None, None] * 1.5 * ring * (1 - 0.45 * edge(radius - size + 1.1))
    ball += edge(size - radius) * (iris - ball)
    ball *= 1 - 0.95 * edge(1.9 + 0.5 * state.widen - radius)
    glint = edge(1.25 - np.hypot(x + 1.6, y + 1.9))
    ball += glint * (1.1 - ball)
    return ball * (1 - 0.38 * bell(area.y, upper, 1.6))


def draw_brow(canvas: Canvas, person: Identity, state: FaceState, side: int, strands: np.ndarray) -> None:
    """One brow; action unit 1 lifts its inner end, 2 its outer half, 4 lowers it and pulls it to the middle."""
    au1, au2, au4 = state.side("AU1", side), state.side("AU2", side), state["AU4"]
    start = 6.2 - 2.2 * au4
    length = 23.0 - 1.0 * au4
    left, right = sorted((side * (start - 3), side * (start + length + 3)))
    area = canvas.window(left, right, -36, -4)
    t = np.clip((side * area.x - start) / length, -0.1, 1.1)  # 0 at the inner end, 1 at the outer
    rest = -15.2 - person.brow_height + person.brow_tilt * (0.5 - t) * 2
    arch = 3.2 * np.sin(np.clip(t, 0, 1) * 2.5) - 2.2 * np.clip(t - 0.7, 0, 1) * 3
    inner = np.clip(1 - t / 0.65, 0, 1.15) ** 1.2
    outer = np.clip((t - 0.15) / 0.55, 0, 1) ** 0.9
    line = rest - arch - 6.5 * au1 * inner - 7.5 * au2 * outer + au4 * (5.0 * np.clip(1.15 - t, 0, 1) + 1.0)
    thick = person.brow_thick * (1.05 - 0.62 * np.clip(t, 0, 1)) * (1 + 0.12 * au4)
    ends = edge((side * area.x - start) / 1.2) * edge((start + length - side * area.x) / 1.2)
    cover = edge((thick / 2 - np.abs(area.y - line)) / 1.1) * ends
    colour = np.minimum(0.75 * person.hair, 0.30)[:, None, None] * strands[area.rows, area.columns]
    canvas.paint(area, np.float32(0.9) * cover, colour)


def draw_glasses(canvas: Canvas, person: Identity) -> None:
    """Rims around both eyes, a bridge, and a faint reflection; nothing if the person wears none."""
    if (rim := person.glasses) is None:
        return
    area = canvas.window(-42, 42, -18, 14)
    for side in (-1, 1):
        x, y = np.abs(area.x - side * (person.eye_spacing + 0.5)) / 13.2, np.abs(area.y + 3.5) / 10.5
        distance = (1 - (x**3.2 + y**3.2) ** (1 / 3.2)) * 11
        glare = edge(distance) * bell(area.x - side * person.eye_spacing + 0.8 * area.y, -3, 2.2)
        canvas.paint(area, 0.10 * glare, np.array((1.0, 1.0, 1.0)))
        canvas.paint(area, 0.92 * edge(0.75 - np.abs(distance)), rim)
        temple = edge(0.7 - np.abs(area.y + 6)) * edge(side * area.x - person.eye_spacing - 13)
        canvas.paint(area, 0.9 * temple, rim)
    bridge = edge(0.7 - np.abs(area.y + 6 + 0.08 * (9 - np.abs(area.x)))) * edge(5.2 - np.abs(area.x))
    canvas.paint(area, 0.92 * bridge, rim)
