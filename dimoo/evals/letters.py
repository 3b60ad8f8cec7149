"""Which letter a cube shows, by comparing the picture with renders of all of them: the judge does not read letters."""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from dimoo.world.camera import Canvas, foot
from dimoo.world.render import render
from dimoo.world.scene import CELL, LETTERS, SIZES, UNIT, Scene

_AROUND = (0.62, 0.95, 0.35)  # units of a large cube that are seen beside, above and below its foot
_TELLING = 24  # levels by which letters differ where they tell themselves apart


def window_of(scene: Scene, index: int, width: int, height: int) -> Canvas:
    """The part of a picture of this size in which a cube stands."""
    whole, thing = Canvas.of(width, height), scene.things[index]
    side, up, down = (round(CELL * UNIT * SIZES[thing.size] * part) for part in _AROUND)
    right, below = foot(thing.column, thing.row)
    x, y = right - whole.left, below - whole.top
    left, top = max(0, x - side), max(0, y - up)
    right, bottom = min(width, x + side), min(height, y + down)
    return Canvas(whole.left + left, whole.top + top, right - left, bottom - top)


def letter_of(rgb: np.ndarray, scene: Scene, index: int) -> str:
    """The letter on the cube that is thing `index` of a scene, "" if it has none.

    rgb: (h, w, 3) uint8, a picture of the scene; that of all letters counts whose render is nearest to it where they differ.
    """
    height, width = rgb.shape[:2]
    whole, window = Canvas.of(width, height), window_of(scene, index, width, height)
    names, drawn = ["", *LETTERS], []
    for name in names:
        things = list(scene.things)
        things[index] = replace(things[index], letter=name)
        drawn.append(render(scene.with_(things=tuple(things)), canvas=window).rgb)
    faces = np.stack(drawn).astype(np.float32)
    telling = (np.ptp(faces, axis=0) > _TELLING).any(axis=-1)
    top, left = window.top - whole.top, window.left - whole.left
    seen = rgb[top : top + window.height, left : left + window.width].astype(np.float32)
    return names[int(np.square(faces[:, telling] - seen[telling]).mean(axis=(1, 2)).argmin())]
