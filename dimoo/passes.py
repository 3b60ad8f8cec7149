"""One pass of the sampler through the model, whole or partial.

`passes(forward, codes, reuse)` gives a function (packed, rows, step, steps) -> logits of the rows. Without
reuse that is one call of forward; with it keys, values and logits are kept, and at most steps only some
rows computed.
"""

from __future__ import annotations

import math
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

    ranks_all_rows: bool  # whether `queries` looks at the logits of every row, or at those of the wanted ones

    def is_full(self, step: int, steps: int) -> bool: ...

    def queries(self, kept: Kept, packed: Packed, rows: torch.Tensor) -> torch.Tensor:
        """(Q,) rows that a partial pass computes, in rising order; rows: those whose logits are wanted, all of them kept."""


@dataclass(frozen=True)
class Kept:
    """What a pass leaves for the next: its packing, and logits (R, codes) of rows (R,), in rising order."""

    packed: Packed
    rows: torch.Tensor
    logits: torch.Tensor

    def logits_of(self, rows: torch.Tensor) -> torch.Tensor:
        """A copy of the logits of some of the rows."""
        return self.logits[torch.searchsorted(self.rows, rows).to(self.logits.device)]


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

    For parity with the published code; no request asks for it, as PartialCache does the same with less.

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
    """Max-logit cache that spends nothing on rows which are settled.

    A partial pass computes the rows whose token has changed, so that none keeps the keys and values of a mask that has
    been filled, and of the masked cells those whose largest image logit is lowest, as published but ranked among
    themselves. Other masked cells keep their logits; prompt, row ends and cells filled earlier need none.

    cache_ratio: share of each sequence's masked cells that a partial pass leaves out.
    """

    cache_ratio: float = 0.9
    ranks_all_rows: ClassVar[bool] = False

    def computed(self, masked: int) -> int:
        """How many of a sequence's masked cells a partial pass computes."""
        return math.ceil(round(masked * (1 - self.cache_ratio), 6))  # rounded, for a tenth of ten to be one

    def queries(self, kept: Kept, packed: Packed, rows: torch.Tensor) -> torch.Tensor:
        wanted = packed.ids != kept.packed.ids
        peaks = kept.logits.amax(dim=-1).cpu()[torch.searchsorted(kept.rows, rows)]
        ends = torch.tensor(packed.lengths).cumsum(0)
        counts = torch.searchsorted(rows, ends).diff(prepend=torch.zeros(1, dtype=torch.long)).tolist()
        for own, peak in zip(rows.split(counts), peaks.split(counts), strict=True):
            wanted[own[peak.argsort(stable=True)[: self.computed(len(own))]]] = True
        return wanted.nonzero().squeeze(-1)


def passes(forward: Forward, codes: slice, reuse: Reuse | None) -> Passes:
    """The evaluator of one run: logits (len(rows), codes) of rows, in rising order, of a packing."""
    if reuse is None:
        return lambda packed, rows, step, steps: forward(packed, rows, codes)
    return CachedPasses(forward, codes, reuse)


class CachedPasses:
    """Keeps keys, values and logits from pass to pass; starts over with new sequences."""

    def __init__(self, forward: Forward, codes: slice, reuse: Reuse) -> None:
        self._forward, self._codes, self._reuse = forward, codes, reuse
        self._cache = KeyValueCache()
        self._kept: Kept | None = None

    def __call__(self, packed: Packed, rows: torch.Tensor, step: int, steps: int) -> torch.Tensor:
        kept, self._kept = self._kept, None
        known = torch.arange(len(packed.ids)) if self._reuse.ranks_all_rows else rows
        if kept is None or kept.packed.lengths != packed.lengths or self._reuse.is_full(step, steps):
            kept = None  # the pass needs the room
            logits = self._forward(packed, known, self._codes, self._cache, None)
        else:
            queries = self._reuse.queries(kept, packed, rows)
            computed = torch.isin(known, queries).nonzero().squeeze(-1)
            logits = kept.logits_of(known)
            kept = None
            new = self._forward(packed, known[computed], self._codes, self._cache, queries)
            logits.index_copy_(0, computed.to(logits.device), new)
        self._kept = Kept(packed, known, logits)
        return logits[rows.to(logits.device)] if self._reuse.ranks_all_rows else logits
