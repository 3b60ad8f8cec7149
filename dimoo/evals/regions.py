"""Whether things stand where the truth has them, for pictures that the judge cannot read: other views and other styles.

Pictures are (h, w, 3) uint8, ids (h, w) is the index of the thing that the truth shows at each pixel, or -1.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dimoo.world.camera import Canvas, foot
from dimoo.world.render import arrange, render
from dimoo.world.scene import CELL, COLORS, KINDS, Scene, Thing
from dimoo.world.styles import stylize

OFF = 0.75
"""Error where a thing should be, relative to that of the empty setting, up to which it counts as being there: around .3 after an
image tokenizer of 27 dB, 1 without the thing."""
STRANGE = 0.12
"""Distance of a bare cell's mean colour, of 1, from which on something is there that should not be: that tokenizer stays below
.08, a thing that is too much makes .3."""
_SMALLEST = 60  # pixels of a thing that must be seen for it to count
_TELLING = 300  # pixels of it that must be seen to tell its kind and colour: of a small thing a quarter or more
_POOL = 4  # pixels a side whose means are compared
_AROUND = 3, 6, 2  # cells beside, above and below a foot, among which the largest thing fits


def _seen(ids: np.ndarray, pixels: int = _SMALLEST) -> list[int]:
    """Indices of the things of which at least so many pixels are seen."""
    return [i for i in range(int(ids.max()) + 1) if (ids == i).sum() >= pixels]


def _pooled(a: np.ndarray, pixels: int) -> np.ndarray:
    """(h / pixels, w / pixels, …) float32 means."""
    height, width = (side // pixels for side in a.shape[:2])
    return a.reshape(height, pixels, width, pixels, -1).astype(np.float32).mean(axis=(1, 3))


def things_off(rgb: np.ndarray, truth: np.ndarray, bare: np.ndarray, ids: np.ndarray) -> list[float]:
    """For each thing the error of a result where it should be, relative to that of the empty setting: 0 is perfect."""
    found, wanted, without = (_pooled(picture, _POOL) for picture in (rgb, truth, bare))
    error, blank = np.abs(found - wanted).mean(axis=-1), np.abs(without - wanted).mean(axis=-1)
    covers = (_pooled(ids == i, _POOL)[..., 0] > 0.5 for i in _seen(ids))
    return [float(error[cover].sum() / max(1e-6, blank[cover].sum())) for cover in covers]


def likest(rgb: np.ndarray, scene: Scene, index: int, options: Sequence[Thing], style: str = "render") -> Thing:
    """Which of some things a result shows in the place of one: that whose drawing there is nearest to it; the first of equals.

    Only a window around it is drawn, with one ray to a pixel, for there are many options.
    """
    whole = Canvas.of(*rgb.shape[1::-1])
    _, column, row = arrange(scene)[index]
    (x, y), (aside, above, below) = foot(column, row), (CELL * cells for cells in _AROUND)
    left, right = max(x - aside, whole.left), min(x + aside, whole.left + whole.width)
    top, bottom = max(y - above, whole.top), min(y + below, whole.top + whole.height)
    window = Canvas(left, top, right - left, bottom - top)
    found = rgb[top - whole.top : bottom - whole.top, left - whole.left : right - whole.left]

    def distance(thing: Thing) -> float:
        there = scene.with_(things=scene.things[:index] + (thing,) + scene.things[index + 1 :])
        drawn = stylize(render(there, canvas=window, samples=1).rgb, style)
        return float(np.abs(_pooled(drawn, _POOL) - _pooled(found, _POOL)).mean())

    return min(options, key=distance)


def others(thing: Thing, name: str) -> list[Thing]:
    """A thing of every other "kind", or in every other "color"."""
    if name == "color":
        return [replace(thing, color=color) for color in COLORS if color != thing.color]
    return [replace(thing, kind=kind, pose="down", letter="") for kind in KINDS if kind != thing.kind]


def all_likest(name: str, rgb: np.ndarray, scene: Scene, ids: np.ndarray, style: str = "render") -> bool:
    """Whether each thing of a result is likest to itself, and not to one of another "kind", or "color"."""
    seen = ((i, scene.things[i]) for i in _seen(ids, _TELLING))
    return all(likest(rgb, scene, i, [thing, *others(thing, name)], style) == thing for i, thing in seen)


def strangest(rgb: np.ndarray, truth: np.ndarray, bare: np.ndarray) -> float:
    """The largest difference, of 1, of a cell's mean colour where the truth shows the empty setting in all of it; 0 without."""
    empty = _pooled((truth == bare).all(axis=-1), CELL)[..., 0] == 1
    off = np.sqrt(np.square(_pooled(rgb, CELL) - _pooled(truth, CELL)).mean(axis=-1)) / 255
    return float(off[empty].max(initial=0))
