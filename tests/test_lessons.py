"""Lessons: targets differ from what is given exactly as the words say, and every word is known."""

import re
from dataclasses import fields, replace
from itertools import islice

import numpy as np
import pytest

from dimoo.train.words import toytown_words
from dimoo.world.language import DESCRIBE, NAMES, PLACES, RELATIONS, captioned_scene, description, questions, related
from dimoo.world.lessons import BACKGROUNDS, INSTRUCTIONS, LESSONS, Shot, reference
from dimoo.world.render import render
from dimoo.world.scene import COLORS, KINDS, SETTINGS, STYLES, VIEWS, Scene, Thing
from dimoo.world.styles import MAPS

PAIR = (Thing("ball", "red", column=-4), Thing("cube", "blue", column=3, row=0))


def lessons(kind, count=60):
    """The first lessons of a kind."""
    def drawn():
        for seed in range(100_000):
            rng = np.random.default_rng(seed)
            lesson = LESSONS[kind](rng, Shot(captioned_scene(rng)[0]))
            if lesson:
                yield lesson

    return list(islice(drawn(), count))


def both(lesson):
    """The things that are only given, and those that are only in the target."""
    before, after = lesson.inputs[0].scene.things, lesson.target.scene.things
    return [t for t in before if t not in after], [t for t in after if t not in before]


def differing(a, b):
    return {f.name for f in fields(a) if getattr(a, f.name) != getattr(b, f.name)}


def meant(words, things):
    """The things that words such as "large red ball" mean."""
    *looks, kind = words.split()
    return [t for t in things if t.kind == kind and all(w in (t.color, t.material, t.size) for w in looks)]


def looks(text):
    """Colour, kind and size that end a text such as "… with a small metal red ball"."""
    size, color, kind = re.search(r"\ban? (small )?(?:metal )?(\w+) (\w+)$", text).groups()
    return color, kind, "small" if size else "large"


def same_canvas(lesson):
    return all((s.rows, s.columns) == (lesson.target.rows, lesson.target.columns) for s in lesson.inputs)


# references


def test_references_mean_one_thing():
    alike, named = 0, set()
    for seed in range(300):
        things = captioned_scene(np.random.default_rng(seed))[0].things
        for thing in things:
            words = reference(thing, things)
            if words is None:
                alike += 1
                assert sum(differing(t, thing) <= {"column", "row", "pose", "letter"} for t in things) > 1
                continue
            assert meant(words, things) == [thing]
            named.add(len(words.split()))
            shorter = words.split()[1:]  # without the last addition it would mean several
            assert not shorter or len(meant(" ".join(shorter), things)) > 1 or shorter[0] in ("metal", "matte")
    assert alike > 0 and named >= {1, 2, 3}


# instructions


def test_removing():
    for lesson in lessons("remove"):
        (gone,), new = both(lesson)
        assert new == [] and lesson.inputs[0].scene.setting == lesson.target.scene.setting and same_canvas(lesson)
        for text in lesson.texts:
            assert meant(text.split(" the ")[1], lesson.inputs[0].scene.things) == [gone], text


def test_adding_undoes_removing():
    for seed in range(80):
        scene = captioned_scene(np.random.default_rng(seed))[0]
        there, back = (LESSONS[kind](np.random.default_rng(seed), Shot(scene)) for kind in ("remove", "add"))
        assert (there is None) == (back is None) == (len(scene.things) < 2 or not any(
            reference(t, scene.things) for t in scene.things))  # fmt: skip
        if there:
            assert (there.inputs, there.target) == ((back.target,), back.inputs[0])


