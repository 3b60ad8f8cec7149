"""Evaluations: the truth scores 1, what is damaged scores less; nothing here needs a model."""

import json
from argparse import ArgumentParser
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import islice, product
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from dimoo.__main__ import main
from dimoo.edges import edge_pixels
from dimoo.errors import DimooError
from dimoo.evals import ceiling, command, control, edit, fill, maps, references, seams, talk, views
from dimoo.evals.bare import empty, untouched
from dimoo.evals.cases import Case, Marks, Tally, every, held_out, next_scene, with_settings
from dimoo.evals.generate import OTHER_SHAPES
from dimoo.evals.letters import letter_of
from dimoo.evals.regions import OFF, STRANGE, others, strangest, things_off
from dimoo.evals.suite import CEILINGS, SUITE
from dimoo.evals.things import as_is, compare
from dimoo.outline import MODES
from dimoo.tasks import Chat, Generate
from dimoo.world.judge import Reading
from dimoo.world.language import benchmark_prompts, captioned_scene, description, questions
from dimoo.world.lessons import INSTRUCTIONS, Shot
from dimoo.world.render import render
from dimoo.world.scene import CELL, SETTINGS, SHAPES, Scene, Thing, is_held_out
from dimoo.world.styles import MAPS, stylize

BALL, CUBE = Thing("ball", "red", column=-5, row=0), Thing("cube", "blue", column=3)
TREE = Thing("tree", "yellow", size="small", column=0, row=2)
SCENE = Scene((BALL, CUBE), "beach")


def read_as(scene, *things):
    """What a perfect judge would read."""
    return Reading(scene.setting, things or scene.things)


@pytest.fixture(scope="module")
def picture():
    return render(SCENE)


@pytest.fixture(scope="module")
def without_ball():
    return render(SCENE.with_(things=(CUBE,))).rgb


# cases and tallies


def test_every_truth_is_right():
    """From a task's requests to the marks of the truth; the given picture itself never is right."""
    for name in CEILINGS:
        cases = {case.category: case for case in reversed(list(SUITE[name].cases(6)))}
        assert len(cases) == {"edit": 6, "edit-shapes": 4, "inpaint": 2, "predict": 4, "control": 4, "subject": 1}.get(name, 3)
        for case in cases.values():
            marks = case.judge(Image.fromarray(case.truth()))
            assert marks.score == pytest.approx(1), (name, case.category, marks)
            if name in ("subject", "style", "view", "predict"):  # the others are damaged below
                assert case.judge(case.request.image).score < 0.5, (name, case.category)


def test_categories_take_turns():
    for name, task in SUITE.items():
        categories = [case.category for case in task.cases(6)]
        assert [case.category for case in task.cases(2)] == categories[:2]
        assert {category for category in task.targets if category != "overall"} <= set(categories)
        assert name == "subject" or len(set(categories)) > 1


def test_scenes_are_held_out_and_follow_from_the_task():
    first = [next_scene(held_out("edit"))[1] for _ in range(2)]
    assert first[0] == first[1] != next_scene(held_out("view"))[1]
    drawn = [captioned_scene(rng)[0] for rng in islice(held_out("edit"), 60)]
    assert len(set(drawn)) == 60
    _, scene = next_scene(held_out("edit"), lambda scene: scene.setting == "night")
    assert scene.setting == "night" and is_held_out(scene)
    for case in SUITE["edit"].cases(12):
        lesson = case.score.args[0]
        assert any(is_held_out(shot.scene) for shot in lesson.shots), lesson


def test_tallies():
    tally = Tally()
    assert tally.scores() == {"overall": 0.0, "n": 0}
    tally.add("a", every(x=True, y=0.5))
    tally.add("a", every(x=False, y=1))
    tally.add("b", Marks(0.75))
    scores = tally.scores()
    assert scores == {"a": 0.25, "b": 0.75, "overall": 0.5, "n": 3, "parts": {"a": {"x": 0.5, "y": 0.75}}}
    assert json.loads(json.dumps(scores)) == scores


