"""The head around the face: outline, hair, ears, neck and clothes."""

from __future__ import annotations

import numpy as np

from abaw_feats.demo.canvas import Canvas, Window, axis, bell, edge, pixels
from abaw_feats.demo.identity import FaceState, Identity, Light

WIDEST = -6.0  # height at which the head is widest
HAIR_BULK = {"long": 8.5, "curly": 8.5}
HAIR_ENDS = {"long": 80.0, "curly": 24.0, "fringe": 28.0, "bun": -6.0}


def head_outline(canvas: Canvas, person: Identity, state: FaceState) -> np.ndarray:
    """Coverage of the head (height, width): an ellipse above, below it the jaw."""
    y = canvas.y - np.float32(0.4 * canvas.pitch)
    above = np.clip((WIDEST - y) / 54.0, 0, 1)
    below = np.clip((y - WIDEST) / (person.chin + state.jaw - WIDEST), 0, 1)
    width = person.face_width * np.where(y < WIDEST, np.sqrt(1 - above**2.4), (1 - below**person.jaw_square) ** 0.66)
    slope = np.gradient(width, canvas.y)
    inside = width[:, None] - np.abs(canvas.x[None, :] - np.float32(0.25 * canvas.yaw))
    return edge(inside / np.sqrt(1 + slope**2)[:, None]).astype(np.float32)


def draw_backdrop(person: Identity, light: Light, background: np.ndarray) -> np.ndarray:
    """What lies behind the face and does not move in a video: float32 (3, SIDE, SIDE)."""
    canvas = Canvas(background.astype(np.float32), axis(), axis())
    whole = canvas.whole()
    _draw_hair_behind(canvas, whole, person, light)
    shade = (light.fill + 0.45 * light.key)[:, None, None]
    skin = person.skin[:, None, None] * shade * person.skin_texture
    half = person.face_width * 0.60
    neck = edge(half - np.abs(whole.x)) * edge(whole.y - 20)
    canvas.paint(whole, neck, skin * (0.80 - 0.25 * (np.abs(whole.x) / half) ** 2))
    collar = whole.y - 49 - np.maximum(0, 9 - np.abs(whole.x) / 4) + 0.06 * np.maximum(0, np.abs(whole.x) - 24)
    canvas.paint(whole, edge(collar), person.clothes[:, None, None] * shade)
    canvas.darken(whole, 0.35 * edge(collar) * bell(collar, 0, 1.2))
    if person.style not in ("long", "curly"):
        _draw_ears(canvas, whole, person, skin)
    return canvas.rgb.astype(np.float32)


def _draw_ears(canvas: Canvas, whole: Window, person: Identity, skin: np.ndarray) -> None:
    for side in (-1, 1):
        x = side * (person.face_width + 0.5)
        ear = edge(6 * (1 - np.sqrt(((whole.x - x) / 5.0) ** 2 + ((whole.y - 1) / 10.0) ** 2)))
        hollow = bell(whole.x, x + side, 2.2) * bell(whole.y, 1, 5.0)
        canvas.paint(whole, ear, skin * (0.95 - 0.4 * hollow))


def hair_colour(person: Identity, light: Light) -> np.ndarray:
    """Colour of the hair on the whole canvas (3, SIDE, SIDE): strands, and a highlight on the crown."""
    x, y = axis()[None, :], axis()[:, None]
    shine = bell(y, -46 + 0.004 * x**2, 6) * bell(x, 22 * light.direction[0], 24)
    level = (0.55 * light.fill + 0.45 * light.key)[:, None, None]
    tint = person.hair[:, None, None] * (0.9 + 0.9 * shine) + 0.07 * shine
    return (tint * level * person.hair_texture).astype(np.float32)


def _crown_width(y: np.ndarray, person: Identity) -> np.ndarray:
    """Half width of the hair at each height."""
    bulk = HAIR_BULK.get(person.style, 4.5)
    above = np.clip((-8 - y) / (52.0 + 0.8 * bulk), 0, 1)
    waves = 2.0 * np.sin(y / 4.5) if person.style == "curly" else 0.0
    return (person.face_width + bulk + waves) * np.sqrt(1 - above**2.2)


def _draw_hair_behind(canvas: Canvas, whole: Window, person: Identity, light: Light) -> None:
    if person.style == "bald":
        return
    ends = HAIR_ENDS.get(person.style, 0.0)
    cover = edge(_crown_width(canvas.y, person)[:, None] - np.abs(whole.x)) * edge(ends - whole.y)
    canvas.paint(whole, cover, 0.68 * hair_colour(person, light))


def draw_hair_in_front(canvas: Canvas, person: Identity, colour: np.ndarray) -> None:
    """Hair over the forehead: the head above the hairline. `colour`: the part of `hair_colour` under the canvas."""
    if person.style == "bald":
        return
    x = canvas.x - np.float32(0.35 * canvas.yaw)
    line = _hairline(x, person) + np.float32(0.4 * canvas.pitch)
    lowest = int(np.searchsorted(canvas.y, line.max() + 6)) if person.style != "long" else len(canvas.y)
    area = Window(slice(0, lowest), slice(None), canvas.x[None, :], canvas.y[:lowest, None])
    crown = _crown_width(area.y[:, 0], person)[:, None] - np.abs(area.x - np.float32(0.25 * canvas.yaw))
    head = edge(crown)
    depth = line[None, :] - area.y
    cover = edge(depth / 1.6) * head
    canvas.darken(area, 0.28 * edge((depth + 5) / 6) * head * (1 - cover))
    canvas.paint(area, cover, colour[:, area.rows])


def _hairline(x: np.ndarray, person: Identity) -> np.ndarray:
    far = np.minimum(np.abs(x) / person.face_width, 1.25)
    top = person.hairline
    if person.style == "side":
        return top + 2 + 6.5 * bell(x, 14, 16) + 24 * far**3.4
    if person.style == "fringe":
        return top + 10 + 1.2 * np.sin(x * 0.5) + 24 * far**5
    if person.style == "long":
        return top - 5 + 3.0 * np.sqrt(np.abs(x + 5)) + 200 * np.clip(far - 0.74, 0, 1) ** 1.2
    if person.style == "curly":
        return top + 2 + 2.2 * np.sin(x * 0.7) + 24 * far**3.2
    return top + 22 * far**3.2


FACE_ROWS = pixels(-64, 64)
FACE_COLUMNS = pixels(-54, 54)
