"""One pass of the sampler through the model, whole or partial.

`passes(forward, codes, reuse)` gives a function (packed, rows, step, steps) -> logits of the rows. Without
reuse that is one call of forward; with it keys, values and logits are kept, and at most steps only some
rows computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from dimoo.cache import KeyValueCache
from dimoo.packed import Packed

Passes = Callable[[Packed, torch.Tensor, int, int], torch.Tensor]


class Forward(Protocol):
    """The model as a sampler sees it: DiMOO.predict, or a few lines in a test."""

    def __call__(
        self,
        packed: Packed,
        rows: torch.Tensor,
        vocab: slice,
        cache: KeyValueCache | None = None,
        queries: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """float32 logits (len(rows), size of vocab) of rows of the packing; see DiMOO.forward."""


class Reuse(Protocol):
    """When a pass may be partial, and which rows it then computes."""

    ranks_all_rows: bool  # whether `queries` looks at the logits of every row, or at none

    def is_full(self, step: int, steps: int) -> bool: ...

    def queries(self, kept: Kept, packed: Packed, rows: torch.Tensor) -> torch.Tensor:
        """(Q,) rows that a partial pass computes, in rising order; rows: those whose logits are wanted."""


@dataclass(frozen=True)
class Kept:
    """What a pass leaves for the next: its packing and, if all rows are ranked, their logits (N, codes)."""

    packed: Packed
    logits: torch.Tensor | None


@dataclass(frozen=True)
class Periodic:
    """Full passes for the first `warmup_ratio` of the steps, then at every `refresh_interval`-th step."""

    warmup_ratio: float = 0.3
    refresh_interval: int = 5

    def is_full(self, step: int, steps: int) -> bool:
        late = step - int(self.warmup_ratio * steps)
        return late < 0 or late % self.refresh_interval == 0


@dataclass(frozen=True)
class MLCache(Periodic):
    """Max-logit cache as published (report, section 5): a row is kept while its largest image logit is large.

    cache_ratio: share of each sequence's rows, prompt and row ends among them, that a partial pass leaves
    out. A row whose token was just committed may keep the keys and values of a mask until the next full
    pass.
    """

    cache_ratio: float = 0.9
    ranks_all_rows: ClassVar[bool] = True

    def queries(self, kept: Kept, packed: Packed, rows: torch.Tensor) -> torch.Tensor:
        peaks = kept.logits.amax(dim=-1).cpu().split(packed.lengths)
        low = [peak <= peak.quantile(1 - self.cache_ratio) for peak in peaks]
        return torch.cat(low).nonzero().squeeze(-1)


@dataclass(frozen=True)
class PartialCache(Periodic):
    """Between full passes compute only the masked cells and the rows whose token has changed.

    Prompt, row ends and cells committed earlier keep their keys and values; no row keeps those of a mask that
    has been filled.
    """

    ranks_all_rows: ClassVar[bool] = False

    def queries(self, kept: Kept, packed: Packed, rows: torch.Tensor) -> torch.Tensor:
        wanted = packed.ids != kept.packed.ids
        wanted[rows] = True
        return wanted.nonzero().squeeze(-1)


def passes(forward: Forward, codes: slice, reuse: Reuse | None) -> Passes:
    """The evaluator of one run: logits (len(rows), codes) of rows, in rising order, of a packing."""
    if reuse is None:
        return lambda packed, rows, step, steps: forward(packed, rows, codes)
    return CachedPasses(forward, codes, reuse)


class CachedPasses:
    """Keeps keys and values, and logits to rank by, from pass to pass; starts over with new sequences."""

    def __init__(self, forward: Forward, codes: slice, reuse: Reuse) -> None:
        self._forward, self._codes, self._reuse = forward, codes, reuse
        self._cache = KeyValueCache()
        self._kept: Kept | None = None

    def __call__(self, packed: Packed, rows: torch.Tensor, step: int, steps: int) -> torch.Tensor:
        kept, queries = self._kept, None
        fits = kept is not None and kept.packed.lengths == packed.lengths
        if fits and not self._reuse.is_full(step, steps):
            queries = self._reuse.queries(kept, packed, rows)
        if not self._reuse.ranks_all_rows:
            self._kept = Kept(packed, None)
            return self._forward(packed, rows, self._codes, self._cache, queries)
        computed = torch.arange(len(packed.ids)) if queries is None else queries
        logits = self._forward(packed, computed, self._codes, self._cache, queries)
        if queries is not None:
            logits = kept.logits.index_copy(0, queries.to(logits.device), logits)
        self._kept = Kept(packed, logits)
        return logits[rows.to(logits.device)]
