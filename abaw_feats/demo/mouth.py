"""The mouth: lips, teeth, tongue, and what the lower-face action units do to them."""

from __future__ import annotations

import numpy as np

from abaw_feats.demo.canvas import Canvas, Window, bell, edge
from abaw_feats.demo.identity import FaceState, Identity

MOUTH_LEVEL = 30.0


class MouthShape:
    """The mouth at rest as action units 10 to 26 change it; lengths are in pixels of the crop."""

    def __init__(self, person: Identity, state: FaceState):
        au10, au12, au23, au24 = (np.clip(state[name], 0, 1.2) for name in ("AU10", "AU12", "AU23", "AU24"))
        thin = (1 - 0.50 * au23) * (1 - 0.72 * au24)
        self.half = person.mouth_width + 4.0 * au12 - 4.2 * au23 - 0.8 * state["AU26"] + 0.8 * au24  # of the width
        self.level = MOUTH_LEVEL + 0.25 * state.jaw
        self.lift = tuple(  # of the left and the right corner above the level
            person.mouth_curve + state.corners + 6.0 * state.side("AU12", side) - 5.5 * state.side("AU15", side)
            for side in (-1, 1)
        )
        self.gap_up = 1.1 * state["AU25"] + 3.4 * au10  # between the level and the lips
        self.gap_low = 3.5 * state["AU25"] * (1 - 0.4 * au24) + 7.5 * state["AU26"]
        self.upper = person.lip_upper * thin * (1 - 0.15 * au12)  # thickness of the lips
        self.lower = person.lip_lower * thin * (1 - 0.12 * au12)

    def corner(self, side: int) -> tuple[float, float]:
        """Position of the left (-1) or right (+1) lip corner."""
        return side * self.half, self.level - self.lift[(side + 1) // 2]


def draw_mouth(canvas: Canvas, person: Identity, state: FaceState, shape: MouthShape) -> None:
    """Lips, teeth and tongue between them, and the lines around tightened or pressed lips."""
    half = shape.half
    area = canvas.window(-half - 6, half + 6, shape.level - 18, shape.level + 26)
    t = np.clip(area.x / half, -1, 1)
    arch = np.clip(1 - t**2, 0, 1)
    inside = edge((half - np.abs(area.x)) / 1.0)
    left, right = shape.lift
    lift = np.where(t < 0, left, right)
    line = shape.level + 0.30 * (left + right) / 2 - (lift + 0.30 * (left + right) / 2) * np.abs(t) ** 2.0
    au10, au23, au24 = state["AU10"], state["AU23"], state["AU24"]
    squared = 0.75 - 0.35 * min(au10, 1.0)
    inner_up = line - shape.gap_up * arch**squared
    inner_low = line + shape.gap_low * arch**0.6
    bow = 1 - 0.22 * bell(area.x, 0, 2.2) * (1 - min(au24, 1.0)) - 0.1 * np.abs(t)
    outer_up = inner_up - shape.upper * arch**0.6 * bow
    outer_low = inner_low + shape.lower * arch**0.55
    _draw_cavity(canvas, area, inner_up, inner_low, inside, half, state)
    pale = 1 - 0.35 * np.clip(au23 + au24, 0, 1)
    colour = person.lips * pale + person.skin * (1 - pale) * 0.92
    upper = edge(area.y - outer_up) * edge(inner_up - area.y) * inside
    lower = edge(area.y - inner_low) * edge(outer_low - area.y) * inside
    canvas.paint(area, 0.92 * upper, colour[:, None, None] * (0.84 + 0.05 * (area.y - inner_up))[None])
    shine = 0.16 * bell(area.y, (inner_low + outer_low) / 2 - 0.4, 1.0) * bell(area.x, 0, 5)
    canvas.paint(area, 0.92 * lower, colour[:, None, None] * (1.0 + shine)[None])
    ends = inside * np.clip(arch, 0, 1) ** 0.12
    seam = bell(area.y, line, 0.75 + 0.35 * min(au24, 1.0)) * ends
    closed = edge((1.2 - (inner_low - inner_up)) / 1.5)
    canvas.darken(area, (0.62 + 0.2 * min(au24, 1.0)) * seam * closed)
    canvas.darken(area, 0.35 * (bell(area.y, inner_up, 0.6) + bell(area.y, inner_low, 0.5)) * ends * (1 - closed))
    canvas.darken(area, 0.26 * bell(area.y, outer_low + 1.8, 1.3) * bell(area.x, 0, 0.55 * half))
    _draw_tension(canvas, area, shape, au23, au24, outer_up, outer_low)


def _draw_cavity(
    canvas: Canvas,
    area: Window,
    inner_up: np.ndarray,
    inner_low: np.ndarray,
    inside: np.ndarray,
    half: float,
    state: FaceState,
) -> None:
    """Teeth, tongue and the dark between the lips."""
    gap = edge(area.y - inner_up) * edge(inner_low - area.y) * inside
    if gap.max() < 0.05:
        return
    dark = np.array((0.22, 0.07, 0.07), np.float32)[:, None, None] * np.ones_like(gap)
    tongue = edge((area.y - inner_low + 4.2) / 2 + 1.2 * (1 - (area.x / (0.55 * half)) ** 2))
    dark += 0.8 * tongue * (np.array((0.66, 0.28, 0.28), np.float32)[:, None, None] - dark)
    reach = 2.2 + 1.6 * state["AU10"] + 1.3 * state["AU12"]
    row = edge(inner_up + reach - area.y) * edge((0.86 * half - np.abs(area.x)) / 2)
    low_row = (
        edge(area.y - inner_low + 1.6)
        * edge((0.6 * half - np.abs(area.x)) / 2)
        * edge((inner_low - inner_up - 5.0) / 2)
    )
    tooth = (
        np.array((0.96, 0.94, 0.88), np.float32)[:, None, None]
        * (1 - 0.22 * bell((np.abs(area.x) + 1.6) % 3.2, 1.6, 0.35))
        * (1 - 0.5 * (np.abs(area.x) / half) ** 2)
    )
    dark += np.maximum(row, 0.8 * low_row) * (tooth - dark)
    dark *= 1 - 0.35 * bell(area.y, inner_up, 0.9)
    canvas.paint(area, gap, dark)


def _draw_tension(
    canvas: Canvas,
    area: Window,
    shape: MouthShape,
    au23: float,
    au24: float,
    outer_up: np.ndarray,
    outer_low: np.ndarray,
) -> None:
    """Fine vertical lines around tightened lips (23), shadows beside and below pressed lips (24)."""
    if au23 > 0.02:
        comb = 0.5 + 0.5 * np.cos(area.x * 2.0)
        near = bell(area.y, outer_up - 1.6, 1.4) + bell(area.y, outer_low + 1.8, 1.5)
        canvas.darken(area, 0.42 * min(au23, 1.0) * comb**2 * near * edge((0.8 * shape.half - np.abs(area.x)) / 2))
    if au24 > 0.02:
        for side in (-1, 1):
            x, y = shape.corner(side)
            canvas.darken(area, 0.6 * min(au24, 1.0) * bell(area.x, x + side * 1.2, 1.3) * bell(area.y, y, 2.6))
        canvas.darken(
            area, 0.40 * min(au24, 1.0) * bell(area.y, outer_low + 3.2, 1.2) * bell(area.x, 0, 0.7 * shape.half)
        )
