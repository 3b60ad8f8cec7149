"""Whether a setting goes on where a new part of a picture begins."""
from __future__ import annotations

import numpy as np

from dimoo.world.camera import Canvas
from dimoo.world.scene import CELL

TOLERANCE = 0.035
"""Step in colour, of 1, by which a seam may differ from the truth: nine of ten lines between cells of true settings have less
of one, away from the skyline, in the sky and on the ground apart."""


def cell_means(rgb: np.ndarray) -> np.ndarray:
    """(rows, columns, 3) float32 in [0, 1] of a picture (h, w, 3) uint8."""
    rows, columns = (side // CELL for side in rgb.shape[:2])
    return rgb.reshape(rows, CELL, columns, CELL, 3).astype(np.float32).mean(axis=(1, 3)) / 255


def steps(means: np.ndarray, across: np.ndarray) -> np.ndarray:
    """(n, 3) differences of the cells (rows, columns, 3) on both sides of each edge.

    across (2, rows, columns) bool: edges to the next cell on the right, and to the one below.
    """
    right = means - np.roll(means, -1, axis=1)
    below = means - np.roll(means, -1, axis=0)
    return np.concatenate([right[across[0]], below[across[1]]])


def seam_edges(new: np.ndarray, bare: np.ndarray) -> np.ndarray:
    """(2, rows, columns) bool: the edges between bare cells of which one is new; new, bare (rows, columns) bool."""
    across = np.zeros((2, *new.shape), bool)
    for axis, edges in ((1, across[0]), (0, across[1])):
        edges |= (new != np.roll(new, -1, axis)) & bare & np.roll(bare, -1, axis)
    across[0, :, -1] = across[1, -1] = False
    return across


def seam_step(result: np.ndarray, truth: np.ndarray, new: np.ndarray, bare: np.ndarray) -> float:
    """By how much the step across the seam differs from the truth's, of 1: in the sky or on the ground, whichever is worse.

    result, truth: (h, w, 3) uint8; new, bare: (rows, columns) bool. 0 where no bare cells meet.
    """
    sky = np.arange(new.shape[0])[:, None] < -Canvas.of(*truth.shape[1::-1]).top // CELL
    worst = 0.0
    for part in (sky, ~sky):
        across = seam_edges(new, bare) & part
        if across.any():
            off = steps(cell_means(result), across) - steps(cell_means(truth), across)
            worst = max(worst, float(np.sqrt(np.square(off).mean(axis=1)).mean()))
    return worst
