"""The judge: reads a picture and says which things stand where, by explaining its pixels with what the renderer would draw.

Analysis by synthesis, without anything learned and without looking at tokens. The setting is the backdrop that fits best.
Then, again and again, the one thing is added whose drawing explains most of what is still unexplained, until nothing
explains enough; at last every thing is fitted once more against all the others. Colours above the paint's are not needed as
drawings: a drawn pixel is linear in the paint, so two drawings (black and white paint) give all eight colours.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image

from dimoo.world.camera import Canvas
from dimoo.world.render import render
from dimoo.world.scene import CELL, COLORS, KINDS, MATERIALS, POSES, ROW_DEPTHS, SETTINGS, SIZES, Scene, Thing
from dimoo.world.settings import backdrop
from dimoo.world.shapes import PAINT

SCALE = 2
"""The judge looks at pictures of half size."""
TOLERANCE = 0.12
"""Squared colour distance above which a pixel is just wrong: bounds the say of each pixel."""
ENOUGH = 0.45
"""Share of the error under a thing's silhouette that it must explain to be seen."""
_ANCHORS = (-5, 0, 5)  # columns at which drawings are made; a thing between them looks like its nearest


@dataclass(frozen=True)
class Drawing:
    """A shape at a place: pixel indices relative to its foot, and colour = base + paint * gain for each material."""

    thing: Thing
    y: np.ndarray  # (P,)
    x: np.ndarray  # (P,)
    base: np.ndarray  # (materials, P, 3)
    gain: np.ndarray  # (materials, P, 3)
    shade_y: np.ndarray  # (S,) where its shadow lies
    shade_x: np.ndarray
    shade: np.ndarray  # (S,) by what the ground is multiplied


@dataclass(frozen=True)
class Reading:
    """What the judge sees. `fit` is the share of pixels that the reading explains."""

    setting: str
    things: tuple[Thing, ...]
    fit: float

    @property
    def scene(self) -> Scene:
        return Scene(self.things, self.setting)


