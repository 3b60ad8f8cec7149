"""Toytown in words: captions of scenes, the prompts of the benchmark, and questions with exact answers."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, cycle

import numpy as np

from dimoo.world.scene import COLORS, KINDS, SETTINGS, USUAL_COLORS, Scene, Thing, neighbouring, plots, random_color, random_scene

NAMES = {kind: (kind,) for kind in KINDS} | {
    "ball": ("ball", "ball", "sphere"), "cube": ("cube", "cube", "block"), "figure": ("figure", "person"),
}  # fmt: skip
PLURALS = {"snowman": "snowmen", "person": "people"}
NUMBERS = ("zero", "one", "two", "three", "four")
PLACES = {
    "studio": ("in a studio", "in the studio", "on a plain background"),
    "beach": ("on the beach", "on a beach", "on the sand by the sea"),
    "meadow": ("in a meadow", "on the grass", "in a green meadow"),
    "night": ("at night", "under the moon", "under the stars"),
    "sunset": ("at sunset", "in the evening", "in the evening sun"),
    "snow": ("in the snow", "on the snow", "in winter"),
}
USUAL = "studio"
"""The setting that captions may leave out: whoever names none means it."""
SIZE_WORDS = {"large": ("large", "big"), "small": ("small", "little", "tiny")}
MATERIAL_WORDS = {"metal": ("metal", "shiny", "metallic"), "matte": ("matte",)}
POSE_WORDS = {"up": "with arms up", "out": "with arms out", "down": "with arms down"}
RELATIONS = {
    "left": ("to the left of", "left of", "on the left of"),
    "right": ("to the right of", "right of", "on the right of"),
    "front": ("in front of",),
    "behind": ("behind",),
}
DEEP = 0.95
"""How often a caption says that one thing stands in front of another, where that is so: which row is meant cannot be guessed."""
OPPOSITE = {"left": "right", "right": "left", "front": "behind", "behind": "front"}


def plural(noun: str) -> str:
    return PLURALS.get(noun, noun + "s")


def related(a: Thing, b: Thing, relation: str) -> bool:
    """Whether a stands to the left of / right of / in front of / behind b (feet at least a cell, or a row, apart)."""
    return {"left": a.column < b.column, "right": a.column > b.column, "front": a.row < b.row, "behind": a.row > b.row}[relation]


def _pick(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def noun_phrase(rng: np.random.Generator, thing: Thing, count: int = 1, detail: float = 0.25, unsaid: float = 0.6) -> str:
    """A thing in words: its colour, but with probability `unsaid` not a usual one; always that it is small, metal, posed or bears
    a letter, and with probability `detail` that it is not.
    """
    words = []
    if thing.size == "small" or rng.random() < detail:
        words.append(_pick(rng, SIZE_WORDS[thing.size]))
    if thing.material == "metal" or rng.random() < detail / 5:
        words.append(_pick(rng, MATERIAL_WORDS[thing.material]))
    if thing.color != USUAL_COLORS[thing.kind] or rng.random() >= unsaid:
        words.append(thing.color)
    noun = _pick(rng, NAMES[thing.kind])
    text = " ".join([*words, plural(noun) if count > 1 else noun])
    if count == 1:
        if thing.letter:
            text += f" with the letter {thing.letter.lower()}"
        if thing.kind == "figure" and (thing.pose != "down" or rng.random() < detail):
            text += f" {POSE_WORDS[thing.pose]}"
        return ("an " if text[0] in "aeiou" else "a ") + text
    return f"{NUMBERS[count]} {text}"


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _groups(things: tuple[Thing, ...]) -> list[list[Thing]]:
    """Things that look the same."""
    groups: dict[Thing, list[Thing]] = {}
    for thing in things:
        groups.setdefault(replace(thing, column=0, row=0), []).append(thing)
    return list(groups.values())


def _relations(things: tuple[Thing, ...]) -> list[tuple[int, int, str]]:
    """What there is to say of how things stand: which is in front of which, of those in the first and the last row; or, where all
    stand in one, on which side.
    """
    pairs = list(combinations(range(len(things)), 2))
    rows = {t.row for t in things}
    if len(rows) > 1:
        ends = {min(rows), max(rows)}
        pairs = [(a, b) for a, b in pairs if {things[a].row, things[b].row} == ends]
    said = ("front", "behind") if len(rows) > 1 else ("left", "right")
    return [(a, b, r) for a, b in pairs for r in said if related(things[a], things[b], r)]


def caption(rng: np.random.Generator, scene: Scene, relating: float = 0.6, unsaid: float = 0.6) -> str:
    """One of the many true descriptions of a scene (of the view it was made for).

    relating: how often it says how things of one row stand to each other, where that can be said; of those in different rows it
    nearly always says which is in front. unsaid: how often it leaves out a colour that is usual.
    """
    things = scene.things
    where = _pick(rng, PLACES[scene.setting]) if rng.random() < 0.5 or scene.setting != USUAL else ""
    relations = _relations(things)
    deep = any(r in ("front", "behind") for _, _, r in relations)
    distinct = len({(t.kind, t.color) for t in things}) == len(things)
    if relations and distinct and len(things) < 4 and rng.random() < (max(relating, DEEP) if deep else relating):
        a, b, r = relations[int(rng.integers(len(relations)))]
        if rng.random() < 0.5:
            a, b, r = b, a, OPPOSITE[r]
        first, second = (noun_phrase(rng, things[i], unsaid=unsaid) for i in (a, b))
        text = f"{first} {_pick(rng, RELATIONS[r])} {second}"
        rest = [noun_phrase(rng, t, unsaid=unsaid) for i, t in enumerate(things) if i not in (a, b)]
        text = _join([text, *rest]) if rest else text
    else:
        groups = _groups(things)
        groups = [groups[i] for i in rng.permutation(len(groups))]
        detail = 0.25 if all(len(g) == 1 for g in groups) else 0.0
        text = _join([noun_phrase(rng, g[0], len(g), detail, unsaid) for g in groups])
    form = rng.random()
    if form < 0.12:
        text = f"a photo of {text}"
    elif form < 0.18:
        text = f"a picture of {text}"
    elif form < 0.24:
        text = f"there {'is' if text.startswith(('a ', 'an ')) else 'are'} {text}"
    if where and form > 0.9:
        return f"{where}, {text}"
    return f"{text} {where}".strip()


def captioned_scene(rng: np.random.Generator, columns: int = 16) -> tuple[Scene, str]:
    """A random scene for text to image with its caption; one in four repeats a thing so that counting can be learned, in one row
    and mostly side by side.
    """
    if rng.random() < 0.25 and columns >= 12:
        count = int(rng.integers(2, min(4, len(plots(columns))) + 1))
        kind, size = str(rng.choice(KINDS)), "large" if rng.random() < 0.8 else "small"
        same = {"kind": kind, "size": size, "material": "matte", "pose": "down", "letter": "", "row": 1}
        same |= {"color": random_color(rng, kind)} if rng.random() < 0.9 else {}
        columns_of = neighbouring(rng, columns, count)
        places = [{"column": column} for column in columns_of] if rng.random() < 0.75 else [{}] * count
        scene = random_scene(rng, columns, count, wanted=tuple(same | place for place in places))
    else:
        scene = random_scene(rng, columns)
    return scene, caption(rng, scene)


@dataclass(frozen=True)
class Prompt:
    """A prompt in the benchmark's form: what the judge must find, as (kind, colour or None, count), a relation of the first two,
    and the setting if it names one. The benchmark does not ask for the setting, as GenEval does not.
    """

    category: str
    text: str
    wanted: tuple[tuple[str, str | None, int], ...]
    relation: str | None = None
    setting: str | None = None


CATEGORIES = ("single object", "two objects", "counting", "colours", "position", "colour attribution")


def one(kind: str, color: str | None = None, count: int = 1) -> str:
    words = f"{color} {kind}" if color else kind
    if count > 1:
        return f"{NUMBERS[count]} {f'{color} ' if color else ''}{plural(kind)}"
    return ("an " if words[0] in "aeiou" else "a ") + words


def _asked(rng: np.random.Generator, category: str) -> tuple[tuple, str | None]:
    """What a prompt of a category asks for, and a relation if it is about one."""
    a, b = (KINDS[i] for i in rng.permutation(len(KINDS))[:2])
    c, d = (COLORS[i] for i in rng.permutation(len(COLORS))[:2])
    if category == "single object":
        return ((a, None, 1),), None
    if category == "counting":
        return ((a, c if rng.random() < 0.5 else None, int(rng.integers(2, 5))),), None
    if category == "colours":
        return ((a, c, 1),), None
    if category == "colour attribution":
        return ((a, c, 1), (b, d, 1)), None
    return ((a, None, 1), (b, None, 1)), _pick(rng, list(RELATIONS)) if category == "position" else None


BENCHMARK = 200
"""How many prompts the benchmark has; training leaves them all out."""


def benchmark_prompts(count: int = BENCHMARK, seed: int = 20_000_000) -> list[Prompt]:
    """Prompts in GenEval's six categories (Ghosh et al., arXiv 2310.11513), in turn; about half of them name a setting.

    Fewer are the first of more. ValueError if there are more than BENCHMARK.
    """
    if count > BENCHMARK:
        raise ValueError(f"the benchmark has {BENCHMARK} prompts")
    rng = np.random.default_rng(seed)
    prompts: dict[str, Prompt] = {}
    while len(prompts) < count:
        category = CATEGORIES[len(prompts) % len(CATEGORIES)]
        wanted, relation = _asked(rng, category)
        text = f" {RELATIONS[relation][0] if relation else 'and'} ".join(one(*w) for w in wanted)
        if rng.random() < 0.5:
            text += " " + PLACES[_pick(rng, SETTINGS)][0]
        else:  # ten kinds alone would not be prompts enough in one form
            forms = [form + text for form in ("a photo of ", "a picture of ", "")]
            text = next((form for form in forms if form not in prompts), text)
        prompts.setdefault(text, Prompt(category, text, wanted, relation))
    return list(prompts.values())


def random_prompts(rng: np.random.Generator) -> Iterator[Prompt]:
    """Endless prompts of these categories in turn, in more ways of saying them; none that the benchmark has."""
    held_out = {prompt.text for prompt in benchmark_prompts()}
    for category in cycle(CATEGORIES):
        wanted, relation = _asked(rng, category)
        text = f" {_pick(rng, RELATIONS[relation]) if relation else 'and'} ".join(one(*w) for w in wanted)
        text = _pick(rng, ("a photo of ", "a picture of ", "", "", "")) + text
        setting = _pick(rng, SETTINGS) if rng.random() < 0.5 else None
        if setting:
            text += " " + _pick(rng, PLACES[setting])
        if text not in held_out:
            yield Prompt(category, text, wanted, relation, setting)


@dataclass(frozen=True)
class Question:
    """A question on a scene with its exact answer, as a word and as a sentence."""

    category: str
    text: str
    answer: str
    sentence: str


WHERE = {
    "studio": "it is in a studio.", "beach": "it is on the beach.", "meadow": "it is in a meadow.", "night": "it is night.",
    "sunset": "it is sunset.", "snow": "it is in the snow.",
}  # fmt: skip


def _count_sentence(number: int, noun: str) -> str:
    return f"there is one {noun}." if number == 1 else f"there are {NUMBERS[number] if number else 'no'} {plural(noun)}."


def questions(rng: np.random.Generator, scene: Scene) -> list[Question]:
    """A question of every category that the scene allows."""
    things, out = scene.things, []
    # half of the questions on a kind are about one that is there, half about one drawn from all
    kind = _pick(rng, things).kind if rng.random() < 0.5 else _pick(rng, KINDS)
    number = sum(t.kind == kind for t in things)
    ask = _pick(rng, ("how many {} are there?", "how many {} can you see?", "count the {}."))
    out.append(Question("counting", ask.format(plural(kind)), NUMBERS[number], _count_sentence(number, kind)))
    out.append(Question("counting", ask.format("objects"), NUMBERS[len(things)], _count_sentence(len(things), "object")))
    shown = _pick(rng, things)
    colour = shown.color if rng.random() < 0.5 else _pick(rng, COLORS)
    some, there = one(shown.kind, colour), any((t.kind, t.color) == (shown.kind, colour) for t in things)
    for what, yes in ((one(kind), number > 0), (some, there)):
        ask = _pick(rng, ("is there {} in the picture?", "is there {}?", "can you see {}?"))
        out.append(Question("existence", ask.format(what), "yes" if yes else "no",
                            f"yes, there is {what}." if yes else f"no, there is no {what.split(' ', 1)[1]}."))  # fmt: skip
    ask = _pick(rng, ("where is this?", "what is the setting?", "what is in the background?"))
    out.append(Question("setting", ask, scene.setting, WHERE[scene.setting]))
    if sum(t.kind == shown.kind for t in things) == 1:
        noun = shown.kind
        ask = _pick(rng, ("what color is the {}?", "what is the color of the {}?", "which color does the {} have?"))
        out.append(Question("colour", ask.format(noun), shown.color, f"the {noun} is {shown.color}."))
        out.append(Question("material", f"is the {noun} metal or matte?", shown.material, f"the {noun} is {shown.material}."))
        out.append(Question("size", f"is the {noun} large or small?", shown.size, f"the {noun} is {shown.size}."))
        for other in things:
            if other is not shown and other.column != shown.column and sum(t.kind == other.kind for t in things) == 1:
                side = "left" if related(shown, other, "left") else "right"
                text = f"is the {noun} to the left or to the right of the {other.kind}?"
                out.append(Question("place", text, side, f"the {noun} is to the {side} of the {other.kind}."))
                break
    if sum(t.color == shown.color for t in things) == 1:
        ask = _pick(rng, ("what is the {} object?", "what is {}?", "which object is {}?"))
        out.append(Question("shape", ask.format(shown.color), shown.kind, f"the {shown.color} object is {one(shown.kind)}."))
    return out


DESCRIBE = ("describe the picture.", "describe this picture.", "what does the picture show?", "describe the image.")


def description(scene: Scene) -> str:
    """Everything in a scene, from left to right, in one sentence of a fixed form."""
    parts = []
    for thing in sorted(scene.things, key=lambda t: t.column):
        words = ["small"] if thing.size == "small" else []
        words += ["metal"] if thing.material == "metal" else []
        text = " ".join([*words, thing.color, thing.kind])
        text = ("an " if text[0] in "aeiou" else "a ") + text
        parts.append(text + (f" with the letter {thing.letter.lower()}" if thing.letter else ""))
    return f"{_join(parts)} {PLACES[scene.setting][0]}."
