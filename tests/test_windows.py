"""Windows over a large grid: together they draw everything once, outwards, each with enough to go by."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dimoo.layout import Branch, image_cells
from dimoo.noise import CounterNoise
from dimoo.sampler import ImageSampling, unmask_image
from dimoo.windows import Window, drawn_by, outwards, unmask_windows, whole, window_sums

settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")

MASK, ROW_END = 1, 2
CODES = slice(20, 52)
TABLE = torch.randn(52, 32, generator=torch.Generator().manual_seed(0)) * 3


def forward(packed, rows, vocab, cache=None, queries=None):
    """Logits that depend on the id in the row, its place, and the known ids around."""
    known = torch.stack([ids[ids > MASK].sum() for ids in packed.ids.split(packed.lengths)])
    of = torch.repeat_interleave(known, torch.tensor(packed.lengths))
    return TABLE[(packed.ids[rows] + 5 * packed.positions[rows] + of[rows]) % len(TABLE)]


def branches(codes):
    """One bare image of codes (h, w)."""
    height, width = codes.shape
    cells = image_cells(height, width) - 1
    ids = torch.full((height * (width + 1),), ROW_END)
    ids[cells] = torch.where(codes < 0, MASK, codes + CODES.start).flatten()
    return [Branch(ids, cells)]


def canvas(left, top, right, bottom, size=(8, 8)):
    masked = np.ones((size[0] + top + bottom, size[1] + left + right), bool)
    masked[top : top + size[0], left : left + size[1]] = False
    return masked


margins = st.integers(0, 30)


@given(left=margins, top=margins, right=margins, bottom=margins, usual=st.tuples(st.integers(4, 12), st.integers(4, 12)))
def test_windows_draw_every_cell_with_enough_known_around(left, top, right, bottom, usual):
    masked = canvas(left, top, right, bottom)
    windows = outwards(masked, usual)
    left_over = masked.copy()
    for window in windows:
        part = left_over[window.slices]
        assert part.shape == (window.height, window.width)  # none reaches over the border
        assert part.any() or len(windows) == 1
        if len(windows) > 1:
            assert part.size <= usual[0] * usual[1]
            if 64 >= part.size / 2:  # else what was given is less than half a window
                assert (~part).sum() >= part.size / 2
        left_over[window.slices] = False
    assert not left_over.any()
    assert sum(drawn_by(windows, masked)) == masked.sum()
    if masked.size <= usual[0] * usual[1]:
        assert windows == whole(masked)


holes = st.tuples(margins, margins, st.integers(1, 30), st.integers(1, 30))


@given(holes=st.lists(holes, min_size=1, max_size=3), usual=st.tuples(st.integers(4, 12), st.integers(4, 12)))
def test_windows_inside_of_a_picture_draw_every_hole_once(holes, usual):
    masked = np.zeros((32, 40), bool)
    for top, left, height, width in holes:
        masked[top : top + height, left : left + width] = True
    windows = outwards(masked, usual, inside=True)
    drawn = np.zeros_like(masked)
    for window in windows:
        assert (masked & ~drawn)[window.slices].any() and window.height * window.width <= usual[0] * usual[1]
        drawn[window.slices] = True
    assert (drawn | ~masked).all()


def test_a_window_lies_around_a_small_hole():
    masked = np.zeros((64, 64), bool)
    masked[40:44, 10:13] = True
    assert outwards(masked, (16, 16), inside=True) == [Window(34, 3, 16, 16)]
    masked[20:22, 50:52] = True  # another one far from it
    assert outwards(masked, (16, 16), inside=True) == [Window(34, 3, 16, 16), Window(13, 43, 16, 16)]
    masked[:] = False
    masked[0, 63] = True
    assert outwards(masked, (16, 16), inside=True) == [Window(0, 48, 16, 16)]


def test_a_long_canvas_is_drawn_in_half_steps_from_the_middle():
    windows = outwards(canvas(16, 0, 16, 0), (8, 8))
    assert {(w.height, w.width) for w in windows} == {(8, 8)}
    assert sorted(w.left for w in windows) == [0, 4, 8, 12, 20, 24, 28, 32]
    distance = [abs(w.left - 16) for w in windows]
    assert distance == sorted(distance)
    assert drawn_by(windows, canvas(16, 0, 16, 0)) == [32] * 8


def test_a_picture_smaller_than_half_a_window_lies_in_the_middle_of_the_first():
    first, *rest = outwards(canvas(16, 16, 16, 16, size=(4, 4)), (12, 12))
    assert first == Window(12, 12, 12, 12)
    assert rest


def test_what_is_larger_than_the_model_knows_is_cut():
    assert len(outwards(canvas(2, 0, 0, 0, size=(8, 6)), (8, 8))) == 1
    assert outwards(canvas(1, 0, 0, 0), (8, 8)) == [Window(0, 0, 8, 8)]  # which holds all that is new
    assert len(outwards(canvas(2, 0, 2, 0), (8, 8))) == len(outwards(canvas(4, 0, 4, 0), (8, 8))) == 2
    assert outwards(canvas(60, 0, 0, 0, size=(4, 4)), (8, 8))[0].width == 16  # flat: as much area


def test_sums_over_windows():
    grid = np.random.default_rng(0).random((7, 9)) < 0.4
    sums = window_sums(grid, 3, 4)
    assert sums.shape == (5, 6)
    assert all(sums[y, x] == grid[y : y + 3, x : x + 4].sum() for y in range(5) for x in range(6))


def run(grid, windows, steps=4, seed=0):
    sampling = ImageSampling(steps=steps)
    return list(unmask_windows(forward, grid, windows, branches, sampling, CounterNoise(seed), CODES, MASK))


def test_one_window_is_the_plain_sampler():
    grid = torch.full((5, 6), -1)
    grid[2] = 7
    plain = list(unmask_image(forward, branches(grid), ImageSampling(steps=4), CounterNoise(3), CODES, MASK))
    ours = run(grid, whole(grid), seed=3)
    for a, b in zip(plain, ours, strict=True):
        assert (a.step, a.steps) == (b.step, b.steps)
        assert torch.equal(a.tokens, b.tokens) and torch.equal(a.prediction, b.prediction)
        assert torch.equal(a.confidence, b.confidence)
        assert (a.logit_cells is None and b.logit_cells is None) or torch.equal(a.logit_cells, b.logit_cells)


@pytest.mark.parametrize("steps", [1, 4, 100])
def test_states_cover_the_canvas_and_count_all_steps(steps):
    masked = canvas(10, 3, 0, 0)
    grid = torch.where(torch.from_numpy(masked), -1, 5)
    windows = outwards(masked, (8, 8))
    assert len(windows) > 2
    counts = drawn_by(windows, masked)
    states = run(grid, windows, steps)
    assert [state.step for state in states] == list(range(len(states)))
    assert {state.steps for state in states} == {sum(min(steps, count) for count in counts)} == {len(states) - 1}
    assert [state.done for state in states] == [False] * (len(states) - 1) + [True]
    for before, after in zip(states, states[1:], strict=False):
        kept = ~before.masked
        assert torch.equal(before.tokens[kept], after.tokens[kept])
        assert torch.equal(before.confidence[kept], after.confidence[kept])
        drawn = before.masked & ~after.masked
        assert drawn.any() and torch.isin(drawn.nonzero().squeeze(-1), after.logit_cells).all()
        assert torch.equal(after.prediction[~after.masked], after.tokens[~after.masked])
        assert (after.logits.argmax(-1) == after.prediction[after.logit_cells])[after.masked[after.logit_cells]].all()
    assert (states[-1].tokens[~torch.from_numpy(masked).flatten()] == 5).all()
    assert (states[-1].confidence > 0).all()


def test_windows_do_not_repeat_their_noise():
    """With logits that are all equal only the noise decides: equal windows would come out equal."""
    masked = canvas(0, 0, 24, 0)
    grid = torch.where(torch.from_numpy(masked), -1, 5)
    windows = outwards(masked, (8, 8))
    flat = lambda packed, rows, vocab, cache=None, queries=None: torch.zeros(len(rows), 32)  # noqa: E731
    *_, last = unmask_windows(flat, grid, windows, branches, ImageSampling(steps=2), CounterNoise(0), CODES, MASK)
    picture = last.tokens.view(grid.shape)
    assert (picture[:, 8:12] == picture[:, 12:16]).float().mean() < 0.3
