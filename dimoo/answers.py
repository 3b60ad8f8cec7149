"""A question's answer as it is unmasked: from states of the sampler to words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

from dimoo.frames import Answer
from dimoo.layout import cut_answer
from dimoo.passes import Forward
from dimoo.plans import Talk
from dimoo.sampler import TextState, unmask_text
from dimoo.timing import Stopwatch
from dimoo.vocab import Vocabulary


def answers(
    forward: Forward, vocab: Vocabulary, talk: Talk, watch: Stopwatch, stop: Callable[[], bool]
) -> Iterator[Answer]:
    """The answer before the first pass and after each; stop is asked after every one.

    The last has done set, also when it was stopped; its settings are left to the caller.
    """
    states = unmask_text(forward, talk.branch, talk.sampling, vocab.text_ids, vocab.ids.mask)
    with closing(states):
        for state in states:
            watch.tick(0, state.steps if state.done else state.step, state.steps)
            pieces = pieces_of(vocab, state, talk.sampling.block)
            stopped = not state.done and stop()
            yield Answer(
                step=state.step,
                steps=state.steps,
                seconds=watch.seconds,
                seconds_left=watch.seconds_left,
                pieces=pieces,
                text="".join(text for text, _ in pieces).strip(),
                done=state.done or stopped,
                stopped=stopped,
            )
            if stopped:
                return


def pieces_of(vocab: Vocabulary, state: TextState, block: int) -> list[tuple[str, float | None]]:
    """(text, probability) of the tokens up to the first end or that of the current block, ("", None) where masked.

    The texts of all pieces together are the text that is decided; tokens without a text, such as padding,
    are left out.
    """
    visible = len(cut_answer(vocab, state.ids))
    waiting = state.masked[:visible].nonzero()
    if len(waiting):
        visible = min(visible, (int(waiting[0]) // block + 1) * block)
    ids, masked = state.ids[:visible].tolist(), state.masked[:visible].tolist()
    texts = vocab.pieces(ids)
    sure = state.confidence.tolist()
    return [
        ("", None) if hidden else (text, probability)
        for text, hidden, probability in zip(texts, masked, sure, strict=False)
        if hidden or text
    ]
