"""The six settings: what lies behind and below the things, as colours by viewing direction and by place on the ground.

Everything is a fixed function of direction or place, so that the same setting has the same pixels in every picture.
"""
from __future__ import annotations

from functools import lru_cache

import numpy as np

from dimoo.world.camera import EYE, FOCAL, Canvas

SHADOWS = {"studio": 0.42, "beach": 0.45, "meadow": 0.50, "snow": 0.36, "night": 0.45, "sunset": 0.45}
"""Share of the light on the ground that a thing's shadow takes away in each setting."""


def _mix(a, b, t):
    """a where t is 0, b where t is 1; t is clipped."""
    t = np.clip(t, 0, 1)[..., None]
    return (1 - t) * np.asarray(a, np.float32) + t * np.asarray(b, np.float32)


def _waves(phi, *terms):
    """A sum of sines over the horizon; each term is (turns around the horizon, height, phase)."""
    return sum(h * np.sin(n * phi + p) for n, h, p in terms)


def _soft(x, width):
    return np.clip(x / width + 0.5, 0, 1)


def _clouds(color, phi, e, amount):
    for center, height, width, tall in ((-0.22, 0.165, 0.10, 0.020), (0.17, 0.125, 0.12, 0.017), (0.02, 0.215, 0.14, 0.022)):
        for turn in range(8):  # the same few clouds again in every direction
            x = (phi - center - turn * np.pi / 4 + np.pi) % (2 * np.pi) - np.pi
            puff = 1 - (x / width) ** 2 - ((e - height) / tall) ** 2 + 0.25 * np.sin(40 * x + 60 * height)
            color = _mix(color, (1, 1, 1), amount * np.clip(puff, 0, 1))
    return color


def _disk(phi, e, center, height, radius):
    x = (phi - center + np.pi) % (2 * np.pi) - np.pi
    return radius - np.sqrt(x * x + (e - height) ** 2)


def _sky(setting: str, phi, e):
    """Colour above the horizon; phi is the compass direction, e the tangent of the elevation (the picture's top is 0.2)."""
    pixel = 1.0 / FOCAL
    if setting == "studio":
        return _mix((0.87, 0.84, 0.85), (0.66, 0.64, 0.72), e / 0.26)
    if setting == "beach":
        return _clouds(_mix((0.80, 0.93, 0.99), (0.30, 0.62, 0.93), e / 0.24), phi, e, 0.9)
    if setting == "meadow":
        color = _clouds(_mix((0.85, 0.95, 1.0), (0.40, 0.70, 0.96), e / 0.24), phi, e, 0.8)
        far = 0.062 + _waves(phi, (9, 0.018, 0.6), (16, 0.010, 2.0))
        near = 0.026 + _waves(phi, (8, 0.014, 2.2), (13, 0.008, 0.3))
        color = _mix(color, (0.45, 0.68, 0.55), _soft(far - e, pixel))
        return _mix(color, (0.36, 0.62, 0.30), _soft(near - e, pixel))
    if setting == "night":
        color = _mix((0.17, 0.21, 0.42), (0.04, 0.05, 0.16), e / 0.2)
        for i in range(96):
            x, y = 2 * np.pi * ((i * 0.618034) % 1), 0.07 + 0.17 * ((i * 0.754878) % 1)
            color = _mix(color, (1.0, 0.98, 0.88), 0.95 * _soft(_disk(phi, e, x, y, (0.9 + 0.5 * (i % 3)) * pixel), 2 * pixel))
        for turn in range(4):
            moon = _disk(phi, e, 0.16 + turn * np.pi / 2, 0.145, 0.036)
            bite = _disk(phi, e, 0.178 + turn * np.pi / 2, 0.155, 0.030)
            color = _mix(color, (0.99, 0.95, 0.80), _soft(np.minimum(moon, -bite), pixel))
        hills = 0.040 + _waves(phi, (9, 0.016, 1.4), (14, 0.010, 0.5))
        return _mix(color, (0.07, 0.10, 0.22), _soft(hills - e, pixel))
    if setting == "sunset":
        color = np.where((e < 0.08)[..., None], _mix((1.0, 0.80, 0.42), (0.98, 0.52, 0.36), e / 0.08),
                         _mix((0.98, 0.52, 0.36), (0.46, 0.26, 0.52), (e - 0.08) / 0.16))
        for turn in range(4):
            sun = _disk(phi, e, -0.10 + turn * np.pi / 2, 0.052, 0.046)
            color = _mix(color, (1.0, 0.93, 0.66), np.maximum(_soft(sun, pixel), 0.5 * np.clip(1 + sun / 0.05, 0, 1) ** 2))
        hills = 0.024 + _waves(phi, (8, 0.013, 0.9), (15, 0.007, 2.5))
        return _mix(color, (0.40, 0.22, 0.40), _soft(hills - e, pixel))
    color = _mix((0.93, 0.96, 0.99), (0.62, 0.76, 0.92), e / 0.24)  # snow
    peaks = 0.085 + 0.05 * np.abs((phi * 3.5) % 1 - 0.5) + 0.03 * np.abs((phi * 8 + 0.3) % 1 - 0.5)
    color = _mix(color, (0.74, 0.82, 0.92), _soft(peaks - e, pixel))
    trees = 0.012 + 0.040 * np.abs((phi * 16) % 1 - 0.5) + 0.026 * np.abs((phi * 9 + 0.4) % 1 - 0.5)
    return _mix(color, (0.36, 0.50, 0.54), _soft(trees - e, pixel))


