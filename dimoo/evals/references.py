"""Pictures after a reference: its object in a new scene, or its style on another content."""
from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice

import numpy as np
from PIL import Image

from dimoo.evals.bare import empty
from dimoo.evals.cases import Case, Marks, every, held_out, next_scene
from dimoo.evals.regions import OFF, STRANGE, all_likest, strangest, things_off
from dimoo.evals.things import alike, missing
from dimoo.tasks import Edit
from dimoo.world.judge import read
from dimoo.world.lessons import LESSONS, Lesson, Shot
from dimoo.world.render import Picture, render
from dimoo.world.scene import STYLES, Scene, Thing, random_thing
from dimoo.world.styles import stylize


def has_subject(thing: Thing, scene: Scene, rgb: np.ndarray) -> Marks:
    """subject: a thing of the kind and colour of the reference is read; others: so is the rest of the scene, which the prompt
    names; nothing_else: no more than these; setting: it is the scene's.
    """
    reading = read(rgb)
    lacking, extra = missing(reading, scene)
    subject = thing.kind, thing.color
    return every(subject=subject not in lacking, others=not lacking.keys() - {subject}, nothing_else=not extra,
                 setting=reading.setting == scene.setting)


def subjects(rngs: Iterator[np.random.Generator]) -> Iterator[tuple[np.random.Generator, Thing, Lesson]]:
    """Endless things that are to be drawn in a scene, with the generator and the lesson.

    No other thing of the scene has its kind and colour, lest one do that the prompt names; and the scene is never in a studio,
    where the references stand: a copy shall not do.
    """
    while True:
        rng, scene = next_scene(rngs, lambda scene: scene.setting != "studio")
        lesson = LESSONS["subject"](rng, Shot(scene))
        (thing,) = lesson.inputs[0].scene.things
        if sum(alike(thing, t, ("kind", "color")) for t in scene.things) == 1:
            yield rng, thing, lesson


def subject_cases(count: int) -> Iterator[Case]:
    """`count` things to draw in held-out scenes."""
    for i, (rng, thing, lesson) in enumerate(islice(subjects(held_out("subject")), count)):
        given = Image.fromarray(lesson.inputs[0].draw())
        request = Edit(given, "subject", str(rng.choice(lesson.texts)), seed=i)
        yield Case("subject", request, partial(has_subject, thing, lesson.target.scene), lesson.target.draw)


def nearest_style(rgb: np.ndarray, content: np.ndarray) -> str:
    """The style in which a content, (h, w, 3) uint8 like the result, is nearest to a result, in mean absolute difference."""
    away = {style: np.abs(stylize(content, style).astype(np.float32) - rgb).mean() for style in STYLES}
    return min(away, key=away.__getitem__)


def styled(scene: Scene, content: Picture, style: str, rgb: np.ndarray) -> Marks:
    """style: the result is nearer to the content in that style than in any other; content: its things are there, no others.

    kinds and colours are those of its things; pencil and chalk draw all colours grey.
    """
    truth, bare = stylize(content.rgb, style), stylize(empty(scene.setting, *content.image.size), style)
    there = max(things_off(rgb, truth, bare, content.ids), default=0) <= OFF
    return every(
        style=nearest_style(rgb, content.rgb) == style,
        content=there and strangest(rgb, truth, bare) <= STRANGE,
        kinds=all_likest("kind", rgb, scene, content.ids, style),
        colours=style in ("pencil", "chalk") or all_likest("color", rgb, scene, content.ids, style),
    )


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
