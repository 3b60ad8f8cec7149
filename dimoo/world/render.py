"""Ray tracing in numpy: a scene becomes a picture with its depth and what each pixel shows.

Only the pixels near things and their shadows are traced; the rest is the setting's backdrop, which is drawn once.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dimoo.world.camera import EYE, FOCAL, PIVOT, Canvas, place
from dimoo.world.scene import SIZES, VIEWS, Scene, Thing
from dimoo.world.settings import LIGHTS, backdrop
from dimoo.world.shapes import FAR, PAINT, YAW, solids

SUN = np.array([-0.50, 0.74, -0.45], np.float32) / np.float32(np.linalg.norm([-0.50, 0.74, -0.45]))
"""Direction towards the light, from behind the default camera's left shoulder."""
_HEIGHT, _RADIUS = 1.36, 0.66  # of the cylinder that bounds every large thing


@dataclass
class Picture:
    """rgb (h, w, 3) uint8; depth (h, w) float32 in units; ids (h, w) int8, index of the thing or -1; normals (h, w, 3)."""

    rgb: np.ndarray
    depth: np.ndarray
    ids: np.ndarray
    normals: np.ndarray

    @property
    def image(self) -> Image.Image:
        return Image.fromarray(self.rgb)


@dataclass(frozen=True)
class Placed:
    """A thing in the camera's frame: foot at (x, 0, z), turned by `yaw` radians, `scale` units large."""

    thing: Thing
    x: float
    z: float
    yaw: float
    scale: float

    def to_local(self, o, d):
        """The same rays in the thing's own frame (distances along the ray stay the same)."""
        c, s, k = np.float32(np.cos(self.yaw)), np.float32(np.sin(self.yaw)), np.float32(1 / self.scale)
        px, pz = (o[0] - np.float32(self.x)) * k, (o[2] - np.float32(self.z)) * k
        dx, dz = d[0] * k, d[2] * k
        return (c * px - s * pz, o[1] * k, s * px + c * pz), (c * dx - s * dz, d[1] * k, s * dx + c * dz)

    def to_camera(self, n):
        c, s = np.float32(np.cos(self.yaw)), np.float32(np.sin(self.yaw))
        return c * n[0] + s * n[2], n[1], c * n[2] - s * n[0]


def arrange(scene: Scene) -> list[Placed]:
    """The scene's things in the frame of the camera of its view."""
    angle = np.radians(VIEWS[scene.view])
    c, s = np.cos(angle), np.sin(angle)
    placed = []
    for thing in scene.things:
        x, z = place(thing.column, thing.row)
        z -= PIVOT
        yaw = np.radians(YAW.get(thing.kind, 0.0)) + angle
        placed.append(Placed(thing, c * x - s * z, s * x + c * z + PIVOT, yaw, SIZES[thing.size]))
    return placed


def _window(canvas: Canvas, samples: int, points) -> tuple[slice, slice] | None:
    """The rows and columns of samples that the box around camera-frame points covers, or None when off the picture."""
    p = np.asarray(points)
    z = np.maximum(p[:, 2], 0.5)
    u = (FOCAL * p[:, 0] / z - canvas.left) * samples
    v = (FOCAL * (EYE - p[:, 1]) / z - canvas.top) * samples
    left, right = max(0, int(u.min()) - 1), min(canvas.width * samples, int(u.max()) + 2)
    top, bottom = max(0, int(v.min()) - 1), min(canvas.height * samples, int(v.max()) + 2)
    return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None


def _bounds(p: Placed) -> np.ndarray:
    r, h = _RADIUS * p.scale, _HEIGHT * p.scale
    return np.array([(p.x + i * r, y, p.z + k * r) for i in (-1, 1) for y in (0, h) for k in (-1, 1)])


def _near(p: Placed, o, d) -> np.ndarray:
    """Which rays pass the sphere around a thing."""
    r = 0.5 * _HEIGHT * p.scale
    q = (o[0] - p.x, o[1] - r, o[2] - p.z)
    dd = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    qd = q[0] * d[0] + q[1] * d[1] + q[2] * d[2]
    return (qd * qd > dd * (q[0] * q[0] + q[1] * q[1] + q[2] * q[2] - 1.3 * r * r)) & (qd < 0)


def _shaded(placed: list[Placed], o) -> np.ndarray:
    """Whether each of the points o (three 1-D arrays) lies in the shadow of a thing."""
    dark = np.zeros(o[0].shape, bool)
    sun = tuple(SUN)
    for p in placed:
        todo = np.flatnonzero(~dark & _near(p, o, sun))
        if todo.size == 0:
            continue
        lo, ld = p.to_local(tuple(c[todo] for c in o), sun)
        blocked = np.zeros(todo.size, bool)
        for solid, _ in solids(p.thing):
            blocked |= solid.hit(lo, ld)[0] < FAR
        dark[todo] = blocked
    return dark


