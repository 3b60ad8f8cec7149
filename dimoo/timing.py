"""The time that a run has taken and will take."""

from __future__ import annotations

import time
from collections.abc import Callable


class Stopwatch:
    """Time of a run of several pictures: gone by, and left at the mean pace so far.

    Pictures may take fewer steps than was said at first; those to come are taken to need as many as those that are done.
    """

    def __init__(self, count: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.count, self.clock = count, clock
        self.began = clock()
        self.index = 0
        self.index_began = 0.0
        self.step = 0  # of the picture at hand
        self.steps_before = 0  # of those before
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
            self.steps_before += self.step
        self.step = step
        self.seconds = self.clock() - self.began
        done = self.steps_before + step
        if done:
            usual = self.steps_before / index if index else steps
            self.seconds_left = self.seconds / done * (steps - step + (self.count - 1 - index) * usual)
