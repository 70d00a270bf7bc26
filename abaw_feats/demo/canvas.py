"""A small drawing surface: anti-aliased shapes bounded by curves, on planes of float colour.

Lengths are in pixels of the 112 x 112 crop, measured from its centre, x to the right and y down. The
canvas is larger than the crop, so that a turned head still fills it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DENSITY = 1.2  # canvas pixels per pixel of the crop
EXTENT = 70.0  # half side of the canvas
SIDE = 168  # canvas pixels along one side: 2 * EXTENT * DENSITY


def axis() -> np.ndarray:
    """Centres of the canvas pixels along one side, float32 (SIDE,)."""
    return ((np.arange(SIDE) + 0.5) / DENSITY - EXTENT).astype(np.float32)


def pixels(low: float, high: float) -> slice:
    """The canvas pixels between two positions along an axis."""
    return slice(round((low + EXTENT) * DENSITY), round((high + EXTENT) * DENSITY))


def edge(distance: np.ndarray) -> np.ndarray:
    """Coverage in [0, 1] of pixels at this distance inside a boundary (negative: outside)."""
    return np.minimum(np.maximum(distance * np.float32(DENSITY) + np.float32(0.5), 0), 1)


def bell(position: np.ndarray, centre, width) -> np.ndarray:
    """Gaussian bump of height 1."""
    scaled = (position - centre) / width
    return np.exp(-0.5 * scaled * scaled)


@dataclass(frozen=True)
class Window:
    """A rectangle of the canvas: its slices and the coordinates of its columns and rows."""

    rows: slice
    columns: slice
    x: np.ndarray  # (1, width)
    y: np.ndarray  # (height, 1)


class Canvas:
    """Colour planes (3, height, width), 0..1, with two pairs of axes.

    `x`, `y` are fixed to the canvas (outline of the head, hair); `u`, `v` follow the turn of the head
    (features): turning shifts what lies in front more than what lies at the side. `yaw` and `pitch` are
    the shift of the nose in pixels.
    """

    def __init__(self, rgb: np.ndarray, x: np.ndarray, y: np.ndarray, yaw: float = 0.0, pitch: float = 0.0):
        self.rgb, self.x, self.y, self.yaw, self.pitch = rgb, x, y, yaw, pitch
        self.u = x - np.float32(yaw) * (1 - (x / 75) ** 2)
        self.v = y - np.float32(pitch) * (1 - (y / 75) ** 2)

    def window(self, left: float, right: float, top: float, bottom: float) -> Window:
        """The part of the canvas whose features lie within these bounds."""
        columns = slice(*np.searchsorted(self.u, (left, right)).tolist())
        rows = slice(*np.searchsorted(self.v, (top, bottom)).tolist())
        return Window(rows, columns, self.u[None, columns], self.v[rows, None])

    def whole(self) -> Window:
        """All of the canvas on its fixed axes."""
        return Window(slice(None), slice(None), self.x[None, :], self.y[:, None])

    def paint(self, window: Window, cover: np.ndarray, colour: np.ndarray) -> None:
        """Lay `colour`, (3,) or (3, height, width), over the window where `cover` says so."""
        part = self.rgb[:, window.rows, window.columns]
        if colour.ndim == 1:
            colour = colour[:, None, None]
        part += cover * (colour - part)

    def darken(self, window: Window, amount: np.ndarray) -> None:
        """Multiply the window by 1 - amount, a little less in red: shadow on skin stays warm."""
        part = self.rgb[:, window.rows, window.columns]
        part[0] *= 1 - np.float32(0.85) * amount
        part[1:] *= 1 - amount
