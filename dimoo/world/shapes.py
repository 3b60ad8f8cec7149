"""Ray intersections with the solids that things are built of, and the solids of each kind.

A ray is two triples of float32 arrays (origin, direction) that broadcast; directions need not have unit length, distances
are in units of the direction. Every solid lives in its thing's own frame: unit size, foot at the origin, front towards -z.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dimoo.world.scene import Thing

FAR = np.float32(1e9)
Triple = tuple[np.ndarray, np.ndarray, np.ndarray]


def dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _pick(test, a, b):
    return np.where(test, a, b).astype(np.float32)


@dataclass(frozen=True)
class Ellipsoid:
    center: tuple[float, float, float]
    radii: tuple[float, float, float]

    def hit(self, o: Triple, d: Triple) -> tuple[np.ndarray, Triple]:
        p = [(o[i] - np.float32(self.center[i])) / np.float32(self.radii[i]) for i in range(3)]
        q = [d[i] / np.float32(self.radii[i]) for i in range(3)]
        a, b = dot(q, q), dot(p, q)
        h = b * b - a * (dot(p, p) - 1)
        t = (-b - np.sqrt(np.maximum(h, 0))) / a
        t = _pick((h > 0) & (t > 1e-3), t, FAR)
        return t, tuple((p[i] + t * q[i]) / np.float32(self.radii[i]) for i in range(3))


@dataclass(frozen=True)
class Frustum:
    """A cylinder or cone around a vertical axis, with both ends closed."""

    bottom: float
    radius: float
    top: float
    top_radius: float
    x: float = 0.0
    z: float = 0.0

    def hit(self, o: Triple, d: Triple) -> tuple[np.ndarray, Triple]:
        k = np.float32((self.top_radius - self.radius) / (self.top - self.bottom))
        px, pz = o[0] - np.float32(self.x), o[2] - np.float32(self.z)
        r = np.float32(self.radius) + k * (o[1] - np.float32(self.bottom))
        a = d[0] * d[0] + d[2] * d[2] - k * k * d[1] * d[1]
        b = px * d[0] + pz * d[2] - k * d[1] * r
        h = b * b - a * (px * px + pz * pz - r * r)
        root = np.sqrt(np.maximum(h, 0))
        best = np.full(np.broadcast(h, d[0], d[1]).shape, FAR, np.float32)
        cap = np.zeros_like(best)
        for t in ((-b - root) / a, (-b + root) / a):
            y = o[1] + t * d[1]
            good = (h > 0) & (t > 1e-3) & (y > self.bottom) & (y < self.top) & (t < best)
            best = _pick(good, t, best)
        safe = np.where(np.abs(d[1]) < 1e-7, np.float32(1e-7), d[1])
        for level, radius, up in ((self.bottom, self.radius, -1.0), (self.top, self.top_radius, 1.0)):
            if radius <= 0:
                continue
            t = (np.float32(level) - o[1]) / safe
            x, z = px + t * d[0], pz + t * d[2]
            good = (t > 1e-3) & (x * x + z * z < radius * radius) & (t < best)
            best, cap = _pick(good, t, best), _pick(good, up, cap)
        x, z = px + best * d[0], pz + best * d[2]
        side = cap == 0
        length = np.sqrt(x * x + z * z) + np.float32(1e-6)
        return best, (x * side, _pick(side, -k * length, cap), z * side)


@dataclass(frozen=True)
class Polytope:
    """A convex solid: the points p with n·p <= limit for each of its planes (n, limit)."""

    planes: tuple[tuple[tuple[float, float, float], float], ...]

    def hit(self, o: Triple, d: Triple) -> tuple[np.ndarray, Triple]:
        shape = np.broadcast(o[0], d[0], d[1]).shape
        enter, leave = np.full(shape, -FAR, np.float32), np.full(shape, FAR, np.float32)
        face = np.zeros(shape, np.int8)
        for i, (n, limit) in enumerate(self.planes):
            n32 = np.asarray(n, np.float32)
            along = dot(n32, d)
            t = (np.float32(limit) - dot(n32, o)) / np.where(np.abs(along) < 1e-7, np.float32(1e-7), along)
            front = along < 0
            closer = front & (t > enter)
            enter, face = _pick(closer, t, enter), np.where(closer, np.int8(i), face)
            leave = _pick(~front & (t < leave), t, leave)
        t = _pick((enter < leave) & (enter > 1e-3), enter, FAR)
        normals = np.asarray([n for n, _ in self.planes], np.float32)[face]
        return t, (normals[..., 0], normals[..., 1], normals[..., 2])


@dataclass(frozen=True)
class Capsule:
    a: tuple[float, float, float]
    b: tuple[float, float, float]
    radius: float

    def hit(self, o: Triple, d: Triple) -> tuple[np.ndarray, Triple]:
        a, b = np.asarray(self.a, np.float32), np.asarray(self.b, np.float32)
        axis, r2 = b - a, np.float32(self.radius**2)
        p = [o[i] - a[i] for i in range(3)]
        aa, ad, ap, dd, dp = dot(axis, axis), dot(axis, d), dot(axis, p), dot(d, d), dot(d, p)
        qa, qb = aa * dd - ad * ad, aa * dp - ap * ad
        h = qb * qb - qa * (aa * dot(p, p) - ap * ap - r2 * aa)
        t = (-qb - np.sqrt(np.maximum(h, 0))) / np.maximum(qa, np.float32(1e-9))
        y = ap + t * ad
        t = _pick((h > 0) & (y > 0) & (y < aa) & (t > 1e-3), t, FAR)
        for end in (a, b):
            q = [o[i] - end[i] for i in range(3)]
            bq = dot(q, d)
            h = bq * bq - dd * (dot(q, q) - r2)
            s = (-bq - np.sqrt(np.maximum(h, 0))) / dd
            t = _pick((h > 0) & (s > 1e-3) & (s < t), s, t)
        along = np.clip((ap + t * ad) / aa, 0, 1)
        return t, tuple(p[i] + t * d[i] - along * axis[i] for i in range(3))


def box(center, half) -> Polytope:
    planes = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            n = [0.0, 0.0, 0.0]
            n[axis] = sign
            planes.append((tuple(n), sign * center[axis] + half[axis]))
    return Polytope(tuple(planes))


def gable(bottom: float, top: float, half_x: float, half_z: float) -> Polytope:
    """A roof whose ridge runs along x."""
    slope = np.array([0.0, half_z, top - bottom])
    slope /= np.linalg.norm(slope)
    limit = float(slope[1] * top)
    return Polytope((
        ((0.0, -1.0, 0.0), -bottom), ((1.0, 0.0, 0.0), half_x), ((-1.0, 0.0, 0.0), half_x),
        ((0.0, float(slope[1]), float(slope[2])), limit), ((0.0, float(slope[1]), -float(slope[2])), limit),
    ))  # fmt: skip


def ball(x: float, y: float, z: float, r: float) -> Ellipsoid:
    return Ellipsoid((x, y, z), (r, r, r))


PAINT = {  # albedo of the eight colours and of the parts that keep their own colour
    "red": (0.86, 0.09, 0.10), "orange": (0.98, 0.45, 0.03), "yellow": (0.99, 0.83, 0.08), "green": (0.10, 0.58, 0.17),
    "blue": (0.08, 0.27, 0.88), "purple": (0.46, 0.13, 0.66), "pink": (0.98, 0.45, 0.68), "white": (0.93, 0.93, 0.92),
    "bark": (0.38, 0.24, 0.13), "roof": (0.33, 0.20, 0.17), "wood": (0.45, 0.28, 0.15), "glass": (0.66, 0.86, 0.96),
    "coal": (0.06, 0.06, 0.08), "carrot": (0.95, 0.42, 0.06), "cream": (0.95, 0.89, 0.76), "steel": (0.62, 0.65, 0.70),
    "skin": (0.93, 0.70, 0.54), "denim": (0.17, 0.22, 0.38),
}  # fmt: skip

YAW = {"cube": 28.0, "house": 24.0, "rocket": 20.0, "mushroom": 15.0}
"""Degrees by which a kind is turned, so that corners and not only faces show."""

_HANDS = {"down": (0.33, 0.40), "out": (0.53, 0.77), "up": (0.38, 1.13)}


def joints(pose: str) -> dict[str, tuple[float, float]]:
    """A figure's joints as (x, y) in its own frame: head, neck, hip, and hands and feet of both sides."""
    hx, hy = _HANDS[pose]
    return {"head": (0.0, 1.02), "neck": (0.0, 0.78), "hip": (0.0, 0.40),
            "left hand": (-hx, hy), "right hand": (hx, hy), "left foot": (-0.13, 0.04), "right foot": (0.13, 0.04)}


