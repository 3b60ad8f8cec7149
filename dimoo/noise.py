"""Where the random numbers of a sampling step come from.

CounterNoise gives one uniform number per cell and step out of (seed, step, cell): the same numbers on every
device, alone or in a batch, in any order, and so the same picture up to how devices round. PublishedNoise draws
in the order of the published sampler, for parity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from dimoo.schedule import draw_by_gumbel, draw_by_inverse


class Noise(Protocol):
    """What the image sampler asks for at each step: first codes, then the numbers that order the cells."""

    def draw(self, step: int, cells: torch.Tensor, logits: torch.Tensor, temperature: float) -> torch.Tensor:
        """(n,) codes drawn from logits (n, codes) of the cells numbered cells (n,); temperature above 0."""

    def order(self, step: int, cells: torch.Tensor) -> torch.Tensor:
        """(n,) uniform float32 numbers on the CPU, for the order in which cells are committed."""


class CounterNoise:
    """Uniform numbers from a hash of (seed, step, purpose, cell); has no state."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def draw(self, step: int, cells: torch.Tensor, logits: torch.Tensor, temperature: float) -> torch.Tensor:
        uniforms = uniform_numbers((self.seed, step, 0), cells)
        return draw_by_inverse(logits, uniforms.to(logits.device), temperature)

    def order(self, step: int, cells: torch.Tensor) -> torch.Tensor:
        return uniform_numbers((self.seed, step, 1), cells)


class PublishedNoise:
    """Gumbel-max with a number per cell and code, in the published order of draws.

    rand: count -> (count,) uniform float32 numbers, called in turn.
    """

    def __init__(self, rand: Callable[[int], torch.Tensor]) -> None:
        self._rand = rand

    @classmethod
    def seeded(cls, seed: int) -> PublishedNoise:
        generator = torch.Generator().manual_seed(seed)
        return cls(lambda count: torch.rand(count, generator=generator))

    def draw(self, step: int, cells: torch.Tensor, logits: torch.Tensor, temperature: float) -> torch.Tensor:
        uniforms = self._rand(logits.numel()).view(logits.shape)
        return draw_by_gumbel(logits, uniforms.to(logits.device), temperature)

    def order(self, step: int, cells: torch.Tensor) -> torch.Tensor:
        return self._rand(len(cells))


def noise_of(kind: str, seed: int) -> Noise:
    """Numbers of a kind of defaults.NOISES for one picture."""
    return PublishedNoise.seeded(seed) if kind == "published" else CounterNoise(seed)


def uniform_numbers(key: tuple[int, ...], counters: torch.Tensor) -> torch.Tensor:
    """float32 numbers strictly between 0 and 1, one per counter (n,) >= 0, for a key of whole numbers.

    Each word of the key and then the counter is stirred into the state with the splitmix64 finaliser (Steele,
    Lea and Flood, 2014); the top 23 bits, centred in their interval, are exact in float32 and never 0 or 1.
    """
    state = np.zeros(1, dtype=np.uint64)
    for word in key:
        state = _stir(state ^ np.uint64(word % 2**64))
    state = _stir(state ^ counters.cpu().numpy().astype(np.uint64))
    top = (state >> np.uint64(41)).astype(np.float32)
    return torch.from_numpy((top + np.float32(0.5)) * np.float32(2**-23))


def _stir(state: np.ndarray) -> np.ndarray:
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
