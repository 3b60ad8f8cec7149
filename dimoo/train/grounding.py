"""Grounding: heads of two blocks learn which cells of a picture show what a word names, and which word names what a cell shows.
Others learn to look at what a given picture shows in the same place, or of the same thing.

To draw two things, or to say the colour of one, words and cells have to be matched. That takes a head whose queries and keys
agree on what a thing is, and until it is found neither side is worth anything to the other: masked prediction alone did not
find it in a hundred million tokens. The renderer knows the answer, so attention itself is taught, and what to do with what
it brings is left to masked prediction.

What is to stay as it is has to be copied, code by code. Left to itself one head came to do so, with a third of its attention, and
the codes of things that should have stayed were expected with a probability of .64.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from dimoo.tasks import DIRECTIONS
from dimoo.vocab import Vocabulary
from dimoo.world.language import MATERIAL_WORDS, NAMES, SIZE_WORDS, plural
from dimoo.world.lessons import Shot
from dimoo.world.scene import COLORS, KINDS, LETTERS, MATERIALS, SIZES

KIND, COLOR, MATERIAL, SIZE, _, LETTER = range(6)
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
    """The block whose first head finds a word's cells, whose second the noun for what is to be seen in a cell's place, and whose
    third the side that a new view is from, and the later one whose first three find letter, noun and colour of what belongs in a
    masked cell, and whose fourth finds that in a given picture.
    """
    first = layers // 2
    return first, min(first + 2, layers - 1)


@dataclass(frozen=True)
class Meanings:
    """What words speak of. labels: id of a word -> which label, and the label's value; signs: id of a letter -> its value of the
    label LETTER; letter, view: ids of these words; sides: of those that a view can be from.
    """

    labels: Mapping[int, tuple[int, int]]
    signs: Mapping[int, int]
    letter: int
    view: int
    sides: tuple[int, ...]


def meanings(vocab: Vocabulary) -> Meanings:
    words = [(word, KIND, i) for i, kind in enumerate(KINDS) for name in NAMES[kind] for word in (name, plural(name))]
    words += [(color, COLOR, i) for i, color in enumerate(COLORS)]
    words += [(word, MATERIAL, i) for i, material in enumerate(MATERIALS) for word in MATERIAL_WORDS[material]]
    words += [(word, SIZE, i) for i, size in enumerate(SIZES) for word in SIZE_WORDS[size]]
    found = {}
    for word, label, value in words:
        ids = vocab.encode(word)
        if len(ids) == 1:
            found[ids[0]] = label, value + 1
    signs = {vocab.encode(sign.lower())[0]: value for value, sign in enumerate(LETTERS, 2)}  # 1 is a thing without one
    letter, view, *sides = (vocab.encode(word)[0] for word in ("letter", "view", *DIRECTIONS))
    return Meanings(found, signs, letter, view, tuple(sides))


def phrases(ids: list[int], meaning: Meanings) -> list[tuple[dict[int, int], dict[int, int]]]:
    """({COLOR: place of the colour, KIND: of the noun}, labels it demands) of every phrase that names things, as "a red ball"."""
    found, places, demands = [], {}, {}
    for i, word in enumerate([*ids, -1]):
        label, value = meaning.labels.get(word, (None, 0))
        if label is not None:
            demands[label] = value
            if label in (KIND, COLOR):
                places[label] = i
        if label in (None, KIND):
            if places:
                found.append((places, demands))
            places, demands = {}, {}
    return found


def spelled(ids: list[int], meaning: Meanings) -> list[tuple[int, int]]:
    """(place, value of LETTER) of every letter that is spoken of: the next after each "letter", as in "the letter on it to x"."""
    starts = [i for i, word in enumerate(ids) if word == meaning.letter]
    signs = [i for i, word in enumerate(ids) if word in meaning.signs]
    places = [next((i for i in signs if i > start), None) for start in starts]
    return [(i, meaning.signs[ids[i]]) for i in places if i is not None]


def sides(ids: list[int], meaning: Meanings) -> list[int]:
    """Places of the words for the side that a picture is to be seen from, as in "the left view"."""
    return [i for i, (word, after) in enumerate(pairwise(ids)) if word in meaning.sides and after == meaning.view]


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
    given: masked cells look at the same cell of the given picture, if there is one of the same shape: what is to stay is copied.
    matched: masked cells look at those of given pictures that show the same part of a thing that looks the same.
    spared: those that are to show nothing look at what shows nothing; else the left view has a thing where the right one would.
    turned: masked cells look at the word for the side that a new view is from: where things stand there follows from that.
    named, colored, lettered: masked cells look at the noun that names what belongs in them, at its colour, and at its letter.
    placed: where the things of every word stand, masked or not, as "left of" can say that too.
    """

    found: Pointers
    seen: Pointers
    given: Pointers
    matched: Pointers
    spared: Pointers
    turned: Pointers
    named: Pointers
    colored: Pointers
    lettered: Pointers
    placed: Spots


