"""Text to image, scored by the judge in GenEval's six categories (Ghosh et al., arXiv 2310.11513)."""
from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable

import numpy as np

from dimoo.errors import DimooError
from dimoo.pipeline import Pipeline
from dimoo.tasks import Generate
from dimoo.world.judge import Reading, read
from dimoo.world.language import BENCHMARK, CATEGORIES, Prompt, benchmark_prompts, related


def fulfilled(prompt: Prompt, reading: Reading) -> bool:
    """Whether the picture shows what the prompt asks for; as in GenEval, only counting forbids more of the same."""
    found = []
    for kind, color, count in prompt.wanted:
        fitting = [t for t in reading.things if t.kind == kind and color in (None, t.color)]
        if len(fitting) < count or (prompt.category == "counting" and len(fitting) != count):
            return False
        found.append(fitting)
    return not prompt.relation or any(related(a, b, prompt.relation) for a in found[0] for b in found[1])


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def evaluate(pipeline: Pipeline, count: int, report: Callable[[str], None] = _report, **settings) -> dict:
    """Scores of `count` held-out prompts, one picture each, with seeds 0, 1, …: category -> share, `overall` their mean, `n`.

    settings: fields of Generate other than prompt and seed; None or absent takes the checkpoint's default.
    Raises DimooError if there are not so many prompts.
    """
    if not 1 <= count <= BENCHMARK:
        raise DimooError(f"The benchmark has {BENCHMARK} prompts: ask for 1 to {BENCHMARK}.")
    results: dict[str, list[bool]] = defaultdict(list)
    for i, prompt in enumerate(benchmark_prompts(count)):
        *_, frame = pipeline.run(Generate(prompt.text, seed=i, **settings))
        results[prompt.category].append(fulfilled(prompt, read(np.asarray(frame.image))))
        if (i + 1) % 10 == 0:
            done = [r for values in results.values() for r in values]
            report(f"{i + 1} of {count}: {sum(done) / len(done):.3f}")
    scores = {name: sum(results[name]) / len(results[name]) for name in CATEGORIES if results[name]}
    return scores | {"overall": sum(scores.values()) / len(scores), "n": count}
