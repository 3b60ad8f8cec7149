"""Lessons: what is shown and asked, and what is right, for every task. Training learns from them, evaluation asks them.

A lesson names its pictures by recipe, so that they can be drawn, encoded and judged wherever that is needed.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dimoo.world.language import NAMES, PLACES, RELATIONS, SIZE_WORDS, caption, related
from dimoo.world.render import render
from dimoo.world.scene import COLORS, KINDS, PLOT, SETTINGS, SIGNS, STYLES, VIEWS, Scene, Thing, random_thing
from dimoo.world.styles import MAPS, control_map, stylize

BACKGROUNDS = {
    "studio": ("a studio", "a plain background"), "beach": ("a beach", "the beach"), "meadow": ("a meadow", "grass"),
    "night": ("night", "a night scene"), "sunset": ("sunset", "a sunset"), "snow": ("snow", "winter"),
}  # fmt: skip


@dataclass(frozen=True)
class Shot:
    """A picture by its recipe: a scene on a canvas of token cells, as a render, in another style, or as one of the maps."""

    scene: Scene
    rows: int = 16
    columns: int = 16
    look: str = "render"

    def draw(self, picture=None) -> np.ndarray:
        """(16 rows, 16 columns, 3) uint8; picture: the scene's render, if it is at hand."""
        picture = picture or render(self.scene, 16 * self.columns, 16 * self.rows)
        return control_map(self.look, self.scene, picture) if self.look in MAPS else stylize(picture.rgb, self.look)


@dataclass(frozen=True)
class Lesson:
    """A task on pictures: several ways to ask for it, the given pictures, and the picture that is right.

    kind: add, remove, replace, recolor, background, text (all of them instructions), subject, style, view, a map's name after
    "control " or "predict ".
    """

    kind: str
    texts: tuple[str, ...]
    inputs: tuple[Shot, ...]
    target: Shot

    @property
    def shots(self) -> tuple[Shot, ...]:
        return *self.inputs, self.target


def reference(thing: Thing, things: tuple[Thing, ...]) -> str | None:
    """The shortest words that mean this thing and no other, as in "red ball"; None if there are none."""
    for names in ((), ("color",), ("size", "color"), ("size", "material", "color")):
        if sum(all(getattr(t, n) == getattr(thing, n) for n in (*names, "kind")) for t in things) == 1:
            words = [SIZE_WORDS[thing.size][0] if n == "size" else getattr(thing, n) for n in names]
            return " ".join([*words, thing.kind])
    return None


def _article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _chosen(rng: np.random.Generator, scene: Scene) -> tuple[int, str] | None:
    """A thing of the scene and words that mean it."""
    for i in rng.permutation(len(scene.things)):
        words = reference(scene.things[i], scene.things)
        if words:
            return int(i), words
    return None


def _with_thing(scene: Scene, index: int, thing: Thing | None) -> Scene:
    things = scene.things[:index] + (() if thing is None else (thing,)) + scene.things[index + 1 :]
    return scene.with_(things=tuple(sorted(things, key=lambda t: (t.column, t.row))))


def _looks(thing: Thing) -> str:
    """Size when small, material when metal, colour and kind."""
    words = ["small"] if thing.size == "small" else []
    words += ["metal"] if thing.material == "metal" else []
    return _article(" ".join([*words, thing.color, thing.kind]))


def remove(rng: np.random.Generator, base: Shot) -> Lesson | None:
    chosen = _chosen(rng, base.scene)
    if len(base.scene.things) < 2 or chosen is None:
        return None
    index, words = chosen
    texts = tuple(f"{verb} the {words}" for verb in ("remove", "delete", "erase", "take away"))
    return Lesson("remove", texts, (base,), replace(base, scene=_with_thing(base.scene, index, None)))


def add(rng: np.random.Generator, base: Shot) -> Lesson | None:
    """The picture without one of its things, into which that thing is put back."""
    lesson = remove(rng, base)
    if lesson is None:
        return None
    before = lesson.target.scene
    thing = next(t for t in base.scene.things if t not in before.things)
    looks, wheres = _looks(thing), []
    for other in before.things:
        words = reference(other, before.things)
        wheres += [f"{RELATIONS[r][0]} the {words}" for r in RELATIONS if words and related(thing, other, r)]
    third = base.columns / 6
    wheres.append("on the left" if thing.column < -third else "on the right" if thing.column > third else "in the middle")
    texts = tuple(f"{verb} {looks} {where}" for verb in ("add", "put") for where in wheres) + (f"add {looks}",)
    return Lesson("add", texts, (lesson.target,), base)


def swap(rng: np.random.Generator, base: Shot) -> Lesson | None:
    """Another kind of thing, or another look of it, in the same place."""
    chosen = _chosen(rng, base.scene)
    if chosen is None:
        return None
    index, words = chosen
    old = base.scene.things[index]
    kind = str(rng.choice([k for k in KINDS if k != old.kind]))
    new = replace(old, kind=kind, color=str(rng.choice(COLORS)), pose="down", letter="")
    verbs = (("replace", "with"), ("swap", "for"), ("change", "to"), ("turn", "into"))
    texts = tuple(f"{verb} the {words} {to} {_looks(new)}" for verb, to in verbs)
    return Lesson("replace", texts, (base,), replace(base, scene=_with_thing(base.scene, index, new)))


