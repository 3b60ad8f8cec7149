"""Inpainting and extrapolation: the new part continues the old one, and things that were half hidden are whole."""
from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from PIL import Image

from dimoo.evals.bare import empty, untouched
from dimoo.evals.cases import Case, Marks, every, held_out, next_scene
from dimoo.evals.regions import OFF, things_off
from dimoo.evals.seams import TOLERANCE, seam_step
from dimoo.evals.things import as_is
from dimoo.images import cells_of
from dimoo.tasks import Extrapolate, Inpaint
from dimoo.world.judge import read
from dimoo.world.language import caption
from dimoo.world.render import Picture, render
from dimoo.world.scene import CELL, Scene, Thing

INPAINT = ("half a thing", "ground and sky")
GROWTH = {"left": 96, "right": 96, "top": 64}
"""Pixels that are to be added, at the sides from the middle of a plot on, so that the whole has the usual size."""
EXTRAPOLATE = tuple(GROWTH)
_BOX = (6, 7)  # columns and rows of a box over ground and sky
_CELLS = 16  # rows and columns of all these pictures


def continues(scene: Scene, truth: Picture, new: np.ndarray, rgb: np.ndarray) -> Marks:
    """Marks of a result, (h, w, 3) uint8, of which the cells `new` (rows, columns) bool were drawn.

    setting: it is read as the same; seam: ground and sky go on across it; things: exactly those of the scene are read, of
    their kind and colour, each within a cell of its place; whole: what was hidden of them is there, for half a thing is
    easily recognised.
    """
    reading = read(rgb)
    hidden = np.where(np.kron(new, np.ones((CELL, CELL), bool)), truth.ids, -1)
    bare = empty(scene.setting, *truth.image.size)
    return every(
        setting=reading.setting == scene.setting,
        seam=seam_step(rgb, truth.rgb, new, untouched(truth.rgb, scene.setting, 0)) <= TOLERANCE,
        things=as_is(reading, scene, ("kind", "color")),
        whole=max(things_off(rgb, truth.rgb, bare, hidden), default=0) <= OFF,
    )


def box_mask(left: int, top: int, right: int, bottom: int, size: int = CELL * _CELLS) -> Image.Image:
    """A mask in mode L, white in a box of pixels; what lies outside the picture is cut off."""
    mask = np.zeros((size, size), np.uint8)
    mask[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = 255
    return Image.fromarray(mask)


def half_of(picture: Picture, index: int, right: bool) -> Image.Image:
    """A mask over the left or right half of a thing and a cell around it."""
    y, x = np.nonzero(picture.ids == index)
    middle, around = (int(x.min()) + int(x.max()) + 1) // 2, CELL
    sides = (middle, int(x.max()) + around) if right else (int(x.min()) - around, middle)
    return box_mask(sides[0], int(y.min()) - around, sides[1], int(y.max()) + around)


def bare_box(bare: np.ndarray) -> Image.Image:
    """A mask over a box across the horizon, where most of it is bare (rows, columns) bool."""
    columns, rows = _BOX
    top = 6 - rows // 2
    shares = [bare[top : top + rows, left : left + columns].mean() for left in range(bare.shape[1] - columns + 1)]
    left = int(np.argmax(shares))
    return box_mask(CELL * left, CELL * top, CELL * (left + columns), CELL * (top + rows))


def inpaint_cases(count: int) -> Iterator[Case]:
    """`count` held-out pictures with a box to fill."""
    rngs = held_out("inpaint")
    for i in range(count):
        rng, scene = next_scene(rngs)
        picture = render(scene)
        category = INPAINT[i % len(INPAINT)]
        if category == "half a thing":
            seen = [index for index in range(len(scene.things)) if (picture.ids == index).any()]
            mask = half_of(picture, int(rng.choice(seen)), bool(rng.integers(2)))
        else:
            mask = bare_box(untouched(picture.rgb, scene.setting, 0))
        request = Inpaint(picture.image, mask, caption(rng, scene), seed=i)
        new = cells_of(mask)
        yield Case(category, request, partial(continues, scene, picture, new), partial(np.asarray, picture.rgb), new)


def reaches(thing: Thing, edge: int, side: str) -> float:
    """How much of a thing's width lies beyond a column: 0 nothing, 1 all of it."""
    beyond = thing.half_width + (edge - thing.column if side == "left" else thing.column - edge)
    return float(np.clip(beyond / (2 * thing.half_width), 0, 1))


def is_cut(scene: Scene, side: str) -> bool:
    """Whether a picture of the scene without the `GROWTH` of a side cuts a thing in two, and hides none."""
    if side == "top":
        return True  # nothing is so tall
    edge = (GROWTH[side] // CELL - _CELLS // 2) * (1 if side == "left" else -1)
    shares = [reaches(thing, edge, side) for thing in scene.things]
    return max(shares) <= 0.65 and max(shares) >= 0.25


def extrapolate_cases(count: int) -> Iterator[Case]:
    """`count` held-out pictures of which a part is to be continued."""
    rngs = held_out("extrapolate")
    for i in range(count):
        side = EXTRAPOLATE[i % len(EXTRAPOLATE)]
        rng, scene = next_scene(rngs, partial(is_cut, side=side))
        truth = render(scene)
        new = np.zeros((_CELLS, _CELLS), bool)
        added = GROWTH[side] // CELL
        cut = slice(0, added) if side != "right" else slice(_CELLS - added, _CELLS)
        new[(cut, slice(None)) if side == "top" else (slice(None), cut)] = True
        rows, columns = np.nonzero(~new)
        box = tuple(CELL * int(n) for n in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        request = Extrapolate(truth.image.crop(box), caption(rng, scene), seed=i, **{side: GROWTH[side]})
        yield Case(side, request, partial(continues, scene, truth, new), partial(np.asarray, truth.rgb), new)
