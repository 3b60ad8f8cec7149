"""Prompts with questions on what they ask for: of a picture that shows its prompt they have the answers that are given here."""
from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dimoo.errors import DimooError
from dimoo.layout import short_question
from dimoo.world.language import NUMBERS, Prompt, one, plural, random_prompts
from dimoo.world.scene import COLORS, KINDS


@dataclass(frozen=True)
class Quiz:
    """A prompt, and (question, right answer) pairs about any picture that shows it; in the built-in world also what the judge
    must find. Without questions all there is to ask is whether a picture shows the prompt (self-verification, arXiv 2512.19433).
    """

    prompt: str
    questions: tuple[tuple[str, str], ...]
    judged: Prompt | None = None


def read_quizzes(path: str | Path) -> list[Quiz]:
    """Quizzes of a file with lines {"prompt": …, "questions": [[question, answer], …]}, with or without questions.

    Raises DimooError when there are none, or for a line that is something else.
    """
    try:
        lines = Path(path).read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DimooError(f"{path} cannot be read: name a file with a line of JSON for each prompt, in UTF-8.") from error
    quizzes = [_quiz(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not quizzes:
        raise DimooError(f"There are no prompts in {path}.")
    return quizzes


def _quiz(path: str | Path, number: int, line: str) -> Quiz:
    try:
        values = json.loads(line)
        prompt = values["prompt"].strip()
        given = values.get("questions", [])
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in given):
            raise ValueError("not in pairs")
        pairs = [(question.strip(), answer.strip()) for question, answer in given]
        if not prompt or not all(map(all, pairs)):
            raise ValueError("empty")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        wanted = '{"prompt": "…", "questions": [["…?", "…"]]}'
        raise DimooError(f"{path}, line {number}: write {wanted}, with or without questions.") from error
    return Quiz(prompt, tuple((short_question(q), a) for q, a in pairs))


def toytown_quizzes(rng: np.random.Generator) -> Iterator[Quiz]:
    """Endless quizzes of the built-in world."""
    return (Quiz(prompt.text, tuple(_questions(rng, prompt)), prompt) for prompt in random_prompts(rng))


def _questions(rng: np.random.Generator, prompt: Prompt) -> Iterator[tuple[str, str]]:
    """On things, their numbers, colours and places; of each thing also one that the prompt does not ask for."""
    for kind, color, count in prompt.wanted:
        if prompt.category == "counting":
            yield short_question(f"how many {plural(kind)} are there?"), NUMBERS[count]
        yield short_question(f"is there {one(kind, color)}?"), "yes"
        if color:
            other = str(rng.choice([c for c in COLORS if c != color]))
            yield short_question(f"is there {one(kind, other)}?"), "no"
            if count == 1:
                yield short_question(f"what color is the {kind}?"), color
    absent = [kind for kind in KINDS if kind not in {kind for kind, _, _ in prompt.wanted}]
    yield short_question(f"is there {one(str(rng.choice(absent)))}?"), "no"
    if prompt.relation in ("left", "right"):
        first, second = (kind for kind, _, _ in prompt.wanted)
        yield short_question(f"is the {first} to the left or to the right of the {second}?"), prompt.relation
