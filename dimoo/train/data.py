"""Examples for training: families of scenes, and lessons on them, as token sequences.

Every time a family is seen it is asked about in other words.
"""
from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dimoo import layout
from dimoo.tasks import Edit
from dimoo.train.claims import RELATED, Claims
from dimoo.train.families import Family, name_of
from dimoo.train.grounding import zones
from dimoo.train.own import Own
from dimoo.train.tokenizer import LEVELS
from dimoo.vocab import Vocabulary
from dimoo.world.language import DESCRIBE, benchmark_prompts, caption, description, questions
from dimoo.world.lessons import INSTRUCTIONS, Lesson, Shot
from dimoo.world.parts import parts

OFTEN = {"place": 8, "counting": 2}
"""How many times as often questions of some categories are asked: to compare two places takes longest to learn."""
AGAIN = {"view": 3, "subject": 2.5, "add": 2.5}
"""How many times as often lessons of some kinds are given as the others of their family: in views all has to move, where a
subject stands is left open, so that cells have to agree on it, and there is seldom room to add a thing."""
OWN = 0.7
"""Share of claims that are about own pictures, if there are any."""
UNCONDITIONAL = 0.10  # of the prompts are dropped (published training)
GRAINED = 0.4
"""Share of instructions on pictures with grain, see `grained`."""
SHORT, LONG = 8, 48  # tokens of a short and of a long answer


@dataclass(frozen=True)
class Example:
    """A sequence with masks in all its targets. cells (n,): their places; targets (n,): what belongs there.

    answer: how many of them are the answer itself; after an answer in words comes its padding, after a picture the words of
    the prompt. things (n,) bool: cells that differ from the empty setting, for the log. labels (m, len(LABELS)): what
    the cells of all its pictures show; zones (m, 2 * ZONES): where in them they lie, see `zones`. owners (rows, columns): which
    thing each cell of a picture to be drawn shows; see `world.parts`. open: whether where things stand is left to the model.
    """

    ids: Tensor
    cells: Tensor
    targets: Tensor
    answer: int
    things: Tensor
    labels: Tensor
    zones: Tensor
    owners: Tensor | None = None
    open: bool = False

    @property
    def draws(self) -> bool:
        """Whether the answer is a picture."""
        return self.owners is not None

    def masked(self, mask: Tensor) -> Tensor:
        """ids with masks in those targets alone that mask (n,) bool says."""
        ids = self.ids.clone()
        ids[self.cells] = torch.where(mask, ids[self.cells], self.targets)
        return ids


def grained(grid: Tensor, where: Tensor, shows: Tensor, codes: int, rng: np.random.Generator) -> Tensor:
    """A grid of codes (rows, columns) with others in some of the cells `where`: in up to all that show a thing one number is a
    level off, in up to half of the rest too, or they are any codes.

    What an instruction leaves alone is to be copied as it is given. Codes that hardly occur were not, since what looks like them
    does nearly as well in this world; pictures that people bring have other codes than its own anyway.
    """
    shape, base = tuple(grid.shape), len(LEVELS)
    number = base ** torch.from_numpy(rng.integers(round(math.log(codes, base)), size=shape))
    level = grid // number % base
    step = torch.from_numpy(rng.choice([-1, 1], size=shape))
    step = torch.where(level == 0, 1, torch.where(level == base - 1, -1, step))
    anything = ~shows & torch.from_numpy(rng.random(shape) < 0.5)
    other = torch.where(anything, torch.from_numpy(rng.integers(codes, size=shape)), grid + step * number)
    share = torch.where(shows, 1.0, 0.5) * rng.random()
    return torch.where(where & (torch.from_numpy(rng.random(shape)) < share), other, grid)


