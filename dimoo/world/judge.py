"""The judge: reads a picture and says which things stand where, by explaining its pixels with what the renderer would draw.

Analysis by synthesis, without anything learned and without looking at tokens. The setting is the backdrop that fits best.
Then, again and again, the one thing is added whose drawing explains most of what is still unexplained, until nothing
explains enough; at last every thing is fitted once more against all the others. A drawn pixel is linear in its paint, so
that one drawing in black and one in white give all eight colours.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np
from PIL import Image

from dimoo.world.camera import Canvas, foot
from dimoo.world.scene import CELL, COLORS, KINDS, MATERIALS, POSES, ROWS, SETTINGS, SIZES, VIEWS, Scene, Thing
from dimoo.world.settings import SHADOWS, backdrop
from dimoo.world.shapes import PAINT
from dimoo.world.sprites import sprite

SCALE = 2
"""The judge looks at pictures of half size."""
TOLERANCE = 0.12
"""Squared colour distance above which a pixel is just wrong: bounds the say of each pixel."""
ENOUGH = 0.45
"""Share of the error under a thing's silhouette that it must explain to be seen."""
LEAST = 1.0
"""Error, summed over pixels, that a thing must explain which nothing else does."""
SAMPLES = 160
"""Pixels of a silhouette that are compared."""
_TILE = 192
_CANVAS = Canvas(-64, -32, _TILE, _TILE)  # holds the largest thing with its shadow
_PAINTS = np.asarray([PAINT[c] for c in COLORS], np.float32)


@dataclass(frozen=True)
class Drawing:
    """A shape at a place: pixels relative to its foot, and for each material colour = base + paint * gain."""

    thing: Thing
    y: np.ndarray  # (P,)
    x: np.ndarray  # (P,)
    base: np.ndarray  # (materials, P, 3)
    gain: np.ndarray  # (materials, P, 3)
    shade_y: np.ndarray  # (S,) where its shadow lies
    shade_x: np.ndarray
    shade: np.ndarray  # (S,) by what the ground is multiplied


@dataclass(frozen=True)
class Sheet:
    """All drawings in a setting, and `SAMPLES` pixels of each as arrays."""

    drawings: list[Drawing]
    y: np.ndarray  # (D, N)
    x: np.ndarray  # (D, N)
    base: np.ndarray  # (D, materials, N, 3)
    gain: np.ndarray  # (D, materials, N, 3)
    weight: np.ndarray  # (D,) pixels for which each sample stands


@dataclass(frozen=True)
class Reading:
    """What the judge sees."""

    setting: str
    things: tuple[Thing, ...]

    @property
    def scene(self) -> Scene:
        return Scene(self.things, self.setting)


def _halve(a: np.ndarray) -> np.ndarray:
    """Means of SCALE x SCALE pixels."""
    return sum(a[i::SCALE, j::SCALE] for i in range(SCALE) for j in range(SCALE)) / np.float32(SCALE**2)


def _error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    d = a - b
    return np.minimum(np.einsum("...c,...c->...", d, d), TOLERANCE)


@lru_cache(maxsize=32)
def _backdrop(setting: str, canvas: Canvas) -> np.ndarray:
    return _halve(_halve(backdrop(setting, 0.0, canvas, SCALE)))


@lru_cache(maxsize=len(SETTINGS))
def _sheet(setting: str) -> Sheet:
    """Every shape, as drawn in a setting."""
    empty = backdrop(setting, 0.0, _CANVAS, 1)
    across, down = foot(0, 1)
    left, top = across - _CANVAS.left, down - _CANVAS.top  # of the foot in the tile
    drawings = []
    for kind, size in product(KINDS, SIZES):
        for pose in POSES if kind == "figure" else ("down",):
            thing = Thing(kind, "white", "matte", size, pose=pose)
            s = sprite(thing, VIEWS["front"], 1)
            here = s.y + top, s.x + left
            covered = np.zeros((_TILE, _TILE), np.float32)
            covered[here] = 1
            mask = _halve(covered) >= 0.5
            y, x = np.nonzero(mask)
            light = np.ones((_TILE, _TILE), np.float32)
            light[s.ground_y + top, s.ground_x + left] = s.ground_light(SHADOWS[setting])
            picture = empty * light[..., None]
            colors = []
            for metal, paint in product((False, True), (0, 1)):
                picture[here] = s.colors(np.where(s.main[:, None], np.float32(paint), s.paint), metal)
                colors.append(_halve(picture)[y, x])
            black, white = np.stack(colors[::2]), np.stack(colors[1::2])
            light = _halve(light)
            sy, sx = np.nonzero(~mask & (light < 0.93))
            y, x, shade_y, shade_x = y - top // SCALE, x - left // SCALE, sy - top // SCALE, sx - left // SCALE
            drawings.append(Drawing(thing, y, x, black, white - black, shade_y, shade_x, light[sy, sx]))
    picks = [np.random.default_rng(0).permutation(np.arange(max(SAMPLES, d.y.size)) % d.y.size)[:SAMPLES] for d in drawings]
    chosen = [(d.y[p], d.x[p], d.base[:, p], d.gain[:, p]) for d, p in zip(drawings, picks, strict=True)]
    return Sheet(drawings, *map(np.stack, zip(*chosen, strict=True)), np.array([d.y.size / SAMPLES for d in drawings]))


