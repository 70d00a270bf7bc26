"""A drawing surface for anti-aliased shapes, with float colours.

Positions are in pixels of the 112 x 112 crop from its centre, x to the right and y down. The canvas is larger than the
crop, so that it is still filled when the crop moves or turns.
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
    """Coverage in [0, 1] of pixels at this distance from a boundary, positive inside."""
    return np.minimum(np.maximum(distance * np.float32(DENSITY) + np.float32(0.5), 0), 1)


def bell(position: np.ndarray, centre: np.ndarray | float, width: np.ndarray | float) -> np.ndarray:
    """A Gaussian curve of height 1."""
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
    """Colours (3, height, width) in 0..1, with two pairs of axes.

    `x` and `y` are fixed to the canvas, for the outline of the head and the hair. `u` and `v` follow the turn of the
    head, for the features of the face: turning shifts what lies in front more than what lies at the side. `yaw` and
    `pitch` are the shift of the nose in pixels.
    """

    def __init__(self, rgb: np.ndarray, x: np.ndarray, y: np.ndarray, yaw: float = 0.0, pitch: float = 0.0):
        self.rgb, self.x, self.y, self.yaw, self.pitch = rgb, x, y, yaw, pitch
        self.u = x - np.float32(yaw) * (1 - (x / 75) ** 2)
        self.v = y - np.float32(pitch) * (1 - (y / 75) ** 2)

    def window(self, left: float, right: float, top: float, bottom: float) -> Window:
        """The part of the canvas where `u` and `v` lie within these bounds."""
        columns = slice(*np.searchsorted(self.u, (left, right)).tolist())
        rows = slice(*np.searchsorted(self.v, (top, bottom)).tolist())
        return Window(rows, columns, self.u[None, columns], self.v[rows, None])

    def whole(self) -> Window:
        """All of the canvas, on the fixed axes."""
        return Window(slice(None), slice(None), self.x[None, :], self.y[:, None])

    def paint(self, window: Window, cover: np.ndarray, colour: np.ndarray) -> None:
        """Mix `colour`, (3,) or (3, height, width), into the window; `cover` is its share of each pixel."""
        part = self.rgb[:, window.rows, window.columns]
        if colour.ndim == 1:
            colour = colour[:, None, None]
        part += cover * (colour - part)

    def darken(self, window: Window, amount: np.ndarray) -> None:
        """Multiply the window by 1 - amount, red by a little more, so that shadows on skin look warm."""
        part = self.rgb[:, window.rows, window.columns]
        part[0] *= 1 - np.float32(0.85) * amount
        part[1:] *= 1 - amount
