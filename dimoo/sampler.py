"""The two loops that fill in masked cells, as generators: unmask_image and unmask_text.

A loop is handed everything it needs: `forward(packed, rows, vocab, cache, queries) -> logits` stands for
the model, the branches for the request, the noise for the random numbers. It yields the state before the
first pass and after each step; closing it stops the work and frees what it holds.
Source: technical report, arXiv 2510.06308, section 3; the published sampler.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import torch

from dimoo.cache import KeyValueCache
from dimoo.layout import Branch
from dimoo.noise import Noise
from dimoo.packed import Packed
from dimoo.passes import Forward, Reuse, passes
from dimoo.schedule import (
    answer_is_fixed,
    block_counts,
    guide,
    keep_top,
    least_sure,
    log_confidence,
    mask_counts,
    only_plausible,
    surest,
)


@dataclass(frozen=True)
class ImageSampling:
    """How an image is sampled; the defaults are the published ones.

    steps: passes through the model, never more than masked cells. guidance, guidance_image: scales s
    (s_txt) and s_img; 0 leaves the branch out. token_temperature: of the softmax that codes are drawn from
    (0: the most likely). order_temperature: of the noise on the order of cells. top_k: draw from the k
    likeliest codes only. plausible: nor any that is less than so many times as likely as the likeliest without guidance
    (0: all); not in the paper. reuse: keep keys, values and logits between steps (None: compute everything).
    before, keep: (n,) long, a code of every cell, and what is added to its logit, so that a cell changes only
    where the model is surer of the new than that; not in the paper.
    """

    steps: int = 64
    guidance: float = 4.0
    guidance_image: float = 0.0
    token_temperature: float = 1.0
    order_temperature: float = 1.0
    top_k: int | None = None
    plausible: float = 0.0
    reuse: Reuse | None = None
    before: torch.Tensor | None = field(default=None, repr=False, compare=False)
    keep: float = 0.0

    def used_branches(self, branches: Sequence[Branch]) -> list[Branch]:
        """The conditional branch and those of the others that guidance does not multiply by nothing."""
        scales = (self.guidance, self.guidance_image)
        return [branches[0], *(b for b, scale in zip(branches[1:], scales, strict=False) if scale)]

    @property
    def scales(self) -> list[float]:
        """Guidance scales of the used branches."""
        return [scale for scale in (self.guidance, self.guidance_image) if scale]


@dataclass(frozen=True)
class ImageState:
    """A picture after `step` of `steps` passes (0: before the first). Tensors cover its n cells, on the CPU.

    tokens: (n,) long committed codes, -1 where masked; prediction: (n,) long, committed codes and elsewhere
    the most likely ones (-1 before the first pass); confidence: (n,) float32 probability of the code in
    `prediction`, 1 for cells given at the start, 0 before anything is known. logits: guided float32 logits
    (m, codes) that this step drew from, on the model's device, of the cells logit_cells (m,); None before
    the first pass.
    """

    step: int
    steps: int
    tokens: torch.Tensor
    prediction: torch.Tensor
    confidence: torch.Tensor
    logits: torch.Tensor | None = field(default=None, repr=False)
    logit_cells: torch.Tensor | None = field(default=None, repr=False)

    @property
    def masked(self) -> torch.Tensor:
        """(n,) bool."""
        return self.tokens < 0

    @property
    def done(self) -> bool:
        return self.step >= self.steps


def unmask_image(
    forward: Forward,
    branches: Sequence[Branch],
    sampling: ImageSampling,
    noise: Noise,
    codes: slice,
    mask: int,
) -> Iterator[ImageState]:
    """States of one image: see unmask_images."""
    with closing(unmask_images(forward, [branches], sampling, [noise], codes, mask)) as states:
        for (state,) in states:
            yield state


def unmask_images(
    forward: Forward,
    batch: Sequence[Sequence[Branch]],
    sampling: ImageSampling,
    noises: Sequence[Noise],
    codes: slice,
    mask: int,
) -> Iterator[list[ImageState]]:
    """States of several images that share their passes, with one noise each; one that is done stays as it is.

    batch: each image's branches, the conditional one first; codes: the image codes' place in the
    vocabulary; mask: the mask id. With CounterNoise an image comes out as it would alone.
    """
    batch = [sampling.used_branches(branches) for branches in batch]
    states = [start(branches[0], sampling, codes, mask) for branches in batch]
    counts = [mask_counts(int(state.masked.sum()), sampling.steps) for state in states]
    evaluate = passes(forward, codes, sampling.reuse)
    yield list(states)
    steps = max(map(len, counts))
    for step in range(steps):
        active = [index for index, state in enumerate(states) if not state.done]
        sequences, rows, offset = [], [], 0
        for index in active:
            for branch in batch[index]:
                sequences.append(fill_in(branch, states[index].tokens, codes, mask))
                rows.append(offset + branch.cells[states[index].masked])
                offset += len(branch.ids)
        logits = evaluate(Packed.of(sequences), torch.cat(rows), step, steps)
        parts = iter(logits.split([len(r) for r in rows]))
        for index in active:
            own = [next(parts) for _ in batch[index]]
            guided = guide(own, sampling.scales[: len(own) - 1])
            masked = states[index].masked
            guided, conditional = (add_logit_bias(logits, masked, sampling) for logits in (guided, own[0]))
            guided = only_plausible(guided, conditional, sampling.plausible)
            states[index] = advance(states[index], guided, counts[index][step], sampling, noises[index])
        del logits, parts, own, guided, conditional  # the next pass needs the room
        yield list(states)


def start(branch: Branch, sampling: ImageSampling, codes: slice, mask: int) -> ImageState:
    """The state before the first pass, read off the ids of a branch."""
    ids = branch.ids[branch.cells]
    tokens = torch.where(ids == mask, -1, ids - codes.start)
    steps = min(sampling.steps, int((tokens < 0).sum()))
    return ImageState(0, steps, tokens, tokens, (tokens >= 0).float())


def fill_in(branch: Branch, tokens: torch.Tensor, codes: slice, mask: int) -> torch.Tensor:
    """The branch's ids with the tokens (n,) in its cells."""
    ids = branch.ids.clone()
    ids[branch.cells] = torch.where(tokens < 0, mask, tokens + codes.start)
    return ids


