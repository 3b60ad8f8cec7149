"""Best of N: several tries at a picture, of which the model keeps the one in which it reads its prompt best.

The report's Self-GRPO (arXiv 2510.06308, section 4.4) lets the model draw, read what it drew, and learn from how well the two
agree. Here it does so when a picture is asked for, and learns nothing; after self-verification, arXiv 2512.19433.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import torch

from dimoo import layout
from dimoo.packed import Packed
from dimoo.passes import Forward
from dimoo.sampler import ImageState
from dimoo.vocab import Vocabulary

SEEDS_APART = 2**30
"""What lies between the seeds of two tries; those of two pictures are consecutive."""


@dataclass
class BestOf:
    """The states of several tries, one after the other, with their steps numbered through; the last state is the best's.

    draw: number of a try, from 0 -> its states; assess: codes of its cells, (n,) long -> how good it is. best: the last state
    of the best of those that are complete so far; kept: its number.
    """

    count: int
    draw: Callable[[int], Iterator[ImageState]]
    assess: Callable[[torch.Tensor], float]
    best: ImageState | None = None
    kept: int = 0

    def __iter__(self) -> Iterator[ImageState]:
        most = -math.inf
        for number in range(self.count):
            with closing(self.draw(number)) as states:
                for state in states:
                    if state.done:
                        score = self.assess(state.tokens) if self.count > 1 else 0.0
                        if self.best is None or score > most:
                            most, self.kept = score, number
                            self.best = replace(state, logits=None, logit_cells=None)
                    if state.step or not number:  # a later try begins where the one before ended
                        last = state.done and number + 1 == self.count
                        shown = self.best if last else state
                        yield replace(shown, step=number * state.steps + state.step, steps=self.count * state.steps)


def prompt_score(forward: Forward, vocab: Vocabulary, prompt: str, codes: torch.Tensor) -> float:
    """How well the model reads a prompt in a picture, codes (h, w) long: log-probability of its least likely word, all masked.

    The least likely one tells, since a picture is wrong where one thing is.
    """
    branch, words = layout.masked_prompt(vocab, prompt, codes)
    logits = forward(Packed.of([branch.ids]), branch.cells, vocab.text_ids)
    return logits.log_softmax(-1).gather(1, words[:, None].to(logits.device)).min().item()
