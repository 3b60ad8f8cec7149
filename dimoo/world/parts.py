"""What every token cell of a picture shows: which part of which thing, in numbers. Training reads it, nobody else."""
from __future__ import annotations

import numpy as np

from dimoo.world.camera import Canvas, foot
from dimoo.world.render import arrange, render
from dimoo.world.scene import CELL, COLORS, KINDS, LETTERS, MATERIALS, POSES, SIZES, Scene

_VALUES = {"kind": KINDS, "color": COLORS, "material": MATERIALS, "size": tuple(SIZES), "pose": POSES, "letter": ("", *LETTERS)}
_REACH = 8
"""Cells across and up that a thing's cells are told apart in."""
LABELS = (*(len(values) + 1 for values in _VALUES.values()), _REACH + 1, _REACH + 1)
"""How many values each label of a cell has. 0 of each: nothing stands there."""
_COVERED = 0.25
"""A cell shows the thing that covers most of it, if all things together cover this much."""


def parts(scene: Scene, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns, len(LABELS)) int8: the looks of the thing in each cell, its column from the thing's foot and its height.

    And (rows, columns) int8: which of the scene's things that is, -1 if nothing stands there.
    """
    canvas = Canvas.of(CELL * columns, CELL * rows)
    things = arrange(scene)
    labels = np.zeros((len(things) + 1, rows, columns, len(LABELS)), np.int8)  # the last: nothing
    covers = np.zeros((len(things) + 1, rows, columns))
    ids = render(scene, CELL * columns, CELL * rows, samples=1).ids.reshape(rows, CELL, columns, CELL)
    for i, (thing, column, row) in enumerate(things):
        x, y = foot(column, row)
        across = np.arange(columns) - (x - canvas.left) // CELL + _REACH // 2
        up = (y - canvas.top) // CELL - 1 - np.arange(rows)
        labels[i, ..., : len(_VALUES)] = [values.index(getattr(thing, name)) + 1 for name, values in _VALUES.items()]
        labels[i, ..., -2] = across.clip(0, _REACH - 1) + 1
        labels[i, ..., -1] = up.clip(0, _REACH - 1)[:, None] + 1
        covers[i] = (ids == i).mean(axis=(1, 3))
    covers[-1] = np.where(covers.sum(0) < _COVERED, 2, 0)
    shown = covers.argmax(0)
    owners = np.where(shown < len(things), shown, -1).astype(np.int8)
    return np.take_along_axis(labels, shown[None, ..., None], axis=0)[0], owners
