"""Text to image, scored by the judge in GenEval's six categories (Ghosh et al., arXiv 2310.11513)."""
from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import cycle, islice

import numpy as np

from dimoo.errors import DimooError
from dimoo.evals.cases import Case, Marks
from dimoo.tasks import Generate
from dimoo.world.judge import Reading, read
from dimoo.world.language import BENCHMARK, Prompt, benchmark_prompts, related
from dimoo.world.scene import CELL, SHAPES

OTHER_SHAPES = tuple(name for name in SHAPES if name != "square")


def fulfilled(prompt: Prompt, reading: Reading) -> bool:
    """Whether the picture shows what the prompt asks for; as in GenEval, only counting forbids more of the same."""
    found = []
    for kind, color, count in prompt.wanted:
        fitting = [t for t in reading.things if t.kind == kind and color in (None, t.color)]
        if len(fitting) < count or (prompt.category == "counting" and len(fitting) != count):
            return False
        found.append(fitting)
    return not prompt.relation or any(related(a, b, prompt.relation) for a in found[0] for b in found[1])


def shows(prompt: Prompt, reading: Reading) -> bool:
    """Whether the picture shows all that the prompt says, its setting too."""
    return fulfilled(prompt, reading) and prompt.setting in (None, reading.setting)


def credit(prompt: Prompt, reading: Reading) -> float:
    """How good a picture is on the way to that: 1 for all that is asked for, its setting too, half for the share of the wanted
    things that are there, and .15 less for each other one.
    """
    others = list(reading.things)
    wanted = [(kind, color) for kind, color, count in prompt.wanted for _ in range(count)]
    for kind, color in wanted:
        found = next((t for t in others if t.kind == kind and color in (None, t.color)), None)
        if found:
            others.remove(found)
    there = len(reading.things) - len(others)
    return shows(prompt, reading) + 0.5 * there / len(wanted) - 0.15 * len(others)


def drawn(prompt: Prompt, rgb: np.ndarray) -> Marks:
    return Marks(float(fulfilled(prompt, read(rgb))))


def check(count: int) -> None:
    """Raises DimooError if there are not so many prompts."""
    if count > BENCHMARK:
        raise DimooError(f"The benchmark has {BENCHMARK} prompts: ask for 1 to {BENCHMARK}.")


def cases(count: int) -> Iterator[Case]:
    """`count` held-out prompts, one picture each at the default size. Raises DimooError if there are not so many."""
    check(count)
    for i, prompt in enumerate(benchmark_prompts(count)):
        yield Case(prompt.category, Generate(prompt.text, seed=i), partial(drawn, prompt))


def shape_cases(count: int) -> Iterator[Case]:
    """`count` pictures of the same prompts, of each one in all shapes that are not square: they are the categories."""
    pairs = ((prompt, name) for prompt in cycle(benchmark_prompts()) for name in OTHER_SHAPES)
    for i, (prompt, name) in enumerate(islice(pairs, count)):
        rows, columns = SHAPES[name]
        yield Case(name, Generate(prompt.text, columns * CELL, rows * CELL, seed=i), partial(drawn, prompt))