@dataclass(frozen=True)
class _Cells:
    """Those of all pictures of a sequence, m. length: of it; places (m,): where in it they are; labels (m, len(LABELS)): what
    they show; hidden (m,) bool: which are masked; drawn: how many the picture to be drawn has, which is the last.
    """

    length: int
    places: Tensor
    labels: Tensor
    hidden: Tensor
    drawn: int
    generator: torch.Generator

    def some(self, wanted: Tensor, count: int = CELLS) -> Tensor:
        """Up to `count` of the cells that are wanted, (m,) bool, at random: their indices."""
        chosen = wanted.nonzero()[:, 0]
        return chosen[torch.randperm(len(chosen), generator=self.generator)[:count]]

    def showing(self, demands: Mapping[int, int]) -> Tensor:
        """(m,) bool: which cells show what has these labels."""
        return torch.stack([self.labels[:, label] == value for label, value in demands.items()]).all(0)

    def twins(self) -> Tensor:
        """(m,): the cell whose thing is looked for in each: itself, or of a masked one that of the given picture in its place."""
        twins = torch.arange(len(self.places))
        if self.paired:
            twins[self.hidden] -= self.drawn
        return twins

    @property
    def paired(self) -> bool:
        """Whether there is one given picture, of the shape of the one to be drawn."""
        return len(self.places) == 2 * self.drawn


def grounds(ids: Tensor, cells: Tensor, labels: Tensor, zones: Tensor, mask: int, meaning: Meanings,
            generator: torch.Generator, drawn: int = 0) -> Grounds:
    """ids (L,); cells (m,): places of the cells of all its pictures; labels (m, len(LABELS)): what they show;
    zones (m, 2 * ZONES): where, see `zones`. drawn: how many cells the picture to be drawn has, which is the last.
    """
    these = _Cells(len(ids), cells, labels, ids[cells] == mask, drawn, generator)
    spoken = [(places, these.showing(demands)) for places, demands in phrases(ids.tolist(), meaning)]
    nouns, colors = (_said(these, [(at[label], shown) for at, shown in spoken if label in at]) for label in (KIND, COLOR))
    spelling = _said(these, [(place, labels[:, LETTER] == value) for place, value in spelled(ids.tolist(), meaning)])
    return Grounds(
        found=_found(these, spoken),
        seen=_seen(these, nouns),
        given=_given(these),
        matched=_matched(these, True),
        spared=_matched(these, False),
        turned=_turned(these, sides(ids.tolist(), meaning)),
        named=_wanted(these, nouns),
        colored=_wanted(these, colors),
        lettered=_wanted(these, spelling),
        placed=_placed(spoken, zones),
    )


Spoken = Sequence[tuple[dict[int, int], Tensor]]
"""Of every phrase the places of its words, by the label they speak of, and which cells (m,) bool show what it names."""


def _said(these: _Cells, words: Sequence[tuple[int, Tensor]]) -> Tensor:
    """(m, L) bool: by which of some words each cell is meant. words: place, and which cells (m,) bool it means."""
    said = torch.zeros(len(these.places), these.length, dtype=torch.bool)
    for place, shown in words:
        said[shown, place] = True
    return said


def _found(these: _Cells, spoken: Spoken) -> Pointers:
    rows = [(place, shown & ~these.hidden) for places, shown in spoken for place in places.values()]
    allowed = torch.zeros(len(rows), these.length, dtype=torch.bool)
    for right, (place, seen) in zip(allowed, rows, strict=True):
        right[these.places[seen] if seen.any() else place] = True
    return Pointers(torch.tensor([place for place, _ in rows], dtype=torch.long), allowed)


def _placed(spoken: Spoken, zones: Tensor) -> Spots:
    there = [(place, zones[shown].mean(0)) for places, shown in spoken if shown.any() for place in places.values()]
    shares = torch.stack([share for _, share in there]) if there else torch.zeros(0, 2 * ZONES)
    return Spots(torch.tensor([place for place, _ in there], dtype=torch.long), shares)


def _seen(these: _Cells, nouns: Tensor) -> Pointers:
    """nouns (m, L) bool: which of them name what each cell shows."""
    twins = these.twins()
    known = (twins >= 0) & ~these.hidden[twins]
    something = these.labels[twins, KIND] > 0
    chosen = torch.cat([these.some(known & something), these.some(known & ~something, CELLS // 8)])
    right = nouns[twins[chosen]]
    unnamed = ~right.any(1)
    right[unnamed, these.places[chosen[unnamed]]] = True
    return Pointers(these.places[chosen], right)


def _given(these: _Cells) -> Pointers:
    chosen = these.some(these.hidden & these.paired)
    return Pointers(these.places[chosen], F.one_hot(these.places[these.twins()[chosen]], these.length).bool())


def _matched(these: _Cells, things: bool) -> Pointers:
    """Of masked cells that show things, or of those that show nothing."""
    something = these.labels[:, KIND] > 0
    chosen = these.some(these.hidden & (something if things else ~something), CELLS if things else len(these.places))
    alike = torch.zeros(len(chosen), these.length, dtype=torch.bool)
    if these.drawn:
        given = these.labels[: -these.drawn]
        alike[:, these.places[: -these.drawn]] = (these.labels[chosen, None] == given).all(2)
    there = alike.any(1)
    return Pointers(these.places[chosen[there]], alike[there])


def _turned(these: _Cells, sides: Sequence[int]) -> Pointers:
    right = torch.zeros(len(these.places), these.length, dtype=torch.bool)
    right[:, sides] = True
    return _wanted(these, right)


def _wanted(these: _Cells, right: Tensor) -> Pointers:
    """Masked cells look at what says what belongs in them. right (m, L) bool: the places of that."""
    chosen = these.some(these.hidden & right.any(1))
    return Pointers(these.places[chosen], right[chosen])
