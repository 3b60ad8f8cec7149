"""The two sampling loops, with a few lines in place of a model and with a small model."""

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dimoo.config import LLaDAConfig
from dimoo.layout import Branch, image_cells
from dimoo.model import DiMOO
from dimoo.noise import CounterNoise
from dimoo.passes import MLCache, PartialCache
from dimoo.sampler import ImageSampling, TextSampling, unmask_image, unmask_images, unmask_text
from dimoo.schedule import mask_counts

settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")

MASK, ROW_END, END, BAD = 1, 2, 3, 4
CODES = slice(20, 52)
TEXT = slice(0, 20)


def image(height, width, prompt=(5, 6, 7), known=()):
    """A branch of a prompt and a picture whose `known` cells hold code 3."""
    cells = image_cells(height, width) - 1
    ids = torch.full((height * (width + 1),), ROW_END)
    ids[cells] = MASK
    ids[cells[list(known)]] = CODES.start + 3
    return Branch(torch.cat([torch.tensor(prompt), ids]), cells + len(prompt))


class Stub:
    """Logits that depend on nothing but the id in the row, and a record of the calls."""

    def __init__(self, size=52):
        self.table = torch.randn(size, size, generator=torch.Generator().manual_seed(0)) * 3
        self.calls = []

    def __call__(self, packed, rows, vocab, cache=None, queries=None):
        self.calls.append((packed, rows, queries))
        context = packed.ids.split(packed.lengths)
        firsts = torch.cat([ids[:1].expand(len(ids)) for ids in context])
        return self.table[
            (packed.ids[rows] + 3 * firsts[rows] + packed.positions[rows]) % len(self.table), vocab
        ]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LLaDAConfig(
        d_model=32, n_heads=2, n_layers=2, mlp_hidden_size=48, vocab_size=52, codebook_size=32
    )
    model = DiMOO(config).eval()
    for name, weight in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(weight, std=0.3)
    return model


def run(forward, branches, seed=0, **sampling):
    settings = ImageSampling(**{"steps": 6, "guidance": 2.0} | sampling)
    return list(unmask_image(forward, branches, settings, CounterNoise(seed), CODES, MASK))


@given(height=st.integers(1, 6), width=st.integers(1, 6), steps=st.integers(1, 12), data=st.data())
def test_states_of_a_run(height, width, steps, data):
    """Masked cells shrink by the schedule, committed and given codes stay, and in the end all is filled."""
    known = data.draw(st.sets(st.integers(0, height * width - 1)))
    branches = [image(height, width, prompt, known) for prompt in ((5, 6, 7), (8,))]
    states = run(Stub(), branches, steps=steps)
    masked = height * width - len(known)
    assert [int(state.masked.sum()) for state in states] == [masked, *mask_counts(masked, steps)]
    assert [state.step for state in states] == list(range(len(states)))
    assert [state.done for state in states] == [False] * (len(states) - 1) + [True]
    for before, after in zip(states, states[1:], strict=False):
        kept = ~before.masked
        assert torch.equal(after.tokens[kept], before.tokens[kept])
        assert torch.equal(after.confidence[kept], before.confidence[kept])
        assert torch.equal(after.logit_cells, before.masked.nonzero().squeeze(-1))
        assert after.logits.shape == (int(before.masked.sum()), 32)
        assert ((after.prediction >= 0) & (after.prediction < 32)).all()
        assert torch.equal(after.prediction[~after.masked], after.tokens[~after.masked])
        assert (after.confidence > 0).all() and (after.confidence <= 1 + 1e-6).all()
    for state in states:
        assert (state.tokens[list(known)] == 3).all() and (state.confidence[list(known)] == 1).all()
        assert state.steps == len(states) - 1


def test_first_state_comes_before_the_first_pass_and_closing_stops_the_passes():
    forward = Stub()
    states = unmask_image(forward, [image(4, 4)], ImageSampling(steps=8), CounterNoise(0), CODES, MASK)
    first = next(states)
    assert (first.step, first.steps, first.logits, len(forward.calls)) == (0, 8, None, 0)
    assert (first.tokens == -1).all() and (first.prediction == -1).all() and (first.confidence == 0).all()
    next(states)
    next(states)
    assert len(forward.calls) == 2
    states.close()
    assert next(states, None) is None
    assert len(forward.calls) == 2


