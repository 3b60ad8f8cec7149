"""The judge on pictures whose scenes are known."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from dimoo.evals.generate import fulfilled
from dimoo.world.judge import Reading, matches, read
from dimoo.world.language import Prompt, captioned_scene
from dimoo.world.render import render
from dimoo.world.scene import SETTINGS, Scene, Thing

ATTRIBUTES = ("kind", "color", "size", "material", "column", "row")


def right(rgb, scene):
    """For each attribute of each thing, whether it is read right."""
    return [b is not None and getattr(a, n) == getattr(b, n) for a, b in matches(read(rgb), scene) for n in ATTRIBUTES]


def test_reads_ground_truth_sharp_and_blurred():
    sharp, blurred = [], []
    for seed in range(12):
        scene = captioned_scene(np.random.default_rng(40_000_000 + seed))[0].with_(setting=SETTINGS[seed % 6])
        picture = render(scene).image
        reading = read(np.asarray(picture))
        assert reading.setting == scene.setting
        assert len(reading.things) == len(scene.things)
        sharp += right(np.asarray(picture), scene)
        blurred += right(np.asarray(picture.filter(ImageFilter.GaussianBlur(1.5))), scene)
    assert np.mean(sharp) >= 0.98
    assert np.mean(blurred) >= 0.95


@pytest.mark.parametrize("setting", SETTINGS)
def test_finds_nothing_in_an_empty_setting(setting):
    assert read(render(Scene((), setting)).rgb) == Reading(setting, ())


def test_a_recoloured_thing_changes_the_reading():
    scene = Scene((Thing("cube", "red", column=-4, row=1), Thing("tree", "green", column=3, row=1)), "snow")
    other = scene.with_(things=(replace(scene.things[0], color="blue"), scene.things[1]))
    for asked in (scene, other):
        assert read(render(asked).rgb).scene == asked


def test_reads_other_aspects():
    scene = Scene((Thing("house", "pink", column=-6), Thing("ball", "blue", size="small", column=6)), "beach")
    assert read(render(scene, 320, 192).rgb).scene == scene


def test_is_not_fooled_by_a_flat_patch():
    rgb = render(Scene((), "meadow")).rgb.copy()
    rgb[120:220, 96:160] = np.asarray(Image.new("RGB", (1, 1), "fuchsia"))[0, 0]
    assert read(rgb) == Reading("meadow", ())


def test_no_thing_is_read_twice():
    """Two readings of one thing can grow alike when they are fitted again; one of them then explains nothing."""
    scene = Scene((Thing("cube", "red", size="small", column=-4, row=2), Thing("cube", "green", size="small", column=-2, row=2),
                   Thing("cube", "purple", size="small", column=0, row=2)), "studio")  # fmt: skip
    assert read(render(scene).rgb).scene == scene


def test_matches_pairs_each_thing_once():
    a, b = Thing("ball", "red", column=0), Thing("ball", "red", column=1)
    far = Thing("cone", "blue", column=5)
    assert matches(Reading("snow", (b,)), Scene((a, b))) == [(a, b), (b, None)]
    assert matches(Reading("snow", (b, a)), Scene((a, b))) == [(a, a), (b, b)]
    assert matches(Reading("snow", (far,)), Scene((a,))) == [(a, None)]


def test_fulfilled():
    left, right_ = Thing("ball", "red", column=-3), Thing("ball", "red", column=3)
    cube = Thing("cube", "blue", column=0, row=2)
    reading = Reading("snow", (left, right_, cube))
    for wanted, category, relation, expected in [
        ((("ball", None, 1),), "single object", None, True),
        ((("ball", None, 1),), "counting", None, False),  # there are two
        ((("ball", "red", 2),), "counting", None, True),
        ((("ball", "blue", 1),), "colours", None, False),
        ((("ball", None, 1), ("cone", None, 1)), "two objects", None, False),
        ((("cube", None, 1), ("ball", None, 1)), "position", "behind", True),
        ((("cube", None, 1), ("ball", None, 1)), "position", "front", False),
    ]:
        assert fulfilled(Prompt(category, "", wanted, relation), reading) is expected
