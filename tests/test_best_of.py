"""Several tries at a picture: which is kept, how they are numbered, and what becomes of a run that is stopped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dimoo import layout
from dimoo.best_of import SEEDS_APART, BestOf, agreement, minimax_regret, prompt_scores
from dimoo.knobs import knobs
from dimoo.packed import Packed
from dimoo.sampler import ImageState
from dimoo.tasks import SEEDS, Generate
from dimoo.ui.gallery import details_html
from dimoo.ui.stage import status_line

STEPS = 3


def states(number: int, steps: int = STEPS):
    """Of a picture of one cell, whose code tells the try."""
    for step in range(steps + 1):
        tokens = torch.tensor([number if step == steps else -1])
        yield ImageState(step, steps, tokens, tokens, torch.ones(1))


NAN = float("nan")


@pytest.mark.parametrize("scores, kept", [([1.0], 0), ([1.0, 2.0], 1), ([2.0, 1.0, 1.5], 0), ([1.0, 1.0], 0), ([NAN, NAN], 0)])
def test_the_best_try_is_shown_at_the_end(scores, kept):
    tries = BestOf(len(scores), states, lambda tokens: torch.tensor([scores[int(tokens)]]))
    seen = list(tries)
    total = STEPS * len(scores)
    assert [state.step for state in seen] == list(range(total + 1)) and {state.steps for state in seen} == {total}
    assert [state.done for state in seen] == [False] * total + [True]
    assert tries.kept == kept == int(seen[-1].tokens) and int(tries.best.tokens) == kept
    assert [int(state.tokens) for state in seen[STEPS:-1:STEPS]] == list(range(len(scores) - 1))


@pytest.mark.parametrize("enough, made, kept", [(0.1, 1, 0), (0.5, 2, 1), (0.6, 4, 2), (0.55, 3, 2)])
def test_no_try_is_made_after_one_that_is_good_enough(enough, made, kept):
    scores, attempts = [0.2, 0.5, 0.59, 0.3], []
    tries = BestOf(4, states, lambda tokens: torch.tensor([scores[int(tokens)]]), enough)
    for state in tries:
        attempts.append((tries.attempt, state))
    last = attempts[-1][1]
    assert len(tries.scores) == made and tries.kept == kept == int(last.tokens)
    assert last.done and last.step == last.steps == made * STEPS
    later = [number + 1 for number in range(1, made) for _ in range(STEPS)]
    assert [attempt for attempt, _ in attempts] == [1] * (STEPS + 1) + later


def test_a_single_try_is_not_assessed():
    tries = BestOf(1, states, lambda tokens: pytest.fail("nothing to choose from"), 0.5)
    assert [state.step for state in tries] == list(range(STEPS + 1)) and tries.scores == [] and tries.kept == 0


def test_tries_that_are_closed_close_what_draws():
    closed = []

    def draw(number):
        try:
            yield from states(number)
        finally:
            closed.append(number)

    running = iter(BestOf(2, draw, lambda tokens: torch.zeros(1)))
    for _ in range(STEPS + 2):
        next(running)
    running.close()
    assert closed == [0, 1]


@pytest.mark.parametrize("scores, kept", [
    ([[-1, -9], [-3, -3]], 1),  # one is two behind at worst, the other six
    ([[-1, -9, -20], [-3, -3, -18]], 1),
    ([[-1, -2, -20], [-3, -3, -19.5]], 0),  # a word that neither can help decides nothing
    ([[-5, -1], [-1, -3], [-2, -2]], 2),
    ([[], []], 0),
])  # fmt: skip
def test_the_try_is_kept_that_falls_least_behind_in_any_word(scores, kept):
    assert minimax_regret(torch.tensor(scores, dtype=torch.float32)) == kept


def test_words_are_read_off_a_masked_prompt(pipeline):
    vocab, model = pipeline.vocab, pipeline.model
    codes = torch.arange(12).view(3, 4)
    branch, words = layout.masked_prompt(vocab, "a red ball", codes)
    plain = layout.text_to_image(vocab, "a red ball", 3, 4, codes)[0]
    differ = (branch.ids != plain.ids).nonzero()[:, 0]
    assert differ.tolist() == branch.cells.tolist() and plain.ids[differ].tolist() == words.tolist() == vocab.encode("a red ball")
    assert set(branch.ids[differ].tolist()) == {vocab.ids.mask}
    logits = model.predict(Packed.of([branch.ids]), branch.cells, vocab.text_ids)
    odds = [float(row.softmax(-1)[word]) for row, word in zip(logits, words, strict=True)]
    assert prompt_scores(model.predict, vocab, "a red ball", codes).tolist() == pytest.approx(np.log(odds).tolist(), abs=1e-5)


def test_the_model_is_asked_whether_a_picture_shows_its_prompt(built_in):
    vocab, model = built_in.vocab, built_in.model
    codes = torch.arange(12).view(3, 4)
    question = 'Is this image shows a red ball? Please answer "Yes" or "No" directly without explanation.'
    branch = layout.understanding(vocab, question, [codes], 5)
    logits = model.predict(Packed.of([branch.ids]), branch.cells[:1], vocab.text_ids)[0]
    both = {word: [vocab.encode(form)[0] for form in (word, word.capitalize())] for word in ("yes", "no")}
    odds = {word: sum(float(logits[i].exp()) for i in dict.fromkeys(ids)) for word, ids in both.items()}
    expected = odds["yes"] / (odds["yes"] + odds["no"])
    assert vocab.unknown_words(question) == [] and 0 < expected < 1 and expected != 0.5
    for prompt in ("a red ball", " a red ball. "):
        assert agreement(model.predict, vocab, prompt, codes, 5).tolist() == pytest.approx([expected], rel=1e-4)


def by_words(pipeline):
    """The same, but it makes every try, and reads the words of the prompt off them."""
    return replace(pipeline, defaults=replace(pipeline.defaults, assess="words"))


def test_a_picture_of_several_tries_is_one_of_them(pipeline, monkeypatch):
    pipeline = by_words(pipeline)
    request = Generate("a red ball", 64, 64, steps=4, seed=7, tries=3)
    frames = list(pipeline.run(request))
    assert [frame.step for frame in frames] == list(range(13)) and all(frame.tries == 3 for frame in frames)
    last = frames[-1]
    assert last.settings["tries"] == 3 and last.settings["seed"] == 7
    drawn = [frames[4 * number].tokens for number in (1, 2)]
    single = list(pipeline.run(replace(request, tries=1)))[-1]
    assert np.array_equal(drawn[0], single.tokens) and "kept" not in single.settings and single.tries == 1
    assert not np.array_equal(drawn[0], drawn[1])
    again = list(pipeline.run(request))[-1]
    assert np.array_equal(again.tokens, last.tokens) and again.settings["kept"] == last.settings["kept"]
    scores = iter(torch.tensor([[0.0], [1.0], [0.5]]))
    monkeypatch.setattr("dimoo.pipeline.prompt_scores", lambda *_: next(scores))
    last = list(pipeline.run(request))[-1]
    assert last.settings["kept"] == 2 and np.array_equal(last.tokens, drawn[1]) and not last.masked.any()
    assert "try 2 of 3" in details_html(last.settings)
    told = [status_line(frame).split(" · ")[0] for frame in frames]
    assert told == ["Try 1 of 3"] * 5 + ["Try 2 of 3"] * 4 + ["Try 3 of 3"] * 4
    assert status_line(single).startswith("Step 4 of 4")


def test_a_picture_that_the_model_is_sure_of_is_the_last_try(pipeline, monkeypatch):
    request = Generate("a red ball", 64, 64, steps=4, seed=7, tries=3, count=2)
    scores = iter((0.3, 0.9, 0.95))
    monkeypatch.setattr("dimoo.pipeline.agreement", lambda *_: torch.tensor([next(scores)]))
    frames = list(pipeline.run(request))
    first, second = (frame for frame in frames if frame.image is not None)
    assert (first.settings["kept"], first.settings["agreement"], first.step, first.steps, first.attempt) == (2, 0.9, 8, 8, 2)
    assert (second.settings["kept"], second.settings["agreement"], second.step, second.steps) == (1, 0.95, 4, 4)
    alone = list(pipeline.run(replace(request, tries=1, count=1, seed=7 + SEEDS_APART)))[-1]
    assert np.array_equal(first.tokens, alone.tokens)
    assert second.seconds_left == 0 and next(scores, None) is None
    assert "try 2 of 3, 90% sure that it fits" in details_html(first.settings)


def test_every_try_has_a_seed_of_its_own(pipeline):
    most = knobs(Generate)["tries"].high
    seeds = {(seed + number * SEEDS_APART) % SEEDS for seed in range(4) for number in range(most)}
    assert len(seeds) == 4 * most


def test_who_stops_a_later_try_gets_the_complete_picture_before(pipeline):
    pipeline = by_words(pipeline)
    request = Generate("a red ball", 64, 64, steps=4, seed=7, tries=2)
    whole = list(pipeline.run(request))[4].tokens
    asked = iter(range(100))
    *_, last = pipeline.run(request, stop=lambda: next(asked) == 6)
    assert last.stopped and "stopped" not in last.settings and last.settings["tries"] == last.settings["kept"] == 1
    assert not last.masked.any() and np.array_equal(last.tokens, whole)
    asked = iter(range(100))
    *_, last = pipeline.run(request, stop=lambda: next(asked) == 2)
    assert last.settings["stopped"] == "2/8" and last.masked.any() and "kept" not in last.settings


def test_a_checkpoint_that_cannot_judge_its_tries_says_so(pipeline, built_in):
    request = Generate("a red ball", tries=2)
    assert "tell which of its tries is best" in pipeline.check(request)[1][0]  # it does not know the words yes and no
    for assess, notes in (("words", 0), ("question", 0), ("none", 1)):
        able = replace(built_in, defaults=replace(built_in.defaults, assess=assess))
        assert len(able.check(request)[1]) == notes
    able = replace(pipeline, defaults=replace(pipeline.defaults, tries=2, assess="words"))
    assert able.check(request)[1] == [] and Generate("a red ball").resolve(able.defaults).tries == 2
    twice, once = (able.gpu_seconds(Generate("a red ball", tries=tries)) for tries in (2, 1))
    assert twice - 10 == pytest.approx(2 * (once - 10))
