"""Graphics cards shared with others: for how long a run reserves one, and a sentence when it is refused.

On ZeroGPU a run is in a process of its own. Arguments and what it yields are pickled on the way; of an exception only the
name of its type comes back, unless it is one of Gradio's.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import gradio as gr

from dimoo.errors import DimooError
from dimoo.frames import Answer, Frame
from dimoo.pipeline import Pipeline
from dimoo.tasks import Chat, Draw, Request
from dimoo.ui.line import StopSign

WORKER_ERROR = "ZeroGPU worker error"  # title of what the package raises when the run itself, or its process, broke
LONGEST_RESERVATION = 120  # seconds; a longer one is refused
QUOTA = re.compile(r"\((?P<asked>\d+)s requested vs\. (?P<left>-?\d+)s left\)(. Try again in (?P<wait>[\w:, ]+\w))?")


def duration(pipeline: Pipeline) -> Callable[[Request, str], int]:
    """Seconds for which a request reserves a card. Raises DimooError for one that takes too long for any reservation."""

    def seconds(request: Request, sign: str) -> int:
        wanted = round(pipeline.gpu_seconds(request))
        if wanted > LONGEST_RESERVATION:
            raise DimooError(
                f"This would keep a shared graphics card busy for up to {wanted} s, and {LONGEST_RESERVATION} s are the most. "
                + what_would_fit(request, pipeline, LONGEST_RESERVATION)
            )
        return wanted

    return seconds


def on_the_card(pipeline: Pipeline) -> Callable[[Request, str], Iterator[Frame | Answer | str]]:
    """Runs a request where the card is; a sentence instead of a DimooError, which would not come through."""

    def run(request: Request, sign: str) -> Iterator[Frame | Answer | str]:
        try:
            yield from pipeline.run(request, StopSign(sign).seen)
        except DimooError as error:
            yield str(error)

    return run


def from_the_card(
    run: Callable[[Request, str], Iterator[Frame | Answer | str]], pipeline: Pipeline
) -> Callable[[Request, str], Iterator[Frame | Answer]]:
    """The same run as the page sees it: sentences and refusals are raised as DimooError, what broke as RuntimeError."""

    def states(request: Request, sign: str) -> Iterator[Frame | Answer]:
        try:
            with closing(run(request, sign)) as items:
                for item in items:
                    if isinstance(item, str):
                        raise DimooError(item)
                    yield item
        except gr.Error as error:
            if error.title == WORKER_ERROR and "aborted" not in str(error.message):
                raise RuntimeError(f"The run broke on the card: {error.message}") from error
            raise DimooError(refusal(str(error.message), request, pipeline)) from error

    return states


def refusal(message: str, request: Request, pipeline: Pipeline) -> str:
    """What ZeroGPU says when it gives no card, or takes one back, and what to do then."""
    quota = QUOTA.search(message)
    if quota:
        wait = f" Or try again in {quota['wait']}." if quota["wait"] else ""
        asked, left = int(quota["asked"]), max(0, int(quota["left"]))
        seconds = left * pipeline.gpu_seconds(request) / asked  # cards may be charged at a rate of their own
        return (
            f"Of your time on shared graphics cards {left} s are left, and this asks for {asked} s. "
            + what_would_fit(request, pipeline, seconds) + wait
        )  # fmt: skip
    if "aborted" in message:
        return "The shared graphics card was taken back before the run was done: choose fewer steps or a smaller size."
    if "larger than the maximum" in message:
        return "This takes longer than a shared graphics card can be reserved for: choose fewer steps or a smaller size."
    return f"No shared graphics card could be had ({plain(message)}). Try again in a while."


def what_would_fit(request: Request, pipeline: Pipeline, seconds: float) -> str:
    """The most steps, for one picture or answer, that take no longer."""
    full = request.resolve(pipeline.defaults)
    one = replace(full, count=1) if isinstance(full, Draw) else full
    fewer, more = 0, one.steps + 1  # the first fits, the second does not
    while more - fewer > 1:
        middle = (fewer + more) // 2
        if pipeline.gpu_seconds(replace(one, steps=middle)) <= seconds:
            fewer = middle
        else:
            more = middle
    if not fewer:
        return "Not one step would fit."
    steps = f"{fewer} step{'s' if fewer > 1 else ''}"
    return f"{steps} would fit." if isinstance(one, Chat) or full.count == 1 else f"One picture with {steps} would fit."


def plain(message: str) -> str:
    return re.sub(r"<[^>]*>", "", message).splitlines()[0].rstrip(". ") if message.strip() else "no reason given"