def _ground(setting: str, x, depth):
    """Colour of the ground at a distance from the camera: one colour where things stand, so that shadows look alike anywhere.

    x: how far to the side, in units; the shore winds a little.
    """
    far = np.clip((depth - 9) / 18, 0, 1)
    if setting == "studio":
        return _mix((0.80, 0.77, 0.78), (0.87, 0.84, 0.85), far**0.6)
    if setting == "beach":
        shore = depth - 12.6 - 0.35 * np.sin(1.3 * x + 0.5)
        color = _mix((0.92, 0.82, 0.60), (0.80, 0.69, 0.50), np.clip((shore + 1.8) / 1.6, 0, 1))
        color = _mix(color, (0.97, 0.99, 1.0), np.clip((shore + 0.25) / 0.15, 0, 1))
        return _mix(color, _mix((0.30, 0.74, 0.78), (0.12, 0.45, 0.72), (depth - 13) / 25), np.clip((shore - 0.5) / 0.4, 0, 1))
    if setting == "meadow":
        return _mix((0.42, 0.69, 0.24), (0.56, 0.77, 0.42), far)
    if setting == "night":
        return _mix((0.12, 0.18, 0.26), (0.08, 0.12, 0.24), far)
    if setting == "sunset":
        return _mix((0.60, 0.40, 0.40), (0.68, 0.44, 0.43), far)
    return _mix((0.91, 0.93, 0.97), (0.84, 0.89, 0.96), far)  # snow


@lru_cache(maxsize=48)
def backdrop(setting: str, angle: float, canvas: Canvas, samples: int) -> np.ndarray:
    """The empty setting, (height * samples, width * samples, 3) float32 in [0, 1], read-only."""
    dx, dy = canvas.directions(samples)
    turn = np.float32(np.radians(angle))
    phi = np.arctan(dx) + turn + 0 * dy
    color = _sky(setting, phi, np.maximum(dy, 0) + 0 * dx).astype(np.float32)
    depth = EYE / np.maximum(-dy, np.float32(1e-4)) + 0 * dx
    ground = _ground(setting, dx * depth, depth)
    color = np.where((dy < 0)[..., None], ground, color).astype(np.float32)
    color.setflags(write=False)
    return color