def test_settings_go_where_they_belong():
    settings = {"steps": 3, "guidance": None, "temperature": 0.5}
    request = with_settings(Generate("a ball", guidance=2), settings)
    assert (request.steps, request.guidance, request.temperature) == (3, 2, 0.5)
    talk_ = with_settings(Chat((), "what?"), settings)
    assert talk_.steps is None and not hasattr(talk_, "temperature")


def test_results_of_another_size_are_fitted():
    sizes = []
    case = Case("a", None, lambda rgb: sizes.append(rgb.shape) or Marks(1.0), lambda: None)
    case.judge(Image.new("RGB", (512, 512)))
    replace(case, truth=None).judge(Image.new("RGB", (320, 192)))  # a prompt alone fixes no size
    assert sizes == [(256, 256, 3), (192, 320, 3)]


def test_other_shapes_are_drawn_in_their_shapes():
    assert set(OTHER_SHAPES) < set(SHAPES)
    for name in ("shapes", "edit-shapes"):
        for case in SUITE[name].cases(9):
            rows, columns = SHAPES[case.category]
            asked = case.request.image.size if case.truth else (case.request.width, case.request.height)
            assert asked == (columns * CELL, rows * CELL), name
            if case.truth:
                assert case.truth().shape == (rows * CELL, columns * CELL, 3)
                twice = Image.fromarray(case.truth()).resize((2 * asked[0], 2 * asked[1]))  # as another checkpoint has it
                assert case.judge(twice).score == 1
    prompts = [case.request.prompt for case in SUITE["shapes"].cases(8)]
    assert prompts == [prompt.text for prompt in benchmark_prompts(2) for _ in OTHER_SHAPES]


# things


def test_things_are_compared():
    same = (CUBE, BALL)
    near = (replace(BALL, column=-4, row=1), CUBE)
    assert as_is(read_as(SCENE, *same), SCENE) and as_is(read_as(SCENE, *near), SCENE)
    assert compare(read_as(SCENE, BALL, CUBE, TREE), SCENE.things) == ([True, True], [TREE])
    for worse in ((BALL,), (BALL, replace(CUBE, color="red")), (BALL, replace(CUBE, column=5)), (BALL, CUBE, TREE),
                  (BALL, replace(CUBE, size="small")), (BALL, replace(CUBE, material="metal"))):  # fmt: skip
        assert not as_is(read_as(SCENE, *worse), SCENE)
    assert as_is(read_as(SCENE, BALL, replace(CUBE, size="small")), SCENE, ("kind", "color"))


# instructions


def instructions(kind, count=25):
    for seed in range(100_000):
        rng = np.random.default_rng((7, seed))
        lesson = INSTRUCTIONS[kind](rng, Shot(captioned_scene(rng)[0]))
        if lesson:
            yield lesson, str(rng.choice(lesson.texts)), rng
            count -= 1
        if not count:
            return


