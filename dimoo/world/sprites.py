"""Things, ray-traced in numpy: what the camera sees of one alone, with its shadow, before it is moved to its place."""
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dimoo.world.camera import EYE, PIVOT, Canvas, foot
from dimoo.world.scene import CELL, SIZES, Thing
from dimoo.world.shapes import FAR, PAINT, YAW, solids

SUN = np.array([-0.50, 0.74, -0.45], np.float32) / np.float32(np.linalg.norm([-0.50, 0.74, -0.45]))
"""Direction towards the light, from behind the camera's left shoulder."""
SUNLIGHT, SKYLIGHT = np.array([(0.90, 0.87, 0.82), (0.50, 0.51, 0.54)], np.float32)
"""Colours of sun and sky on a surface. They are alike in every setting: things look the same wherever they are."""
MIRRORED = np.array([(0.60, 0.74, 0.94), (0.95, 0.97, 1.0), (0.46, 0.44, 0.42)], np.float32)
"""What a mirror sees above, level and below."""
_CANVAS = Canvas(-4 * CELL, -CELL, 12 * CELL, 10 * CELL)  # holds the largest thing with its shadow


@dataclass(frozen=True)
class Sprite:
    """A shape as it is drawn anywhere. Places are counted in samples from its foot, y downward.

    y, x, depth (n,): where it is seen, and its distance in units in the middle row; normal, direction of the ray, paint (n, 3):
    what its colours in any setting need; main (n,) bool: where paint is the thing's own; ink (n,): how much of it a letter
    covers; dark (n,) bool: where it keeps the sun from itself. ground_y, ground_x, shadow, sky (m,): the ground around, whether
    it lies in its shadow and by what its nearness multiplies the light.
    """

    y: np.ndarray
    x: np.ndarray
    depth: np.ndarray
    normal: np.ndarray
    direction: np.ndarray
    paint: np.ndarray
    main: np.ndarray
    ink: np.ndarray
    dark: np.ndarray
    ground_y: np.ndarray
    ground_x: np.ndarray
    shadow: np.ndarray
    sky: np.ndarray

    def ground_light(self, strength: float) -> np.ndarray:
        """(m,) by what to multiply the ground; strength: share of the light that a full shadow takes away."""
        return (1 - np.float32(strength) * self.shadow) * self.sky

    def albedo(self, color: str) -> np.ndarray:
        """(n, 3) of a thing of this colour."""
        own = np.asarray(PAINT[color], np.float32)
        ink = np.asarray(PAINT["coal" if color in ("white", "yellow", "pink", "orange") else "white"], np.float32)
        return np.where(self.main[:, None], own + self.ink[:, None] * (ink - own), self.paint)

    def colors(self, albedo: np.ndarray, metal: bool) -> np.ndarray:
        """(n, 3), not clipped: linear in the albedo."""
        return shade(albedo, self.main & metal, self.normal, self.direction, self.dark)


def sprite(thing: Thing, degrees: float, samples: int) -> Sprite:
    """The sprite of a thing, turned by so many degrees more than its kind is; `samples` to a pixel and side."""
    return _sprite(replace(thing, color="white", material="matte", column=0, row=1), degrees, samples)


@lru_cache(maxsize=256)
def _sprite(shape: Thing, degrees: float, samples: int) -> Sprite:
    frame = _Frame(np.radians(YAW.get(shape.kind, 0.0) + degrees), SIZES[shape.size])
    dx, dy = _CANVAS.directions(samples)
    rx, ry = (a.ravel() for a in np.broadcast_arrays(dx, dy))
    depth = np.where(ry < -0.01, EYE / np.maximum(-ry, np.float32(0.01)), FAR).astype(np.float32)
    y, x = (a.astype(np.int32) for a in np.divmod(np.arange(rx.size), dx.size))
    x += (_CANVAS.left - foot(0, 1)[0]) * samples
    y += (_CANVAS.top - foot(0, 1)[1]) * samples
    parts = solids(shape)

    ground = np.flatnonzero(depth < FAR)
    gx, gz = rx[ground] * depth[ground], depth[ground]
    shadow = _shaded(parts, frame, (gx, np.full_like(gx, 1e-3), gz))
    sky = 1 - np.float32(0.35) * np.exp(-(gx**2 + (gz - np.float32(PIVOT)) ** 2) / np.float32((0.42 * frame.scale) ** 2))
    touched = shadow | (sky < 0.998)
    ground, shadow, sky = ground[touched], shadow[touched], sky[touched].astype(np.float32)

    eye = (np.float32(0), np.float32(EYE), np.float32(0))
    o, d = frame.to_local(eye, (rx, ry, np.float32(1)))
    found = np.full(depth.size, -1, np.int8)
    normal = np.zeros((3, depth.size), np.float32)
    for i, (solid, _) in enumerate(parts):
        t, n = solid.hit(o, d)
        closer = t < depth
        depth = np.where(closer, t, depth)
        found[closer] = i
        for axis in range(3):
            np.copyto(normal[axis], n[axis], where=closer)
    on = np.flatnonzero(found >= 0)
    t, n = depth[on], normal[:, on].T
    local = tuple(np.broadcast_to(o[i], found.shape)[on] + t * np.broadcast_to(d[i], found.shape)[on] for i in range(3))
    ink = _ink(shape.letter, local, n) if shape.letter else np.zeros(on.size, np.float32)
    paints = np.asarray([PAINT["white" if paint == "main" else paint] for _, paint in parts], np.float32)
    main = np.asarray([paint == "main" for _, paint in parts])[found[on]]
    n = np.stack(frame.to_camera(n.T), axis=1)
    n /= _length(n)
    direction = np.stack([rx[on], ry[on], np.ones_like(rx[on])], axis=1)
    point = tuple(e + t * direction[:, i] + np.float32(2e-3) * n[:, i] for i, e in enumerate(eye))
    dark = _shaded(parts, frame, point)
    return Sprite(y[on], x[on], t, n, direction, paints[found[on]], main, ink, dark, y[ground], x[ground], shadow, sky)


