"""Which targets of an example are masked in a step of training."""
from __future__ import annotations

import torch
from torch import Tensor

from dimoo.train.data import Example

HIDDEN, MASKED_WORDS, BLANK = 0.4, 0.2, 0.1
"""Shares of pictures with whole things masked, with words of the prompt masked, and all masked, as a sampler begins."""


def mask_cells(example: Example, generator: torch.Generator) -> Tensor:
    """(n,) bool, true where masked: ratio cos(r·π/2), r uniform, at least one cell; padding by a ratio of its own.

    That is the published way. Some pictures have things hidden as wholes instead, some are blank, and some have words of their
    prompt masked.
    """
    rest = len(example.cells) - example.answer
    if example.owners is None:  # of two words, rounded down, never both would be masked, as they are when an answer begins
        rounding = torch.rand(2, generator=generator).tolist()
        parts = zip((example.answer, rest), rounding, strict=True)
        return torch.cat([mask_by_cosine(cells, generator, more) for cells, more in parts if cells])
    chance, words = torch.rand((), generator=generator).item(), torch.zeros(rest, dtype=torch.bool)
    if chance < MASKED_WORDS and rest:  # most of the picture is shown: there is to be something to read
        ratio = torch.rand((), generator=generator) / 2
        return torch.cat([torch.rand(example.answer, generator=generator) < ratio, mask_by_cosine(rest, generator)])
    if MASKED_WORDS <= chance < MASKED_WORDS + HIDDEN and (hidden := hide_things(example.owners, generator)).any():
        return torch.cat([hidden, words])
    if chance > 1 - BLANK:
        return torch.cat([torch.ones(example.answer, dtype=torch.bool), words])
    return torch.cat([mask_by_cosine(example.answer, generator), words])


def _ratio(generator: torch.Generator) -> float:
    return torch.cos(torch.rand((), generator=generator) * torch.pi / 2).item()


def mask_by_cosine(cells: int, generator: torch.Generator, rounding: float = 0.0) -> Tensor:
    """(cells,) bool, true where masked: ratio cos(r·π/2), r uniform, at least one cell, uniformly chosen (the published way).

    rounding: in [0, 1), what is added before the number of masked cells is rounded down."""
    masked = torch.zeros(cells, dtype=torch.bool)
    masked[torch.randperm(cells, generator=generator)[: max(1, int(cells * _ratio(generator) + rounding))]] = True
    return masked


def hide_things(owners: Tensor, generator: torch.Generator) -> Tensor:
    """(rows * columns,) bool, masked by another ratio around each thing, some places where nothing stands, and on the ground.

    owners (rows, columns): which thing each cell shows, -1 for none. A sampler draws one thing after the other, and what is still
    to come only the prompt can say. Of cells masked at random some of every thing can be seen, and the prompt is hardly needed.
    """
    rows, columns = owners.shape
    masked = torch.zeros(rows, columns)
    if torch.rand((), generator=generator) < 0.5:
        masked[:] = _ratio(generator)
    boxes = [(owners == thing).nonzero() for thing in range(int(owners.max()) + 1)]
    boxes = [(*found.amin(0).tolist(), *found.amax(0).tolist(), thing) for thing, found in enumerate(boxes) if len(found)]
    for _ in range(torch.randint(0, 3, (), generator=generator)):  # where nothing stands, so that not every hole is a thing
        y, x, h, w = (torch.rand(4, generator=generator) * torch.tensor([rows, columns, 5, 5])).int().tolist()
        boxes.append((y, x, y + h, x + w, -1))
    for top, left, bottom, right, thing in boxes:
        margin = torch.randint(0, 3, (4,), generator=generator).tolist()
        box = torch.zeros(rows, columns, dtype=torch.bool)
        box[max(0, top - margin[0]) : bottom + 1 + margin[1], max(0, left - margin[2]) : right + 1 + margin[3]] = True
        box &= (owners == thing) | (owners < 0)
        chance = torch.rand((), generator=generator).item()
        masked[box] = 1.0 if chance < 0.5 else 0.0 if chance < 0.75 else _ratio(generator)
    return (torch.rand(rows, columns, generator=generator) < masked).flatten()
