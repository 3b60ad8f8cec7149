"""Several token sequences in one list: guidance branches and batches are just more sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Packed:
    """Sequences laid end to end.

    ids: (N,) long token ids; positions: (N,) long, counted from 0 inside each sequence;
    lengths: tokens of each sequence, their sum is N.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, sequences: Sequence[torch.Tensor]) -> Packed:
        """Packs 1-D id tensors in the given order."""
        lengths = tuple(len(ids) for ids in sequences)
        device = sequences[0].device
        positions = torch.cat([torch.arange(length, device=device) for length in lengths])
        return cls(torch.cat(list(sequences)), positions, lengths)

    def to(self, device: torch.device | str) -> Packed:
        return Packed(self.ids.to(device), self.positions.to(device), self.lengths)

    def query_counts(self, queries: torch.Tensor) -> tuple[int, ...]:
        """How many of the sorted rows `queries` (Q,) lie in each sequence."""
        ends = torch.tensor([0, *self.lengths], device=queries.device).cumsum(0)
        return tuple(torch.searchsorted(queries, ends).diff().tolist())