def test_a_full_picture_needs_no_pass():
    forward = Stub()
    (state,) = run(forward, [image(2, 2, known=range(4))])
    assert state.done and forward.calls == []


def test_no_context_stays_open_between_steps(model):
    for _ in unmask_image(model.predict, [image(3, 3)], ImageSampling(steps=3), CounterNoise(0), CODES, MASK):
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_same_seed_same_picture_and_another_seed_another(model):
    tokens = [
        run(model.predict, [image(5, 5), image(5, 5, (8,))], seed)[-1].tokens.tolist() for seed in (1, 1, 2)
    ]
    assert tokens[0] == tokens[1] != tokens[2]


def test_alone_or_in_a_batch_of_any_order(model):
    """Pictures of different sizes and with different numbers of steps share their passes."""
    requests = {
        1: [image(5, 6), image(5, 6, (8,))],
        2: [image(4, 4, (9, 9), known=range(12)), image(4, 4, (8,), known=range(12))],
        3: [image(3, 7, (6,)), image(3, 7, (8,))],
    }
    sampling = ImageSampling(steps=7, guidance=2.0)
    alone = {
        seed: [
            s.tokens.tolist()
            for s in unmask_image(model.predict, b, sampling, CounterNoise(seed), CODES, MASK)
        ]
        for seed, b in requests.items()
    }
    assert [len(states) for states in alone.values()] == [8, 5, 8]
    for order in ([1, 2, 3], [3, 1, 2]):
        batch = [requests[seed] for seed in order]
        noises = [CounterNoise(seed) for seed in order]
        together = list(unmask_images(model.predict, batch, sampling, noises, CODES, MASK))
        assert len(together) == 8
        for step, states in enumerate(together):
            for seed, state in zip(order, states, strict=True):
                assert state.tokens.tolist() == alone[seed][min(step, len(alone[seed]) - 1)]


def test_branches_that_guidance_does_not_use_are_left_out():
    branches = [image(2, 3, (5,)), image(2, 3, (6,)), image(2, 3, (7,))]
    firsts = {}
    for scales in ((0, 0), (2, 0), (0, 2), (2, 2)):
        forward = Stub()
        run(forward, branches, guidance=scales[0], guidance_image=scales[1])
        packed = forward.calls[0][0]
        firsts[scales] = packed.ids[packed.positions == 0].tolist()
    assert firsts == {(0, 0): [5], (2, 0): [5, 6], (0, 2): [5, 7], (2, 2): [5, 6, 7]}


def test_guided_logits():
    forward = Stub()
    branches = [image(2, 2, (5,)), image(2, 2, (6,))]
    cond, uncond = (run(forward, [branch])[1].logits for branch in branches)
    state = run(forward, branches, steps=3, guidance=3.0)[1]
    torch.testing.assert_close(state.logits, 4 * cond - 3 * uncond)


def test_greedy_takes_the_most_likely_codes_whatever_the_seed():
    for seed in (0, 1):
        state = run(Stub(), [image(3, 3)], seed, steps=1, token_temperature=0.0)[-1]
        assert torch.equal(state.tokens, state.logits.argmax(-1))


def test_top_k_limits_the_draw():
    state = run(Stub(), [image(6, 6)], steps=1, top_k=2, token_temperature=5.0)[-1]
    rank = (state.logits > state.logits.gather(1, state.tokens[:, None])).sum(1)
    assert rank.max() == 1


def test_guidance_draws_nothing_that_is_implausible_without_it():
    branches = [image(6, 6, prompt, ()) for prompt in ((5, 6, 7), (8,))]
    alone = run(Stub(), branches[:1], steps=1)[-1].logits
    odds = (alone - alone.amax(1, keepdim=True)).exp()

    def drawn(share):
        tokens = run(Stub(), branches, steps=1, guidance=20.0, plausible=share)[-1].tokens
        return odds.gather(1, tokens[:, None])

    assert drawn(0.0).min() < 0.5 <= drawn(0.5).min()


