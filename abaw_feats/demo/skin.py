"""Skin: its colour, the light on its relief, and its wrinkles."""

from __future__ import annotations

import numpy as np

from abaw_feats.demo.canvas import Canvas, bell, edge
from abaw_feats.demo.identity import FaceState, Identity, Light
from abaw_feats.demo.mouth import MouthShape

SIDES = (-1, 1)


def skin_colour(
    canvas: Canvas, person: Identity, state: FaceState, texture: np.ndarray, strands: np.ndarray
) -> np.ndarray:
    """Skin without light on it (3, height, width): base colour, blush, freckles, beard.

    texture, strands: the parts of the person's skin and hair textures under the canvas.
    """
    u, v = canvas.u, canvas.v
    rgb = person.skin[:, None, None] * texture
    cheeks = np.outer(bell(v, 12, 8), bell(np.abs(u), 24, 9)) + 0.6 * np.outer(bell(v, 13, 4), bell(u, 0, 5))
    red = np.float32(0.06 + 0.16 * state.flush) * cheeks + np.float32(0.05 * state.flush)
    rgb[1:] *= 1 - red
    if person.freckles:
        rgb *= 1 - np.float32(0.3 * person.freckles) * np.clip((texture - 1.022) * 18, 0, 1) * cheeks
    if person.beard:
        low = edge((v[:, None] - 17 - 26 * (1 - (np.minimum(np.abs(u), 40) / 40) ** 1.6)[None, :]) / 7)
        lip = edge((v - 21) / 3) * edge((27 - v) / 2)
        under = lip[:, None] * edge((17 - np.abs(u)) / 4)[None, :]
        cover = (person.beard * low + person.moustache * under) * np.clip(1.6 - 0.7 * strands, 0.4, 1)
        rgb += np.minimum(cover, 0.85) * (person.hair[:, None, None] * np.float32(1.1) - rgb)
    return rgb


def shading(canvas: Canvas, person: Identity, state: FaceState, light: Light) -> np.ndarray:
    """Light on the face (3, height, width), from the slopes of a sum of Gaussian bumps on a rounded head.

    Gaussian bumps are separable, so that the slopes of all together are two small matrix products.
    """
    table = np.array(_bumps(person, state), np.float32)
    height, x, y, wide, tall = (table[:, k, None] for k in range(5))
    dx, dy = (canvas.u[None, :] - x) / wide, (canvas.v[None, :] - y) / tall
    across, down = np.exp(-0.5 * dx * dx), height * np.exp(-0.5 * dy * dy)
    slope_x = -(down.T @ (across * dx / wide))
    slope_y = -((down * dy / tall).T @ across)
    turned = (canvas.x - np.float32(0.25 * canvas.yaw)) / person.face_width
    slope_x -= (0.62 * turned * (1 + 0.9 * np.abs(turned) ** 3))[None, :]
    slope_y -= (0.55 * (canvas.y - 4) / 52)[:, None]
    norm = 1 / np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)
    lx, ly, lz = light.direction
    facing = np.maximum((lz - lx * slope_x - ly * slope_y) * norm, 0)
    lit = light.key[:, None, None] * facing
    lit += light.fill[:, None, None] * (np.float32(0.5) + np.float32(0.5) * norm)
    facing *= facing
    facing *= facing
    facing *= facing
    lit += np.float32(0.16) * facing * facing  # gloss: the sixteenth power of the cosine
    return lit


def _bumps(person: Identity, state: FaceState) -> list[tuple[float, ...]]:
    """The bumps of a face in this state: (height, x, y, extent across, extent down) of each."""
    raised, smile, pressed, jaw = state["AU6"], state["AU12"], state["AU24"], state.jaw
    nose = person.nose_length - 0.8 * state["AU10"]
    wing = person.nose_width
    bumps: list[tuple[float, ...]] = [
        (5.0, 0, 1, 3.6, 12), (4.4, 0, nose, 4.6, 4.0),
        (1.8, -wing, nose + 1.2, 2.6, 2.6), (1.8, wing, nose + 1.2, 2.6, 2.6),
        (3.0, 0, 28 + 0.3 * jaw, 14, 11), (3.4, 0, 44 + jaw, 8, 5), (-1.8, 0, 38.5 + 0.8 * jaw, 8, 2.4),
        (-0.7, 0, 21.5, 1.8, 3.5), (2.2 * pressed, 0, 43 + jaw, 5, 3.0), (1.6 * state["AU23"], 0, 37 + jaw, 9, 2.0),
    ]  # fmt: skip
    for side in SIDES:
        brow = 2.8 * (state.side("AU1", side) + state.side("AU2", side)) - 3.5 * state["AU4"]
        cheek = 14 - 5.0 * raised - 2.0 * smile
        bumps += [
            (2.2, side * 16, -15 - brow, 11, 4), (-3.2, side * person.eye_spacing, -5.5, 9, 6),
            (2.6 + 3.4 * raised + 1.5 * smile, side * (23 + smile), cheek, 9.5, 8 - 1.5 * raised),
            (-2.0, side * 38, -16, 7, 12), (-1.8 * pressed - 1.2 * smile, side * 19, 31, 2.6, 3.5),
        ]  # fmt: skip
    return bumps


