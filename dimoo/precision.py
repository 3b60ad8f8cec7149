"""Which numbers a machine multiplies fastest."""
from __future__ import annotations

import time
from functools import cache

import torch

GAIN = 1.3
"""How much faster bfloat16 must be to be worth its roundings."""


@cache
def fastest_dtype() -> torch.dtype:
    """bfloat16 or float32, for matrix products on the processor.

    Measured, since what a processor says of itself does not tell: with AVX-512's bfloat16 alone some are half as fast as in
    float32, and some four times as fast.
    """
    seconds = {dtype: _seconds(dtype) for dtype in (torch.float32, torch.bfloat16)}
    return torch.bfloat16 if seconds[torch.float32] > GAIN * seconds[torch.bfloat16] else torch.float32


def _seconds(dtype: torch.dtype, size: int = 768, repeats: int = 3) -> float:
    """The shortest of some products of two matrices."""
    matrix = torch.ones(size, size, dtype=dtype)
    times = []
    for _ in range(repeats + 1):  # the first one prepares
        start = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - start)
    return min(times[1:])