@dataclass(frozen=True)
class _Frame:
    """A thing's own frame: its foot straight ahead of the camera in the middle row, turned by `yaw` radians, `scale` large."""

    yaw: float
    scale: float

    def to_local(self, o, d):
        """The same rays in the thing's own frame (distances along the ray stay the same)."""
        c, s, k = np.float32(np.cos(self.yaw)), np.float32(np.sin(self.yaw)), np.float32(1 / self.scale)
        px, pz = o[0] * k, (o[2] - np.float32(PIVOT)) * k
        dx, dz = d[0] * k, d[2] * k
        return (c * px - s * pz, o[1] * k, s * px + c * pz), (c * dx - s * dz, d[1] * k, s * dx + c * dz)

    def to_camera(self, n):
        c, s = np.float32(np.cos(self.yaw)), np.float32(np.sin(self.yaw))
        return c * n[0] + s * n[2], n[1], c * n[2] - s * n[0]


def _shaded(parts, frame: _Frame, o) -> np.ndarray:
    """Whether each of the points o (three 1-D arrays) lies in the shadow of the thing."""
    o, d = frame.to_local(o, tuple(SUN))
    dark = np.zeros(o[0].shape, bool)
    for solid, _ in parts:
        dark |= solid.hit(o, d)[0] < FAR
    return dark


@lru_cache(maxsize=32)
def _glyph(letter: str) -> np.ndarray:
    """A letter as (64, 64) float32 coverage, filling its square."""
    image = Image.new("L", (64, 64))
    ImageDraw.Draw(image).text((32, 33), letter, 255, ImageFont.load_default(60), anchor="mm", stroke_width=2)
    return np.asarray(image, np.float32) / 255


def _ink(letter: str, local, normal) -> np.ndarray:
    """How much (n,) of each surface point a letter covers that is painted on a cube's front and left faces."""
    ink = np.zeros(local[0].size, np.float32)
    for face, across in ((-normal[:, 2], local[0]), (-normal[:, 0], -local[2])):
        u, v = (across / 0.60 + 0.5) * 64, (0.5 - (local[1] - 0.37) / 0.60) * 64
        on = (face > 0.9) & (u >= 0) & (u < 64) & (v >= 0) & (v < 64)
        ink[on] = _glyph(letter)[v[on].astype(int), u[on].astype(int)]
    return ink


def _length(v: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("ij,ij->i", v, v))[:, None] + np.float32(1e-9)


def shade(albedo, metal, normal, direction, dark) -> np.ndarray:
    """Colours (n, 3) of surface points, not clipped: linear in albedo (n, 3). metal and dark (in shadow) are (n,) bool."""
    sun, sky = SUNLIGHT, SKYLIGHT
    facing = np.maximum(normal @ SUN, 0) * ~dark
    up = (0.72 + 0.28 * normal[:, 1])[:, None]
    matte = albedo * (sun * facing[:, None] + sky * up)
    d = direction / _length(direction)
    r = d - 2 * np.einsum("ij,ij->i", d, normal)[:, None] * normal
    glint = np.maximum(r @ SUN, 0) * ~dark
    above, level, below = MIRRORED
    t = np.clip(r[:, 1:2] * 1.6, -1, 1)
    mirror = np.where(t > 0, level + np.sqrt(np.abs(t)) * (above - level), level + np.minimum(1, 6 * np.abs(t)) * (below - level))
    shiny = albedo * (0.30 * sun * facing[:, None] + 0.12 + 0.86 * mirror) + (sun * (glint**60)[:, None]) * 0.9
    dull = matte + sun * (0.16 * glint**18)[:, None]
    return np.where(metal[:, None], shiny, dull)