@pytest.mark.parametrize("kind", INSTRUCTIONS)
def test_instructions_are_scored(kind):
    for lesson, text, _ in instructions(kind):
        before, after = lesson.inputs[0].scene, lesson.target.scene
        new = [t for t in after.things if t not in before.things]
        old = [t for t in after.things if t not in new]
        lettered = {t: t.letter for t in after.things if t.letter}

        def marks(reading, letters=lettered, lesson=lesson, text=text):
            return edit.edited(reading, lesson, text, letters)

        assert marks(read_as(after)) == every(asked=1, kept=1)
        assert marks(read_as(before), {t: "?" for t in new}).parts["asked"] == 0, text
        extra = Thing("rocket", "pink", column=9)
        assert marks(read_as(after, *after.things, extra)).parts == {"asked": 1, "kept": 0}
        if old:
            rest = tuple(t for t in after.things if t != old[0])
            assert marks(read_as(after, *rest) if rest else Reading(after.setting, ())).parts["kept"] == 0
            for other in (replace(old[0], color="white" if old[0].color != "white" else "red"),
                          replace(old[0], material="metal" if old[0].material == "matte" else "matte")):  # fmt: skip
                assert marks(read_as(after, *rest, other)).parts["kept"] == 0
            if old[0].letter:
                assert marks(read_as(after), lettered | {old[0]: ""}).parts["kept"] == 0
        if new:
            assert marks(Reading(after.setting, tuple(old))).parts["asked"] == 0
            wrong = replace(new[0], color="white" if new[0].color != "white" else "red")
            assert marks(read_as(after, *old, wrong)).parts["asked"] == 0
            if " metal " in text and kind in ("add", "replace"):
                assert marks(read_as(after, *old, replace(new[0], material="matte"))).parts["asked"] == 0
        if kind == "remove":
            (gone,) = [t for t in before.things if t not in after.things]
            assert marks(read_as(after, *after.things, replace(gone, color="white"))).parts == {"asked": 0, "kept": 1}
        if kind == "text":
            assert marks(read_as(after), lettered | {new[0]: ""}).parts == {"asked": 0, "kept": 1}
        setting = next(s for s in SETTINGS if s not in (before.setting, after.setting))
        part = "asked" if kind == "background" else "kept"
        assert marks(Reading(setting, after.things)).parts[part] == 0


def test_new_things_may_stand_wherever_the_words_allow():
    def stands(text, **where):
        return edit.stands_as_said(text, replace(TREE, **where), SCENE, 16)

    assert stands("add a small yellow tree", column=7)
    assert stands("put a small yellow tree to the left of the cube", column=2)
    assert not stands("put a small yellow tree to the left of the cube", column=4)
    assert stands("add a tree behind the ball", row=1) and not stands("add a tree behind the ball", row=0)
    assert stands("add a tree in the middle", column=3) and not stands("add a tree in the middle", column=5)
    assert stands("add a tree on the left", column=-4) and not stands("add a tree on the left", column=2)
    assert stands("add a tree on the right", column=2) and not stands("add a tree on the right", column=-3)
    assert edit.said_looks("add a small red ball") == ("kind", "color", "size")
    assert edit.said_looks("add a red ball") == ("kind", "color")
    assert edit.said_looks("add a metal red ball") == ("kind", "color", "material")


def test_letters_are_read():
    scene = Scene((BALL, replace(CUBE, letter="R")), "meadow")
    drawn = render(scene)
    assert letter_of(drawn.rgb, scene, 1) == "R"
    assert letter_of(np.asarray(drawn.image.filter(ImageFilter.GaussianBlur(1.5))), scene, 1) == "R"
    small = Scene((replace(CUBE, letter="Q", size="small", column=-7, row=2), BALL), "night")  # at the edge of the picture
    assert letter_of(render(small).rgb, small, 0) == "Q"
    bare = scene.with_(things=(BALL, CUBE))
    assert letter_of(render(bare).rgb, bare, 1) == ""


def test_a_wrong_letter_is_noticed():
    base = Shot(Scene((replace(CUBE, column=-3),), "studio"))
    lesson = INSTRUCTIONS["text"](np.random.default_rng(1), base)
    (cube,) = lesson.target.scene.things
    other = lesson.target.scene.with_(things=(replace(cube, letter="B" if cube.letter != "B" else "C"),))
    text = lesson.texts[0]
    assert edit.score(lesson, text, lesson.target.draw()).score == 1
    assert edit.score(lesson, text, render(other).rgb).parts == {"asked": 0, "kept": 1}
    assert edit.score(lesson, text, empty("studio")).score == 0


# seams