def draw_wrinkles(canvas: Canvas, person: Identity, state: FaceState, mouth: MouthShape) -> None:
    """Forehead (units 1, 2), between the brows (4), around the eyes (6), nose to mouth (10, 12, 15)."""
    forehead = canvas.window(-34, 34, -37, -20)
    lifted = state["AU1"] * bell(forehead.x, 0, 9)
    lifted = lifted + sum(state.side("AU2", side) * bell(forehead.x, side * 23, 8) for side in SIDES)
    bend = 1.2 * np.cos(forehead.x / 9)
    lines = sum(bell(forehead.y, y + bend, 0.85) for y in (-34.0, -29.5, -25.0))
    canvas.darken(forehead, 0.30 * np.minimum(lifted, 1.3) * lines)
    frown = canvas.window(-9, 9, -26, -7)
    furrows = sum(bell(frown.x, side * (3.0 + 0.08 * (frown.y + 16)), 0.9) for side in SIDES)
    depth = 0.55 * furrows * bell(frown.y, -17, 5) + 0.15 * bell(frown.x, 0, 5) * bell(frown.y, -15, 5)
    canvas.darken(frown, state["AU4"] * depth)
    for side in SIDES:
        _draw_crows_feet(canvas, person, state, side)
        _draw_nasolabial_fold(canvas, person, state, mouth, side)
        _draw_corner_line(canvas, state, mouth, side)


def _draw_crows_feet(canvas: Canvas, person: Identity, state: FaceState, side: int) -> None:
    au6 = state.side("AU6", side)
    start = side * (person.eye_spacing + person.eye_width + 1.5)
    area = canvas.window(start - 10, start + 10, -13, 5)
    along = side * (area.x - start)
    reach = edge(along / 1.5) * edge((8.5 - along) / 3)
    rays = sum(bell(area.y, -4.5 + slope * along, 0.85) for slope in (-0.65, -0.05, 0.6))
    canvas.darken(area, 0.48 * au6 * reach * np.minimum(rays, 1))
    centre = side * person.eye_spacing
    pouch = canvas.window(centre - 12, centre + 12, -3, 12)
    t = (pouch.x - centre) / 11
    below = 3.4 - 1.3 * au6 + 3.0 * (1 - t * t)
    depth = 0.08 + 0.30 * au6 + 0.10 * state["AU7"]
    canvas.darken(pouch, depth * bell(pouch.y, below, 1.0 + 0.3 * au6) * edge((1 - np.abs(t)) * 5))


def _draw_nasolabial_fold(canvas: Canvas, person: Identity, state: FaceState, mouth: MouthShape, side: int) -> None:
    au10, au12, au15 = state.side("AU10", side), state.side("AU12", side), state.side("AU15", side)
    corner_x, corner_y = mouth.corner(side)
    start_x, start_y = side * (person.nose_width + 2.2), person.nose_length - 1 - 2.0 * au10
    end_x, end_y = corner_x + side * (3.5 + 1.5 * au12), corner_y + 2
    area = canvas.window(min(start_x, end_x) - 7, max(start_x, end_x) + 7, start_y - 3, end_y + 3)
    part = np.clip((area.y - start_y) / (end_y - start_y), 0, 1)
    path = start_x + (end_x - start_x) * part + side * (1.5 + 2.5 * au12) * np.sin(np.pi * part)
    depth = float(np.clip(person.folds + 0.06 + 0.30 * au10 + 0.30 * au12 + 0.08 * au15, 0, 0.6))
    ends = edge((area.y - start_y) / 2) * edge((end_y - area.y) / 3)
    canvas.darken(area, depth * bell(area.x, path, 1.0 + 0.5 * depth) * ends)


def _draw_corner_line(canvas: Canvas, state: FaceState, mouth: MouthShape, side: int) -> None:
    """The line below a lip corner that is pulled down (unit 15)."""
    au15 = state.side("AU15", side)
    if au15 < 0.02:
        return
    x, y = mouth.corner(side)
    area = canvas.window(x - 7, x + 7, y - 2, y + 12)
    down = np.maximum(area.y - y, 0)
    fade = edge((area.y - y) / 2) * edge((9 - down) / 3)
    canvas.darken(area, 0.5 * min(au15, 1.2) * bell(area.x, x + side * (0.8 + 0.22 * down), 0.9) * fade)


def draw_nostrils(canvas: Canvas, person: Identity, state: FaceState) -> None:
    """Nostrils, wings of the nose and the shadow below it; action unit 10 lifts them."""
    y = person.nose_length + 3.2 - 1.4 * state["AU10"]
    area = canvas.window(-14, 14, y - 10, y + 6)
    holes = sum(bell(area.x, side * person.nose_width * 0.52, 1.5) for side in SIDES) * bell(area.y, y, 0.95)
    shade = 0.75 * holes + 0.20 * bell(area.x, 0, 5.5) * bell(area.y, y + 1.8, 1.3)
    for side in SIDES:
        rim = bell(np.hypot(area.x - side * person.nose_width, area.y - y + 2.0), 3.1, 0.7)
        shade = shade + 0.24 * rim * edge(side * area.x - person.nose_width + 1.2)
    canvas.darken(area, np.minimum(shade, 0.85))