def test_adding_says_what_and_where():
    said = set()
    for lesson in lessons("add"):
        gone, (new,) = both(lesson)
        assert gone == []
        others = lesson.inputs[0].scene.things
        for text in lesson.texts:
            what = re.match(r"(?:add|put) (an? (?:small )?(?:metal )?\w+ \w+)(.*)", text)
            assert looks(what[1]) == (new.color, new.kind, new.size)
            where = what[2].strip()
            relation = next((r for r, phrases in RELATIONS.items() if where.startswith(f"{phrases[0]} the ")), None)
            if relation:
                (other,) = meant(where.split(" the ")[-1], others)
                assert related(new, other, relation), text
            elif where:
                side = {"on the left": -1, "in the middle": 0, "on the right": 1}[where]
                assert np.sign(new.column) * (abs(new.column) > 16 / 6) == side
            said.add(relation or where)
    assert said == {*RELATIONS, "on the left", "in the middle", "on the right", ""}


def test_replacing():
    for lesson in lessons("replace"):
        (old,), (new,) = both(lesson)
        assert new.kind != old.kind and (new.column, new.row, new.size) == (old.column, old.row, old.size)
        assert differing(old, new) <= {"kind", "color", "pose", "letter"}
        for text in lesson.texts:
            words = re.match(r"\w+ the (.*?) (?:with|for|to|into) an? ", text)[1]
            assert meant(words, lesson.inputs[0].scene.things) == [old]
            assert looks(text) == (new.color, new.kind, new.size)


def test_recolouring():
    for lesson in lessons("recolor"):
        (old,), (new,) = both(lesson)
        assert differing(old, new) == {"color"}
        for text in lesson.texts:
            assert [word for word in text.split() if word in COLORS][-1] == text.split()[-1] == new.color
            words = re.search(rf"\bthe ((?:\w+ )*?(?:{'|'.join(KINDS)}))\b", text.replace("the color of ", ""))[1]
            assert meant(words, lesson.inputs[0].scene.things) == [old], text


def test_changing_the_background():
    seen = set()
    for lesson in lessons("background"):
        before, after = lesson.inputs[0].scene, lesson.target.scene
        assert before.things == after.things and before.setting != after.setting
        allowed = (*BACKGROUNDS[after.setting], *PLACES[after.setting])
        assert all(text.endswith(allowed) for text in lesson.texts)
        seen.add(after.setting)
    assert seen == set(SETTINGS)


def test_letters():
    first = 0
    for lesson in lessons("text"):
        (old,), (new,) = both(lesson)
        assert new.kind == "cube" and differing(old, new) == {"letter"} and new.letter
        first += not old.letter
        for text in lesson.texts:
            letter = re.search(r"\bletter ([a-z])\b", text) or re.search(r" ([a-z])$", text)
            assert letter[1].upper() == new.letter
            words = re.search(r"\b(?:on|to) the ((?:\w+ )*cube)\b", text)[1]
            assert meant(words, lesson.inputs[0].scene.things) == [old], text
    assert 10 < first < 60


# other lessons


@pytest.mark.parametrize("task", ["control", "predict"])
def test_maps_belong_to_their_pictures(task):
    kinds = set()
    for lesson in lessons(task):
        kind = lesson.kind.removeprefix(f"{task} ")
        (given,) = lesson.inputs
        a, b = (given, lesson.target) if task == "control" else (lesson.target, given)
        assert a == replace(b, look=kind) and b.look == "render"
        assert kind != "openpose" or any(t.kind == "figure" for t in b.scene.things)
        assert bool(lesson.texts) == (task == "control")
        kinds.add(kind)
    assert kinds == set(MAPS)


def test_subjects_stand_alone():
    for lesson in lessons("subject"):
        (given,) = lesson.inputs
        (thing,) = given.scene.things
        assert given.scene.setting == "studio" and (thing.column, thing.row) == (2, 1)
        (same, *_) = [t for t in lesson.target.scene.things if differing(t, thing) <= {"column", "row"}]
        for text in lesson.texts:
            assert re.match(rf"this ({'|'.join([*NAMES[thing.kind], 'object'])})\b", text)
            assert text.endswith(PLACES[lesson.target.scene.setting])
            others = re.findall(rf"\ban? (?:small |metal )*({'|'.join(COLORS)}) ({'|'.join(KINDS)})\b", text)
            assert sorted([*others, (same.color, same.kind)]) == sorted((t.color, t.kind) for t in lesson.target.scene.things)