def test_seams(picture):
    new = np.zeros((16, 16), bool)
    new[:, 9:] = True  # through bare sky, sea and sand, and the cube's shadow
    bare = untouched(picture.rgb, "beach")
    pixels = np.kron(new, np.ones((16, 16), bool))[..., None]

    def step(other):
        return seams.seam_step(np.where(pixels, other, picture.rgb).astype(np.uint8), picture.rgb, new, bare)

    assert step(picture.rgb) == 0
    assert 0 < step(np.clip(picture.rgb.astype(int) + 6, 0, 255)) < seams.TOLERANCE
    assert step(np.clip(picture.rgb.astype(int) - 14, 0, 255)) > seams.TOLERANCE
    ground = picture.rgb.copy()
    ground[96:] = 255 - ground[96:]
    assert step(ground) > 0.2  # sky and ground count for themselves
    assert step(empty("meadow")) > 0.1
    assert seams.seam_step(empty("meadow"), picture.rgb, np.ones((16, 16), bool), bare) == 0  # there is no seam


def test_the_tolerance_is_that_of_true_settings():
    found, sky = [], np.arange(16)[:, None] < 6
    for setting in SETTINGS:
        means = seams.cell_means(empty(setting))
        down = [np.arange(16) < i for i in range(1, 16)]
        level = [np.arange(16)[:, None] < i for i in (*range(1, 5), *range(7, 16))]
        for new in down + level:
            across = seams.seam_edges(np.broadcast_to(new, (16, 16)), np.ones((16, 16), bool))
            assert across.sum() == 16
            for part in (across & sky, across & ~sky):
                if part.any():
                    found.append(np.sqrt(np.square(seams.steps(means, part)).mean(axis=1)).mean())
    assert np.quantile(found, 0.9) == pytest.approx(seams.TOLERANCE, abs=0.005)


def test_edges_of_a_box():
    new = np.zeros((5, 6), bool)
    new[1:3, 2:4] = True
    bare = np.ones((5, 6), bool)
    assert seams.seam_edges(new, bare).sum() == 8
    bare[0, 2] = False
    assert seams.seam_edges(new, bare).sum() == 7
    new[:] = False
    new[:, 0] = True  # the picture's own edges are no seams
    assert seams.seam_edges(new, np.ones((5, 6), bool)).sum() == 5


# inpainting and extrapolation


def test_damaged_fillings(picture, without_ball):
    mask = fill.half_of(picture, 0, right=True)
    new = fill.cells_of(mask)
    pixels = np.kron(new, np.ones((16, 16), bool))[..., None]
    marks = partial(fill.continues, SCENE, picture, new)
    assert marks(picture.rgb).score == 1
    half = marks(np.where(pixels, without_ball, picture.rgb)).parts
    assert half["setting"] == half["seam"] == 1 and half["whole"] == 0  # though the judge may take it for a ball
    assert marks(without_ball).parts == {"setting": 1, "seam": 1, "things": 0, "whole": 0}
    grey = np.where(pixels, np.uint8(128), picture.rgb)
    assert marks(grey).parts["seam"] == 0


def test_masks_cover_what_they_should(picture):
    for right in (False, True):
        mask = np.asarray(fill.half_of(picture, 1, right)) > 0
        assert 0.35 < mask[picture.ids == 1].mean() < 0.65
        assert not mask[picture.ids == 0].any()
        columns = np.nonzero(mask.any(axis=0))[0]
        assert (columns.mean() > 128 + 16 * CUBE.column) == right
    box = np.asarray(fill.bare_box(untouched(picture.rgb, "beach", 0))) > 0
    assert box[80:112].any(axis=1).all() and not box[:32].any()
    assert (picture.ids[box] >= 0).mean() < 0.1


