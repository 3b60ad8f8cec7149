"""New views: every thing has moved to where it is seen from that side. The judge knows the front view only."""
from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from dimoo.evals.bare import empty
from dimoo.evals.cases import Case, Marks, every, held_out, next_scene
from dimoo.evals.regions import OFF, STRANGE, all_likest, strangest, things_off
from dimoo.tasks import DIRECTIONS, Edit
from dimoo.world.lessons import seen_apart
from dimoo.world.render import Picture, render
from dimoo.world.scene import SETTINGS, Scene


def nearest_setting(rgb: np.ndarray, truth: np.ndarray, scene: Scene) -> str:
    """The setting that a result fits best where the truth, seen from the same side, shows nothing else."""
    size = truth.shape[1::-1]
    bare = (truth == empty(scene.setting, *size, scene.view)).all(axis=-1)
    away = {s: np.abs(rgb[bare].astype(np.float32) - empty(s, *size, scene.view)[bare]).mean() for s in SETTINGS}
    return min(away, key=away.__getitem__)


def seen_from(scene: Scene, truth: Picture, rgb: np.ndarray) -> Marks:
    """setting: it is the same; things: each is where it is seen from this side, of its kind and colour; nothing else is there.

    truth: the render of the scene from its view.
    """
    bare = empty(scene.setting, *truth.image.size, scene.view)
    return every(
        setting=nearest_setting(rgb, truth.rgb, scene) == scene.setting,
        things=max(things_off(rgb, truth.rgb, bare, truth.ids), default=0) <= OFF,
        kinds=all_likest("kind", rgb, scene, truth.ids),
        colours=all_likest("color", rgb, scene, truth.ids),
        nothing_else=strangest(rgb, truth.rgb, bare) <= STRANGE,
    )


def cases(count: int) -> Iterator[Case]:
    """`count` held-out scenes to see from another side, from every one in turn."""
    rngs = held_out("view")
    for i in range(count):
        side = tuple(DIRECTIONS)[i % len(DIRECTIONS)]
        _, scene = next_scene(rngs, seen_apart)
        turned = scene.with_(view=side)
        request = Edit(render(scene).image, "view", direction=side, seed=i)
        truth = render(turned)
        yield Case(side, request, partial(seen_from, turned, truth), partial(np.asarray, truth.rgb))
