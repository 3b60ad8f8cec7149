"""Self-GRPO: pictures are drawn, asked about, weighed and learned from."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dimoo import layout
from dimoo.__main__ import main
from dimoo.best_of import agreement
from dimoo.checkpoint import BUILT_IN, load
from dimoo.errors import DimooError
from dimoo.evals.generate import credit
from dimoo.packed import Packed
from dimoo.tasks import Generate
from dimoo.train import run as run_module
from dimoo.train import self_grpo
from dimoo.train.adapting import Adapting
from dimoo.train.quiz import Quiz, read_quizzes, toytown_quizzes
from dimoo.train.run import Run
from dimoo.train.self_grpo import Method, advantages, answers_right, check, draw, improve, learn, softmax_weights
from dimoo.train.words import toytown_words
from dimoo.world.judge import Reading
from dimoo.world.language import Prompt, benchmark_prompts
from dimoo.world.render import render
from dimoo.world.scene import Scene, Thing

SIZE = (64, 64)
QUIZ = Quiz("a red ball", (("is there a red ball?", "yes"), ("what color is the ball?", "red")))
HOW = Method(*SIZE, steps=4, group=6, prompts=1, kl_weight=0.0)


@pytest.fixture
def fresh():
    """A pipeline of the built-in checkpoint that may be changed."""
    return load(BUILT_IN, "cpu", torch.float32)


@pytest.fixture
def clock(monkeypatch):
    """Every look at it takes a second."""
    seconds = itertools.count()
    monkeypatch.setattr(run_module, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))


# what is asked


def test_quizzes_of_the_built_in_world():
    quizzes = list(itertools.islice(toytown_quizzes(np.random.default_rng(0)), 120))
    words = {w for q in quizzes for text in (q.prompt, *itertools.chain(*q.questions)) for w in re.findall(r"\w+", text.lower())}
    assert words <= set(toytown_words())
    assert not {quiz.prompt for quiz in quizzes} & {prompt.text for prompt in benchmark_prompts()}
    asked = {(question, answer): quiz.prompt for quiz in quizzes for question, answer in quiz.questions}
    for (question, answer), prompt in asked.items():
        thing = re.match(r"is there an? (.*)\? ", question)
        if thing:
            assert (answer == "yes") == (thing[1] in prompt or thing[1].replace("man", "men") in prompt), (question, prompt)
        if question.startswith("how many"):
            assert f"{answer} " in prompt
    assert {answer for _, answer in asked} >= {"yes", "no", "two", "three", "four", "left", "right", "red"}


def test_quizzes_are_read(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a fox", "questions": [["is there a fox?", "yes"]]}\n\n{"prompt": " a teapot. "}\n')
    first, second = read_quizzes(path)
    assert first == Quiz("a fox", ((layout.short_question("is there a fox?"), "yes"),))
    assert second.prompt == "a teapot." and second.questions == ()


@pytest.mark.parametrize("text", ["", "a fox", '{"prompt": ""}', '{"prompt": "a", "questions": [["only one"]]}',
                                  '{"prompt": "a", "questions": [["", "yes"]]}',
                                  '{"prompt": "a", "questions": ["no"]}', b"\xff\xfe{"])  # fmt: skip
def test_files_that_are_no_quizzes(text, tmp_path, capsys):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["improve", str(path), "-o", str(tmp_path / "run")]) == 2
    assert str(path) in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("wrong", [["--group", "1"], ["--chosen", "0"], ["--steps", "0"], ["--prompts-per-step", "0"],
                                   ["--alpha", "nan"], ["--kl-weight", "-1"], ["--minutes", "0"], ["--steps", "2000"],
                                   ["--size", "70x64"], ["--size", "4096x4096"]])  # fmt: skip
def test_numbers_that_no_training_can_have(wrong, tmp_path, capsys):
    assert main(["improve", "-o", str(tmp_path / "run"), *wrong]) == 2
    assert capsys.readouterr().err.startswith("dimoo: ") and not (tmp_path / "run").exists()


def test_without_questions_the_reward_is_how_sure_the_model_is_of_the_prompt(built_in):
    pictures = [torch.full((4, 4), code) for code in (7, 70)]
    rewards = self_grpo.REWARDS["answers"](built_in, Quiz("a red ball", ()), pictures)
    sure = [agreement(built_in.model.predict, built_in.vocab, "a red ball", p, built_in.defaults.short_length) for p in pictures]
    assert torch.equal(rewards, torch.cat(sure)) and 0 < rewards.min() < rewards.max() < 1


# a group


def test_pictures_of_a_group_are_those_that_users_get(fresh):
    group = draw(fresh, QUIZ.prompt, HOW, seed=3)
    assert group.tokens.shape == (5, 6, 16) and (group.tokens[0] < 0).all() and (group.tokens[-1] >= 0).all()
    for before, after in itertools.pairwise(group.tokens):
        assert torch.equal(before[before >= 0], after[before >= 0]) and ((before < 0) & (after >= 0)).any(1).all()
    *_, frame = fresh.run(Generate(QUIZ.prompt, *SIZE, steps=4, seed=5, tries=1))
    assert np.array_equal(group.pictures[2].numpy(), frame.tokens)


def test_answers_are_right_as_people_would_say(fresh):
    scenes = Scene((Thing("ball", "blue"),), "meadow"), Scene((Thing("ball", "red"),), "snow")
    pictures = torch.stack([fresh.encode(render(scene, 256, 256).image) for scene in scenes])
    vocab, question = fresh.vocab, QUIZ.questions[1][0]
    branch = layout.understanding(vocab, question, [pictures[1]], fresh.defaults.short_length)
    said = fresh.model.predict(Packed.of([branch.ids]), branch.cells, vocab.text_ids).argmax(-1)
    word = vocab.decode(layout.cut_answer(vocab, said))
    assert word

    def right(*answers):
        return answers_right(fresh, Quiz(QUIZ.prompt, tuple((question, answer) for answer in answers)), pictures)[1]

    assert right(word) == right(word.upper()) == 1 and right(word, word) == 2 and right(word, f"{word} {word}", "moon") == 1


def test_weights_of_a_group():
    weights = softmax_weights(torch.tensor([1.0, 3.0, 2.0]), 1.0)
    assert weights.sum() == pytest.approx(1) and weights.tolist() == pytest.approx([0.0900, 0.6652, 0.2447], abs=1e-4)
    assert softmax_weights(torch.tensor([1.0, 3.0]), 0.0).tolist() == [0.5, 0.5]
    assert torch.equal(softmax_weights(torch.tensor([11.0, 13.0, 12.0]), 1.0), weights)
    assert advantages(torch.tensor([1.0, 3.0, 2.0]), 9.0).tolist() == pytest.approx([-1 / 3.6, 1 / 3.6, 0])
    for weigh in (softmax_weights, advantages):
        assert weigh(torch.tensor([2.0, 2.0]), 5.0).tolist() == [0, 0]


def test_a_group_in_which_all_are_equal_teaches_nothing(fresh, tmp_path):
    adapter = Adapting.begin(fresh, Run(tmp_path, 1), BUILT_IN, 1e-3, 2, 0)
    group = draw(fresh, QUIZ.prompt, HOW, seed=0)
    assert list(learn(fresh, adapter, QUIZ, group, torch.zeros(6), np.arange(4), 0.1)) == []


def test_what_weighs_more_becomes_likelier_and_the_rest_stays(fresh, tmp_path):
    adapter = Adapting.begin(fresh, Run(tmp_path, 1), BUILT_IN, 1e-3, 4, 0)
    group = draw(fresh, QUIZ.prompt, replace(HOW, group=2), seed=0)
    weights, questions = torch.tensor([-0.1, 0.5]), len(QUIZ.questions)

    def losses():
        return list(learn(fresh, adapter, QUIZ, group, weights, np.arange(4), 0.1))

    def nll(found, picture):
        return sum(loss.nll_image.item() for loss in found[picture * (4 + questions) :][:4])

    def answers(found, picture):
        return sum(loss.nll_answer.item() for loss in found[picture * (4 + questions) + 4 :][:questions])

    first = losses()
    assert len(first) == 2 * (4 + questions)
    assert all(abs(loss.kl.item()) < 1e-5 for loss in first)  # the adapter begins as nothing
    worse, better = first[:6], first[6:]
    assert sum(loss.total.item() for loss in better[4:]) == pytest.approx(0.5 * answers(first, 1) / questions, abs=1e-5)
    assert all(loss.total.item() == pytest.approx(0, abs=1e-5) for loss in worse[4:])  # wrong pictures do not unteach answers
    frozen = {name: p.clone() for name, p in fresh.model.named_parameters() if not p.requires_grad}
    adapter.run.step = 100
    for _ in range(5):
        for loss in losses():
            loss.total.backward()
        adapter.step()
    last = losses()
    assert nll(last, 1) < nll(first, 1) and nll(last, 0) - nll(last, 1) > nll(first, 0) - nll(first, 1)
    assert answers(last, 1) < answers(first, 1) and sum(loss.kl.item() for loss in last) > 0.01
    assert all(torch.equal(p, frozen[name]) for name, p in fresh.model.named_parameters() if not p.requires_grad)


def test_pictures_become_what_is_rewarded(fresh, tmp_path, monkeypatch, clock):
    """Rewarded is in how many cells that bit of the code is set that is so in half of them at first, whatever is asked.

    With advantages: softmax of such large rewards learns from the best picture alone, and pictures lose their variety first.
    """
    rewards, favourite = [], []

    def reward(pipeline, quiz, pictures):
        codes = torch.stack([picture.flatten() for picture in pictures])
        bits = codes[..., None] >> torch.arange(12) & 1
        favourite.append(int((bits.float().mean((0, 1)) - 0.5).abs().argmin()))
        right = bits[..., favourite[0]].float()
        rewards.append(right.mean().item())
        return right.sum(1)

    monkeypatch.setitem(self_grpo.REWARDS, "answers", reward)
    how = Method(*SIZE, steps=4, group=8, prompts=1, chosen=2, kl_weight=0.01, weights="advantages")
    improve(fresh, BUILT_IN, [Quiz("a red ball", ())], tmp_path, 1.7, how, rate=1e-3, rank=4)
    assert len(rewards) > 10 and np.mean(rewards[-4:]) > np.mean(rewards[:4]) + 0.2
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {"reward", "groups of use", "nll_image", "kl"} <= set(logged[0]) and "nll_answer" not in logged[0]
    adapted = load(tmp_path / "adapter", "cpu", torch.float32)
    pictures = draw(adapted, "a red ball", how, seed=10**6).pictures
    assert reward(adapted, None, pictures).mean() / 16 > np.mean(rewards[:4]) + 0.2


def test_the_judge_rewards_what_is_there():
    prompt = Prompt("two objects", "", (("ball", "red", 1), ("cube", None, 1)), setting="snow")
    ball, cube, tree = Thing("ball", "red", column=-4), Thing("cube", "blue", column=3), Thing("tree", "red")
    for things, setting, expected in [
        ((), "snow", 0), ((ball,), "snow", 0.25), ((ball, cube), "snow", 1.5), ((ball, cube), "beach", 0.5),
        ((ball, cube, tree), "snow", 1.35), ((tree,), "snow", -0.15), ((ball, ball, cube), "snow", 1.35),
    ]:  # fmt: skip
        assert credit(prompt, Reading(setting, things)) == pytest.approx(expected), (things, setting)


def test_a_run_with_the_judge_is_continued(tmp_path, clock, capsys):
    command = ["improve", "-o", str(tmp_path), "--reward", "judge", "--weights", "advantages", "--size", "256x256",
               "--group", "2", "--prompts-per-step", "1", "--steps", "2", "--chosen", "1", "--rank", "2"]  # fmt: skip
    assert main([*command, "--minutes", "0.06"]) == 0
    steps = torch.load(tmp_path / "state.pt", weights_only=True)["step"]
    assert main([*command, "--minutes", "0.2"]) == 0
    assert f"continuing at step {steps}" in capsys.readouterr().err
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] > steps
    assert main([*command, str(tmp_path / "prompts.jsonl")]) == 2 and "Toytown's own prompts only" in capsys.readouterr().err


@pytest.mark.parametrize("quiz, sentence", [
    (Quiz("a wombat", (("is it red?", "yes"),)), "knows none of these words: wombat"),
    (Quiz("a ball", (("is it a wombat?", "yes"),)), "does not know wombat"),
    (Quiz("a ball", (("what is it?", "red " * 9),)), "An answer must be short"),
    (Quiz("a ball", ()), "cannot say whether a picture shows its prompt"),
])  # fmt: skip
def test_what_cannot_be_asked_is_refused(built_in, quiz, sentence):
    with pytest.raises(DimooError, match=sentence):
        check(built_in, [quiz], HOW)


def test_who_cannot_answer_cannot_reward(built_in):
    mute = replace(built_in, defaults=replace(built_in.defaults, tasks=("generate",)))
    with pytest.raises(DimooError, match="has not learned to answer"):
        check(mute, [QUIZ], HOW)
    check(mute, None, replace(HOW, reward="judge"))


def test_the_command_goes_from_prompts_to_an_adapter(tmp_path, clock, capsys):
    command = ["improve", "-o", str(tmp_path / "run"), "--group", "2", "--prompts-per-step", "1", "--steps", "2", "--chosen", "1"]
    assert main([*command, "--minutes", "0.04"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run" / "adapter")
    assert load(tmp_path / "run" / "adapter", "cpu").defaults.name == "Toytown + run"
    with pytest.raises(DimooError, match="another checkpoint, rank, seed, method, or other prompts"):
        improve(load(BUILT_IN, "cpu"), BUILT_IN, [QUIZ], tmp_path / "run", 1, HOW)
