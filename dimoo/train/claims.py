"""Claims: texts that are true of a scene, or nearly, from which the model learns to tell whether a picture shows its prompt."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Set
from dataclasses import replace
from itertools import islice

import numpy as np

from dimoo.evals.generate import fulfilled
from dimoo.world.judge import Reading
from dimoo.world.language import PLACES, Prompt, caption, random_prompts
from dimoo.world.scene import COLORS, KINDS, MAX_THINGS, SETTINGS, Scene

PROMPTS = 6000
"""So many prompts there are to find a claim among."""
LOOKED_AT = 250
"""How many prompts of a category are tried on a scene."""
CAPTIONS = 0.4
"""Share of claims that are captions: they say sizes, materials and whole scenes, which prompts in the benchmark's form do not."""
RELATED = 0.8
"""Share of captions that say how things stand to each other, of those that can: few pictures are blank enough to need it."""


class Claims:
    """Makes claims about scenes. held_out: texts that are never claimed."""

    def __init__(self, held_out: Set[str]):
        self.held_out = held_out
        self.prompts: dict[str, list[Prompt]] = defaultdict(list)
        for prompt in islice(random_prompts(np.random.default_rng(0)), PROMPTS):
            self.prompts[prompt.category].append(prompt)

    def about(self, rng: np.random.Generator, scene: Scene, true: bool) -> str | None:
        """A claim that holds of a scene, or one that all but holds; None where none is found."""
        text = self._caption(rng, scene, true) if rng.random() < CAPTIONS else self._prompt(rng, scene, true)
        return None if text in self.held_out else text

    def _caption(self, rng: np.random.Generator, scene: Scene, true: bool) -> str | None:
        if not 1 <= len(scene.things) <= MAX_THINGS:
            return None
        return caption(rng, scene, RELATED) if true else untrue_caption(rng, scene)

    def _prompt(self, rng: np.random.Generator, scene: Scene, true: bool) -> str | None:
        """One that names the right setting or none, and a kind of thing that is there."""
        reading = Reading(scene.setting, scene.things)
        kinds = {thing.kind for thing in scene.things}
        for category in rng.permutation(list(self.prompts))[:3]:
            some = self.prompts[category]
            for number in rng.integers(len(some), size=LOOKED_AT):
                prompt = some[number]
                near = prompt.setting in (None, scene.setting) and any(kind in kinds for kind, _, _ in prompt.wanted)
                if near and fulfilled(prompt, reading) == true:
                    return prompt.text
        return None


def untrue_caption(rng: np.random.Generator, scene: Scene) -> str | None:
    """A caption that is wrong in one way: a kind, a colour, one thing too many, a side, or the setting.

    None where what is wrong happens not to be said.
    """
    things, index = scene.things, int(rng.integers(len(scene.things)))
    way = str(rng.choice(("kind", "color", "count", "side", "setting")))
    if way in ("kind", "color"):
        others = [value for value in (KINDS if way == "kind" else COLORS) if value not in {getattr(t, way) for t in things}]
        plain = {"pose": "down", "letter": ""} if way == "kind" else {}
        wrong = replace(things[index], **plain, **{way: str(rng.choice(others))})
        scene = scene.with_(things=things[:index] + (wrong,) + things[index + 1 :])
        return caption(rng, scene, RELATED, 0.0)
    if way == "count":
        if len(things) == MAX_THINGS:
            return None
        return caption(rng, scene.with_(things=(*things, things[index])), 0.0)
    if way == "side":
        text = caption(rng, scene.with_(things=tuple(replace(t, column=-t.column) for t in things)), 1.0)
        return text if {"left", "right"} & set(text.split()) else None
    setting = str(rng.choice([s for s in SETTINGS if s != scene.setting]))
    text = caption(rng, scene.with_(setting=setting), RELATED)
    return text if any(words in text for words in PLACES[setting]) else None