def solids(thing: Thing) -> list[tuple[object, str]]:
    """The solids of a thing with their paint; `main` is the thing's own colour."""
    kind = thing.kind
    if kind == "ball":
        return [(ball(0, 0.45, 0, 0.45), "main")]
    if kind == "cube":
        return [(box((0, 0.37, 0), (0.37, 0.37, 0.37)), "main")]
    if kind == "cylinder":
        return [(Frustum(0, 0.39, 0.86, 0.39), "main")]
    if kind == "cone":
        return [(Frustum(0, 0.49, 1.08, 0.0), "main")]
    if kind == "tree":
        return [(Frustum(0, 0.11, 0.34, 0.10), "bark"), (Frustum(0.26, 0.49, 0.80, 0.10), "main"),
                (Frustum(0.62, 0.37, 1.22, 0.0), "main")]
    if kind == "house":
        return [(box((0, 0.29, 0), (0.40, 0.29, 0.34)), "main"), (gable(0.56, 0.98, 0.46, 0.44), "roof"),
                (box((-0.14, 0.18, -0.34), (0.10, 0.18, 0.02)), "wood"),
                (box((0.18, 0.33, -0.34), (0.11, 0.10, 0.02)), "glass")]
    if kind == "snowman":
        return [(ball(0, 0.30, 0, 0.34), "main"), (ball(0, 0.72, 0, 0.24), "main"), (ball(0, 1.02, 0, 0.17), "main"),
                (Frustum(1.12, 0.22, 1.16, 0.22), "coal"), (Frustum(1.14, 0.14, 1.34, 0.13), "coal"),
                (Capsule((0, 1.02, -0.15), (0, 1.01, -0.30), 0.035), "carrot"),
                (ball(-0.07, 1.07, -0.15, 0.03), "coal"), (ball(0.07, 1.07, -0.15, 0.03), "coal"),
                (ball(0, 0.77, -0.23, 0.035), "coal"), (ball(0, 0.64, -0.23, 0.035), "coal")]
    if kind == "mushroom":
        dots = [(0.0, 0.78, -0.27), (-0.30, 0.70, -0.22), (0.30, 0.70, -0.22), (-0.14, 0.87, 0.0), (0.18, 0.86, 0.02)]
        return [(Frustum(0, 0.19, 0.56, 0.14), "cream"), (Ellipsoid((0, 0.62, 0), (0.49, 0.28, 0.49)), "main"),
                *[(ball(*dot_, 0.075), "cream") for dot_ in dots]]
    if kind == "rocket":
        return [(Frustum(0.18, 0.20, 0.45, 0.26), "main"), (Frustum(0.45, 0.26, 0.88, 0.24), "main"),
                (Frustum(0.88, 0.24, 1.34, 0.0), "steel"), (ball(0, 0.66, -0.20, 0.11), "glass"),
                (box((0.29, 0.20, 0), (0.13, 0.20, 0.03)), "steel"), (box((-0.29, 0.20, 0), (0.13, 0.20, 0.03)), "steel"),
                (box((0, 0.20, 0.29), (0.03, 0.20, 0.13)), "steel"), (box((0, 0.20, -0.29), (0.03, 0.20, 0.13)), "steel")]
    if kind == "figure":
        hx, hy = _HANDS[thing.pose]
        arms = [(Capsule((s * 0.17, 0.76, 0), (s * hx, hy, 0), 0.07), "main") for s in (-1, 1)]
        hands = [(ball(s * hx, hy, 0, 0.085), "skin") for s in (-1, 1)]
        legs = [(Capsule((s * 0.10, 0.42, 0), (s * 0.13, 0.08, 0), 0.085), "denim") for s in (-1, 1)]
        face = [(ball(s * 0.06, 1.05, -0.15, 0.028), "coal") for s in (-1, 1)]
        return [(Frustum(0.36, 0.25, 0.84, 0.16), "main"), (ball(0, 1.02, 0, 0.18), "skin"), *arms, *hands, *legs, *face]
    raise ValueError(f"no such kind: {kind}")
