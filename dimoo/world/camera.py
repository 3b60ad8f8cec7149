"""The camera of Toytown, counted in token cells: how far below the horizon things stand, and from which side they are seen.

The ground and the sky are seen through a level pinhole. Every thing is drawn as that camera would see it straight ahead in the
middle row, and then moved: wherever it stands it has the same pixels, as in a parallel projection.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dimoo.world.scene import CELL, STAND

FOCAL = 450.0
"""Focal length in pixels, whatever the picture's size: a larger picture shows more of the world."""
EYE = 1.5
"""Height of the camera over the ground in units (a large thing is about one unit high)."""
PIVOT = FOCAL * EYE / (CELL * STAND)
"""Distance in units at which things are drawn, and of the middle row, around which the other views turn."""
STRIDE = 5
"""Columns that are as wide as a row is deep, nearly: what a quarter turn makes of the one and the other."""


@dataclass(frozen=True)
class Canvas:
    """A window on the image plane: pixels `left` and `top` are where it begins, measured from the point straight ahead."""

    left: int
    top: int
    width: int
    height: int

    @classmethod
    def of(cls, width: int, height: int) -> Canvas:
        """The default window of a size: the middle column ahead, the horizon at 6 of 16 cells."""
        columns, rows = width // CELL, height // CELL
        horizon = max(1, 6 + (rows - 16) // 2)
        return cls(-CELL * (columns // 2), -CELL * horizon, width, height)

    def directions(self, samples: int) -> tuple[np.ndarray, np.ndarray]:
        """Ray directions (x of shape (1, w), y of shape (h, 1)) at z = 1, y up, `samples` to a pixel and side."""
        x = self.left + (np.arange(self.width * samples, dtype=np.float32) + 0.5) / samples
        y = self.top + (np.arange(self.height * samples, dtype=np.float32) + 0.5) / samples
        return (x / FOCAL)[None, :].astype(np.float32), (-y / FOCAL)[:, None].astype(np.float32)


def walked(column: int, row: int, degrees: float) -> tuple[int, int]:
    """Column and row of a place after the camera has walked so many degrees (in quarters) around the middle."""
    right, back = column, (row - 1) * STRIDE
    for _ in range(round(degrees / 90) % 4):
        right, back = -back, right
    return right, 1 + round(back / STRIDE)


def foot(column: int, row: int) -> tuple[int, int]:
    """Where a foot is drawn: pixels (x to the right, y downward) from the point straight ahead."""
    return CELL * column, CELL * (STAND + 1 - row)


def stretch(row: int) -> float:
    """By what the depth of a thing drawn in the middle row is multiplied in another."""
    return STAND / (STAND + 1 - row)


def project(x, y, z) -> tuple[float, float]:
    """Pixels from the point straight ahead, x to the right and y downward."""
    return FOCAL * x / z, FOCAL * (EYE - y) / z
