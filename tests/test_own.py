"""Verifying: claims about scenes, pictures that a checkpoint drew itself, and what is made of both for training."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_config

from dimoo.evals.generate import fulfilled, shows
from dimoo.train import own
from dimoo.train.claims import Claims, untrue_caption
from dimoo.train.data import Teacher
from dimoo.train.families import Family, name_of
from dimoo.train.own import Own, own_pictures
from dimoo.train.self_grpo import Method
from dimoo.train.words import toytown_words
from dimoo.vocab import Vocabulary
from dimoo.world.judge import Reading
from dimoo.world.language import NUMBERS, PLACES, PLURALS, Prompt, benchmark_prompts, captioned_scene
from dimoo.world.scene import COLORS, KINDS, Scene, Thing

NOUNS = {word: kind for kind in KINDS for word in (kind, PLURALS.get(kind, kind + "s"))}
NOUNS |= {"sphere": "ball", "spheres": "ball", "block": "cube", "blocks": "cube", "person": "figure", "people": "figure"}
SCENE = Scene((Thing("ball", "red", column=-4), Thing("tree", "green", column=4, row=2)), "snow")


@pytest.fixture(scope="module")
def claims():
    return Claims({prompt.text for prompt in benchmark_prompts()})


# claims


def wrong(text: str, scene: Scene) -> set[str]:
    """What a caption says that is not so, read off its words."""
    words = re.findall(r"\w+", text.replace("green meadow", "meadow"))
    kinds = [NOUNS[word] for word in words if word in NOUNS]
    out = set()
    if set(kinds) - {thing.kind for thing in scene.things}:
        out.add("kind")
    if {word for word in words if word in COLORS} - {thing.color for thing in scene.things}:
        out.add("color")
    numbers = {word: NUMBERS.index(word) for word in words if word in NUMBERS}
    said = sum(numbers.values()) + len(kinds) - len(numbers)
    if said > len(scene.things):
        out.add("count")
    if any(phrase in text for setting, phrases in PLACES.items() if setting != scene.setting for phrase in phrases):
        out.add("setting")
    return out


def test_an_untrue_caption_is_wrong_in_one_way():
    rng = np.random.default_rng(0)
    scene = SCENE.with_(things=(SCENE.things[0], replace(SCENE.things[1], row=1)))
    ways = Counter()
    for _ in range(600):
        text = untrue_caption(rng, scene)
        if text is None:
            continue
        found = wrong(text, scene)
        mirrored = re.search(r"(ball|sphere)\W.*right of.*tree|tree\W.*left of.*(ball|sphere)", text)
        assert len(found) == 1 or not found and mirrored, text
        ways[found.pop() if found else "side"] += 1
    assert ways.keys() == {"kind", "color", "count", "side", "setting"} and min(ways.values()) > 20
    crowd = Scene(tuple(Thing("ball", color, column=4 * i) for i, color in enumerate(COLORS[:4])), "night")
    assert not any(wrong(text, crowd) == {"count"} for text in filter(None, (untrue_caption(rng, crowd) for _ in range(60))))


def test_claims_are_true_or_nearly(claims):
    rng = np.random.default_rng(1)
    prompts = {prompt.text: prompt for prompt in itertools.chain(*claims.prompts.values())}
    held_out = {prompt.text for prompt in benchmark_prompts()}
    seen = Counter()
    for i in range(200):
        scene, _ = captioned_scene(rng)
        true = bool(i % 2)
        text = claims.about(rng, scene, true)
        if text is None:
            continue
        assert text not in held_out and set(re.findall(r"\w+", text)) <= set(toytown_words())
        prompt = prompts.get(text)
        if prompt:
            assert shows(prompt, Reading(scene.setting, scene.things)) == true
            there = {kind for kind, _, _ in prompt.wanted} & {thing.kind for thing in scene.things}
            assert there or not true and len(prompt.wanted) == 1  # a caption of a wrong kind may be a prompt, too
        elif true:
            assert not wrong(text, scene)
        seen[true, prompt is None] += 1
    assert len(seen) == 4 and min(seen.values()) > 15


def test_of_a_picture_without_things_only_its_prompt_can_be_said(claims):
    assert not any(claims.about(np.random.default_rng(i), Scene((), "snow"), bool(i % 2)) for i in range(20))


def test_a_picture_shows_the_setting_too():
    prompt = Prompt("single object", "a photo of a ball in the snow", (("ball", None, 1),), setting="snow")
    assert shows(prompt, Reading("snow", SCENE.things)) and fulfilled(prompt, Reading("night", SCENE.things))
    assert not shows(prompt, Reading("night", SCENE.things))


# own pictures


def test_own_pictures_are_drawn_once_and_read_by_the_judge(built_in, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(own, "METHOD", Method(128, 128, steps=2, group=2))
    threads = torch.get_num_threads()
    drawn = own_pictures(built_in, tmp_path, 3, seed=4)
    assert torch.get_num_threads() == threads and "4 of 4" in capsys.readouterr().err
    assert [picture.prompt.text for picture in drawn] == [drawn[0].prompt.text] * 2 + [drawn[2].prompt.text]
    for picture in drawn:
        assert picture.codes.shape == (8, 8) and (picture.shot.rows, picture.shot.columns) == (8, 8)
        assert picture.reading == own.seen(built_in, picture.codes) and picture.reading.scene == picture.shot.scene
    asked = []
    draw = own.draw
    monkeypatch.setattr(own, "draw", lambda pipeline, prompt, *rest: asked.append(prompt) or draw(pipeline, prompt, *rest))
    more = own_pictures(built_in, tmp_path, 6, seed=4)
    assert len(asked) == 1 and [p.codes.tolist() for p in more[:3]] == [p.codes.tolist() for p in drawn]
    (tmp_path / "other").mkdir()
    anew = own_pictures(built_in, tmp_path / "other", 6, seed=4)
    assert [p.codes.tolist() for p in anew] == [p.codes.tolist() for p in more] and len(asked) == 4
    own_pictures(built_in, tmp_path, 2, seed=5)  # of other prompts, so it keeps them in another file
    assert len(asked) == 5


def test_pictures_are_checked_in_training(words):
    """Own ones with their own prompts or with claims, and renders; no as often as yes."""
    vocab = Vocabulary.load(words, tiny_config(64))
    families = [Family(seed) for seed in range(40)]
    codes = {name_of(f.base): np.full((f.base.rows, f.base.columns), 3, np.int16) for f in families}
    right = Prompt("single object", "a photo of a ball in the snow", (("ball", None, 1),), setting="snow")
    wrong = Prompt("single object", "a photo of a tree at night", (("tree", None, 1),), setting="night")
    drawn = [Own(prompt, torch.full((16, 16), 60), Reading(SCENE.setting, SCENE.things)) for prompt in (right, wrong)]
    told, own_told = Counter(), Counter()
    for examples in itertools.islice(Teacher(vocab, codes, families, drawn).batches(300, 0, lambda: {"check": 1.0}), 300):
        for example in examples:
            ids = example.ids.tolist()
            said = ids[ids.index(vocab.ids.user) : ids.index(vocab.ids.user_end)]
            text = vocab.decode([i for i in said if i < vocab.image_offset])
            answer = vocab.decode(example.targets[: example.answer - 1].tolist())
            (shown,) = {i - vocab.image_offset for i in ids if i >= vocab.image_offset}
            assert example.targets[example.answer - 1] == vocab.ids.answer_end and not example.draws
            told[answer] += 1
            if shown == 60:
                own_told[next((p.text for p in (right, wrong) if p.text in text), "other"), answer] += 1
    assert told.keys() == {"yes", "no"} and 0.3 < told["yes"] / told.total() < 0.7
    assert own_told.keys() == {(right.text, "yes"), (wrong.text, "no"), ("other", "yes"), ("other", "no")}
    assert 0.5 < own_told.total() / told.total() < 0.9
    plain = Teacher(vocab, codes, families).batches(300, 0, lambda: {"check": 1.0})
    assert all((example.ids == vocab.image_offset + 3).any() for examples in itertools.islice(plain, 20) for example in examples)