@lru_cache(maxsize=32)
def _glyph(letter: str) -> np.ndarray:
    """A letter as (64, 64) float32 coverage, filling its square."""
    image = Image.new("L", (64, 64))
    ImageDraw.Draw(image).text((32, 33), letter, 255, ImageFont.load_default(60), anchor="mm", stroke_width=2)
    return np.asarray(image, np.float32) / 255


def _albedo(p: Placed, paint: str, local, normal) -> np.ndarray:
    """Paint of surface points (n, 3); a letter is painted on a cube's front and left faces."""
    color = np.broadcast_to(np.asarray(PAINT[p.thing.color if paint == "main" else paint], np.float32), (local[0].size, 3))
    if not p.thing.letter:
        return color
    color = color.copy()
    ink = PAINT["coal"] if p.thing.color in ("white", "yellow", "pink", "orange") else PAINT["white"]
    for face, across in ((-normal[2], local[0]), (-normal[0], -local[2])):
        u, v = (across / 0.60 + 0.5) * 64, (0.5 - (local[1] - 0.37) / 0.60) * 64
        on = (face > 0.9) & (u >= 0) & (u < 64) & (v >= 0) & (v < 64)
        cover = np.where(on, _glyph(p.thing.letter)[np.clip(v, 0, 63).astype(int), np.clip(u, 0, 63).astype(int)], 0)
        color += cover[:, None] * (np.asarray(ink, np.float32) - color)
    return color


def _length(v: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("ij,ij->i", v, v))[:, None] + np.float32(1e-9)


def shade(setting: str, albedo, metal, normal, direction, dark) -> np.ndarray:
    """Colours (n, 3) of surface points, not clipped: linear in albedo (n, 3). metal and dark (in shadow) are (n,) bool."""
    light = LIGHTS[setting]
    sun, sky = np.asarray(light.sun, np.float32), np.asarray(light.sky, np.float32)
    facing = np.maximum(normal @ SUN, 0) * ~dark
    up = (0.72 + 0.28 * normal[:, 1])[:, None]
    matte = albedo * (sun * facing[:, None] + sky * up)
    d = direction / _length(direction)
    r = d - 2 * np.einsum("ij,ij->i", d, normal)[:, None] * normal
    glint = np.maximum(r @ SUN, 0) * ~dark
    above, level, below = (np.asarray(c, np.float32) for c in light.mirror)
    t = np.clip(r[:, 1:2] * 1.6, -1, 1)
    mirror = np.where(t > 0, level + np.sqrt(np.abs(t)) * (above - level), level + np.minimum(1, 6 * np.abs(t)) * (below - level))
    shiny = albedo * (0.30 * sun * facing[:, None] + 0.12 + 0.86 * mirror) + (sun * (glint**60)[:, None]) * 0.9
    dull = matte + sun * (0.16 * glint**18)[:, None]
    return np.where(metal[:, None], shiny, dull)


@dataclass(frozen=True)
class Surface:
    """What rays see of one thing: where (n,) in samples of the canvas, and all that its colours in any setting need."""

    y: np.ndarray
    x: np.ndarray
    depth: np.ndarray
    normal: np.ndarray  # (n, 3), of unit length
    direction: np.ndarray  # (n, 3), of the ray
    albedo: np.ndarray  # (n, 3)
    main: np.ndarray  # (n,) bool, where the thing's own colour and material are, and not another paint
    dark: np.ndarray  # (n,) bool, where a thing keeps the sun from it


def ground_depth(canvas: Canvas, samples: int) -> np.ndarray:
    """Depth of the empty world, (height * samples, width * samples) float32."""
    dx, dy = canvas.directions(samples)
    depth = np.where(dy < 0, EYE / np.maximum(-dy, np.float32(1e-4)), FAR).astype(np.float32)
    return np.repeat(depth, dx.size, axis=1)


