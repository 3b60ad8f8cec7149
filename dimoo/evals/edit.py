"""Instructions: the asked change is there, and nothing else has changed. The judge reads the results."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import cycle, islice, product

import numpy as np
from PIL import Image

from dimoo.evals.cases import Case, Marks, every, held_out, next_scene
from dimoo.evals.generate import OTHER_SHAPES
from dimoo.evals.letters import letter_of
from dimoo.evals.things import LOOKS, alike, compare, near
from dimoo.tasks import Edit
from dimoo.world.judge import Reading, read
from dimoo.world.language import RELATIONS, related
from dimoo.world.lessons import INSTRUCTIONS, Lesson, Shot, reference
from dimoo.world.scene import SHAPES, Scene, Thing, is_held_out

CATEGORIES = tuple(INSTRUCTIONS)


def new_and_gone(before: Scene, after: Scene) -> tuple[list[Thing], list[Thing]]:
    """The things that only the scene after a change has, and those that only the one before it has."""
    return [t for t in after.things if t not in before.things], [t for t in before.things if t not in after.things]


def said_looks(text: str) -> tuple[str, ...]:
    """What an instruction says of a new thing: it may be of any size or material unless it is to be small, or metal."""
    said = {"size": " small ", "material": " metal "}
    return ("kind", "color", *(name for name, word in said.items() if word in text))


def stands_as_said(text: str, new: Thing, before: Scene, columns: int) -> bool:
    """Whether a new thing stands where an instruction wants it; wherever it likes if that says nothing."""
    for relation, phrases in RELATIONS.items():
        if f" {phrases[0]} the " in text:
            words = text.split(f" {phrases[0]} the ")[1]
            return any(related(new, t, relation) for t in before.things if reference(t, before.things) == words)
    third = columns / 6 - 1  # as the instructions count, give or take a cell
    middle = abs(new.column) <= third + 2
    sides = {"on the left": new.column < -third, "on the right": new.column > third, "in the middle": middle}
    return next((there for words, there in sides.items() if text.endswith(words)), True)


def edited(reading: Reading, lesson: Lesson, text: str, letters: Mapping[Thing, str]) -> Marks:
    """asked: the change is there; kept: what should not change has not, and nothing else has appeared.

    Places are right within a cell. letters: what is read on the cubes that should bear one, of those that are there.
    """
    before, after = lesson.inputs[0].scene, lesson.target.scene
    new, gone = new_and_gone(before, after)
    setting = reading.setting == after.setting
    staying = [t for t in after.things if t.letter and (t not in new or lesson.kind == "recolor")]
    legible = all(letters.get(t, t.letter) == t.letter for t in staying)
    if lesson.kind == "add":
        kept, extra = compare(reading, before.things)
        fitting = [t for t in extra if alike(t, new[0], said_looks(text))
                   and stands_as_said(text, t, before, lesson.target.columns)]  # fmt: skip
        return every(asked=bool(fitting), kept=setting and legible and all(kept) and len(extra) == bool(fitting))
    looks = said_looks(text) if lesson.kind == "replace" else LOOKS
    changed, _ = compare(reading, after.things, looks)
    right, extra = compare(reading, after.things)
    asked = all(ok for ok, t in zip(changed, after.things, strict=True) if t in new)
    kept = all(ok for ok, t in zip(right, after.things, strict=True) if t not in new)
    left = [t for t in extra if any(near(t, g) for g in gone)]
    if lesson.kind == "background":
        asked, setting = setting, True
    if lesson.kind == "text":
        asked = asked and letters.get(new[0]) == new[0].letter
    return every(asked=asked and not left, kept=kept and legible and setting and len(extra) == len(left))


def score(lesson: Lesson, text: str, rgb: np.ndarray) -> Marks:
    """Marks of a result, (h, w, 3) uint8."""
    reading, letters = read(rgb), {}
    for thing in lesson.target.scene.things:
        places = [i for i, t in enumerate(reading.things) if thing.letter and t.kind == "cube" and near(t, thing)]
        if places:
            letters[thing] = letter_of(rgb, reading.scene, places[0])
    return edited(reading, lesson, text, letters)


def cases(count: int) -> Iterator[Case]:
    """`count` instructions, of every kind in turn, whose picture or result is held out: a letter may take another scene."""
    rngs = held_out("edit")
    for i, kind in enumerate(islice(cycle(CATEGORIES), count)):
        yield _case(rngs, kind, *SHAPES["square"], i)


def shape_cases(count: int) -> Iterator[Case]:
    """`count` instructions, each kind of them in all shapes that are not square: they are the categories."""
    rngs = held_out("edit-shapes")
    for i, (kind, name) in enumerate(islice(cycle(product(CATEGORIES, OTHER_SHAPES)), count)):
        yield replace(_case(rngs, kind, *SHAPES[name], i), category=name)


def _case(rngs: Iterator[np.random.Generator], kind: str, rows: int, columns: int, seed: int) -> Case:
    lesson = None
    while lesson is None or not any(is_held_out(shot.scene) for shot in lesson.shots):
        rng, scene = next_scene(rngs, columns=columns)
        lesson = INSTRUCTIONS[kind](rng, Shot(scene, rows, columns))
    text = str(rng.choice(lesson.texts))
    given = Image.fromarray(lesson.inputs[0].draw())
    return Case(kind, Edit(given, prompt=text, seed=seed), partial(score, lesson, text), lesson.target.draw, size=given.size)