def test_extrapolations_fit_their_truth():
    for case in SUITE["extrapolate"].cases(3):
        given, truth = np.asarray(case.request.image), case.truth()
        known = np.kron(~case.new, np.ones((16, 16), bool))
        np.testing.assert_array_equal(truth[known], given.reshape(-1, 3))
        assert getattr(case.request, case.category) == fill.GROWTH[case.category]
        assert given.size / truth.size == 1 - fill.GROWTH[case.category] / 256
    cut = Scene((replace(BALL, column=-2), replace(CUBE, column=6)))
    assert fill.is_cut(cut, "left") and not fill.is_cut(cut, "right")
    hidden = Scene((replace(BALL, column=-6), replace(CUBE, column=-2)))
    assert not fill.is_cut(hidden, "left") and fill.is_cut(hidden, "top")


# answers


def test_answers_are_compared_by_their_words():
    assert talk.exact("studio", "A studio.").score == talk.exact("two", " Two ").score == 1
    assert talk.exact("two", "three").score == talk.exact("yes", "").score == talk.exact("left", "left left").score == 0


def test_things_in_texts():
    text = "A small metal red ball, two blue cubes, a person in a green meadow and a large house at night."
    assert talk.items(text) == Counter({("blue", "cube", "large"): 2, ("red", "ball", "small"): 1,
                                        (None, "figure", "large"): 1, (None, "house", "large"): 1})  # fmt: skip
    assert talk.items("") == talk.items("the red sky") == Counter()


def test_descriptions_are_scored():
    for seed in range(80):
        scene = captioned_scene(np.random.default_rng(seed))[0]
        assert talk.described(scene, description(scene)).score == 1
        assert talk.described(scene, description(scene)).parts["with size"] == 1
        assert talk.described(scene, "it is in a studio.").score == 0
    both = talk.described(SCENE, "a red ball and a blue cube on the beach.")
    half = talk.described(SCENE, "a red ball on the beach.")
    assert both.score == 1 and half.score == pytest.approx(2 / 3)
    assert talk.described(SCENE, "a small red ball and a blue cube").parts == {"objects": 1, "with size": 0.5}
    assert talk.described(SCENE, "a red ball, a blue cube and a blue cube").score == pytest.approx(0.8)
    assert talk.described(SCENE, "a blue ball and a red cube").score == 0


def test_questions_of_every_category():
    cases = list(SUITE["chat"].cases(16))
    assert Counter(case.category for case in cases) == dict.fromkeys(talk.CATEGORIES, 2)
    for case in cases:
        assert case.request.short and case.judge(case.truth()).score == 1
        assert case.judge("i do not know").score == 0
    rngs = held_out("chat")
    asked = {q.category for _ in range(30) for q in questions(*next_scene(rngs))}
    assert asked == set(talk.CATEGORIES)
    for case, count in zip(SUITE["describe"].cases(4), range(1, 5), strict=True):
        assert talk.items(case.truth()).total() == count and case.judge(case.truth()).score == 1


# maps


def test_depth_error():
    near, far = np.full((8, 8, 3), 200, np.uint8), np.zeros((8, 8, 3), np.uint8)
    truth = np.concatenate([far, near])
    assert maps.depth_error(truth, truth) == 0
    assert maps.depth_error(np.concatenate([far, near - 20]), truth) == pytest.approx(0.1)
    assert maps.depth_error(np.concatenate([far + 30, near]), truth) == 0  # far beyond the floor is far enough
    assert maps.depth_error(np.concatenate([near, near]), truth) > 1
    assert maps.depth_error(np.concatenate([far, near - 20]), truth, np.arange(16)[:, None] < np.full(8, 8)) == 0


def test_a_depth_map_without_the_things_is_worth_little():
    for case in islice((case for case in maps.cases(16) if case.category == "depth"), 3):
        truth, bare = case.score.args[1:]
        assert case.judge(Image.fromarray(truth)).score == 1
        marks = case.judge(Image.fromarray(bare))
        assert marks.parts["ground"] == 1 and marks.score == marks.parts["things"] < 0.85