def recolor(rng: np.random.Generator, base: Shot) -> Lesson | None:
    chosen = _chosen(rng, base.scene)
    if chosen is None:
        return None
    index, words = chosen
    old = base.scene.things[index]
    color = str(rng.choice([c for c in COLORS if c != old.color]))
    texts = (f"make the {words} {color}", f"paint the {words} {color}", f"change the color of the {words} to {color}",
             f"turn the {words} {color}", f"recolor the {words} {color}")  # fmt: skip
    return Lesson("recolor", texts, (base,), replace(base, scene=_with_thing(base.scene, index, replace(old, color=color))))


def background(rng: np.random.Generator, base: Shot) -> Lesson | None:
    setting = str(rng.choice([s for s in SETTINGS if s != base.scene.setting]))
    verbs = ("change the background to", "change the setting to")
    texts = tuple(f"{verb} {words}" for verb in verbs for words in BACKGROUNDS[setting])
    texts += tuple(f"show it {words}" for words in PLACES[setting])
    return Lesson("background", texts, (base,), replace(base, scene=base.scene.with_(setting=setting)))


def letter(rng: np.random.Generator, base: Shot) -> Lesson | None:
    """Another letter on a cube, which gets one before if it has none. Where no cube can bear one, a thing is made one."""
    def bears(thing: Thing) -> bool:
        return (thing.kind, thing.size, thing.material) == ("cube", "large", "matte")

    if not any(map(bears, base.scene.things)):
        index = int(rng.integers(len(base.scene.things)))
        cube = replace(base.scene.things[index], kind="cube", size="large", material="matte", pose="down",
                       letter=str(rng.choice(["", *SIGNS])))  # fmt: skip
        base = replace(base, scene=_with_thing(base.scene, index, cube))
    cubes = [i for i, t in enumerate(base.scene.things) if bears(t) and reference(t, base.scene.things)]
    if not cubes:
        return None
    index = int(rng.choice(cubes))
    old = base.scene.things[index]
    words = reference(old, base.scene.things)
    new = str(rng.choice([c for c in SIGNS if c != old.letter]))
    verbs = ("change the letter on the {} to {}", "make the letter on the {} {}") if old.letter else (
        "put the letter {1} on the {0}", "add the letter {1} to the {0}")  # fmt: skip
    texts = tuple(verb.format(words, new.lower()) for verb in verbs)
    return Lesson("text", texts, (base,), replace(base, scene=_with_thing(base.scene, index, replace(old, letter=new))))


def control(rng: np.random.Generator, base: Shot) -> Lesson | None:
    look = _map_of(rng, base.scene)
    return Lesson(f"control {look}", captions(rng, base.scene), (replace(base, look=look),), base)


def predict(rng: np.random.Generator, base: Shot) -> Lesson | None:
    look = _map_of(rng, base.scene)
    return Lesson(f"predict {look}", (), (base,), replace(base, look=look))


def _map_of(rng: np.random.Generator, scene: Scene) -> str:
    posed = any(t.kind == "figure" for t in scene.things)
    return str(rng.choice(MAPS if posed else [m for m in MAPS if m != "openpose"]))


def subject(rng: np.random.Generator, base: Shot) -> Lesson | None:
    """A thing alone in a studio, to be drawn in the scene; words say its kind only."""
    index = int(rng.integers(len(base.scene.things)))
    thing = base.scene.things[index]
    alone = Scene((replace(thing, column=PLOT // 2, row=1),), "studio")
    others = [_looks(t) for i, t in enumerate(base.scene.things) if i != index]
    texts = []
    for noun in (*dict.fromkeys(NAMES[thing.kind]), "object"):
        text = ", ".join([f"this {noun}", *others[:-1]]) + (f" and {others[-1]}" if others else "")
        texts += [f"{text} {words}" for words in PLACES[base.scene.setting]]
    return Lesson("subject", tuple(texts), (replace(base, scene=alone),), base)


def style(rng: np.random.Generator, base: Shot) -> Lesson | None:
    """The content of the first picture in the style of the second."""
    look = str(rng.choice(STYLES[1:]))
    other = Scene((random_thing(rng, base.columns), ), str(rng.choice(SETTINGS)))
    return Lesson("style", (), (base, replace(base, scene=other, look=look)), replace(base, look=look))


def seen_apart(scene: Scene) -> bool:
    """Whether all things of a scene stand in rows of their own."""
    return len({thing.row for thing in scene.things}) == len(scene.things)


def view(rng: np.random.Generator, base: Shot) -> Lesson | None:
    """Not of things that stand side by side: from the left and the right they would hide each other."""
    if not seen_apart(base.scene):
        return None
    side = str(rng.choice([v for v in VIEWS if v != "front"]))
    return Lesson("view", (side,), (base,), replace(base, scene=base.scene.with_(view=side)))


def captions(rng: np.random.Generator, scene: Scene, count: int = 6) -> tuple[str, ...]:
    return tuple(dict.fromkeys(caption(rng, scene) for _ in range(count)))


INSTRUCTIONS = {"add": add, "remove": remove, "replace": swap, "recolor": recolor, "background": background, "text": letter}
LESSONS = INSTRUCTIONS | {"control": control, "predict": predict, "subject": subject, "style": style, "view": view}
