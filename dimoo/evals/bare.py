"""Where a picture shows nothing but its setting."""
from __future__ import annotations

from functools import lru_cache

import numpy as np

from dimoo.world.render import render
from dimoo.world.scene import CELL, Scene


@lru_cache(maxsize=48)
def empty(setting: str, width: int = 256, height: int = 256, view: str = "front") -> np.ndarray:
    """A setting without things, (height, width, 3) uint8, read-only."""
    rgb = render(Scene((), setting, view), width, height).rgb
    rgb.setflags(write=False)
    return rgb


def untouched(rgb: np.ndarray, setting: str, reach: int = 1) -> np.ndarray:
    """(rows, columns) bool: cells of a rendered picture that show the bare setting, as do all within `reach` cells."""
    height, width = rgb.shape[:2]
    changed = (rgb != empty(setting, width, height)).any(axis=2)
    changed = changed.reshape(height // CELL, CELL, width // CELL, CELL).any(axis=(1, 3))
    padded = np.pad(changed, reach)
    return ~np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1,) * 2).any(axis=(2, 3))
