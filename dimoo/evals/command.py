"""python -m dimoo evaluate: scores by the judge or by exact comparison, never by the model, on held-out scenes."""
from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dimoo.cli import check_file, checkpoint_options, loaded
from dimoo.errors import DimooError
from dimoo.evals.cases import Case, Tally, result_of, with_settings
from dimoo.evals.suite import CEILINGS, SUITE

if TYPE_CHECKING:
    from PIL.Image import Image

SETTINGS = ("steps", "guidance", "temperature")
EVERY = 10  # seconds between reports of progress


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    tasks = (*SUITE, "tokenizer", "all")
    parser.add_argument("--task", choices=tasks, default="generate", help="what to score (default: generate)")
    parser.add_argument("-n", "--count", type=int, default=200, metavar="N", help="cases of each task (default: 200)")
    parser.add_argument("--steps", type=int, metavar="N", help="steps of pictures (default: the checkpoint's)")
    parser.add_argument("--guidance", type=float, metavar="N", help="guidance scale (default: the checkpoint's)")
    parser.add_argument("--temperature", type=float, metavar="N", help="temperature (default: the checkpoint's)")
    best = "score the right pictures after the image tokenizer instead: the best that any transformer can do with it"
    parser.add_argument("--ceiling", action="store_true", help=best)
    checkpoint_options(parser)
    parser.add_argument("--json", metavar="FILE", help="also write the scores as JSON: task, category, score")


def main(options: argparse.Namespace) -> int:
    if options.count < 1:
        raise DimooError("At least one case is needed: give -n 1 or more.")
    if options.json:
        check_file(options.json)
    if options.ceiling and options.task not in (*CEILINGS, "all"):
        raise DimooError(f"--ceiling is for tasks with one right picture: {', '.join(CEILINGS)}.")
    from dimoo.evals import ceiling, generate, tokenizer
    from dimoo.metadata import save_json

    if options.task in ("generate", "all") and not options.ceiling:
        generate.check(options.count)
    pipeline = loaded(options)
    settings = {name: getattr(options, name) for name in SETTINGS}
    tasks = (options.task,)
    if options.task == "all":
        tasks = CEILINGS if options.ceiling else (*SUITE, "tokenizer")

    def result(case: Case) -> Image | str:
        return result_of(pipeline, with_settings(case.request, settings))

    def best(case: Case) -> Image:
        return ceiling.through_tokenizer(pipeline.vq, case)

    scores: dict[str, Any] = {}
    try:
        for task in tasks:
            if task == "tokenizer":
                scores[task] = tokenizer.evaluate(pipeline.vq, options.count)
            else:
                beside = best if task in CEILINGS and not options.ceiling else None
                evaluate(task, options.count, scores, best if options.ceiling else result, beside)
    finally:  # after Ctrl-C, what there is
        show(scores)
        if options.json and scores:
            save_json(scores, options.json)
    return 0


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def evaluate(
    task: str,
    count: int,
    scores: dict[str, Any],
    result: Callable[[Case], Image | str],
    best: Callable[[Case], Image] | None = None,
    report: Callable[[str], None] = _report,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Writes the scores of `count` cases of a task into scores[task], also when it is interrupted.

    result: makes what is scored; best: what is scored beside it, as "ceiling". Raises DimooError if there are not so many cases.
    """
    tally, most, last = Tally(), Tally(), clock()
    try:
        for case in SUITE[task].cases(count):
            tally.add(case.category, case.judge(result(case)))
            if best:
                most.add(case.category, case.judge(best(case)))
            if clock() - last >= EVERY or tally.count == count:
                last = clock()
                report(f"{task}: {tally.count} of {count}, {tally.scores()['overall']:.3f}")
    finally:
        if tally.count:
            scores[task] = tally.scores() | ({"ceiling": most.scores()} if most.count else {})


def show(scores: Mapping[str, Any]) -> None:
    """Prints a table per task: categories with their targets, ceilings and parts."""
    for task, values in scores.items():
        known = SUITE.get(task)
        print(f"{task}: {known.title}, {values['n']} cases" if known else f"{task}, {values['n']} pictures")
        parts, ceiling, targets = values.get("parts", {}), values.get("ceiling", {}), known.targets if known else {}
        for name, value in values.items():
            if isinstance(value, float):
                around = interval(value, values["n"]) if name == "overall" else ""
                best = f"  at best {ceiling[name]:.3f}" if name in ceiling else ""
                line = f"  {name:<20}{value:.3f}{around}{verdict(value, targets.get(name))}{best}{listed(parts.get(name, {}))}"
                print(line.rstrip())
            elif isinstance(value, dict) and name not in ("parts", "ceiling"):
                print(f"  {name:<20}{listed(value)}")
    sys.stdout.flush()


def interval(score: float, count: int) -> str:
    """Between what scores the truth lies with 95 % confidence (Wilson), as if each case were right or wrong: for those that score
    something between it is rather too wide.
    """
    z = 1.96
    middle = (score + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(score * (1 - score) / count + z * z / (4 * count * count))
    return f"  [{max(0.0, middle - half):.2f}, {min(1.0, middle + half):.2f}]"


def verdict(score: float, target: float | None) -> str:
    if target is None:
        return " " * 18
    return f"  of {target:.2f}" + f"{'met' if score >= target else f'{score - target:+.3f}':>9}"


def listed(parts: Mapping[str, float]) -> str:
    """Parts of a score, or numbers that belong together."""
    return "  " + ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in parts.items()) if parts else ""
