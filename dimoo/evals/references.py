"""Pictures after a reference: its object in a new scene, or its style on another content."""
from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from PIL import Image

from dimoo.evals.bare import empty
from dimoo.evals.cases import Case, Marks, every, held_out, next_scene
from dimoo.evals.regions import OFF, STRANGE, strangest, things_off
from dimoo.evals.things import alike
from dimoo.tasks import Edit
from dimoo.world.judge import read
from dimoo.world.lessons import LESSONS, Shot
from dimoo.world.render import Picture, render
from dimoo.world.scene import STYLES, Scene, Thing, random_thing
from dimoo.world.styles import stylize


def has_subject(thing: Thing, setting: str, rgb: np.ndarray) -> Marks:
    """subject: a thing of the kind and colour of the reference is read; setting: it is where the prompt wants it."""
    reading = read(rgb)
    return every(subject=any(alike(t, thing, ("kind", "color")) for t in reading.things), setting=reading.setting == setting)


def subject_cases(count: int) -> Iterator[Case]:
    """`count` things to draw in held-out scenes; never in a studio, where the references stand: a copy shall not do."""
    rngs = held_out("subject")
    for i in range(count):
        rng, scene = next_scene(rngs, lambda scene: scene.setting != "studio")
        lesson = LESSONS["subject"](rng, Shot(scene))
        given = Image.fromarray(lesson.inputs[0].draw())
        request = Edit(given, "subject", str(rng.choice(lesson.texts)), seed=i)
        (thing,) = lesson.inputs[0].scene.things
        yield Case("subject", request, partial(has_subject, thing, scene.setting), lesson.target.draw)


def nearest_style(rgb: np.ndarray, content: np.ndarray) -> str:
    """The style in which a content, (h, w, 3) uint8 like the result, is nearest to a result, in mean absolute difference."""
    away = {style: np.abs(stylize(content, style).astype(np.float32) - rgb).mean() for style in STYLES}
    return min(away, key=away.__getitem__)


def styled(scene: Scene, content: Picture, style: str, rgb: np.ndarray) -> Marks:
    """style: the result is nearer to the content in that style than in any other; content: its things are there, no others."""
    truth, bare = stylize(content.rgb, style), stylize(empty(scene.setting, *content.image.size), style)
    there = max(things_off(rgb, truth, bare, content.ids), default=0) <= OFF
    return every(style=nearest_style(rgb, content.rgb) == style, content=there and strangest(rgb, truth, bare) <= STRANGE)


def style_cases(count: int) -> Iterator[Case]:
    """`count` held-out pictures to draw in the style of another, of every style in turn."""
    rngs = held_out("style")
    for i in range(count):
        style = STYLES[1 + i % (len(STYLES) - 1)]
        rng, scene = next_scene(rngs)
        _, other = next_scene(rngs)
        content = render(scene)
        reference = Shot(Scene((random_thing(rng, 16),), other.setting), look=style).draw()
        request = Edit(content.image, "style", reference=Image.fromarray(reference), seed=i)
        yield Case(style, request, partial(styled, scene, content, style), partial(stylize, content.rgb, style))
