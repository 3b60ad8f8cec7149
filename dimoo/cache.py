"""Keys and values kept between the steps of a sampler, as an object handed to the model."""

from __future__ import annotations

import torch


class KeyValueCache:
    """Rotated keys and values of every layer for all rows of one packing.

    A full pass replaces everything; a partial pass writes the rows it computed and attends over all rows.
    The cache belongs to one packing: after a change of the sequences (not of their ids) start a new one.
    """

    def __init__(self) -> None:
        self._keys: dict[int, torch.Tensor] = {}
        self._values: dict[int, torch.Tensor] = {}

    @property
    def empty(self) -> bool:
        return not self._keys

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for kept in (self._keys, self._values) for t in kept.values())

    def update(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor, rows: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores keys and values (rows, heads, head_dim) of a layer and returns those of all N rows.

        rows: (Q,) long rows just computed, or None when all of them were.
        """
        if rows is None:
            self._keys[layer], self._values[layer] = keys, values
        else:
            self._keys[layer].index_copy_(0, rows, keys)
            self._values[layer].index_copy_(0, rows, values)
        return self._keys[layer], self._values[layer]
