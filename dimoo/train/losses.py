"""What training minimises: masked prediction as published, and helpers that read off what goes on halfway.

The published objective is the cross-entropy of the masked positions alone (report, section 4). The renderer knows more than codes
say, what each cell shows, and the helpers ask for that. None of them leaves a trace in the model that is exported.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimoo.config import LLaDAConfig
from dimoo.model import DiMOO
from dimoo.packed import Packed
from dimoo.tasks import DIRECTIONS
from dimoo.train.data import Example
from dimoo.train.grounding import ZONES, Grounds, Meanings, Pointers, depths, grounds
from dimoo.train.pointing import copying_loss, pointing_loss
from dimoo.train.tokenizer import LEVELS, levels_of
from dimoo.vocab import Vocabulary
from dimoo.world.parts import LABELS


class Reader(nn.Module):
    """Reads off the residual stream what each cell of a picture shows, masked ones too, where it lies, and where the things stand
    that a word names. It is thrown away after training.

    Codes say in twelve bits what a patch looks like, and little of that is which thing it belongs to. To ask for the thing itself
    halfway through the model teaches what words and pictures have in common (after REPA, Yu et al., arXiv 2410.06940).
    """

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__()
        self.depth = config.n_layers // 2 + 1
        self.head = nn.Linear(config.d_model, sum(LABELS))
        self.where = nn.Linear(config.d_model, 2 * ZONES)
        self.numbers = round(math.log(config.codebook_size, len(LEVELS)))
        depths = range(2, config.n_layers, 2)
        self.given = nn.ModuleDict({str(depth): nn.Linear(config.d_model, self.numbers * len(LEVELS)) for depth in depths})
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        self.said = nn.Linear(self.numbers * len(LEVELS), config.d_model, bias=False)
        nn.init.orthogonal_(self.said.weight, generator=torch.Generator().manual_seed(0))
        self.side = nn.Linear(config.d_model, len(DIRECTIONS), bias=False)
        nn.init.zeros_(self.side.weight)

    def forward(self, states: Tensor, labels: Tensor) -> Tensor:
        """states (n, d), labels (n, len(LABELS)) -> cross-entropy of all labels of a cell together, mean of the cells."""
        logits = self.head(F.rms_norm(states, states.shape[-1:])).float().split(LABELS, dim=1)
        return sum(F.cross_entropy(part, right) for part, right in zip(logits, labels.unbind(1), strict=True))

    def place(self, states: Tensor, shares: Tensor) -> Tensor | None:
        """states (n, d), shares (n, 2 * ZONES) -> cross-entropy of rows and columns, mean.

        Of cells it is where they lie, of words where their things stand: read in the same way, what a word sees in its cells will
        do for it.
        """
        if not len(states):
            return None
        logits = self.where(F.rms_norm(states, states.shape[-1:])).float().split(ZONES, dim=1)
        return sum(F.cross_entropy(part, right) for part, right in zip(logits, shares.split(ZONES, dim=1), strict=True))

    def sided(self, states: Tensor, sides: Tensor) -> Tensor | None:
        """states (n, d), sides (n,) -> cross-entropy of the side that a new view is from, mean; None without any.

        To look at the word is not to know it: what left and right have in common came through, and not what tells them apart.
        Lessons that ask for it are few, so that it has to be learned in large steps.
        """
        scores = 10 * self.side(F.rms_norm(states, states.shape[-1:])).float()
        return F.cross_entropy(scores, sides) if len(states) else None

    def copied(self, depth: int, states: Tensor, codes: Tensor) -> Tensor | None:
        """states (n, d) after block `depth`, codes (n,) -> cross-entropy of all numbers of a code together, mean; None elsewhere.

        Attention brings the code of a given cell to the one that is drawn, but what else the blocks write there drowned it: after
        the second block a linear reader found the whole code in a tenth of the cells of things, after the sixth in a thirtieth.
        """
        if str(depth) not in self.given or not len(states):
            return None
        right = levels_of(codes, self.numbers)
        logits = self.given[str(depth)](F.rms_norm(states, states.shape[-1:])).float().view(len(codes), self.numbers, len(LEVELS))
        return self.numbers * F.cross_entropy(logits.flatten(0, 1), right.flatten())

    def saying(self, model: DiMOO, codes: Tensor) -> Tensor:
        """codes (n,) -> cross-entropy of the head where a state says nothing but which levels a code has, mean.

        A row of the head that is hardly ever the right one learns only to be avoided, as all such rows do, and they become alike:
        before this was asked, the best state for one of the rarer half of the codes gave it about a fiftieth.
        """
        body = model.model["transformer"]
        states = self.said(F.one_hot(levels_of(codes, self.numbers), len(LEVELS)).flatten(1).float()).float()
        logits = F.linear(body["ln_f"](states), body["ff_out"].weight)
        return F.cross_entropy(logits.float(), codes + model.config.image_offset)


def sameness(states: Tensor, cells: Tensor) -> Tensor:
    """How much of the states is the same for all cells, and for all other tokens: mean of the two, from 0 on.

    states (n, d); cells: rows of the cells. It is log(1 + 10 m), m the squared length of the mean over the spread around it. In a
    model without biases a constant grows in the residual stream, until what tells one word from another is a hundredth of it, and
    heads that are to match them learn a hundred times slower.
    """
    of_cells = torch.zeros(len(states), dtype=torch.bool)
    of_cells[cells] = True
    logs = []
    for group in (states[of_cells], states[~of_cells]):
        mean = group.mean(0)
        spread = (group - mean).detach().square().sum(1).mean().clamp_min(1e-6)  # none of it where all cells are masked alike
        logs.append((10 * mean.square().sum() / spread).log1p())
    return sum(logs) / 2


@dataclass(frozen=True)
class Losses:
    """Of some examples; None where there is nothing to take the mean of.

    answer: cross-entropy of what is asked for, a picture's codes or an answer's words; rest: of words of the prompt, or padding
    of the answer; things: of codes where something stands, for the log; stays, changes: of those of them that a given picture
    has in the same place, and has not: few, but what copying is about, and what the words are. Where things may stand here or
    there changes do not count for themselves: it would make them likelier in either place, and they were drawn in both.
    read: what cells show; located: where they lie; common: `sameness`; copied, said, sided: see `Reader`. The others are those
    of `Grounds`.
    """

    answer: Tensor
    rest: Tensor | None
    things: Tensor | None
    stays: Tensor | None
    changes: Tensor | None
    read: Tensor
    found: Tensor | None
    seen: Tensor | None
    given: Tensor | None
    copied: Tensor | None
    said: Tensor
    matched: Tensor | None
    spared: Tensor | None
    turned: Tensor | None
    sided: Tensor | None
    named: Tensor | None
    colored: Tensor | None
    lettered: Tensor | None
    placed: Tensor | None
    located: Tensor
    common: Tensor

    @property
    def total(self) -> Tensor:
        return sum(weight * loss for name, weight in WEIGHTS.items() if (loss := getattr(self, name)) is not None)

    def numbers(self) -> dict[str, float]:
        """For the log."""
        return {f.name: loss.item() for f in fields(self) if (loss := getattr(self, f.name)) is not None}


WEIGHTS = {"answer": 1.0, "rest": 0.25, "stays": 0.5, "changes": 0.5, "said": 1.0, "read": 0.5, "common": 0.1}
WEIGHTS |= dict.fromkeys(("found", "seen", "given", "matched", "spared", "turned", "named", "colored", "lettered"), 0.25)
WEIGHTS |= dict.fromkeys(("copied", "placed", "sided", "located"), 0.25)

SPARED = 16
"""Cells that show nothing and count for where they look, those that are worst at it: few are tempted to look at a thing."""

SAID = 128
"""Codes that the head is asked to say, see `Reader.saying`."""


def _mean(losses: Tensor, which: list[Tensor]) -> Tensor | None:
    chosen = losses[torch.cat(which)]
    return chosen.mean() if len(chosen) else None


def _given(example: Example, cells: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) bool each, of what is asked for: which are cells of things, if there is a given picture; and which have the code that
    this has in the same place. cells: places of all cells, the given ones first.
    """
    thing, same = (torch.zeros(len(example.cells), dtype=torch.bool) for _ in range(2))
    drawn = example.answer
    if example.draws and len(cells) > drawn:
        thing[:drawn] = example.owners.flatten() >= 0
        if len(cells) == 2 * drawn:
            same[:drawn] = example.ids[cells[:drawn]] == example.targets[:drawn]
    return thing, same