def test_styles_and_views():
    for lesson in lessons("style"):
        content, reference_ = lesson.inputs
        assert content.look == "render" and lesson.target == replace(content, look=reference_.look)
        assert reference_.look in STYLES[1:] and reference_.scene != content.scene
    for lesson in lessons("view", 20):
        (given,), (side,) = lesson.inputs, lesson.texts
        assert given.scene.view == "front" != side and side in VIEWS
        assert lesson.target == replace(given, scene=given.scene.with_(view=side))


def test_every_word_is_known():
    words = set(toytown_words())
    for seed in range(150):
        rng = np.random.default_rng(seed)
        scene = captioned_scene(rng)[0]
        found = filter(None, (make(rng, Shot(scene)) for make in LESSONS.values()))
        texts = [text for lesson in found for text in lesson.texts]
        texts += [part for q in questions(rng, scene) for part in (q.text, q.answer, q.sentence)]
        texts += [description(scene), *DESCRIBE]
        unknown = {word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())} - words
        assert not unknown


def test_a_thing_is_made_a_cube_where_none_can_bear_a_letter():
    scene = Scene((replace(PAIR[0], kind="tree"), Thing("cube", "red", "metal", column=6)))
    for seed in range(20):
        lesson = LESSONS["text"](np.random.default_rng(seed), Shot(scene))
        (old,), (new,) = both(lesson)
        kept = [t for t in lesson.inputs[0].scene.things if t in scene.things]
        assert len(kept) == 1 and (old.kind, old.size, old.material) == ("cube", "large", "matte")
        assert new == replace(old, letter=new.letter) and new.letter != old.letter


def test_scenes_too_poor_for_a_lesson():
    rng = np.random.default_rng(0)
    alone, twins = Shot(Scene(PAIR[:1])), Shot(Scene((PAIR[0], replace(PAIR[0], column=4))))
    assert LESSONS["remove"](rng, alone) is LESSONS["add"](rng, alone) is None
    assert all(INSTRUCTIONS[kind](rng, twins) is None for kind in INSTRUCTIONS if kind not in ("background", "text"))
    two_cubes = Shot(Scene(tuple(replace(t, kind="cube") for t in twins.scene.things)))
    assert LESSONS["text"](rng, two_cubes) is None
    assert not any(LESSONS["control"](rng, alone).kind.endswith("openpose") for _ in range(20))


# pictures


def test_pictures_differ_where_the_words_say():
    base = Shot(Scene(PAIR, "beach"))
    before = base.draw()
    for kind in ("remove", "recolor", "text"):
        lesson = LESSONS[kind](np.random.default_rng(3), base)
        (old,), _ = both(lesson)
        given, target = (before if shot == base else shot.draw() for shot in (lesson.inputs[0], lesson.target))
        changed = np.nonzero((np.abs(given.astype(int) - target) > 12).any(axis=(0, 2)))[0]
        middle = 128 + 16 * old.column
        assert changed.size > 5 and changed.min() > middle - 60 and changed.max() < middle + 130  # and its shadow


def test_shots_are_drawn_as_asked():
    scene = Scene((Thing("figure", "green"),), "snow")
    picture = render(scene, 128, 160)
    for look in (*STYLES, *MAPS):
        shot = Shot(scene, 10, 8, look)
        drawn = shot.draw(picture)
        assert drawn.shape == (160, 128, 3) and drawn.dtype == np.uint8
        assert (look == "render") == np.array_equal(drawn, picture.rgb)
    np.testing.assert_array_equal(Shot(scene, 10, 8).draw(), picture.rgb)
