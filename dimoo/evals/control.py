"""Pictures drawn along a map: the judge finds what map and prompt demand, and the map of the result agrees with it."""
from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from PIL import Image

from dimoo.edges import edge_pixels
from dimoo.evals.cases import Case, Marks, every, held_out, next_scene
from dimoo.evals.maps import agreement, shows
from dimoo.evals.things import compare, missing
from dimoo.tasks import Edit
from dimoo.world.judge import Reading, read
from dimoo.world.language import caption
from dimoo.world.lessons import Shot
from dimoo.world.scene import CELL, Scene
from dimoo.world.styles import MAPS

AGREES = {"canny": 0.5, "hed": 0.5, "depth": 0.92, "openpose": 0.5}
"""How near the map of a result must be to the given one: other colours than the true picture's make other edges, and the image
tokenizer blurs some."""


def map_of(kind: str, rgb: np.ndarray, reading: Reading) -> np.ndarray:
    """The map of a result (h, w, 3) uint8: edges are those of its pixels, depths and poses those of the things in it."""
    if kind in ("canny", "hed"):
        return edge_pixels(rgb, kind)
    return Shot(reading.scene, rgb.shape[0] // CELL, rgb.shape[1] // CELL, kind).draw()


def controlled(kind: str, scene: Scene, given: np.ndarray, rgb: np.ndarray) -> Marks:
    """things: what the map shows is there, by kind, within a cell of its place; of a pose map figures in their poses. words: so
    are things and setting of the scene, in their colours, which the prompt says or leaves out as usual.
    """
    posed = kind == "openpose"
    reading = read(rgb)
    demanded = tuple(t for t in scene.things if not posed or t.kind == "figure")
    right, _ = compare(reading, demanded, ("kind", "pose") if posed else ("kind",))
    lacking, _ = missing(reading, scene)
    words = not lacking and reading.setting == scene.setting
    return every(things=all(right), words=words, map=agreement(kind, map_of(kind, rgb, reading), given) >= AGREES[kind])


def cases(count: int) -> Iterator[Case]:
    """`count` maps of held-out scenes to draw along, of every kind in turn."""
    rngs = held_out("control")
    for i in range(count):
        kind = MAPS[i % len(MAPS)]
        rng, scene = next_scene(rngs, partial(shows, kind))
        given = Shot(scene, look=kind).draw()
        request = Edit(Image.fromarray(given), "control", caption(rng, scene), map=kind, seed=i)
        yield Case(kind, request, partial(controlled, kind, scene, given), Shot(scene).draw)