def trace(p: Placed, placed: list[Placed], canvas: Canvas, samples: int, depth: np.ndarray) -> Surface | None:
    """What is seen of a thing where it is nearer than `depth`; all of `placed` cast shadows on it. None if nothing is."""
    window = _window(canvas, samples, _bounds(p))
    if window is None:
        return None
    rows, columns = window
    dx, dy = canvas.directions(samples)
    rx, ry = (a.ravel() for a in np.broadcast_arrays(dx[:, columns], dy[rows]))
    eye = (np.float32(0), np.float32(EYE), np.float32(0))
    o, d = p.to_local(eye, (rx, ry, np.float32(1)))
    nearest = depth[window].ravel().copy()
    found = np.full(nearest.size, -1, np.int8)
    normal = np.zeros((3, nearest.size), np.float32)
    parts = solids(p.thing)
    for i, (solid, _) in enumerate(parts):
        t, n = solid.hit(o, d)
        closer = t < nearest
        nearest = np.where(closer, t, nearest)
        found[closer] = i
        for axis in range(3):
            np.copyto(normal[axis], n[axis], where=closer)
    on = np.flatnonzero(found >= 0)
    if on.size == 0:
        return None
    t, n = nearest[on], normal[:, on].T
    local = tuple(np.broadcast_to(o[i], found.shape)[on] + t * np.broadcast_to(d[i], found.shape)[on] for i in range(3))
    albedo = np.zeros((on.size, 3), np.float32)
    main = np.zeros(on.size, bool)
    for i, (_, paint) in enumerate(parts):
        mine = found[on] == i
        if mine.any():
            albedo[mine] = _albedo(p, paint, tuple(c[mine] for c in local), n[mine].T)
            main[mine] = paint == "main"
    n = np.stack(p.to_camera(n.T), axis=1)
    n /= _length(n)
    direction = np.stack([rx[on], ry[on], np.ones_like(rx[on])], axis=1)
    point = tuple(e + t * direction[:, i] + np.float32(2e-3) * n[:, i] for i, e in enumerate(eye))
    y, x = np.divmod(on, columns.stop - columns.start)
    return Surface(rows.start + y, columns.start + x, t, n, direction, albedo, main, _shaded(placed, point))


def ground_light(placed: list[Placed], canvas: Canvas, samples: int, strength: float):
    """Where things keep sun or sky from the ground: (y, x, light) in samples, by what to multiply the ground there.

    strength: share of the light that a full shadow takes away.
    """
    dx, dy = canvas.directions(samples)
    done = np.zeros((dy.size, dx.size), bool)
    for p in placed:
        r, reach = _RADIUS * p.scale, _HEIGHT * p.scale / SUN[1]
        tip = (p.x - SUN[0] * reach, p.z - SUN[2] * reach)
        feet = [(p.x + i * r, 0, p.z + k * r) for i in (-1, 1) for k in (-1, 1)]
        tips = [(tip[0] + i * r, 0, tip[1] + k * r) for i in (-1, 1) for k in (-1, 1)]
        window = _window(canvas, samples, feet + tips)
        if window is None:
            continue
        rows, columns = window
        todo = (dy[rows] < -0.01) & ~done[window]
        done[window] |= todo
        vy, vx = np.nonzero(todo)
        if vy.size == 0:
            continue
        t = -EYE / dy[rows][vy, 0]
        x, z = dx[0, columns][vx] * t, t
        dark = _shaded(placed, (x, np.full_like(x, 1e-3), z))
        light = 1 - strength * dark
        for q in placed:
            near = ((x - q.x) ** 2 + (z - q.z) ** 2) / np.float32((0.42 * q.scale) ** 2)
            light *= 1 - np.float32(0.35) * np.exp(-near)
        yield rows.start + vy, columns.start + vx, light.astype(np.float32)


def render(scene: Scene, width: int = 256, height: int = 256, canvas: Canvas | None = None, samples: int = 2) -> Picture:
    """Draw a scene. `canvas` overrides the default window of that size; `samples` squared rays are traced for a pixel."""
    canvas = canvas or Canvas.of(width, height)
    placed = arrange(scene)
    color = backdrop(scene.setting, VIEWS[scene.view], canvas, samples).copy()
    depth = ground_depth(canvas, samples)
    ids = np.full(depth.shape, -1, np.int8)
    normals = np.zeros((*depth.shape, 3), np.float32)
    normals[..., 1] = 1
    for y, x, light in ground_light(placed, canvas, samples, LIGHTS[scene.setting].shadow):
        color[y, x] *= light[:, None]
    for index, p in enumerate(placed):
        seen = trace(p, placed, canvas, samples, depth)
        if seen is None:
            continue
        metal = seen.main & (p.thing.material == "metal")
        color[seen.y, seen.x] = shade(scene.setting, seen.albedo, metal, seen.normal, seen.direction, seen.dark)
        depth[seen.y, seen.x], ids[seen.y, seen.x], normals[seen.y, seen.x] = seen.depth, index, seen.normal
    rgb = sum(color[i::samples, j::samples] for i in range(samples) for j in range(samples)) / np.float32(samples**2)
    rgb = (np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8)
    return Picture(rgb, depth[::samples, ::samples], ids[::samples, ::samples], normals[::samples, ::samples])