def test_edge_f1(picture, without_ball):
    truth = edge_pixels(picture.rgb, "canny")
    assert maps.edge_f1(truth, truth) == 1
    assert maps.edge_f1(np.roll(truth, 2, axis=1), truth) > 0.97
    assert maps.edge_f1(np.roll(truth, 7, axis=0), truth) < 0.6
    assert maps.edge_f1(edge_pixels(without_ball, "canny"), truth) < 0.95
    assert maps.edge_f1(np.zeros_like(truth), truth) == 0 and maps.edge_f1(truth * 0, truth * 0) == 1
    assert maps.edge_f1(np.full_like(truth, 255), truth) < 0.4


def test_pose_f1():
    figure = Thing("figure", "red", pose="out", column=-3)
    truth = Shot(Scene((figure,)), look="openpose").draw()
    assert maps.pose_f1(truth, truth) == 1
    blurred = np.asarray(Image.fromarray(truth).filter(ImageFilter.GaussianBlur(1)))
    assert maps.pose_f1(blurred, truth) > 0.85
    for other in (replace(figure, pose="up"), replace(figure, column=2)):
        assert maps.pose_f1(Shot(Scene((other,)), look="openpose").draw(), truth) < 0.85
    assert maps.pose_f1(truth[..., ::-1], truth) < 0.7  # limbs are told apart
    assert maps.pose_f1(np.zeros_like(truth), truth) == 0


@pytest.mark.parametrize("kind", MAPS)
def test_control_demands_what_the_map_shows(kind):
    figure = Thing("figure", "green", pose="up", column=-3)
    scene = Scene((figure, CUBE), "snow")
    given = Shot(scene, look=kind).draw()
    other = scene.with_(things=(replace(figure, color="red", pose="down"), replace(CUBE, kind="cone", color="pink")))
    assert control.controlled(kind, scene, given, render(scene).rgb).score == 1
    for free in (scene.with_(things=(replace(figure, color="red"), CUBE)), scene.with_(setting="meadow")):
        parts = control.controlled(kind, scene, given, render(free).rgb).parts
        assert (parts["things"], parts["words"]) == (1, 0)
    wrong = control.controlled(kind, scene, given, render(other).rgb)
    assert wrong.score == 0 and wrong.parts["things"] == 0


# references and views


def test_subjects():
    marks = partial(references.has_subject, BALL, SCENE)

    def parts(*things, setting="beach"):
        return tuple(marks(render(Scene(things, setting)).rgb).parts.values())

    assert list(marks(empty("beach")).parts) == ["subject", "others", "nothing_else", "setting"]
    assert parts(replace(BALL, column=0, size="small"), replace(CUBE, column=5)) == (1, 1, 1, 1)
    assert parts(BALL, CUBE, TREE) == (1, 1, 0, 1)
    assert parts(replace(BALL, column=0, row=1), setting="studio") == (1, 0, 1, 0)
    assert parts(BALL, replace(BALL, column=4)) == (1, 0, 0, 1)
    assert parts(replace(BALL, color="green"), CUBE) == (0, 1, 0, 1)
    twice = partial(references.has_subject, BALL, SCENE.with_(things=(BALL, CUBE, replace(CUBE, column=-1))))
    assert twice(render(SCENE).rgb).parts == {"subject": 1, "others": 0, "nothing_else": 1, "setting": 1}


def test_no_other_thing_of_a_prompt_does_for_the_subject():
    for _, thing, lesson in islice(references.subjects(held_out("subject")), 60):
        scene = lesson.target.scene
        assert sum((t.kind, t.color) == (thing.kind, thing.color) for t in scene.things) == 1 and scene.setting != "studio"


