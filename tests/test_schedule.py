"""The arithmetic of a sampling step, and the random numbers behind it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dimoo.noise import CounterNoise, PublishedNoise, uniform_numbers
from dimoo.schedule import (
    answer_is_fixed,
    draw_by_gumbel,
    draw_by_inverse,
    guide,
    keep_top,
    least_sure,
    log_confidence,
    mask_counts,
    only_plausible,
    surest,
    transfer_counts,
)

settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")

words = st.integers(0, 2**64 - 1)


@given(cells=st.integers(1, 5000), steps=st.integers(1, 200))
def test_every_step_fills_a_cell_and_the_last_fills_all(cells, steps):
    counts = mask_counts(cells, steps)
    assert len(counts) == min(cells, steps)
    assert all(before > after for before, after in zip([cells, *counts], counts, strict=False))
    assert counts[-1] == 0


@given(cells=st.integers(256, 5000), steps=st.integers(2, 64))
def test_schedule_is_the_cosine_where_there_are_many_cells(cells, steps):
    cosine = [cells * math.cos(math.pi / 2 * (step + 1) / steps) for step in range(steps - 1)]
    for count, exact in zip(mask_counts(cells, steps), cosine, strict=False):
        assert exact - 1 - 1e-3 <= count <= exact + 1e-3 or exact > cells - steps


def test_nothing_masked_needs_no_steps():
    assert mask_counts(0, 10) == []
    assert transfer_counts(0, 10) == []


@given(tokens=st.integers(1, 300), steps=st.integers(1, 300))
def test_answer_tokens_are_shared_out_evenly(tokens, steps):
    counts = transfer_counts(tokens, steps)
    assert sum(counts) == tokens
    assert len(counts) == min(tokens, steps)
    assert max(counts) - min(counts) <= 1
    assert counts == sorted(counts, reverse=True)


def test_guidance_formulas():
    cond, text, image = torch.randn(3, 4, 6).unbind(0)
    torch.testing.assert_close(guide([cond, text], [4.0]), 5 * cond - 4 * text)
    both = guide([cond, text, image], [2.5, 4.0])
    torch.testing.assert_close(both, cond + 2.5 * (cond - text) + 4 * (cond - image))
    assert torch.equal(guide([cond], []), cond)


def test_both_ways_of_drawing_follow_the_softmax():
    rows, temperature = 40000, 0.7
    logits = torch.tensor([2.0, 0.0, -1.0, 1.0, -math.inf])
    expected = (logits / temperature).softmax(-1)
    many = logits.expand(rows, -1)
    generator = torch.Generator().manual_seed(1)
    drawn = {
        "inverse": draw_by_inverse(many, torch.rand(rows, generator=generator), temperature),
        "gumbel": draw_by_gumbel(many, torch.rand(rows, 5, generator=generator), temperature),
        "counter": CounterNoise(3).draw(0, torch.arange(rows), many, temperature),
    }
    for name, codes in drawn.items():
        share = codes.bincount(minlength=5) / rows
        assert (share - expected).abs().max() < 0.01, name


@given(
    uniform=st.floats(2**-24, 1 - 2**-24, width=32),
    logits=st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40),
    top=st.integers(1, 40),
)
def test_inverse_never_draws_what_has_no_probability(uniform, logits, top):
    logits = keep_top(torch.tensor([logits, logits[::-1]]), top)
    codes = draw_by_inverse(logits, torch.tensor([uniform, 1 - uniform]), 1.0)
    assert (logits.gather(1, codes[:, None]) > -math.inf).all()


def test_keep_top_keeps_the_largest():
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0]])
    assert keep_top(logits, 2).tolist() == [[-math.inf, 3.0, 2.0, -math.inf]]
    assert keep_top(logits, None) is logits and keep_top(logits, 9) is logits


@given(logits=st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=40), share=st.floats(0.01, 1.0))
def test_what_the_conditional_branch_finds_unlikely_is_left_out(logits, share):
    conditional = torch.tensor([logits])
    guided = only_plausible(torch.zeros_like(conditional), conditional, share)
    odds = (conditional - conditional.max()).exp()
    clear = (odds - share).abs() > 1e-4
    assert torch.equal((guided == 0)[clear], (odds >= share)[clear])
    assert guided[0, conditional.argmax()] == 0
    assert only_plausible(guided, conditional, 0.0) is guided


def test_log_confidence_is_the_log_softmax():
    logits = torch.randn(7, 11) * 5
    codes = torch.randint(0, 11, (7, 2))
    torch.testing.assert_close(log_confidence(logits, codes), logits.log_softmax(-1).gather(1, codes))


@given(values=st.lists(st.sampled_from([-3.0, -1.0, -0.5]), min_size=1, max_size=30), data=st.data())
def test_exactly_so_many_stay_masked_even_among_equals(values, data):
    count = data.draw(st.integers(0, len(values)))
    sure = torch.tensor(values)
    stay = least_sure(sure, torch.full((len(values),), 0.5), 1.0, count)
    assert stay.sum() == count
    if 0 < count < len(values):
        assert sure[stay].max() <= sure[~stay].min()


def test_order_noise_changes_who_stays_and_no_temperature_means_no_noise():
    sure, uniforms = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([0.01, 0.5, 0.99])
    assert least_sure(sure, uniforms, 0.0, 1).tolist() == [False, False, True]
    assert least_sure(sure, uniforms, 5.0, 1).tolist() == [True, False, False]


def test_surest_token_leaves_out_what_may_not_be_produced():
    logits = torch.tensor([[5.0, 1.0, 0.0]])
    assert surest(logits, ())[1].tolist() == [0]
    probability, token = surest(logits, (0,))
    assert token.tolist() == [1]
    torch.testing.assert_close(probability, torch.tensor([1.0, 0.0]).softmax(-1)[:1])
    assert logits[0, 0] == 5.0


@pytest.mark.parametrize(
    ("answer", "fixed"),
    [([1, 2, 9, 0], True), ([1, 0, 9, 0], False), ([1, 2], False), ([9], True), ([], False)],
)
def test_answer_is_fixed_once_nothing_before_its_end_is_masked(answer, fixed):
    assert answer_is_fixed(torch.tensor(answer), (9,), 0) is fixed


@given(seed=words, step=st.integers(0, 100), data=st.data())
def test_numbers_do_not_depend_on_batch_or_order(seed, step, data):
    cells = data.draw(st.permutations(range(30)))
    chosen = torch.tensor(cells[: data.draw(st.integers(1, 30))])
    whole = uniform_numbers((seed, step), torch.arange(30))
    assert torch.equal(uniform_numbers((seed, step), chosen), whole[chosen])
    assert torch.equal(
        CounterNoise(seed).order(step, chosen), CounterNoise(seed).order(step, torch.arange(30))[chosen]
    )


@given(key=st.tuples(words, words), other=st.tuples(words, words))
def test_numbers_lie_inside_the_interval_and_depend_on_the_key(key, other):
    numbers = uniform_numbers(key, torch.arange(64))
    assert numbers.dtype == torch.float32
    assert numbers.min() > 0 and numbers.max() < 1
    assert torch.equal(numbers, uniform_numbers(other, torch.arange(64))) == (key == other)


@settings(max_examples=10)
@given(seed=words)
def test_numbers_are_uniform_across_cells_and_across_steps(seed):
    across_cells = uniform_numbers((seed, 0, 0), torch.arange(2048))
    across_steps = torch.cat([uniform_numbers((seed, step, 0), torch.tensor([5])) for step in range(2048)])
    even = (torch.arange(2048) + 0.5) / 2048
    for numbers in (across_cells, across_steps):
        assert (numbers.sort().values - even).abs().max() < 0.08  # Kolmogorov-Smirnov, p about 1e-11
    assert torch.corrcoef(torch.stack([across_cells, across_steps]))[0, 1].abs() < 0.15


def test_token_and_order_numbers_are_different_streams():
    noise, cells = CounterNoise(0), torch.arange(100)
    logits = torch.zeros(100, 1000)
    by_order = draw_by_inverse(logits, noise.order(2, cells), 1.0)
    assert not torch.equal(noise.draw(2, cells, logits, 1.0), by_order)


def test_published_noise_repeats_from_its_seed():
    logits, cells = torch.randn(5, 9), torch.arange(5)
    a, b, c = PublishedNoise.seeded(4), PublishedNoise.seeded(4), PublishedNoise.seeded(5)
    drawn = [(n.draw(0, cells, logits, 1.0).tolist(), n.order(0, cells).tolist()) for n in (a, b, c)]
    assert drawn[0] == drawn[1] != drawn[2]
