"""python -m dimoo bench: how fast a checkpoint is here. Machines differ and are noisy, so what counts are the ratios.

What is compared runs in turns, and shares are those of the very runs whose seconds are told.
"""
from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from dimoo.cli import check_file, checkpoint_options, loaded
from dimoo.tasks import Chat, Draw, Generate, Inpaint, Request

if TYPE_CHECKING:
    from dimoo.pipeline import Pipeline


@dataclass
class Timing:
    """Seconds of one run: in all, until its first step was shown, and those spent on previews and on the image tokenizer."""

    seconds: float = 0.0
    first_step: float = 0.0
    steps: int = 0
    preview: float = 0.0
    decode: float = 0.0
    result: Image.Image | str | None = None


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    checkpoint_options(parser)
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="runs of each kind, the median counts (default: 3)")
    parser.add_argument("--memory", action="store_true", help="also compare estimated with measured peaks of memory")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers as JSON")


@contextmanager
def timed(owner: type, name: str, wait: Callable[[], None]) -> Iterator[list[float]]:
    """Collects the seconds of every call of a method while the block runs. wait: for what a device has still to do."""
    original, seconds = getattr(owner, name), []

    def measured(*args: Any, **kwargs: Any) -> Any:
        wait()
        start = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            wait()
            seconds.append(time.perf_counter() - start)

    setattr(owner, name, measured)
    try:
        yield seconds
    finally:
        setattr(owner, name, original)


def time_run(pipeline: Pipeline, request: Request) -> Timing:
    """Runs a request to its end. The seconds of a preview or of a decode are part of those of the run."""
    import torch

    def wait() -> None:
        if pipeline.model.device.type == "cuda":
            torch.cuda.synchronize()

    timing = Timing()
    with ExitStack() as stack:
        preview = [stack.enter_context(timed(type(pipeline.preview), "draw", wait))] if pipeline.preview else []
        decode = stack.enter_context(timed(type(pipeline.vq), "decode", wait))
        start = time.perf_counter()
        for frame in pipeline.run(request):
            if frame.step and not timing.steps:
                timing.first_step = time.perf_counter() - start
            timing.steps = max(timing.steps, frame.step)
        timing.result = frame.image if isinstance(request, Draw) else frame.text
        timing.seconds = time.perf_counter() - start
        timing.preview, timing.decode = sum(map(sum, preview)), sum(decode)
    return timing


def requests(pipeline: Pipeline) -> dict[str, Request]:
    """What is timed, by name: each needs nothing but a picture of the default size."""
    prompt, question = pipeline.defaults.prompts[0], pipeline.defaults.questions[0]
    picture = Image.new("RGB", (pipeline.defaults.width, pipeline.defaults.height), "gray")
    mask = np.zeros(picture.size[::-1], np.uint8)
    top, left = (side // 4 for side in mask.shape)
    mask[top:-top, left:-left] = 255  # the inner half of each side
    generate = Generate(prompt, seed=0, tries=1)  # how many there are depends on how they turn out
    picture_runs = {"generate": generate, "inpaint": Inpaint(picture, Image.fromarray(mask), prompt, seed=0)}
    talks = {"chat": Chat((picture,), question)}
    both = {f"{name}, cache {'on' if on else 'off'}": replace(request, cache=on)
            for name, request in (picture_runs | talks).items() for on in (False, True)}  # fmt: skip
    return {name: request for name, request in both.items() if name != "inpaint, cache on"}


def bench(pipeline: Pipeline, repeat: int) -> dict[str, Any]:
    """Seconds, shares and ratios: medians of `repeat` rounds after one that does not count."""
    asked = requests(pipeline)
    rounds: list[dict[str, Timing]] = []
    for _ in range(repeat + 1):
        rounds.append({name: time_run(pipeline, request) for name, request in asked.items()})
        picture = rounds[-1]["generate, cache off"].result
        asked |= {n: replace(r, image=picture) for n, r in asked.items() if isinstance(r, Inpaint)}
        asked |= {n: replace(r, images=(picture,)) for n, r in asked.items() if isinstance(r, Chat)}

    def median(value: Callable[[dict[str, Timing]], float]) -> float:
        return float(np.median([value(one) for one in rounds[1:]]))

    def ratio(name: str) -> float:
        return median(lambda one: one[f"{name}, cache off"].seconds / one[f"{name}, cache on"].seconds)

    plain = "generate, cache off"
    seconds = median(lambda one: one[plain].seconds)
    device, dtype = pipeline.model.device, str(pipeline.model.dtype).removeprefix("torch.")
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {device}, {dtype}",
        "size": f"{pipeline.defaults.width}x{pipeline.defaults.height}",
        "steps": rounds[-1][plain].steps,
        "run seconds": seconds,
        "first step seconds": median(lambda one: one[plain].first_step),
        "pictures a minute": 60 / seconds,
        "preview share": median(lambda one: one[plain].preview / one[plain].seconds),
        "decode share": median(lambda one: one[plain].decode / one[plain].seconds),
        "run seconds, Max-Logit cache": median(lambda one: one["generate, cache on"].seconds),
        "gain of the Max-Logit cache": ratio("generate"),
        "inpaint seconds": median(lambda one: one["inpaint, cache off"].seconds),
        "answer seconds": median(lambda one: one["chat, cache on"].seconds),
        "answer seconds, no cache": median(lambda one: one["chat, cache off"].seconds),
        "gain of the answer cache": ratio("chat"),
    }


def main(options: argparse.Namespace) -> int:
    if options.json:
        check_file(options.json)
    start = time.perf_counter()
    pipeline = loaded(options)
    took = time.perf_counter() - start
    print("measuring …", file=sys.stderr)
    numbers: dict[str, Any] = {"bench": {"load seconds": took} | bench(pipeline, max(1, options.repeat))}
    show(numbers["bench"])
    save(numbers, options.json)
    if options.memory:
        from dimoo.evals.memory import measure, show_measured

        numbers["memory"] = measure()
        show_measured(numbers["memory"])
        save(numbers, options.json)
    return 0


def save(numbers: dict[str, Any], path: str | None) -> None:
    if path:
        from dimoo.metadata import save_json

        save_json(numbers, path)


def show(numbers: dict[str, Any]) -> None:
    for name, value in numbers.items():
        print(f"{name:<32}{value:.3f}" if isinstance(value, float) else f"{name:<32}{value}")