def test_styles(picture, without_ball):
    for style in ("pencil", "chalk", "poster"):
        marks = partial(references.styled, SCENE, picture, style)
        right = stylize(picture.rgb, style)
        assert marks(right).score == 1
        assert marks(np.asarray(Image.fromarray(right).filter(ImageFilter.GaussianBlur(1)))).score == 1
        assert marks(picture.rgb).parts["style"] == 0
        assert marks(stylize(without_ball, style)).parts["content"] == 0
        extra = render(SCENE.with_(things=(BALL, CUBE, replace(TREE, size="large")))).rgb
        assert marks(stylize(extra, style)).parts["content"] == 0
        other = render(SCENE.with_(things=(BALL, replace(CUBE, kind="cylinder", color="purple")))).rgb
        wrong = marks(stylize(other, style)).parts
        assert wrong["kinds"] == 0 and wrong["colours"] == (style != "poster")  # which draws all of them grey


def test_views():
    turned = SCENE.with_(view="left")
    truth = render(turned)
    marks = partial(views.seen_from, turned, truth)
    assert marks(truth.rgb).score == 1
    assert marks(np.asarray(truth.image.filter(ImageFilter.GaussianBlur(1)))).score == 1

    def other(*things, setting="beach", view="left"):
        return marks(render(Scene(things, setting, view)).rgb).parts

    assert other(BALL, replace(CUBE, color="orange"))["colours"] == other(BALL, replace(CUBE, color="purple"))["colours"] == 0
    assert other(BALL, replace(CUBE, kind="cylinder"))["kinds"] == 0
    assert other(BALL)["things"] == 0
    assert other(BALL, CUBE, replace(TREE, size="large", column=-2))["nothing_else"] == 0
    assert other(BALL, CUBE, setting="snow")["setting"] == 0
    assert min(other(BALL, CUBE, view="right").values()) == min(other(BALL, CUBE, view="front").values()) == 0


@pytest.mark.parametrize("kind", ["figure", "house", "rocket"])
def test_nothing_does_for_another_colour_or_kind(kind):
    """Of these only a part is painted, so that their colours are near each other."""
    thing = Thing(kind, "orange", size="small", column=-2)
    scene = Scene((thing, replace(CUBE, column=5)), "studio", "left")
    truth = render(scene)
    marks = partial(views.seen_from, scene, truth)
    assert marks(np.asarray(truth.image.filter(ImageFilter.GaussianBlur(1.5)))).score == 1
    for other in (*others(thing, "color"), *others(thing, "kind")):
        rgb = render(scene.with_(things=(other, *scene.things[1:]))).rgb
        assert marks(rgb).parts["kinds" if other.color == thing.color else "colours"] == 0, other


def test_regions(picture, without_ball):
    bare = empty("beach")
    assert things_off(picture.rgb, picture.rgb, bare, picture.ids) == [0, 0]
    assert things_off(bare, picture.rgb, bare, picture.ids) == [1, 1]
    gone, kept = things_off(without_ball, picture.rgb, bare, picture.ids)
    assert gone > OFF > kept
    assert strangest(picture.rgb, without_ball, bare) > STRANGE > strangest(without_ball, picture.rgb, bare)


# the command


@pytest.fixture
def options():
    def options(*argv):
        parser = ArgumentParser()
        command.arguments(parser, "evaluate")
        return parser.parse_args(argv)

    return options


@pytest.fixture
def answers(monkeypatch):
    """Requests that reach the checkpoint; they get answers from a list."""
    asked, replies = [], []

    def result_of(pipeline, request):
        asked.append(request)
        reply = replies.pop(0)
        if isinstance(reply, BaseException):
            raise reply
        return reply

    monkeypatch.setattr(command, "loaded", lambda options: None)
    monkeypatch.setattr(command, "result_of", result_of)
    return asked, replies


