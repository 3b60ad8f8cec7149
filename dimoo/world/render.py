"""The renderer: a scene becomes a picture with its depth and what each pixel shows.

Nothing but the setting's backdrop and the sprites of its things, laid over each other by depth.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from dimoo.world.camera import EYE, Canvas, foot, stretch, walked
from dimoo.world.scene import VIEWS, Scene, Thing
from dimoo.world.settings import SHADOWS, backdrop
from dimoo.world.shapes import FAR
from dimoo.world.sprites import sprite


@dataclass
class Picture:
    """rgb (h, w, 3) uint8; depth (h, w) float32 in units; ids (h, w) int8, index of the thing or -1."""

    rgb: np.ndarray
    depth: np.ndarray
    ids: np.ndarray

    @property
    def image(self) -> Image.Image:
        return Image.fromarray(self.rgb)


def arrange(scene: Scene) -> list[tuple[Thing, int, int]]:
    """The scene's things with their columns and rows as seen from its view."""
    return [(thing, *walked(thing.column, thing.row, VIEWS[scene.view])) for thing in scene.things]


def ground_depth(canvas: Canvas, samples: int) -> np.ndarray:
    """Depth of the empty world, (height * samples, width * samples) float32."""
    dx, dy = canvas.directions(samples)
    depth = np.where(dy < 0, EYE / np.maximum(-dy, np.float32(1e-4)), FAR).astype(np.float32)
    return np.repeat(depth, dx.size, axis=1)


def render(scene: Scene, width: int = 256, height: int = 256, canvas: Canvas | None = None, samples: int = 2) -> Picture:
    """Draw a scene. `canvas` overrides the default window of that size; `samples` squared rays are traced for a pixel."""
    canvas = canvas or Canvas.of(width, height)
    color = backdrop(scene.setting, VIEWS[scene.view], canvas, samples).copy()
    shape = color.shape[:2]
    ground = ground_depth(canvas, samples)
    nearest, ids = np.full(shape, FAR, np.float32), np.full(shape, -1, np.int8)
    light = np.ones(shape, np.float32)

    def moved(y, x, column: int, row: int):
        """Places on the canvas of a sprite's samples (y, x), and which of them are on it."""
        right, down = foot(column, row)
        y, x = y + (down - canvas.top) * samples, x + (right - canvas.left) * samples
        on = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
        return y[on], x[on], on

    drawn = [(thing, sprite(thing, VIEWS[scene.view], samples), column, row) for thing, column, row in arrange(scene)]
    for _, s, column, row in drawn:
        y, x, on = moved(s.ground_y, s.ground_x, column, row)
        light[y, x] = np.minimum(light[y, x], s.ground_light(SHADOWS[scene.setting])[on])
    color *= light[..., None]
    for index, (thing, s, column, row) in enumerate(drawn):
        y, x, on = moved(s.y, s.x, column, row)
        depth = s.depth[on] * np.float32(stretch(row))
        nearer = depth < nearest[y, x]
        on[on] = nearer
        y, x = y[nearer], x[nearer]
        nearest[y, x], ids[y, x] = depth[nearer], index
        color[y, x] = s.colors(s.albedo(thing.color), thing.material == "metal")[on]
    rgb = sum(color[i::samples, j::samples] for i in range(samples) for j in range(samples)) / np.float32(samples**2)
    rgb = (np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8)
    depth = np.minimum(nearest, ground)
    return Picture(rgb, depth[::samples, ::samples], ids[::samples, ::samples])
