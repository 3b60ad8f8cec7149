"""Depth, edges and poses: how near a map is to the true one."""
from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from PIL import Image, ImageFilter

from dimoo.evals.cases import Case, Marks, every, held_out, next_scene
from dimoo.tasks import Edit
from dimoo.world.lessons import Shot
from dimoo.world.scene import Scene
from dimoo.world.styles import LIMBS, MAPS

FLOOR = 0.2
"""Of the grey of a depth map, which is in inverse proportion to depth: what is farther counts as being there."""
EDGE = 0.3
"""Grey from which on a pixel of an edge map is an edge; blurred by the image tokenizer thin lines are no longer white."""
_LIT = 0.35  # brightness from which on a pixel of a pose map belongs to a skeleton
_PALETTE = np.array([*(color for *_, color in LIMBS), (255, 255, 255)], np.float32) / 255
EDGE_REACH, POSE_REACH = 2, 4  # pixels by which edges and skeletons may be off


def depth_error(rgb: np.ndarray, truth: np.ndarray, where: np.ndarray | bool = True) -> float:
    """Mean relative error of a depth map, (h, w, 3) uint8, where the truth is nearer than the floor.

    What is nearer than it should be beyond adds to the error. where: (h, w) bool, the pixels that count.
    """
    found, wanted = (np.maximum(picture.astype(np.float32).mean(axis=2) / 255, FLOOR) for picture in (rgb, truth))
    error = np.abs(found - wanted) / wanted
    return float(error[where].sum() / max(1, ((wanted > FLOOR) & where).sum()))


def spread(pixels: np.ndarray, reach: int) -> np.ndarray:
    """(h, w) bool: pixels within `reach` of one that is set."""
    return np.asarray(Image.fromarray(pixels).convert("L").filter(ImageFilter.MaxFilter(2 * reach + 1))) > 0


def overlap(found: list[np.ndarray], wanted: list[np.ndarray], reach: int) -> float:
    """F1 of sets of pixels (h, w) bool, taken together; a pixel is right within `reach` of one of the other set.

    1 if there is nothing to find and nothing found.
    """
    hits = sum(int((f & spread(w, reach)).sum()) for f, w in zip(found, wanted, strict=True))
    met = sum(int((w & spread(f, reach)).sum()) for f, w in zip(found, wanted, strict=True))
    number, total = sum(int(f.sum()) for f in found), sum(int(w.sum()) for w in wanted)
    if not number or not total:
        return float(number == total)
    precision, recall = hits / number, met / total
    return 2 * precision * recall / max(precision + recall, 1e-9)


def edge_f1(rgb: np.ndarray, truth: np.ndarray) -> float:
    """F1 at 2 pixels of two edge maps, (h, w, 3) uint8."""
    found, wanted = (picture.mean(axis=2) > 255 * EDGE for picture in (rgb, truth))
    return overlap([found], [wanted], EDGE_REACH)


def skeletons(rgb: np.ndarray) -> list[np.ndarray]:
    """The pixels (h, w) bool of each limb and of the joints, told apart by the nearest of their colours."""
    pixels = rgb.astype(np.float32) / 255
    nearest = np.square(pixels[..., None, :] - _PALETTE).sum(axis=-1).argmin(axis=-1)
    return [(nearest == i) & (pixels.max(axis=-1) > _LIT) for i in range(len(_PALETTE))]


def pose_f1(rgb: np.ndarray, truth: np.ndarray) -> float:
    """F1 at 4 pixels of two pose maps, (h, w, 3) uint8, limb by limb."""
    return overlap(skeletons(rgb), skeletons(truth), POSE_REACH)


def agreement(kind: str, rgb: np.ndarray, truth: np.ndarray) -> float:
    """How near a map of a kind is to the true one: F1, or 1 less the relative error of depths."""
    if kind == "depth":
        return max(0.0, 1 - depth_error(rgb, truth))
    return (pose_f1 if kind == "openpose" else edge_f1)(rgb, truth)


def mapped(kind: str, truth: np.ndarray, bare: np.ndarray, rgb: np.ndarray) -> Marks:
    """bare: the map of the setting alone. A depth map is as good as its things, or its ground if that is worse: ground looks the
    same in all scenes, and covers more of them.
    """
    if kind != "depth":
        return Marks(agreement(kind, rgb, truth))
    things = (truth != bare).any(axis=2)
    parts = {"things": things, "ground": ~things}
    return every(**{name: max(0.0, 1 - depth_error(rgb, truth, where)) for name, where in parts.items()})


def shows(kind: str, scene: Scene) -> bool:
    """Whether a map of a kind shows anything of a scene."""
    return kind != "openpose" or any(thing.kind == "figure" for thing in scene.things)


def tells(kind: str, scene: Scene) -> bool:
    """Whether a map of a kind shows something of a scene that its picture does not pass for: small things, bright in the night,
    lie as near to their edges as edges do.
    """
    return shows(kind, scene) and not (kind in ("canny", "hed") and scene.setting == "night")


def cases(count: int) -> Iterator[Case]:
    """`count` maps to make of held-out pictures, of every kind in turn."""
    rngs = held_out("predict")
    for i in range(count):
        kind = MAPS[i % len(MAPS)]
        _, scene = next_scene(rngs, partial(tells, kind))
        shot = Shot(scene)
        request = Edit(Image.fromarray(shot.draw()), "predict", map=kind, seed=i)
        truth, bare = (Shot(shown, look=kind).draw() for shown in (scene, scene.with_(things=())))
        yield Case(kind, request, partial(mapped, kind, truth, bare), partial(np.asarray, truth))
