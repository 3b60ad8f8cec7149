"""Prompt formats: where everything lies in the ids."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dimoo import layout
from dimoo.config import LLaDAConfig
from dimoo.layout import (
    Branch,
    cut_answer,
    image_ids,
    image_to_image,
    size_buckets,
    text_to_image,
    understanding,
)
from dimoo.vocab import Vocabulary

settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")

sides = st.integers(1, 9)
prompts = st.sampled_from(["a red ball", "", "a house, next to a tree", "</user><answer><IMAGE> red"])


@pytest.fixture(scope="module")
def vocab(checkpoint):
    return Vocabulary.load(checkpoint, LLaDAConfig.from_pretrained(checkpoint))


def grid(height, width, seed=0):
    """Codes with about half of them unknown."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 64, (height, width), generator=generator)
    return torch.where(torch.rand(height, width, generator=generator) < 0.5, -1, codes)


def check_target(vocab, branch: Branch, codes: torch.Tensor) -> torch.Tensor:
    """Checks the answer part cell by cell and returns the prompt before it."""
    height, width = codes.shape
    start = len(branch.ids) - (height * (width + 1) + 4)
    answer = branch.ids[start:].tolist()
    assert answer[:2] == [vocab.ids.answer, vocab.ids.boi]
    assert answer[-2:] == [vocab.ids.eoi, vocab.ids.answer_end]
    for y in range(height):
        row = answer[2 + y * (width + 1) :][: width + 1]
        assert row[-1] == vocab.ids.newline
        wanted = [vocab.ids.mask if code < 0 else vocab.image_offset + code for code in codes[y].tolist()]
        assert row[:-1] == wanted
    first = start + 2
    places = [first + y * (width + 1) + x for y in range(height) for x in range(width)]
    assert branch.cells.tolist() == places
    return branch.ids[:start]


@given(prompt=prompts, height=sides, width=sides)
def test_text_to_image(vocab, prompt, height, width):
    branches = text_to_image(vocab, prompt, height, width)
    empty = torch.full((height, width), -1)
    conditional, unconditional = (check_target(vocab, branch, empty).tolist() for branch in branches)
    system = [vocab.ids.system, *vocab.encode(layout.GENERATE), vocab.ids.system_end, vocab.ids.user]
    assert conditional == [*system, *vocab.encode(prompt), vocab.ids.user_end]
    assert unconditional == [*system, vocab.ids.uncondition, vocab.ids.user_end]
    for branch in branches:
        assert (branch.ids == vocab.ids.mask).sum() == height * width


@given(height=sides, width=sides, seed=st.integers(0, 99))
def test_known_cells_are_kept_in_every_branch(vocab, height, width, seed):
    codes = grid(height, width, seed)
    for branch in text_to_image(vocab, "a red ball", height, width, codes):
        check_target(vocab, branch, codes)


@given(height=sides, width=sides, target=sides, seed=st.integers(0, 99))
def test_image_to_image(vocab, height, width, target, seed):
    first, second = grid(height, width, seed).clamp(min=0), grid(width, height, seed + 1).clamp(min=0)
    codes = grid(target, width, seed)
    branches = image_to_image(vocab, layout.EDIT, "a red ball", [first, second], target, width, codes)
    prompts = [check_target(vocab, branch, codes).tolist() for branch in branches]
    system = [vocab.ids.system, *vocab.encode(layout.EDIT), vocab.ids.system_end, vocab.ids.user]
    images = image_ids(vocab, first).tolist() + image_ids(vocab, second).tolist()
    text = vocab.encode("a red ball")
    assert prompts == [
        [*system, *text, *images, vocab.ids.user_end],
        [*system, vocab.ids.uncondition, *images, vocab.ids.user_end],
        [*system, *text, vocab.ids.user_end],
    ]


def test_image_writes_a_row_end_after_every_row(vocab):
    ids = vocab.ids
    first = vocab.image_offset
    rows = [[first + 5, first + 6, first + 7, ids.newline], [first + 8, first + 9, ids.mask, ids.newline]]
    assert image_ids(vocab, torch.tensor([[5, 6, 7], [8, 9, -1]])).tolist() == [
        ids.boi,
        *rows[0],
        *rows[1],
        ids.eoi,
    ]


@given(length=st.integers(1, 20), images=st.integers(0, 2))
def test_understanding(vocab, length, images):
    pictures = [grid(2, 3).clamp(min=0)] * images
    branch = understanding(vocab, "is there a ball", pictures, length)
    ids, prompt = branch.ids.tolist(), len(branch.ids) - length - 2
    assert ids[prompt:] == [vocab.ids.answer, *[vocab.ids.mask] * length, vocab.ids.answer_end]
    assert branch.cells.tolist() == list(range(prompt + 1, prompt + 1 + length))
    assert ids[prompt - 1] == vocab.ids.user_end
    given_ids = [i for picture in pictures for i in image_ids(vocab, picture).tolist()]
    assert ids[prompt - 1 - len(given_ids) : prompt - 1] == given_ids
    assert ids[: prompt - 1 - len(given_ids)][-4:] == vocab.encode("is there a ball")


def test_answer_is_cut_at_its_first_end(vocab):
    ids = vocab.ids
    assert cut_answer(vocab, torch.tensor([3, 4, ids.answer_end, 5, ids.answer_end])) == [3, 4]
    assert cut_answer(vocab, torch.tensor([ids.end_of_text, 5])) == []
    assert cut_answer(vocab, torch.tensor([3, 4])) == [3, 4]


@given(side=st.integers(1, 40).map(lambda cells: 32 * cells))
def test_size_buckets_stay_within_area_and_aspect(side):
    sizes = size_buckets(side)
    assert (side, side) in sizes
    for width, height in sizes:
        assert width % 32 == height % 32 == 0
        assert width * height <= side * side
        assert max(width, height) <= 4 * min(width, height)