def test_cells_change_only_where_the_new_is_surer_than_what_keeps_the_old():
    branches = [image(6, 6, prompt, ()) for prompt in ((5, 6, 7), (8,))]
    before = torch.arange(36) % (CODES.stop - CODES.start)

    def kept(keep, plausible=0.0):
        state = run(Stub(), branches, steps=1, token_temperature=0.0, before=before, keep=keep, plausible=plausible)[-1]
        return int((state.tokens == before).sum())

    free = run(Stub(), branches)[-1].tokens
    assert torch.equal(run(Stub(), branches, before=before, keep=0.0)[-1].tokens, free)
    assert kept(0) < kept(8) < kept(100) == kept(100, plausible=0.5) == 36
    assert torch.equal(run(Stub(), branches, before=before, keep=100.0)[-1].tokens, before)


def test_without_order_noise_the_surest_cells_come_first():
    state = run(Stub(), [image(4, 4)], steps=2, token_temperature=0.0, order_temperature=0.0)[1]
    assert state.confidence[~state.masked].min() >= state.confidence[state.masked].max()


@pytest.mark.parametrize("kind", [MLCache, PartialCache])
def test_reuse_that_always_refreshes_changes_nothing(model, kind):
    branches = [image(4, 5), image(4, 5, (8,))]
    plain = run(model.predict, branches)
    reuse = run(model.predict, branches, reuse=kind(warmup_ratio=0.0, refresh_interval=1))
    assert [state.tokens.tolist() for state in plain] == [state.tokens.tolist() for state in reuse]


