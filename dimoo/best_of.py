"""Best of N: several tries at a picture, of which the model keeps the one in which it reads its prompt best.

The report's Self-GRPO (arXiv 2510.06308, section 4.4) lets the model draw, read what it drew, and learn from how well the two
agree. Here it does so when a picture is asked for, and learns nothing; after self-verification, arXiv 2512.19433.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace

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

    draw: number of a try, from 0 -> its states; assess: codes of its cells, (n,) long -> how well it shows each part of what was
    asked for, (parts,) float. complete: the last states of the tries that are done; scores: of each of them.
    """

    count: int
    draw: Callable[[int], Iterator[ImageState]]
    assess: Callable[[torch.Tensor], torch.Tensor]
    complete: list[ImageState] = field(default_factory=list)
    scores: list[torch.Tensor] = field(default_factory=list)

    @property
    def kept(self) -> int:
        """Number of the best try of those that are complete."""
        return minimax_regret(torch.stack(self.scores)) if len(self.scores) > 1 else 0

    @property
    def best(self) -> ImageState | None:
        """Its last state; None before the first is complete."""
        return self.complete[self.kept] if self.complete else None

    def __iter__(self) -> Iterator[ImageState]:
        for number in range(self.count):
            with closing(self.draw(number)) as states:
                for state in states:
                    if state.done:
                        self.complete.append(replace(state, logits=None, logit_cells=None))
                        if self.count > 1:
                            self.scores.append(self.assess(state.tokens))
                    if state.step or not number:  # a later try begins where the one before ended
                        last = state.done and number + 1 == self.count
                        shown = self.best if last else state
                        yield replace(shown, step=number * state.steps + state.step, steps=self.count * state.steps)


def minimax_regret(scores: torch.Tensor) -> int:
    """The row of scores (tries, parts) with the least regret: how far it falls behind the best, in the part where that is most.

    One wrong part makes a picture wrong. What no try can help, as a word that captions never use, they have in common, so it
    does not count. The first row when none is better.
    """
    if not scores.shape[1]:
        return 0
    return int((scores - scores.amax(dim=0)).amin(dim=1).nan_to_num(-math.inf).argmax())


def prompt_scores(forward: Forward, vocab: Vocabulary, prompt: str, codes: torch.Tensor) -> torch.Tensor:
    """How well the model reads a prompt in a picture, codes (h, w) long: (words,) log-probabilities of its words, all masked."""
    branch, words = layout.masked_prompt(vocab, prompt, codes)
    logits = forward(Packed.of([branch.ids]), branch.cells, vocab.text_ids)
    return logits.log_softmax(-1).gather(1, words[:, None].to(logits.device))[:, 0].cpu()