def add_logit_bias(logits: torch.Tensor, masked: torch.Tensor, sampling: ImageSampling) -> torch.Tensor:
    """Logits (m, codes) of the masked cells, with `sampling.keep` more for the code that each had before."""
    if sampling.before is None:
        return logits
    own = sampling.before[masked, None].to(logits.device)
    return logits.scatter_add(1, own, torch.full_like(own, sampling.keep, dtype=logits.dtype))


def advance(
    state: ImageState, logits: torch.Tensor, keep: int, sampling: ImageSampling, noise: Noise
) -> ImageState:
    """One step: draw a code for every masked cell and commit all but the `keep` least sure ones.

    logits: guided float32 logits (m, codes) of the masked cells.
    """
    cells = state.masked.nonzero().squeeze(-1)
    likely = logits.argmax(dim=-1)
    drawn = likely
    if sampling.token_temperature > 0:
        drawn = noise.draw(state.step, cells, keep_top(logits, sampling.top_k), sampling.token_temperature)
    choices = torch.stack([drawn, likely], dim=1)
    sure, likely_sure = log_confidence(logits, choices).cpu().unbind(dim=1)
    drawn, likely = choices.cpu().unbind(dim=1)
    stay = least_sure(sure, noise.order(state.step, cells), sampling.order_temperature, keep)

    tokens, prediction, confidence = state.tokens.clone(), state.prediction.clone(), state.confidence.clone()
    tokens[cells[~stay]] = drawn[~stay]
    prediction[cells] = torch.where(stay, likely, drawn)
    confidence[cells] = torch.where(stay, likely_sure, sure).exp()
    return ImageState(state.step + 1, state.steps, tokens, prediction, confidence, logits, cells)


@dataclass(frozen=True)
class TextSampling:
    """How an answer is sampled: the most likely token everywhere, the surest first, block by block.

    steps: passes for the whole answer, shared out over its blocks of `block` tokens: the same whole number, at
    least one, to each. reuse: after the first pass of a block compute only the block's rows and keep the keys
    and values of everything else. never: ids that may not be produced; not_first: nor these as the first
    token, lest an answer be empty. ends: ids that end an answer; once nothing before the first end is masked
    the visible answer cannot change any more and the loop stops.
    """

    steps: int = 128
    block: int = 32
    reuse: bool = False
    never: tuple[int, ...] = ()
    not_first: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()


@dataclass(frozen=True)
class TextState:
    """An answer after `step` passes (0: before the first) of at most `steps`.

    ids: (n,) long, the mask id where masked; masked: (n,) bool; confidence: (n,) float32 probability of each
    committed token, 0 where masked. done: no pass follows.
    """

    step: int
    steps: int
    ids: torch.Tensor
    masked: torch.Tensor
    confidence: torch.Tensor
    done: bool = False


def unmask_text(
    forward: Forward, branch: Branch, sampling: TextSampling, vocab: slice, mask: int
) -> Iterator[TextState]:
    """States of one answer, filled block by block from the left.

    vocab: the part of the vocabulary that an answer may use, from id 0 on.
    """
    blocks = branch.cells.split(sampling.block)
    plan = block_counts([int((branch.ids[cells] == mask).sum()) for cells in blocks], sampling.steps)
    steps = sum(map(len, plan))
    ids, confidence = branch.ids.clone(), torch.zeros(len(branch.ids))

    def state(step: int) -> TextState:
        answer = ids[branch.cells]
        done = not (answer == mask).any() or answer_is_fixed(answer, sampling.ends, mask)
        return TextState(step, steps, answer, answer == mask, confidence[branch.cells], done)

    step = 0
    yield (now := state(step))
    for cells, counts in zip(blocks, plan, strict=True):
        cache = KeyValueCache() if sampling.reuse else None
        for count in counts:
            masked = cells[ids[cells] == mask]
            if now.done:
                break
            queries = None if cache is None or cache.empty else cells
            logits = forward(Packed.of([ids]), masked, vocab, cache, queries)
            at_start = bool(masked[0] == branch.cells[0])
            sure, tokens = surest(logits, sampling.never, sampling.not_first if at_start else ())
            chosen = sure.topk(count).indices
            ids[masked[chosen]] = tokens[chosen]
            confidence[masked[chosen]] = sure[chosen]
            step += 1
            yield (now := state(step))
