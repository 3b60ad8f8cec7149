"""The pinhole camera of Toytown: level, so that things side by side are drawn alike, and counted in token cells."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dimoo.world.scene import CELL, ROW_DEPTHS

FOCAL = 450.0
"""Focal length in pixels, whatever the picture's size: a larger picture shows more of the world."""
EYE = 1.5
"""Height of the camera over the ground in units (a large thing is about one unit high)."""
PIVOT = FOCAL * EYE / (CELL * ROW_DEPTHS[1])
"""Distance of the middle row, around which the other views turn."""


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


def place(column: float, row: int) -> tuple[float, float]:
    """Where (x, z) on the ground a foot stands that is drawn at `column` cells from the middle in `row`."""
    z = FOCAL * EYE / (CELL * ROW_DEPTHS[row])
    return column * CELL * z / FOCAL, z


def project(x, y, z) -> tuple[float, float]:
    """Pixels from the point straight ahead, x to the right and y downward."""
    return FOCAL * x / z, FOCAL * (EYE - y) / z