class Teacher:
    """Makes examples of families. codes: what `encode_families` returned; own: pictures that the model drew, to be read too."""

    def __init__(self, vocab: Vocabulary, codes: Mapping[str, np.ndarray], families: list[Family], own: Sequence[Own] = ()):
        self.vocab, self.codes, self.own = vocab, codes, own
        self.families = [family for family in families if not family.crowded]
        self.crowds = [family for family in families if family.crowded]
        self.taught = [family for family in families if family.lessons]
        self.held_out = {prompt.text for prompt in benchmark_prompts()}
        self.empty = self._empty()
        self._parts: dict[tuple, tuple[Tensor, Tensor]] = {}

    def grid(self, shot: Shot) -> Tensor:
        return torch.from_numpy(self.codes[name_of(shot)]).long()

    def parts(self, shot: Shot) -> tuple[Tensor, Tensor]:
        """Labels (rows, columns, len(LABELS)) and owners (rows, columns) of its cells, int8, see `world.parts`."""
        key = shot.scene, shot.rows, shot.columns
        if key not in self._parts:
            labels, owners = parts(*key)
            self._parts[key] = torch.from_numpy(labels), torch.from_numpy(owners)
        return self._parts[key]

    def labels(self, shots: Sequence[Shot]) -> Tensor:
        """(cells of all shots, len(LABELS)) long."""
        return torch.cat([self.parts(shot)[0].flatten(0, 1) for shot in shots]).long()

    @cached_property
    def claims(self) -> Claims:
        return Claims(self.held_out)

    def _empty(self) -> dict[tuple, Tensor]:
        """(setting, shape) -> the most frequent code of each cell: what it holds when nothing stands there."""
        groups = defaultdict(list)
        for family in dict.fromkeys((*self.families, *self.crowds)):
            grid = self.grid(family.base)
            groups[family.base.scene.setting, grid.shape].append(grid)
        return {key: torch.stack(grids).mode(0).values for key, grids in groups.items()}

    def generate(self, rng: np.random.Generator) -> Example | None:
        return self._by_caption(rng, self.families)

    def crowd(self, rng: np.random.Generator) -> Example | None:
        return self._by_caption(rng, self.crowds)

    def _by_caption(self, rng: np.random.Generator, families: list[Family]) -> Example | None:
        base = families[int(rng.integers(len(families)))].base
        text = caption(rng, base.scene, RELATED)
        if text in self.held_out:
            return None
        branches = layout.text_to_image(self.vocab, text, base.rows, base.columns)
        return self._picture(branches[1] if rng.random() < UNCONDITIONAL else branches[0], (), base, self.grid(base))

    def lesson(self, rng: np.random.Generator) -> Example | None:
        """The published training drops text and pictures together; each is dropped alone here, as guidance will ask."""
        family = self.taught[int(rng.integers(len(self.taught)))]
        weights = np.array([AGAIN.get(lesson.kind, 1) for lesson in family.lessons])
        lesson = family.lessons[int(rng.choice(len(family.lessons), p=weights / weights.sum()))]
        system, text = self.words(rng, lesson)
        grids, target = [self.grid(shot) for shot in lesson.inputs], self.grid(lesson.target)
        chance = rng.random()
        dropped = 0 if chance > UNCONDITIONAL else 1 if chance > UNCONDITIONAL / 2 else 2
        if lesson.kind in INSTRUCTIONS and dropped < 2 and rng.random() < GRAINED:
            same, shows = grids[0] == target, self.parts(lesson.target)[1] >= 0
            target = grained(target, same, shows, self.vocab.codebook_size, rng)
            grids = [torch.where(same, target, grids[0])]
        branches = layout.image_to_image(self.vocab, system, text, grids, *target.shape)
        example = self._picture(branches[dropped], lesson.inputs if dropped < 2 else (), lesson.target, target)
        return replace(example, open=lesson.kind == "subject" or dropped > 0)

    def words(self, rng: np.random.Generator, lesson: Lesson) -> tuple[str, str]:
        """System prompt and user text of a lesson."""
        kind, _, look = lesson.kind.partition(" ")
        if kind == "view":
            return layout.edit_texts("view", direction=lesson.texts[0])
        texts = [text for text in lesson.texts if text not in self.held_out] or lesson.texts or ("",)
        kind = kind if kind in Edit.KINDS else "instruct"
        return layout.edit_texts(kind, texts[int(rng.integers(len(texts)))], map=look or "canny")

    def chat(self, rng: np.random.Generator) -> Example:
        """Half of the talk is about crowds, which are small and leave more to ask."""
        families = self.crowds if self.crowds and rng.random() < 0.5 else self.families
        base = families[int(rng.integers(len(families)))].base
        length = LONG
        if rng.random() < 0.3:
            question, answer = DESCRIBE[int(rng.integers(len(DESCRIBE)))], description(base.scene)
        else:
            asked = [one for one in questions(rng, base.scene) for _ in range(OFTEN.get(one.category, 1))]
            chosen = asked[int(rng.integers(len(asked)))]
            question, answer = chosen.text, chosen.sentence
            if rng.random() < 0.6:
                question, answer, length = layout.short_question(question), chosen.answer, SHORT
        return self._answer(question, answer, length, base, self.grid(base))

    def check(self, rng: np.random.Generator) -> Example | None:
        """Whether a picture shows a prompt, which half of them do: renders, and own pictures with their own prompts or others."""
        right = bool(rng.random() < 0.5)
        if self.own and rng.random() < OWN:
            drawn = self.own[int(rng.integers(len(self.own)))]
            shot, grid = drawn.shot, drawn.codes
            if rng.random() < 0.5:
                return self._verdict(drawn.prompt.text, drawn.right, shot, grid)
        else:
            shot = self.families[int(rng.integers(len(self.families)))].base
            grid = self.grid(shot)
        claim = self.claims.about(rng, shot.scene, right)
        return None if claim is None else self._verdict(claim, right, shot, grid)

    def _verdict(self, claim: str, right: bool, shot: Shot, grid: Tensor) -> Example:
        return self._answer(layout.check_question(claim), "yes" if right else "no", SHORT, shot, grid)

    def _answer(self, question: str, answer: str, length: int, shot: Shot, grid: Tensor) -> Example:
        """An answer in words, of `length` tokens with its padding, on a picture; grid: its codes."""
        branch = layout.understanding(self.vocab, question, [grid], length)
        ids = [*self.vocab.encode(answer), self.vocab.ids.answer_end]
        targets = torch.tensor(ids + [self.vocab.ids.pad] * (length - len(ids)))
        things = torch.zeros(length, dtype=torch.bool)
        return Example(branch.ids, branch.cells, targets, len(ids), things, self.labels([shot]), zones([shot]))

    def _picture(self, branch: layout.Branch, given: Sequence[Shot], shot: Shot, grid: Tensor) -> Example:
        """A picture to be drawn, grid: its codes, from other pictures or none."""
        empty = self.empty.get((shot.scene.setting, grid.shape)) if (shot.look, shot.scene.view) == ("render", "front") else None
        things = torch.zeros_like(grid, dtype=torch.bool) if empty is None else self.grid(shot) != empty
        words = layout.prompt_words(self.vocab, branch.ids)
        targets = torch.cat([grid.flatten() + self.vocab.image_offset, branch.ids[words]])
        ids = branch.ids.clone()
        ids[words] = self.vocab.ids.mask
        things = torch.cat([things.flatten(), torch.zeros(len(words), dtype=torch.bool)])
        cells = torch.cat([branch.cells, words])
        shots = [*given, shot]
        return Example(ids, cells, targets, grid.numel(), things, self.labels(shots), zones(shots), self.parts(shot)[1])

    def batches(self, tokens: int, seed: int | tuple[int, ...], shares: Callable[[], Mapping[str, float]]
                ) -> Iterator[list[Example]]:
        """Endless lists of equally long examples, of about `tokens` tokens together.

        shares: how many of each kind (generate, crowd, lesson, chat) there are to be, asked for every example.
        """
        rng = np.random.default_rng(seed)
        waiting: dict[tuple, list[Example]] = defaultdict(list)
        while True:
            kinds = shares()
            example = getattr(self, list(kinds)[int(rng.choice(len(kinds), p=list(kinds.values())))])(rng)
            if example is None:
                continue
            key = len(example.ids), len(example.cells), int(example.cells[0])
            waiting[key].append(example)
            if len(waiting[key]) >= max(1, tokens // len(example.ids)):
                yield waiting.pop(key)
