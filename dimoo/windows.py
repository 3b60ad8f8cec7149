"""A large picture drawn in several windows, each of a size the model knows, sliding outwards from what is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch

from dimoo.layout import Branch
from dimoo.noise import Noise
from dimoo.passes import Forward
from dimoo.sampler import ImageSampling, ImageState, unmask_image

KNOWN = 0.5  # share of a window that should be known before the rest of it is drawn


@dataclass(frozen=True)
class Window:
    """A part of a grid, in cells."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def whole(masked: np.ndarray) -> list[Window]:
    """The one window that covers a grid (h, w)."""
    return [Window(0, 0, *masked.shape)]


def outwards(masked: np.ndarray, usual: tuple[int, int], inside: bool = False) -> list[Window]:
    """Windows that together cover every masked cell of a grid (h, w) bool, in the order in which to draw them.

    usual: (height, width) in cells that the model knows best. A grid that is not larger is drawn at once. Else each
    window has at least half of its cells known, given at the start or drawn before, where that can be; of those
    the one which draws most is next, and of equal ones the nearest to what was given, or, inside of a picture,
    that which has what it draws in its middle.
    """
    area = usual[0] * usual[1]
    if masked.size <= area:
        return whole(masked)
    height = min(masked.shape[0], usual[0])
    width = min(masked.shape[1], max(usual[1], area // height))
    height = min(masked.shape[0], max(height, area // width))
    given = np.argwhere(~masked)
    centre = given.mean(0) if len(given) else np.array(masked.shape) / 2
    tops, lefts = np.indices((masked.shape[0] - height + 1, masked.shape[1] - width + 1))
    middles, cells = (tops + (height - 1) / 2, lefts + (width - 1) / 2), np.indices(masked.shape)
    windows, masked = [], masked.copy()
    while masked.any():
        new = window_sums(masked, height, width)
        if inside:
            centre = [window_sums(masked * places, height, width) / np.maximum(new, 1) for places in cells]
        away = np.hypot(middles[0] - centre[0], middles[1] - centre[1])
        known = height * width - new
        allowed = (known >= KNOWN * height * width) & (new > 0)
        if not allowed.any():
            allowed = (known == known[new > 0].max()) & (new > 0)
        candidates = np.argwhere(allowed & (new == new[allowed].max()))
        top, left = min(candidates.tolist(), key=lambda place: (round(away[tuple(place)], 6), place))
        windows.append(Window(top, left, height, width))
        masked[windows[-1].slices] = False
    return windows


def window_sums(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """How many cells of a bool grid (h, w) are set in each window, by its top left corner."""
    sums = np.pad(grid.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    return sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]


def drawn_by(windows: list[Window], masked: np.ndarray) -> list[int]:
    """How many cells of a grid (h, w) bool each window draws, one after the other."""
    counts, masked = [], masked.copy()
    for window in windows:
        counts.append(int(masked[window.slices].sum()))
        masked[window.slices] = False
    return counts


def unmask_windows(
    forward: Forward,
    grid: torch.Tensor,
    windows: list[Window],
    branches: Callable[[torch.Tensor], list[Branch]],
    sampling: ImageSampling,
    noise: Noise,
    codes: slice,
    mask: int,
) -> Iterator[ImageState]:
    """States of a whole picture, before the first pass and after each step of each window.

    grid: (h, w) long codes, -1 where masked; branches: sequences for the codes (h, w) of a window. Steps are
    counted over all windows. In a state logits and logit_cells are of the masked cells of the window at hand.
    """
    places = torch.arange(grid.numel()).view(grid.shape)
    tokens, done = grid.flatten(), 0
    now = ImageState(0, 0, tokens, tokens, (tokens >= 0).float())
    counts = drawn_by(windows, (grid < 0).numpy())
    total = sum(min(sampling.steps, count) for count in counts)
    for number, window in enumerate(windows):
        own = places[window.slices].flatten()
        part = branches(now.tokens[own].view(window.height, window.width))
        states = unmask_image(forward, part, sampling, Placed(noise, own), codes, mask)
        with closing(states):
            for state in states:
                if state.step or not number:  # the state before a later window's first pass is known already
                    yield (now := merged(now, state, own, done, total))
        done = now.step


def merged(canvas: ImageState, state: ImageState, own: torch.Tensor, done: int, total: int) -> ImageState:
    """The state of a canvas with that of a window laid in: own (n,) are the window's cells in the canvas."""
    lay = {name: getattr(canvas, name).clone() for name in ("tokens", "prediction", "confidence")}
    fresh = canvas.tokens[own] < 0  # a cell that an earlier window has drawn keeps what was known of it
    for name, values in lay.items():
        values[own[fresh]] = getattr(state, name)[fresh]
    cells = None if state.logit_cells is None else own[state.logit_cells]
    return replace(state, step=done + state.step, steps=total, logit_cells=cells, **lay)


@dataclass(frozen=True)
class Placed:
    """Noise for a window: numbered by a cell's place in the whole picture, (n,), so that windows do not repeat."""

    noise: Noise
    places: torch.Tensor

    def draw(self, step: int, cells: torch.Tensor, logits: torch.Tensor, temperature: float) -> torch.Tensor:
        return self.noise.draw(step, self.places[cells], logits, temperature)

    def order(self, step: int, cells: torch.Tensor) -> torch.Tensor:
        return self.noise.order(step, self.places[cells])
