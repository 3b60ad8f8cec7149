"""Grounding: heads of two blocks learn which cells of a picture show what a word names, and which word names what a cell shows.

To draw two things, or to say the colour of one, words and cells have to be matched. That takes a head whose queries and keys
agree on what a thing is, and until it is found neither side is worth anything to the other: masked prediction alone did not
find it in a hundred million tokens. The renderer knows the answer, so attention itself is taught, and what to do with what
it brings is left to masked prediction.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dimoo.model import DiMOO, rotary_tables, rotate
from dimoo.vocab import Vocabulary
from dimoo.world.language import MATERIAL_WORDS, NAMES, SIZE_WORDS, plural
from dimoo.world.lessons import Shot
from dimoo.world.scene import COLORS, KINDS, MATERIALS, SIZES

KIND, COLOR, MATERIAL, SIZE = range(4)
"""Places of these labels among `world.parts.LABELS`."""

ZONES = 8
"""Columns, and rows, that a picture is divided into to say where things stand."""

CELLS = 128
"""How many cells of a sequence are asked for their words at most, of those to be seen and of those masked; and an eighth as many
to be seen where nothing stands."""


def zones(shots: Sequence[Shot]) -> Tensor:
    """(cells of all shots, 2 * ZONES): 1 in the row, and in the column, of its picture that each cell lies in."""
    sides = [(torch.arange(shot.rows), torch.arange(shot.columns)) for shot in shots]
    where = torch.cat([torch.cartesian_prod(*(side * ZONES // len(side) for side in both)) for both in sides])
    return F.one_hot(where, ZONES).flatten(1).float()


def depths(layers: int) -> tuple[int, int]:
    """The block whose first head finds a word's cells, and whose second the noun for what is to be seen in a cell's place, and
    the later one whose second and third find noun and colour of what belongs in a masked cell.
    """
    first = layers // 2
    return first, min(first + 2, layers - 1)


def meanings(vocab: Vocabulary) -> dict[int, tuple[int, int]]:
    """Id of a word -> which label it speaks of, and the label's value."""
    words = [(word, KIND, i) for i, kind in enumerate(KINDS) for name in NAMES[kind] for word in (name, plural(name))]
    words += [(color, COLOR, i) for i, color in enumerate(COLORS)]
    words += [(word, MATERIAL, i) for i, material in enumerate(MATERIALS) for word in MATERIAL_WORDS[material]]
    words += [(word, SIZE, i) for i, size in enumerate(SIZES) for word in SIZE_WORDS[size]]
    found = {}
    for word, label, value in words:
        ids = vocab.encode(word)
        if len(ids) == 1:
            found[ids[0]] = label, value + 1
    return found


def phrases(ids: list[int], meaning: Mapping[int, tuple[int, int]]) -> list[tuple[dict[int, int], dict[int, int]]]:
    """({COLOR: place of the colour, KIND: of the noun}, labels it demands) of every phrase that names things, as "a red ball"."""
    found, places, demands = [], {}, {}
    for i, word in enumerate([*ids, -1]):
        label, value = meaning.get(word, (None, 0))
        if label is not None:
            demands[label] = value
            if label in (KIND, COLOR):
                places[label] = i
        if label in (None, KIND):
            if places:
                found.append((places, demands))
            places, demands = {}, {}
    return found


@dataclass(frozen=True)
class Pointers:
    """Where rows of one sequence are to look. rows (r,): their places; allowed (r, L) bool: the right places for each."""

    rows: Tensor
    allowed: Tensor


@dataclass(frozen=True)
class Spots:
    """Where the things stand that words name. rows (r,): places of the words; shares (r, 2 * ZONES): of the cells of a word's
    things, how many lie in each row of the picture, and in each column.
    """

    rows: Tensor
    shares: Tensor


@dataclass(frozen=True)
class Grounds:
    """What one sequence teaches its taught heads.

    found: words look at the cells that show their things, or at themselves if none is to be seen. seen: cells to be seen look at
    the nouns that name what they show, or at themselves, and masked ones at the nouns for what the given picture shows there, so
    that they know what is to become of it.
    named, colored: masked cells look at the nouns that name what belongs in them, and at their colours. placed: where the things
    of every word stand, masked or not, as "left of" can say that too.
    """

    found: Pointers
    seen: Pointers
    named: Pointers
    colored: Pointers
    placed: Spots


