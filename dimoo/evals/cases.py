"""What all evaluations share: a case is a request with a function that scores its result, and a tally adds them up."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from dimoo.frames import Answer
from dimoo.tasks import Draw, Request
from dimoo.world.language import captioned_scene
from dimoo.world.scene import Scene, is_held_out

if TYPE_CHECKING:
    from dimoo.pipeline import Pipeline

FIRST_SEED = 50_000_000
"""Seeds of evaluation begin with this; training counts from 0, benchmark and tokenizer have 20 and 30 million."""


@dataclass(frozen=True)
class Marks:
    """The score of one result in [0, 1], and what it is made of."""

    score: float
    parts: Mapping[str, float] = field(default_factory=dict)


def every(**parts: float) -> Marks:
    """A result is as good as the worst of its parts; truth values count as 0 and 1."""
    values = {name: float(value) for name, value in parts.items()}
    return Marks(min(values.values()), values)


@dataclass(frozen=True)
class Case:
    """score gets the result: a picture (h, w, 3) uint8, or the text of an answer.

    truth: makes the right result; None where many are right. new: the cells (rows, columns) bool of a picture that are not
    given; None for all. size: width and height of the given pictures: a checkpoint that works at another has its results fitted.
    """

    category: str
    request: Request
    score: Callable[[Any], Marks]
    truth: Callable[[], Any] | None = None
    new: np.ndarray | None = None
    size: tuple[int, int] = (256, 256)

    def judge(self, result: Image.Image | str) -> Marks:
        if isinstance(result, str):
            return self.score(result)
        if self.truth is not None and result.size != self.size:
            result = result.resize(self.size, Image.Resampling.LANCZOS)
        return self.score(np.asarray(result))


def held_out(task: str) -> Iterator[np.random.Generator]:
    """Endless generators of random numbers of a task's own scenes: the first of more are the same as of fewer."""
    return (np.random.default_rng((FIRST_SEED, i, *task.encode())) for i in count())


def next_scene(
    rngs: Iterator[np.random.Generator], wanted: Callable[[Scene], bool] = lambda scene: True, columns: int = 16
) -> tuple[np.random.Generator, Scene]:
    """The next held-out scene of the kind that is wanted, and the generator that drew it."""
    drawn = ((rng, captioned_scene(rng, columns)[0]) for rng in rngs)
    return next(pair for pair in drawn if is_held_out(pair[1]) and wanted(pair[1]))


def result_of(pipeline: Pipeline, request: Request) -> Image.Image | str:
    """The picture or the answer that a request ends in."""
    *_, last = pipeline.run(request)
    return last.text if isinstance(last, Answer) else last.image


def with_settings(request: Request, settings: Mapping[str, Any]) -> Request:
    """The request with those settings that it has a field for; None leaves its default.

    Steps are those of pictures: passes of an answer are another measure.
    """
    names = {f.name for f in fields(request)} - (set() if isinstance(request, Draw) else {"steps"})
    return replace(request, **{n: value for n, value in settings.items() if value is not None and n in names})


class Tally:
    """Marks so far, by category."""

    def __init__(self) -> None:
        self.marks: dict[str, list[Marks]] = {}

    def add(self, category: str, marks: Marks) -> None:
        self.marks.setdefault(category, []).append(marks)

    @property
    def count(self) -> int:
        return sum(map(len, self.marks.values()))

    def scores(self) -> dict[str, Any]:
        """category -> mean score; `overall`, the mean of those; `n`; and `parts`: category -> part -> mean."""
        means = {name: float(np.mean([m.score for m in marks])) for name, marks in self.marks.items()}
        scores: dict[str, Any] = means | {"overall": float(np.mean(list(means.values()))) if means else 0.0, "n": self.count}
        parts = {name: {part: float(np.mean([m.parts[part] for m in marks])) for part in marks[0].parts}
                 for name, marks in self.marks.items() if len(marks[0].parts) > 1}  # fmt: skip
        return scores | ({"parts": parts} if parts else {})