def _looking(sequences: list[Tensor], pointers: list[Pointers]) -> tuple[Tensor, Tensor]:
    """Rows (r,) of equally long sequences, one after the other, and the ids (r,) that they are to look at."""
    length = len(sequences[0])
    rows = torch.cat([i * length + pointer.rows for i, pointer in enumerate(pointers)])
    seen = [ids[pointer.allowed.int().argmax(1)] for ids, pointer in zip(sequences, pointers, strict=True)]
    return rows, torch.cat(seen)


def losses_of(model: DiMOO, reader: Reader, vocab: Vocabulary, meaning: Meanings, examples: list[Example],
              masked: list[Tensor], generator: torch.Generator) -> Losses:
    """Losses of equally long examples. masked: (n,) bool of each; meaning: of words, see `grounding.meanings`."""
    sequences, rows, targets, pictures, stays, changes, length = [], [], [], [], [], [], len(examples[0].ids)
    taught: list[Grounds] = []
    for i, (example, mask) in enumerate(zip(examples, masked, strict=True)):
        ids = example.masked(mask)
        cells = ids >= model.config.image_offset
        cells[example.cells] = example.targets >= model.config.image_offset
        cells = cells.nonzero()[:, 0]
        sequences.append(ids)
        rows.append(i * length + example.cells[mask])
        targets.append(example.targets[mask])
        pictures.append(i * length + cells)
        thing, same = _given(example, cells)
        stays.append((thing & same)[mask])
        changes.append((thing & ~same & (not example.open))[mask])
        drawn = example.owners.numel() if example.draws else 0
        taught.append(grounds(ids, cells, example.labels, example.zones, vocab.ids.mask, meaning, generator, drawn))
    naming = torch.cat([i * length + ground.placed.rows for i, ground in enumerate(taught)])
    copying, source = _looking(sequences, [ground.given for ground in taught])
    turning, side = _looking(sequences, [ground.turned for ground in taught])
    side = (side[:, None] == torch.tensor(meaning.sides)).int().argmax(1)
    cells, alike, copies = torch.cat(pictures), [], []
    first, second = depths(model.config.n_layers)
    for depth, state in enumerate(model.states(Packed.of(sequences)), 1):
        alike.append(sameness(state, cells))
        copies.append(reader.copied(depth, state[copying], source - model.config.image_offset))
        if depth == 1:
            given = copying_loss(model, state, [ground.given for ground in taught])
        if depth == first:
            found = pointing_loss(model, first, 0, state, [ground.found for ground in taught])
            seen = pointing_loss(model, first, 1, state, [ground.seen for ground in taught])
            turned = pointing_loss(model, first, 2, state, [ground.turned for ground in taught])
            located = reader.place(state[cells], torch.cat([example.zones for example in examples]))
        if depth == first + 1:
            sided = reader.sided(state[turning], side)
        if depth == second:
            placed = reader.place(state[naming], torch.cat([ground.placed.shares for ground in taught]))
            named = pointing_loss(model, second, 1, state, [ground.named for ground in taught])
            colored = pointing_loss(model, second, 2, state, [ground.colored for ground in taught])
            lettered = pointing_loss(model, second, 0, state, [ground.lettered for ground in taught])
            matched = pointing_loss(model, second, 3, state, [ground.matched for ground in taught])
            spared = pointing_loss(model, second, 3, state, [ground.spared for ground in taught], SPARED)
        if depth == reader.depth:
            read = reader(state[cells], torch.cat([example.labels for example in examples]))
    body = model.model["transformer"]
    logits = F.linear(body["ln_f"](state)[torch.cat(rows)], body["ff_out"].weight)
    losses = F.cross_entropy(logits.float(), torch.cat(targets), reduction="none")
    asked = [torch.arange(len(mask))[mask] < example.answer for example, mask in zip(examples, masked, strict=True)]
    some = [example.things[mask] for example, mask in zip(examples, masked, strict=True)]
    copies = [loss for loss in copies if loss is not None]
    copied = sum(copies) / len(copies) if copies else None
    said = reader.saying(model, torch.randint(model.config.codebook_size, (SAID,), generator=generator))
    rest = _mean(losses, [~part for part in asked])
    return Losses(
        _mean(losses, asked), rest, _mean(losses.detach(), some), _mean(losses, stays), _mean(losses, changes),
        read, found, seen, given, copied, said, matched, spared, turned, sided, named, colored, lettered, placed, located,
        sum(alike) / len(alike),
    )  # fmt: skip