def grounds(ids: Tensor, cells: Tensor, labels: Tensor, zones: Tensor, mask: int, meaning: Mapping[int, tuple[int, int]],
            generator: torch.Generator, drawn: int = 0) -> Grounds:
    """ids (L,); cells (m,): places of the cells of all its pictures; labels (m, len(LABELS)): what they show;
    zones (m, 2 * ZONES): where, see `zones`. drawn: how many cells the picture to be drawn has, which is the last.
    """
    length = len(ids)
    hidden = ids[cells] == mask
    words, allowed, spots, shares = [], [], [], []
    naming = {label: torch.zeros(len(cells), length, dtype=torch.bool) for label in (KIND, COLOR)}
    for said, demands in phrases(ids.tolist(), meaning):
        right = torch.stack([labels[:, label] == value for label, value in demands.items()]).all(0)
        seen = torch.zeros(length, dtype=torch.bool)
        seen[cells[right & ~hidden]] = True
        for label, place in said.items():
            if right.any():
                spots.append(place)
                shares.append(zones[right].mean(0))
            naming[label][right, place] = True
            at = seen.clone()
            at[place] = not seen.any()
            words.append(place)
            allowed.append(at)
    allowed = torch.stack(allowed) if allowed else torch.zeros(0, length, dtype=torch.bool)

    def some(wanted: Tensor, count: int) -> Tensor:
        chosen = wanted.nonzero()[:, 0]
        return chosen[torch.randperm(len(chosen), generator=generator)[:count]]

    twins = torch.arange(len(cells))  # whose things are looked for
    if len(cells) == 2 * drawn:
        twins[hidden] -= drawn
    something, known = labels[twins, KIND] > 0, (twins >= 0) & ~hidden[twins]
    shown = torch.cat([some(known & something, CELLS), some(known & ~something, CELLS // 8)])
    names = naming[KIND][twins[shown]]
    unnamed = ~names.any(1)
    names[unnamed, cells[shown[unnamed]]] = True
    masked = {label: some(hidden & named.any(1), CELLS) for label, named in naming.items()}
    nouns, colors = (Pointers(cells[masked[label]], naming[label][masked[label]]) for label in (KIND, COLOR))
    shares = torch.stack(shares) if shares else torch.zeros(0, 2 * ZONES)
    return Grounds(Pointers(torch.tensor(words, dtype=torch.long), allowed), Pointers(cells[shown], names), nouns, colors,
                   Spots(torch.tensor(spots, dtype=torch.long), shares))


def pointing_loss(model: DiMOO, depth: int, head: int, state: Tensor, pointers: Sequence[Pointers]) -> Tensor | None:
    """Mean of -log of the attention that rows of equally long sequences pay to the right places; None without any rows.

    state: (sum of lengths, d), the residual stream before block `depth`.
    """
    block = model.model["transformer"]["blocks"][depth]
    size, length = block.head_dim, len(state) // len(pointers)
    part = slice(head * size, (head + 1) * size)
    normal = block.attn_norm(state).view(len(pointers), length, -1)
    cos, sin = rotary_tables(torch.arange(length), size, model.config.rope_theta)
    losses = []
    for states, pointer in zip(normal, pointers, strict=True):
        if len(pointer.rows):
            keys = rotate((states @ block.k_proj.weight[part].T)[:, None], cos, sin)[:, 0]
            queries = (states[pointer.rows] @ block.q_proj.weight[part].T)[:, None]
            queries = rotate(queries, cos[pointer.rows], sin[pointer.rows])[:, 0]
            scores = (queries @ keys.T).float() / size**0.5
            right = scores.masked_fill(~pointer.allowed, -torch.inf)
            losses.append(scores.logsumexp(1) - right.logsumexp(1))
    return torch.cat(losses).mean() if losses else None