class _Explanation:
    """A picture, the things found so far, and how well they explain it."""

    def __init__(self, picture: np.ndarray, setting: str, canvas: Canvas):
        self.picture, self.setting, self.canvas = picture, setting, canvas
        self.things: list[tuple[Thing, Drawing]] = []
        self.rebuild()

    def _place(self, y, x, thing: Thing):
        """Indices of a drawing's pixels in the picture and which of them are on it."""
        right, down = foot(thing.column, thing.row)
        y, x = y + (down - self.canvas.top) // SCALE, x + (right - self.canvas.left) // SCALE
        return y, x, (y >= 0) & (y < self.picture.shape[0]) & (x >= 0) & (x < self.picture.shape[1])

    def rebuild(self) -> None:
        """Draw the things found so far, from back to front, and compare."""
        model = _backdrop(self.setting, self.canvas).copy()
        self.nearest = np.full(model.shape[:2], ROWS, np.int8)
        for thing, drawing in self.things:
            y, x, on = self._place(drawing.shade_y, drawing.shade_x, thing)
            model[y[on], x[on]] *= drawing.shade[on, None]
        for thing, drawing in sorted(self.things, key=lambda t: -t[0].row):
            y, x, on = self._place(drawing.y, drawing.x, thing)
            m, paint = MATERIALS.index(thing.material), _PAINTS[COLORS.index(thing.color)]
            model[y[on], x[on]] = np.clip(drawing.base[m, on] + drawing.gain[m, on] * paint, 0, 1)
            self.nearest[y[on], x[on]] = thing.row
        self.error = _error(self.picture, model)

    def best(self, row: int, column: int) -> tuple[float, Thing, Drawing] | None:
        """The most explaining thing at a place, with how much of the error it explains."""
        sheet = _sheet(self.setting)
        y, x, on = self._place(sheet.y, sheet.x, Thing("", "", column=column, row=row))
        y, x = y.clip(0, self.picture.shape[0] - 1), x.clip(0, self.picture.shape[1] - 1)
        seen = on & (self.nearest[y, x] >= row)
        now = np.where(seen, self.error[y, x], 0)
        size = on.sum(axis=1)
        able = (size >= 0.6 * SAMPLES) & (seen.sum(axis=1) >= 0.35 * size) & (now.sum(axis=1) >= 0.004 * size)
        if not able.any():
            return None
        picture = self.picture[y[able], x[able]][:, None, None]
        colors = sheet.base[able, :, None] + sheet.gain[able, :, None] * _PAINTS[:, None]  # (D, materials, colours, N, 3)
        then = np.einsum("dmcn,dn->dmc", _error(picture, np.clip(colors, 0, 1, out=colors)), seen[able].astype(np.float32))
        total = now[able].sum(axis=1)[:, None, None]
        gain = np.where(total - then > ENOUGH * total, (total - then) * sheet.weight[able, None, None], 0)
        d, m, c = np.unravel_index(np.argmax(gain), gain.shape)
        if gain[d, m, c] <= 0:
            return None
        drawing = sheet.drawings[np.flatnonzero(able)[d]]
        thing = replace(drawing.thing, column=column, row=row, color=COLORS[c], material=MATERIALS[m])
        return float(gain[d, m, c]), thing, drawing


def read(rgb: np.ndarray, most: int = 6) -> Reading:
    """Read a picture of the default view, (h, w, 3) uint8 with sides in multiples of 16."""
    canvas = Canvas.of(rgb.shape[1], rgb.shape[0])
    image = Image.fromarray(np.asarray(rgb)).resize((canvas.width // SCALE, canvas.height // SCALE), Image.Resampling.BOX)
    picture = np.asarray(image, np.float32) / 255
    setting = min(SETTINGS, key=lambda s: _error(picture, _backdrop(s, canvas)).mean())
    found = _Explanation(picture, setting, canvas)
    columns = range(canvas.left // CELL + 1, (canvas.left + canvas.width) // CELL)
    places = [(row, column) for row in range(ROWS) for column in columns]
    offers = {place: found.best(*place) for place in places}
    while len(found.things) < most:
        offer = max(offers.values(), key=lambda o: o[0] if o else 0)
        if not offer or offer[0] < LEAST:
            break
        error, nearest = found.error, found.nearest
        found.things.append(offer[1:])
        found.rebuild()
        changed = np.flatnonzero(((found.error != error) | (found.nearest != nearest)).any(axis=0))
        for row, column in places:  # whose widest drawing, three cells to a side, reaches what changed
            distance = np.abs(changed - (column * CELL - canvas.left) // SCALE)
            if distance.min(initial=canvas.width) <= 3 * CELL // SCALE:
                offers[row, column] = found.best(row, column)
    for thing, drawing in list(found.things):
        explained = -found.error.sum()
        found.things.pop(0)
        found.rebuild()
        explained += found.error.sum()
        near = [(row, c) for row in range(ROWS) for c in columns if abs(c - thing.column) <= 1]
        again = max((found.best(*p) for p in near), key=lambda o: o[0] if o else 0)
        if again and again[0] >= LEAST:
            found.things.append(again[1:])
        elif explained >= LEAST:  # else others, fitted better by now, explain all that it did
            found.things.append((thing, drawing))
        found.rebuild()
    things = tuple(sorted((t for t, _ in found.things), key=lambda t: (t.column, t.row)))
    return Reading(setting, things)


def matches(reading: Reading, scene: Scene) -> list[tuple[Thing, Thing | None]]:
    """Each thing of a scene with the thing that was read nearest to it (same or next cell and row), or None."""
    left = list(reading.things)
    pairs = []
    for thing in scene.things:
        near = [t for t in left if abs(t.column - thing.column) <= 1.5 and abs(t.row - thing.row) <= 1]
        away = {t: (abs(t.column - thing.column) + abs(t.row - thing.row), t.kind != thing.kind) for t in near}
        best = min(near, key=away.__getitem__, default=None)
        if best:
            left.remove(best)
        pairs.append((thing, best))
    return pairs
