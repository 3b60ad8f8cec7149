"""The arithmetic of one sampling step: how many cells stay masked, which, and what fills the others.

Pure functions over float32 tensors. Source: technical report, arXiv 2510.06308, section 3 (parallel decoding
with a cosine schedule, after MaskGIT, arXiv 2202.04200); the published sampler for guidance and order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def mask_counts(cells: int, steps: int) -> list[int]:
    """How many of `cells` initially masked cells are still masked after each step, by the cosine schedule.

    Where the published schedule fills at least one cell a step this is it: floor(n cos(pi/2 (t+1)/T)), at
    least 1, and 0 after the last step. Elsewhere (few cells, many steps) every step still fills one; there
    are never more steps than cells.
    """
    steps = min(steps, cells)
    counts, left = [], cells
    for step in range(steps):
        to_come = steps - 1 - step
        # The published cosine is a float32 number: at round ratios the product falls just short of a whole
        # one.
        cosine = torch.cos(torch.tensor((step + 1) / steps) * (math.pi / 2)).item() if to_come else 0.0
        left = max(to_come, min(math.floor(cells * cosine), left - 1))
        counts.append(left)
    return counts


def guide(logits: Sequence[torch.Tensor], scales: Sequence[float]) -> torch.Tensor:
    """cond + sum of scale * (cond - other): classifier-free guidance with any number of other branches.

    logits: the conditional branch's and then each other branch's, all (n, codes). With one other branch this
    is the published (1 + s) cond - s uncond; with two, the published image-to-image form.
    """
    conditional, *others = logits
    guided = conditional
    for other, scale in zip(others, scales, strict=True):
        guided = guided + scale * (conditional - other)
    return guided


def only_plausible(logits: torch.Tensor, conditional: torch.Tensor, share: float) -> torch.Tensor:
    """Logits (n, codes) with minus infinity where `conditional` (n, codes) makes a code less than `share` times as likely
    as its likeliest; of 0 all stay.

    Guidance multiplies what two branches differ by, and of thousands of unlikely codes some differ by chance alone.
    Source: the plausibility constraint of contrastive decoding, arXiv 2210.15097, section 3.3.
    """
    if not share:
        return logits
    least = conditional.amax(dim=-1, keepdim=True) + math.log(share)
    return logits.masked_fill(conditional < least, -math.inf)


def gumbel(uniforms: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise from uniform numbers, guarded as in the published sampler."""
    return -torch.log(-torch.log(uniforms + 1e-20) + 1e-20)


def keep_top(logits: torch.Tensor, count: int | None) -> torch.Tensor:
    """Logits (n, codes) with all but the `count` largest of each row at minus infinity."""
    if count is None or count >= logits.shape[-1]:
        return logits
    least = logits.topk(count, dim=-1).values[:, -1:]
    return logits.masked_fill(logits < least, -math.inf)


def draw_by_gumbel(logits: torch.Tensor, uniforms: torch.Tensor, temperature: float) -> torch.Tensor:
    """(n,) codes by Gumbel-max; one uniform number per row and code, (n, codes)."""
    return (logits / temperature + gumbel(uniforms)).argmax(dim=-1)


def draw_by_inverse(logits: torch.Tensor, uniforms: torch.Tensor, temperature: float) -> torch.Tensor:
    """(n,) codes by inverting the cumulative distribution; one uniform number in (0, 1) per row, (n,)."""
    cumulative = torch.softmax(logits / temperature, dim=-1).cumsum(dim=-1)
    # Above 0 and at most the total, however that is rounded: the first code to reach it has a probability.
    points = uniforms[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, points).squeeze(-1)


def log_confidence(logits: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """(n, k) log-probabilities of codes (n, k) under the softmax of logits (n, codes), at temperature 1."""
    return logits.gather(-1, codes) - logits.logsumexp(dim=-1, keepdim=True)


def least_sure(
    log_confidence: torch.Tensor, uniforms: torch.Tensor, temperature: float, count: int
) -> torch.Tensor:
    """(n,) bool, true for exactly `count` entries: the lowest log-confidence + temperature * Gumbel noise.

    uniforms: (n,), one per entry. Of equal entries the first stay masked.
    """
    rank = (log_confidence + temperature * gumbel(uniforms)).argsort(stable=True)
    stay = torch.zeros_like(rank, dtype=torch.bool)
    stay[rank[:count]] = True
    return stay


def transfer_counts(tokens: int, steps: int) -> list[int]:
    """How many of `tokens` masked answer tokens each step fills: equal shares, the rest at first."""
    steps = min(steps, tokens)
    share, rest = divmod(tokens, max(1, steps))
    return [share + (step < rest) for step in range(steps)]


def block_counts(blocks: Sequence[int], steps: int) -> list[list[int]]:
    """`transfer_counts` of each block of an answer, by its tokens: `steps` in equal shares, at least one a block."""
    share = max(1, steps // len(blocks))
    return [transfer_counts(tokens, share) for tokens in blocks]


def surest(
    logits: torch.Tensor, never: Sequence[int], not_first: Sequence[int] = ()
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probability and id of the likeliest token of each row of logits (n, vocabulary); (n,) on the CPU.

    never: ids that none may have; not_first: that the first row may not have.
    """
    if never or not_first:
        logits = logits.clone()
        logits[:, list(never)] = -math.inf
        logits[0, list(not_first)] = -math.inf
    best, tokens = logits.max(dim=-1)
    return (best - logits.logsumexp(dim=-1)).exp().cpu(), tokens.cpu()


def answer_is_fixed(answer: torch.Tensor, ends: Sequence[int], mask: int) -> bool:
    """Whether an end has been committed with nothing masked before it."""
    for token in answer.tolist():
        if token == mask:
            return False
        if token in ends:
            return True
    return False
