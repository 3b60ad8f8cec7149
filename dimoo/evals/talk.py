"""Answers and descriptions, compared with what is in the scene."""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import partial

from PIL import Image

from dimoo.evals.cases import Case, Marks, held_out, next_scene
from dimoo.tasks import Chat
from dimoo.world.language import DESCRIBE, NAMES, NUMBERS, SIZE_WORDS, description, plural, questions
from dimoo.world.lessons import Shot
from dimoo.world.scene import COLORS, MAX_THINGS, Scene

CATEGORIES = ("counting", "existence", "setting", "colour", "material", "size", "place", "shape")
COUNTS = tuple(f"{number} object{'s' if number != 'one' else ''}" for number in NUMBERS[1 : MAX_THINGS + 1])
_NOUNS = {name: kind for kind, names in NAMES.items() for one in names for name in (one, plural(one))}
_SIZES = {word: size for size, words in SIZE_WORDS.items() for word in words}
_OTHER_LOOKS = ("metal", "matte", "shiny", "metallic")

Item = tuple[str | None, str, str]
"""Colour (None if it is not said), kind, size (large unless another is said)."""


def bare_words(text: str) -> str:
    """A text in small letters without punctuation and articles."""
    return " ".join(word for word in re.findall(r"\w+", text.lower()) if word not in ("a", "an", "the"))


def exact(expected: str, answer: str) -> Marks:
    return Marks(float(bare_words(answer) == bare_words(expected)))


def items(text: str) -> Counter[Item]:
    """The things that a text names."""
    found: Counter[Item] = Counter()
    color, size, count = None, "large", 1
    for word in re.findall(r"\w+|[^\w\s]", text.lower()):
        if word in NUMBERS:
            color, size, count = None, "large", NUMBERS.index(word)
        elif word in COLORS:
            color = word
        elif word in _SIZES:
            size = _SIZES[word]
        elif word not in _OTHER_LOOKS:
            if word in _NOUNS:
                found[color, _NOUNS[word], size] += count
            color, size, count = None, "large", 1
    return found


def f1(found: Counter, wanted: Counter) -> float:
    """Harmonic mean of precision and recall of two collections; 1 if both are empty."""
    total = found.total() + wanted.total()
    return 2 * (found & wanted).total() / total if total else 1.0


def without_size(things: Counter[Item]) -> Counter[tuple]:
    counts: Counter[tuple] = Counter()
    for (color, kind, _), number in things.items():
        counts[color, kind] += number
    return counts


def described(scene: Scene, answer: str) -> Marks:
    """F1 of the things, by colour and kind; beside it that by colour, kind and size."""
    said, there = items(answer), Counter((t.color, t.kind, t.size) for t in scene.things)
    return Marks(f1(without_size(said), without_size(there)), {"objects": f1(without_size(said), without_size(there)),
                                                               "with size": f1(said, there)})  # fmt: skip


def chat_cases(count: int) -> Iterator[Case]:
    """`count` questions on held-out scenes, of every category in turn."""
    rngs = held_out("chat")
    for i in range(count):
        category = CATEGORIES[i % len(CATEGORIES)]
        asked: list = []
        while not asked:
            rng, scene = next_scene(rngs)
            asked = [q for q in questions(rng, scene) if q.category == category]
        question = asked[int(rng.integers(len(asked)))]
        picture = Image.fromarray(Shot(scene).draw())
        request = Chat((picture,), question.text, short=True)
        yield Case(category, request, partial(exact, question.answer), partial(str, question.answer))


def describe_cases(count: int) -> Iterator[Case]:
    """`count` held-out scenes to describe, by the number of things in them."""
    rngs = held_out("describe")
    for i in range(count):
        number = i % MAX_THINGS
        rng, scene = next_scene(rngs, lambda scene, number=number: len(scene.things) == number + 1)
        picture = Image.fromarray(Shot(scene).draw())
        request = Chat((picture,), str(rng.choice(DESCRIBE)))
        yield Case(COUNTS[number], request, partial(described, scene), partial(description, scene))