def test_a_table_and_json(options, answers, tmp_path, capsys):
    asked, replies = answers
    replies += [case.truth() for case in SUITE["chat"].cases(3)]
    replies[1] = "perhaps"
    path = tmp_path / "scores.json"
    assert command.main(options("--task", "chat", "-n", "3", "--steps", "2", "--json", str(path))) == 0
    out, err = capsys.readouterr()
    assert "chat: Short answers, 3 cases" in out and "of 0.95   -0.283" in out
    assert "chat: 3 of 3, 0.667" in err
    scores = json.loads(path.read_text())["chat"]
    assert scores["n"] == 3 and scores["counting"] == 1 and scores["existence"] == 0
    assert [request.steps for request in asked] == [None, None, None]  # those of --steps are for pictures


def test_an_interrupted_run_shows_what_there_is(options, answers, tmp_path, capsys):
    _, replies = answers
    replies += [case.truth() for case in SUITE["describe"].cases(2)]
    replies.append(KeyboardInterrupt())
    path = tmp_path / "scores.json"
    with pytest.raises(KeyboardInterrupt):
        command.main(options("--task", "describe", "-n", "9", "--json", str(path)))
    assert "describe: Descriptions, 2 cases" in capsys.readouterr().out
    assert json.loads(path.read_text())["describe"]["overall"] == 1


def test_progress_is_told_now_and_then():
    lines, times, scores = [], iter(range(0, 1000, 4)), {}
    command.evaluate("describe", 8, scores, lambda case: case.truth(), report=lines.append, clock=lambda: float(next(times)))
    assert lines[-1] == "describe: 8 of 8, 1.000" and 2 <= len(lines) <= 4
    assert scores["describe"]["n"] == 8


def test_wrong_options(options, answers):
    for argv, sentence in ((["-n", "0"], "At least one case"), (["--task", "chat", "--ceiling"], "one right picture"),
                           (["--task", "generate", "-n", "201"], "200 prompts")):  # fmt: skip
        with pytest.raises(DimooError, match=sentence):
            command.main(options(*argv))


def test_the_best_that_can_be_reached_is_told_beside_scores(options, answers, monkeypatch, tmp_path, capsys):
    asked, replies = answers
    replies += [Image.new("RGB", (256, 256))] * 2
    monkeypatch.setattr(command, "loaded", lambda options: SimpleNamespace(vq="tokenizer"))
    monkeypatch.setattr(ceiling, "through_tokenizer", lambda vq, case: Image.fromarray(case.truth()) if vq else None)
    path = tmp_path / "scores.json"
    argv = ["--task", "predict", "-n", "2", "--json", str(path)]
    assert command.main(options(*argv)) == 0
    assert "at best 1.000" in capsys.readouterr().out
    scores = json.loads(path.read_text())["predict"]
    assert scores["ceiling"]["canny"] == 1 and scores["canny"] == 0
    assert command.main(options(*argv, "--ceiling")) == 0
    assert "at best" not in capsys.readouterr().out and len(asked) == 2
    alone = json.loads(path.read_text())["predict"]
    assert alone == scores["ceiling"]


@pytest.mark.parametrize(
    ("argv", "modes", "caches"),
    [
        ([], MODES, [False, True]),
        (["--cache"], MODES, [True]),
        (["--mode", "nf4"], ["nf4"], [False, True]),
        (["--mode", "nf4", "--cache"], ["nf4"], [True]),
    ],
)
def test_memory_is_told_of_the_ways_that_are_asked_for(checkpoint, tmp_path, argv, modes, caches):
    path = tmp_path / "memory.json"
    assert main(["memory", "--checkpoint", str(checkpoint), "--size", "64x64", "--json", str(path), *argv]) == 0
    runs = json.loads(path.read_text())["memory"]["runs"]
    assert [(run["mode"], run["with cache"]) for run in runs] == list(product(modes, caches))


def test_few_cases_leave_much_open():
    assert command.interval(0.5, 12) == "  [0.25, 0.75]" and command.interval(0.714, 200) == "  [0.65, 0.77]"
    assert command.interval(0.0, 4) == "  [0.00, 0.49]" and command.interval(1.0, 96) == "  [0.96, 1.00]"
