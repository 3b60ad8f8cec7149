"""The time that a run has taken and will take."""

from __future__ import annotations

import time
from collections.abc import Callable


class Stopwatch:
    """Time of a run of several pictures: gone by, and left at the mean pace so far."""

    def __init__(self, count: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.count, self.clock = count, clock
        self.began = clock()
        self.index = 0
        self.index_began = 0.0
        self.seconds = 0.0
        self.seconds_left: float | None = None

    @property
    def picture_seconds(self) -> float:
        """Time of the picture at hand alone."""
        return self.seconds - self.index_began

    def tick(self, index: int, step: int, steps: int) -> None:
        """Notes that picture `index` has reached a step."""
        if index != self.index:
            self.index, self.index_began = index, self.seconds
        self.seconds = self.clock() - self.began
        done = index * steps + step
        if done:
            self.seconds_left = self.seconds / done * (self.count * steps - done)
