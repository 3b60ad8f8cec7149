"""Rows of a trained head that have become alike are told apart again.

A code that is hardly ever right teaches its row of the head only to be avoided, as it teaches the others of its kind: all of them
are pushed the same way, thousands of times. What tells them apart is small beside that in the end, and no state of the model can
say such a code any more, not even one that has it before its eyes and is to copy it.
"""
from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from dimoo.model import DiMOO
from dimoo.packed import Packed
from dimoo.train.data import Example
from dimoo.train.masks import mask_cells
from dimoo.train.tokenizer import LEVELS, levels_of

APART = 1.5
"""How far rows move apart, times the gain of the last norm, for each number of their codes."""
ENOUGH = 0.2
"""`levels_told` from which on rows are left alone."""


def _levels(model: DiMOO) -> tuple[Tensor, Tensor]:
    """(codes, numbers * len(LEVELS)): which levels each code has, around 0; and a basis of what they span, for the levels of a
    number add up to nothing: (numbers * len(LEVELS), dimensions).
    """
    codes = model.config.codebook_size
    numbers = round(math.log(codes, len(LEVELS)))
    levels = F.one_hot(levels_of(torch.arange(codes), numbers), len(LEVELS)).float()
    levels = (levels - 1 / len(LEVELS)).flatten(1)
    return levels, torch.linalg.svd(levels.T @ levels)[0][:, : numbers * (len(LEVELS) - 1)]


def _rows(model: DiMOO) -> tuple[Tensor, Tensor]:
    """The head's rows of codes (codes, d), and the gain of the norm before it (d,)."""
    body = model.model["transformer"]
    return body["ff_out"].weight[model.config.image_offset :], body["ln_f"].weight


@torch.no_grad()
def levels_told(model: DiMOO) -> float:
    """How much of what differs among the head's rows of codes follows from the levels of a code: share of the variance."""
    (rows, gain), (levels, basis) = _rows(model), _levels(model)
    spread = rows * gain - (rows * gain).mean(0)
    along = torch.linalg.qr(levels @ basis)[0]
    return ((along.T @ spread).square().sum() / spread.square().sum()).item()


@torch.no_grad()
def head_states(model: DiMOO, batches: Iterable[list[Example]], generator: torch.Generator) -> Tensor:
    """(n, d): what the head gets of the masked targets of some examples, before the gain of the last norm."""
    found = []
    for examples in batches:
        masks, length = [mask_cells(example, generator) for example in examples], len(examples[0].ids)
        sequences = [example.masked(mask) for example, mask in zip(examples, masks, strict=True)]
        rows = [i * length + example.cells[mask] for i, (example, mask) in enumerate(zip(examples, masks, strict=True))]
        *_, state = model.states(Packed.of(sequences))
        found.append(F.rms_norm(state[torch.cat(rows)], state.shape[1:]))
    return torch.cat(found)


@torch.no_grad()
def tell_apart(model: DiMOO, states: Tensor) -> None:
    """Add to the head's rows of codes which levels a code has, along directions that `states` (see above) hardly use, so that
    little changes of what it says.
    """
    (rows, gain), (levels, basis) = _rows(model), _levels(model)
    unused = torch.linalg.eigh(states.T @ states)[1][:, : basis.shape[1]]  # smallest first
    rows += APART * (levels @ basis @ unused.T) / gain


@torch.no_grad()
def telling(model: DiMOO) -> Tensor:
    """(d, numbers * len(LEVELS)), by which levels as ones and zeros become a state that says them, as well as a linear map can
    know it (a linear discriminant): along what a level adds to the head's rows, least where they differ otherwise.
    """
    (rows, gain), (levels, _) = _rows(model), _levels(model)
    spread = rows * gain - (rows * gain).mean(0)
    spreading = spread.T @ spread / len(spread)
    spreading += 1e-3 * spreading.diagonal().mean() * torch.eye(len(spreading))
    return torch.linalg.solve(spreading, (torch.linalg.pinv(levels) @ spread).T)
