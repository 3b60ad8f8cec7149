"""Answers: token by token as they are decided, cut at their end, and never a token that is none of theirs."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from dimoo.answers import pieces_of
from dimoo.errors import DimooError
from dimoo.sampler import TextState
from dimoo.tasks import Chat, request_from

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8))
QUESTION = "is the ball on the left?"


def ask(pipeline, stop=lambda: False, **fields):
    return list(pipeline.run(Chat((PICTURE,), QUESTION, **fields), stop))


@pytest.fixture
def saying(pipeline, monkeypatch):
    """Makes the model sure of the given ids, place by place, in the order of the given places."""

    def say(ids, order=None):
        order = list(range(len(ids))) if order is None else order
        table = torch.zeros(len(ids), pipeline.vocab.image_offset)
        for rank, place in enumerate(order):
            table[place, ids[place]] = 12.0 - rank

        def predict(packed, rows, vocab, cache=None, queries=None):
            return table[rows - len(packed.ids) + 1 + len(ids)][:, vocab]

        monkeypatch.setattr(pipeline.model, "predict", predict)

    return say


def test_an_answer_unfolds_until_nothing_is_masked(pipeline):
    answers = ask(pipeline, length=12, block=4, steps=12)
    assert [answer.step for answer in answers] == list(range(len(answers)))
    first, end = answers[0], answers[-1]
    assert first.pieces == [("", None)] * 4 and first.text == "" and first.seconds_left is None
    assert end.done and not end.stopped and end.seconds_left == 0
    assert all(not answer.done and answer.settings is None for answer in answers[:-1])
    for answer in answers:
        texts = [text for text, probability in answer.pieces if probability is not None]
        assert answer.text == "".join(texts).strip()
        assert all(0 < p <= 1 + 1e-6 for _, p in answer.pieces if p is not None)
    assert all(probability is not None for _, probability in end.pieces)


def test_answers_hold_words_only(pipeline, saying):
    """However sure the model is of ids that are no words: what would take their place is a word."""
    ids = [*pipeline.vocab.never_in_answers][:8]
    assert pipeline.vocab.ids.mask in ids or pipeline.vocab.tokenizer.unk_token_id in ids
    saying(ids)
    end = ask(pipeline, length=8, block=8, steps=8)[-1]
    assert len(end.pieces) == 8 and all(text.strip() for text, _ in end.pieces)


def test_settings_of_an_answer(pipeline):
    end = ask(pipeline, short=True)[-1]
    assert {k: v for k, v in end.settings.items() if k not in ("seconds", "version")} == {
        "task": "chat", "prompt": QUESTION, "short": True, "length": 16, "block": 16, "steps": 16, "cache": True,
        "model": "Testville", "precision": "float32", "answer": end.text,
        "question": f"{QUESTION} Answer the question using a single word or phrase.",
    }  # fmt: skip
    again = list(pipeline.run(request_from(end.settings, images=(PICTURE,))))[-1]
    assert again.text == end.text
    assert pickle.loads(pickle.dumps(end)).pieces == end.pieces


def test_the_picture_and_the_question_matter(pipeline):
    def confidences(picture, question):
        *_, end = pipeline.run(Chat((picture,), question, length=4, block=4, steps=4))
        return [probability for _, probability in end.pieces]

    one = confidences(PICTURE, QUESTION)
    assert one != confidences(PICTURE.transpose(Image.Transpose.ROTATE_90), QUESTION)
    assert one != confidences(PICTURE, "is it red?")


def test_an_answer_stops_at_its_end(pipeline, saying):
    vocab = pipeline.vocab
    red, ball, dot = vocab.encode("red ball.")
    saying([red, ball, dot, vocab.ids.answer_end, *[vocab.ids.pad] * 4])
    answers = ask(pipeline, length=8, block=8, steps=8)
    assert [answer.text for answer in answers] == ["", "red", "red ball", "red ball.", "red ball."]
    assert answers[-1].done and answers[-1].step == 4
    assert answers[1].pieces[0] == ("red", pytest.approx(1, abs=1e-3)) and answers[1].pieces[1:] == [("", None)] * 7
    assert [text for text, _ in answers[-1].pieces] == ["red", " ball", "."]


def test_what_comes_after_an_end_is_never_shown(pipeline, saying):
    vocab = pipeline.vocab
    red, ball = vocab.encode("red ball")
    ids = [red, vocab.ids.answer_end, ball, ball]
    saying(ids, order=[3, 2, 1, 0])  # the words after the end are the surest
    answers = ask(pipeline, length=4, block=4, steps=4)
    assert [text for text, _ in answers[1].pieces] == ["", "", "", "ball"]
    assert answers[3].pieces == [("", None)]  # the end is known, the word before it not yet
    assert answers[-1].text == "red" and answers[-1].step == 4


def test_an_answer_has_a_word_even_if_the_model_would_end_it_at_once(pipeline, saying):
    saying([pipeline.vocab.ids.answer_end, *[pipeline.vocab.ids.pad] * 3])
    answers = ask(pipeline, length=4, block=4, steps=4)
    assert len(answers[-1].pieces) == 1 and answers[-1].text == answers[-1].settings["answer"] != ""


def test_masked_tokens_after_the_current_block_are_left_out(pipeline, saying):
    (red,) = pipeline.vocab.encode("red")
    saying([red] * 6)
    shown = [answer.pieces for answer in ask(pipeline, length=6, block=2, steps=6)]
    assert [len(pieces) for pieces in shown] == [2, 2, 4, 4, 6, 6, 6]
    assert [sum(p is None for _, p in pieces) for pieces in shown] == [2, 1, 2, 1, 2, 1, 0]


def test_padding_is_left_out(pipeline):
    vocab = pipeline.vocab
    red, ball = vocab.encode("red ball")
    ids = torch.tensor([red, vocab.ids.pad, vocab.ids.mask, ball])
    state = TextState(1, 4, ids, ids == vocab.ids.mask, torch.tensor([0.5, 0.6, 0.0, 0.75]))
    assert pieces_of(vocab, state, 4) == [("red", 0.5), ("", None), (" ball", 0.75)]


def test_a_stop_keeps_what_is_decided(pipeline):
    steps = iter(range(100))
    answers = ask(pipeline, lambda: next(steps) >= 3, length=12, block=4, steps=12)
    end = answers[-1]
    assert len(answers) == 4 and end.stopped and end.done
    assert end.settings["stopped"] == "3/12" and end.settings["answer"] == end.text
    assert any(probability is None for _, probability in end.pieces)


def test_closing_ends_the_work(pipeline, monkeypatch):
    passes, predict = [], pipeline.model.predict
    monkeypatch.setattr(pipeline.model, "predict", lambda *a, **k: passes.append(1) or predict(*a, **k))
    answers = pipeline.run(Chat((PICTURE,), QUESTION))
    list(islice(answers, 3))
    answers.close()
    assert len(passes) == 2 and list(answers) == []


def test_a_cached_answer_with_one_step_a_block_is_the_plain_one(pipeline):
    cached, plain = (ask(pipeline, length=12, block=4, steps=3, cache=cache)[-1] for cache in (True, False))
    assert cached.pieces == plain.pieces


def test_questions_about_several_pictures_or_none(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline, "defaults", replace(pipeline.defaults, edit_side=64, text_only=True))
    for pictures in ((), (PICTURE, PICTURE)):
        *_, end = pipeline.run(Chat(pictures, QUESTION, length=4, block=4, steps=2))
        assert end.done
    monkeypatch.setattr(pipeline, "defaults", replace(pipeline.defaults, text_only=False))
    with pytest.raises(DimooError, match="pictures only"):
        next(pipeline.run(Chat((), QUESTION)))
