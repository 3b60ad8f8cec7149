"""Pictures made from pictures: drawing styles, control maps, depth maps and poses."""
from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from dimoo.edges import edge_pixels, soft_edges
from dimoo.world.camera import PIVOT, Canvas, foot, project
from dimoo.world.render import Picture, arrange
from dimoo.world.scene import SIZES, VIEWS, Scene
from dimoo.world.shapes import joints

NEAREST = 4.0
"""Distance in units that a depth map shows as white."""


def stylize(rgb: np.ndarray, style: str) -> np.ndarray:
    """The same picture as a drawing in pencil or chalk or a poster; (h, w, 3) uint8 in and out."""
    if style == "render":
        return rgb
    if style == "chalk":
        return edge_pixels(rgb, "hed")
    image, edges = Image.fromarray(rgb), soft_edges(rgb)[..., None]
    if style == "pencil":
        light = np.asarray(image.convert("L").filter(ImageFilter.GaussianBlur(1)), np.float32)[..., None] / 255
        tone = (0.97 - 0.42 * (1 - light) ** 1.5) * (1 - 0.80 * edges)
        return (np.clip(tone * np.array([1.0, 0.985, 0.95]), 0, 1) * 255).astype(np.uint8)
    if style == "poster":
        flat = np.asarray(image.filter(ImageFilter.ModeFilter(5)), np.float32) / 255
        flat = np.round(flat * 4) / 4
        return (np.clip(0.06 + 0.94 * flat * (1 - 0.9 * edges), 0, 1) * 255).astype(np.uint8)
    raise ValueError(f"no such style: {style}")


def depth_map(depth: np.ndarray) -> np.ndarray:
    """Depth (h, w) in units as grey (h, w, 3) uint8, proportional to 1 / depth: near is white, the sky black."""
    grey = (np.clip(NEAREST / depth, 0, 1) * 255 + 0.5).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


LIMBS = (("head", "neck", (255, 60, 60)), ("neck", "hip", (255, 200, 40)), ("neck", "left hand", (80, 220, 80)),
          ("neck", "right hand", (40, 200, 220)), ("hip", "left foot", (80, 110, 255)),
          ("hip", "right foot", (220, 80, 230)))  # fmt: skip


def pose_map(scene: Scene, width: int, height: int) -> np.ndarray:
    """Skeletons of the scene's figures on black, (h, w, 3) uint8."""
    canvas = Canvas.of(width, height)
    image = Image.new("RGB", (canvas.width, canvas.height))
    draw = ImageDraw.Draw(image)
    turn = np.radians(VIEWS[scene.view])
    for thing, column, row in arrange(scene):
        if thing.kind != "figure":
            continue
        (right, down), (_, middle), scale = foot(column, row), foot(0, 1), SIZES[thing.size]
        at = {}
        for name, (x, y) in joints(thing.pose).items():
            u, v = project(scale * x * np.cos(turn), scale * y, PIVOT - scale * x * np.sin(turn))
            at[name] = (u + right - canvas.left, v + down - middle - canvas.top)
        for a, b, color in LIMBS:
            draw.line([at[a], at[b]], color, 4)
        for x, y in at.values():
            draw.ellipse([x - 3, y - 3, x + 3, y + 3], (255, 255, 255))
    return np.asarray(image)


MAPS = ("canny", "hed", "depth", "openpose")


def control_map(kind: str, scene: Scene, picture: Picture) -> np.ndarray:
    """The control or prediction map of a rendered scene, (h, w, 3) uint8."""
    if kind == "depth":
        return depth_map(picture.depth)
    if kind == "openpose":
        return pose_map(scene, picture.rgb.shape[1], picture.rgb.shape[0])
    return edge_pixels(picture.rgb, kind)
