"""Best of N: several tries at a picture, of which the model keeps the one that it finds to show its prompt best.

The report's Self-GRPO (arXiv 2510.06308, section 4.4) lets the model draw, look at what it drew, and learn from how well the two
agree. Here it does so when a picture is asked for, and learns nothing. There are two ways to look, and a checkpoint has the one
that it was taught: it is asked whether the picture shows the prompt (self-verification, arXiv 2512.19433), and the first try that
it is sure of ends the search; or it reads the prompt, with all words masked, off every try.
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
"""What lies between the seeds of two tries, of which there are up to four; those of two pictures are consecutive."""


@dataclass
class BestOf:
    """The states of several tries, one after the other, with their steps numbered through; the last state is the best's.

    count: of tries at most; draw: number of a try, from 0 -> its states; assess: codes of its cells, (n,) long -> how well it
    shows each part of what was asked for, (parts,) float; enough: of every part, for no other try to be made. complete: the last
    states of the tries that are done; scores: of each of them, none when there is but one to make. attempt: number, from 1, of
    the last try.
    """

    count: int
    draw: Callable[[int], Iterator[ImageState]]
    assess: Callable[[torch.Tensor], torch.Tensor]
    enough: float = math.inf
    complete: list[ImageState] = field(default_factory=list)
    scores: list[torch.Tensor] = field(default_factory=list)
    attempt: int = 1

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
                    over = state.done and self._complete(state)
                    self.attempt = number + 1
                    if state.step or not number:  # a later try begins where the one before ended
                        step, tries = number * state.steps + state.step, number + 1 if over else self.count
                        yield replace(self.best if over else state, step=step, steps=tries * state.steps)
            if over:
                return

    def _complete(self, state: ImageState) -> bool:
        """Takes in the last state of a try; whether it is the last try."""
        self.complete.append(replace(state, logits=None, logit_cells=None))
        if self.count > 1:
            self.scores.append(self.assess(state.tokens))
        return len(self.complete) == self.count or bool((self.scores[-1] >= self.enough).all())


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


def agreement(forward: Forward, vocab: Vocabulary, prompt: str, codes: torch.Tensor, length: int) -> torch.Tensor:
    """(1,) the probability that the model answers yes, and not no, when asked whether a picture shows what a prompt asks for.

    codes (h, w) long; length: masked tokens of the answer, of which only the first is looked at.
    """
    branch = layout.understanding(vocab, layout.check_question(prompt), [codes], length)
    logits = forward(Packed.of([branch.ids]), branch.cells[:1], vocab.text_ids)[0]
    yes, no = (logits[_first_ids(vocab, word)].logsumexp(-1) for word in ("yes", "no"))
    return (yes - no).sigmoid()[None].cpu()


def can_answer(vocab: Vocabulary) -> bool:
    """Whether the words for yes and no are known, and so different."""
    return not {*_first_ids(vocab, "yes")} & {*_first_ids(vocab, "no")}


def _first_ids(vocab: Vocabulary, word: str) -> list[int]:
    """Ids that a word may begin with, written small or with a capital."""
    return sorted({vocab.encode(form)[0] for form in (word, word.capitalize())})