def _shrink(rgb: np.ndarray) -> np.ndarray:
    h, w = rgb.shape[:2]
    small = Image.fromarray(rgb).resize((w // SCALE, h // SCALE), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / 255


def _error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    d = a - b
    return np.minimum(np.einsum("...c,...c->...", d, d), TOLERANCE)


@lru_cache(maxsize=32)
def _backdrop(setting: str, canvas: Canvas) -> np.ndarray:
    full = backdrop(setting, 0.0, canvas, SCALE)
    k = SCALE * SCALE
    return full.reshape(canvas.height // SCALE, k, canvas.width // SCALE, k, 3).mean(axis=(1, 3))


_TILE = 176  # a window that holds the largest thing with its shadow, wherever it stands


@lru_cache(maxsize=256)
def _drawings(setting: str, row: int, anchor: int) -> list[Drawing]:
    """Every shape that can stand in a row, as drawn near a column."""
    left = anchor * CELL - _TILE // 2
    canvas = Canvas(left, CELL * ROW_DEPTHS[row] - _TILE + 48, _TILE, _TILE)
    foot_y, foot_x = (_TILE - 48) // SCALE, _TILE // 2 // SCALE
    empty = _backdrop(setting, canvas)
    out = []
    for kind in KINDS:
        for pose in POSES if kind == "figure" else ("down",):
            for size in SIZES:
                thing = Thing(kind, "white", "matte", size, anchor, row, pose)
                first = render(Scene((thing,), setting), canvas=canvas, samples=1)
                mask = np.asarray(Image.fromarray((first.ids >= 0).astype(np.uint8) * 255).resize(empty.shape[1::-1], Image.Resampling.BOX)) > 127
                y, x = np.nonzero(mask)
                base, gain = [], []
                for material in MATERIALS:
                    dark, light = (_shrink(_painted(replace(thing, material=material), setting, canvas, value))[y, x] for value in (0.1, 0.5))
                    gain.append((light - dark) / 0.4)
                    base.append(dark - 0.1 * gain[-1])
                ratio = _shrink(first.rgb).mean(axis=2) / np.maximum(empty.mean(axis=2), 0.02)
                sy, sx = np.nonzero(~mask & (ratio < 0.93))
                out.append(Drawing(thing, y - foot_y, x - foot_x, np.stack(base), np.stack(gain), sy - foot_y, sx - foot_x, ratio[sy, sx]))
    return out


def _painted(thing: Thing, setting: str, canvas: Canvas, value: float) -> np.ndarray:
    """The thing drawn with a grey paint of that value."""
    PAINT["grey"] = (value,) * 3
    return render(Scene((replace(thing, color="grey"),), setting), canvas=canvas, samples=1).rgb


_PAINTS = np.asarray([PAINT[c] for c in COLORS], np.float32)


class _Explanation:
    """A picture, the things found so far, and how well they explain it."""

    def __init__(self, picture: np.ndarray, setting: str, canvas: Canvas):
        self.picture, self.setting, self.canvas = picture, setting, canvas
        self.things: list[tuple[Thing, Drawing, np.ndarray]] = []  # with the drawn colours (P, 3)
        self.rebuild()

    def _place(self, y, x, thing: Thing):
        """Indices of a drawing's pixels in the picture and which of them are on it."""
        top, left = -self.canvas.top // SCALE, -self.canvas.left // SCALE
        y = y + top + ROW_DEPTHS[thing.row] * CELL // SCALE
        x = x + left + thing.column * CELL // SCALE
        on = (y >= 0) & (y < self.picture.shape[0]) & (x >= 0) & (x < self.picture.shape[1])
        return y, x, on

    def rebuild(self) -> None:
        """Draw the things found so far, from back to front, and compare."""
        model = _backdrop(self.setting, self.canvas).copy()
        self.nearest = np.full(model.shape[:2], len(ROW_DEPTHS), np.int8)
        for thing, drawing, _ in self.things:
            y, x, on = self._place(drawing.shade_y, drawing.shade_x, thing)
            model[y[on], x[on]] *= drawing.shade[on, None]
        for thing, drawing, colors in sorted(self.things, key=lambda t: -t[0].row):
            y, x, on = self._place(drawing.y, drawing.x, thing)
            model[y[on], x[on]] = colors[on]
            self.nearest[y[on], x[on]] = thing.row
        self.error = _error(self.picture, model)

    def best(self, row: int, column: int):
        """The most explaining thing at a place: (gain, thing, drawing, colours), or None."""
        anchor = min(_ANCHORS, key=lambda a: abs(a - column))
        top = None
        for drawing in _drawings(self.setting, row, anchor):
            thing = replace(drawing.thing, column=column)
            y, x, on = self._place(drawing.y, drawing.x, thing)
            if on.mean() < 0.6:
                continue
            y, x = y[on], x[on]
            seen = self.nearest[y, x] >= row
            now = self.error[y, x] * seen
            total = now.sum()
            if seen.mean() < 0.35 or now.mean() < 0.004 or (top and total <= top[0]):
                continue
            picture = self.picture[y, x]
            keep = on.nonzero()[0]
            colors = np.clip(drawing.base[:, None, keep] + drawing.gain[:, None, keep] * _PAINTS[None, :, None], 0, 1)
            then = (_error(picture, colors) * seen).sum(axis=2)
            m, c = np.unravel_index(np.argmin(then), then.shape)
            gain = total - then[m, c]
            if gain > ENOUGH * total and (top is None or gain > top[0]):
                full = np.clip(drawing.base[m] + drawing.gain[m] * _PAINTS[c], 0, 1)
                top = (gain, replace(thing, color=COLORS[c], material=MATERIALS[m]), drawing, full)
        return top


def read(rgb: np.ndarray, most: int = 6) -> Reading:
    """Read a picture of the default view, (h, w, 3) uint8 with sides in multiples of 16."""
    canvas = Canvas.of(rgb.shape[1], rgb.shape[0])
    picture = _shrink(np.asarray(rgb))
    setting = min(SETTINGS, key=lambda s: _error(picture, _backdrop(s, canvas)).mean())
    found = _Explanation(picture, setting, canvas)
    columns = range(canvas.left // CELL + 1, (canvas.left + canvas.width) // CELL)
    places = [(row, column) for row in range(len(ROW_DEPTHS)) for column in columns]
    offers = {place: found.best(*place) for place in places}
    while len(found.things) < most:
        place = max(places, key=lambda p: offers[p][0] if offers[p] else 0)
        if not offers[place] or offers[place][0] < 1.0:
            break
        found.things.append(offers[place][1:])
        found.rebuild()
        for p in places:
            if abs(p[1] - place[1]) <= 6:
                offers[p] = found.best(*p)
    for i in range(len(found.things)):
        thing, *_ = found.things.pop(i)
        found.rebuild()
        near = [(row, c) for row in range(len(ROW_DEPTHS)) for c in columns if abs(c - thing.column) <= 1]
        again = max((found.best(*p) for p in near), key=lambda o: o[0] if o else 0)
        found.things.insert(i, again[1:] if again else (thing, *_))
        found.rebuild()
    things = tuple(sorted((t for t, *_ in found.things), key=lambda t: (t.column, t.row)))
    return Reading(setting, things, float((found.error < 0.02).mean()))


def matches(reading: Reading, scene: Scene) -> list[tuple[Thing, Thing | None]]:
    """Each thing of a scene with the thing that was read nearest to it (same or next cell and row), or None."""
    left = list(reading.things)
    pairs = []
    for thing in scene.things:
        near = [t for t in left if abs(t.column - thing.column) <= 1.5 and abs(t.row - thing.row) <= 1]
        best = min(near, key=lambda t: (abs(t.column - thing.column) + abs(t.row - thing.row), t.kind != thing.kind), default=None)
        if best:
            left.remove(best)
        pairs.append((thing, best))
    return pairs