def test_partial_cache_computes_changed_rows_and_the_least_sure_masked_ones(model):
    calls = []

    def forward(packed, rows, vocab, cache=None, queries=None):
        calls.append((packed, rows, queries, model.predict(packed, rows, vocab, cache, queries)))
        return calls[-1][-1]

    reuse = PartialCache(warmup_ratio=0.3, refresh_interval=3, cache_ratio=0.75)
    states = run(forward, [image(4, 5), image(4, 5, (8,))], reuse=reuse)
    assert [queries is None for _, _, queries, _ in calls] == [True, True, False, False, True, False]
    peaks = {}  # of each row, when it was last computed
    for number, (packed, rows, queries, logits) in enumerate(calls):
        masked = (packed.ids == MASK).nonzero().squeeze(-1).tolist()
        if queries is None:
            assert rows.tolist() == masked
        else:
            changed = (packed.ids != calls[number - 1][0].ids).nonzero().squeeze(-1).tolist()
            half = packed.lengths[0]
            low = []
            for own in ([row for row in masked if row < half], [row for row in masked if row >= half]):
                low += sorted(own, key=peaks.get)[: -(-len(own) // 4)]
            assert len(changed) and 0 < len(low) < len(masked)
            assert rows.tolist() == sorted(low) and queries.tolist() == sorted(low + changed)
        peaks |= dict(zip(rows.tolist(), logits.amax(-1).tolist(), strict=True))
    assert not states[-1].masked.any()


def test_masked_cells_that_are_not_computed_keep_their_logits(model):
    """Without guidance the logits of a state are those of its rows."""
    reuse = PartialCache(warmup_ratio=0.0, refresh_interval=9)
    before, after = run(model.predict, [image(5, 5)], steps=4, guidance=0, reuse=reuse)[1:3]
    was = before.logits[torch.isin(before.logit_cells, after.logit_cells)]
    same = (was == after.logits).all(-1)
    masked = len(after.logit_cells)
    assert (~same).sum() == PartialCache().computed(masked) == -(-masked // 10)
    assert was[~same].amax(-1).max() < was[same].amax(-1).min()


@pytest.mark.parametrize(("masked", "computed"), [(0, 0), (1, 1), (10, 1), (11, 2), (20, 2), (4096, 410)])
def test_a_tenth_of_the_masked_cells_is_computed(masked, computed):
    assert PartialCache().computed(masked) == computed
    assert PartialCache(cache_ratio=0).computed(masked) == masked


def test_partial_cache_stays_close_to_full_passes(model):
    branches = [image(6, 6), image(6, 6, (8,))]
    full = run(model.predict, branches, steps=2)[2].logits
    partial = run(model.predict, branches, steps=2, reuse=PartialCache(warmup_ratio=0.0, cache_ratio=0))[2].logits
    assert 0 < (full - partial).abs().mean() < 0.3 * full.abs().mean()


def test_closing_frees_the_cache(model):
    caches = []

    def forward(packed, rows, vocab, cache=None, queries=None):
        caches.append(weakref.ref(cache))
        return model.predict(packed, rows, vocab, cache, queries)

    sampling = ImageSampling(steps=5, reuse=PartialCache())
    states = unmask_image(forward, [image(4, 4)], sampling, CounterNoise(0), CODES, MASK)
    next(states), next(states), next(states)
    assert caches[0]() is not None
    states.close()
    gc.collect()
    assert all(cache() is None for cache in caches)


def answer(length, prompt=(5, 6, 7)):
    ids = torch.cat([torch.tensor(prompt), torch.full((length,), MASK), torch.tensor([END])])
    return Branch(ids, torch.arange(len(prompt), len(prompt) + length))


def answer_states(forward, length, **sampling):
    return list(unmask_text(forward, answer(length), TextSampling(**sampling), TEXT, MASK))


@given(length=st.integers(1, 20), block=st.integers(1, 8), steps=st.integers(1, 30))
def test_answer_is_filled_block_by_block(length, block, steps):
    states = answer_states(Stub(), length, block=block, steps=steps, never=(MASK,))
    assert states[-1].done and not states[-1].masked.any()
    assert states[-1].step == states[-1].steps == len(states) - 1
    for before, after in zip(states, states[1:], strict=False):
        filled = (before.masked & ~after.masked).nonzero().squeeze(-1)
        blocks = (filled // block).unique()
        assert len(blocks) == 1
        assert not before.masked[: blocks.item() * block].any()
        assert (after.confidence[filled] > 0).all()
        assert torch.equal(after.ids[~before.masked], before.ids[~before.masked])


def test_answer_starts_before_the_first_pass_and_stops_when_closed():
    forward = Stub()
    states = unmask_text(forward, answer(8), TextSampling(steps=8, block=4), TEXT, MASK)
    assert next(states).step == 0 and forward.calls == []
    next(states)
    states.close()
    assert len(forward.calls) == 1


def test_answer_never_holds_what_it_may_not():
    likely = Stub()
    likely.table[:, BAD] = 50.0
    assert (answer_states(likely, 6, steps=3, block=6)[-1].ids == BAD).all()
    assert (answer_states(likely, 6, steps=3, block=6, never=(BAD, MASK))[-1].ids != BAD).all()


def test_no_answer_is_empty():
    likely = Stub()
    likely.table[:, END] = 50.0
    for steps in (1, 6):
        assert (answer_states(likely, 6, steps=steps, block=6)[-1].ids == END).all()
        ids = answer_states(likely, 6, steps=steps, block=6, not_first=(END,))[-1].ids
        assert ids[0] != END and (ids[1:] == END).all()


def test_answer_stops_when_its_visible_part_is_fixed():
    def forward(packed, rows, vocab, cache=None, queries=None):
        """The surest token is an end at the second place; then the first place; then the rest."""
        logits = torch.zeros(len(rows), 20)
        for row, place in zip(logits, (packed.positions[rows] - 3).tolist(), strict=True):
            row[END if place == 1 else 10] = {1: 9.0, 0: 8.0}.get(place, 5.0)
        return logits

    states = answer_states(forward, 8, steps=8, block=8, ends=(END,))
    assert [state.done for state in states] == [False, False, True]
    assert states[-1].ids.tolist() == [10, END, *[MASK] * 6]
    assert len(answer_states(forward, 8, steps=8, block=8)) == 9


@pytest.mark.parametrize(("steps", "passes"), [(12, 12), (5, 4), (1, 2)])
def test_every_block_has_the_same_number_of_passes_and_one_at_least(steps, passes):
    assert len(answer_states(Stub(), 12, steps=steps, block=6)) == 1 + passes


def test_reuse_in_an_answer_computes_the_block_only(model):
    queries, plain = [], answer_states(model.predict, 8, steps=2, block=4, never=(MASK,))

    def forward(packed, rows, vocab, cache=None, asked=None):
        queries.append(None if asked is None else asked.tolist())
        return model.predict(packed, rows, vocab, cache, asked)

    one_pass = answer_states(forward, 8, steps=2, block=4, never=(MASK,), reuse=True)
    assert [state.ids.tolist() for state in one_pass] == [state.ids.tolist() for state in plain]
    queries.clear()
    answer_states(forward, 8, steps=4, block=4, never=(MASK,), reuse=True)
    assert queries == [None, [3, 4, 5, 6], None, [7, 8, 9, 10]]
