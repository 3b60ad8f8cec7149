"""Requests: bounds with a sentence each, defaults, and the way through settings and back."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dimoo.defaults import Defaults
from dimoo.errors import DimooError
from dimoo.frames import Frame
from dimoo.knobs import Choice, Real, Whole, knobs, one_line
from dimoo.tasks import REQUESTS, SEEDS, Chat, Edit, Extrapolate, Generate, Inpaint, checked, request_from

DEFAULTS = Defaults()
PICTURE = Image.new("RGB", (64, 48), "red")
MASK = Image.new("L", (64, 48), 255)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"prompt": ""}, "Prompt is empty"),
        ({"prompt": " \n\t\u200b"}, "Prompt is empty"),
        ({"prompt": " \u200d\u200c"}, "Prompt is empty"),
        ({"prompt": None}, "Prompt must be a text"),
        ({"prompt": "red " * 600}, "Prompt has 2399 characters: shorten it to at most 2000"),
        ({"width": 100}, "Width must be a multiple of 16, not 100"),
        ({"width": 48}, "Width must lie between 64 and 2048, not 48"),
        ({"height": 4096}, "Height must lie between 64 and 2048, not 4096"),
        ({"height": "tall"}, "Height must be a number"),
        ({"steps": 0}, "Steps must lie between 1 and 128"),
        ({"steps": 2.5}, "Steps must be a whole number, not 2.5"),
        ({"guidance": -1}, "Guidance must lie between 0 and 20, not -1"),
        ({"guidance": float("nan")}, "Guidance must be a number"),
        ({"temperature": 3}, "Temperature must lie between 0 and 2"),
        ({"temperature": True}, "Temperature must be a number"),
        ({"guidance": 10**400}, "Guidance must be a number"),
        ({"seed": -1}, "Seed must lie between 0 and 4294967295"),
        ({"seed": SEEDS}, "Seed must lie between 0 and 4294967295"),
        ({"count": 9}, "Pictures must lie between 1 and 8"),
    ],
)
def test_values_out_of_bounds_are_refused_in_a_sentence(values, sentence):
    with pytest.raises(DimooError, match=sentence):
        Generate(**{"prompt": "a red ball", **values})


def test_numbers_from_a_browser_are_taken_as_they_come():
    request = Generate("a ball", width=256.0, steps=np.int64(8), seed=7.0, guidance=3, count=2.0)
    assert (request.width, request.steps, request.seed, request.count) == (256, 8, 7, 2)
    assert all(type(value) is int for value in (request.width, request.steps, request.seed, request.count))
    assert type(request.guidance) is float


def test_the_prompt_becomes_one_clean_line():
    assert Generate("  a red\nball\x00 on\u2028the beach ").prompt == "a red ball on the beach"
    assert Generate("a \ud800 ball").prompt == "a ball"


def test_resolve_fills_in_the_checkpoint_and_a_seed():
    full = Generate("a ball", steps=5).resolve(DEFAULTS)
    assert (full.width, full.height, full.steps) == (1024, 1024, 5)
    assert (full.guidance, full.temperature) == (4.0, 0.7)
    assert 0 <= full.seed < SEEDS
    assert full.resolve(DEFAULTS) == full
    assert len({Generate("a ball").resolve(DEFAULTS).seed for _ in range(5)}) > 1


def test_a_picture_larger_than_the_checkpoint_allows_is_refused():
    small = Defaults(name="Toytown", max_area=512 * 512)
    assert Generate("a ball", width=1024, height=256).resolve(small).width == 1024
    with pytest.raises(DimooError, match="1024 × 512 is too large for Toytown"):
        Generate("a ball", width=1024, height=512).resolve(small)


def test_nth_picture_has_its_own_seed_and_wraps_around():
    request = Generate("a ball", seed=SEEDS - 1, count=3)
    assert [request.nth(i).seed for i in range(3)] == [SEEDS - 1, 0, 1]
    assert request.nth(1).count == 1


@given(
    prompt=st.text(min_size=1, max_size=200).filter(lambda text: any(c.isalnum() for c in text)),
    seed=st.integers(0, SEEDS - 1),
    guidance=st.floats(0, 20),
    width=st.integers(4, 128).map(lambda n: 16 * n),
)
def test_settings_describe_the_request(prompt, seed, guidance, width):
    request = Generate(prompt, width=width, seed=seed, guidance=guidance)
    assert request_from(request.settings()) == request


@pytest.mark.parametrize("settings", [{}, {"task": "paint", "prompt": "a"}, {"task": "generate"}])
def test_settings_of_something_else_are_refused(settings):
    with pytest.raises(DimooError, match="cannot|not of a picture"):
        request_from(settings)


@pytest.mark.parametrize("kind", REQUESTS.values())
def test_every_field_explains_itself(kind):
    assert {field.name for field in fields(kind)} == set(knobs(kind))
    for name, knob in knobs(kind).items():
        assert knob.label and knob.help.endswith("."), name
        if isinstance(knob, Real | Whole):
            assert knob.low < knob.high
        if isinstance(knob, Choice):
            assert knob.options and all(knob.options.values())


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Edit(None, prompt="a"), "Picture is missing: add a picture first"),
        (lambda: Edit("nowhere.png", prompt="a"), "There is no file nowhere.png"),
        (lambda: Edit(PICTURE), "Instruction is empty"),
        (lambda: Edit(PICTURE, "control"), "Instruction is empty"),
        (lambda: Edit(PICTURE, "paint", "a"), "Kind is one of instruct, control, subject, style, predict, view, not 'paint'"),
        (lambda: Edit(PICTURE, ["style"]), "Kind is one of instruct, control"),
        (lambda: Edit(PICTURE, "style"), "Style picture is missing"),
        (lambda: Edit(PICTURE, "predict", map="heat"), "Map is one of canny, hed, depth, openpose"),
        (lambda: Edit(PICTURE, "view", direction="up"), "Direction is one of left, right, back"),
        (lambda: Edit(PICTURE, prompt="a", cache="yes"), "Max-Logit cache is either on or off"),
        (lambda: Inpaint(None, MASK), "Picture is missing"),
        (lambda: Inpaint(PICTURE, None), "Mask is empty: paint over"),
        (lambda: Inpaint(PICTURE, MASK, grow=200), "Grow must lie between 0 and 128"),
        (lambda: Inpaint(PICTURE, MASK, invert=1), "Invert is either on or off"),
        (lambda: Extrapolate(PICTURE), "Nothing to add: choose at least one side"),
        (lambda: Extrapolate(PICTURE, left=10), "Left must be a multiple of 16"),
        (lambda: Chat((), ""), "Question is empty"),
        (lambda: Chat((PICTURE,) * 5, "how many?"), "Pictures: at most 4 at a time, not 5"),
        (lambda: request_from({"task": "inpaint", "prompt": ""}, image=PICTURE), "Mask is empty"),
    ],
)
def test_what_a_task_cannot_do_without(make, sentence):
    with pytest.raises(DimooError, match=sentence):
        make()


def test_pictures_and_masks_come_in_their_form():
    request = Inpaint(PICTURE.convert("RGBA"), PICTURE.convert("LA"))
    assert (request.image.mode, request.mask.mode) == ("RGB", "L")
    again = replace(request, seed=1)
    assert again.image is request.image and again.mask is request.mask  # nothing is done twice
    assert Chat(None, "how many?").images == ()
    assert Chat([PICTURE.convert("L")], "how many?").images[0].mode == "RGB"


@pytest.mark.parametrize(
    "request_",
    [
        Edit(PICTURE, "style", reference=PICTURE, guidance_image=2, seed=1),
        Edit(PICTURE, "view", direction="back", cache=True),
        Edit(PICTURE, prompt="a ball", keep=2.5),
        Inpaint(PICTURE, MASK, "a ball", invert=True, grow=4, feather=0),
        Extrapolate(PICTURE, left=16, bottom=1024, count=2),
        Chat((PICTURE,), "how many?", short=True, length=5, cache=False),
    ],
)
def test_settings_of_every_task_lead_back(request_):
    written = request_.settings()
    json.dumps(written)
    pictures = {n: getattr(request_, n) for n in ("image", "images", "mask", "reference") if hasattr(request_, n)}
    assert not set(pictures) & set(written)
    assert request_from(written | {"model": "x"}, **pictures) == request_
    assert checked(type(request_), written) == {n: v for n, v in written.items() if n != "task"}


def test_settings_open_no_files(tmp_path):
    path = tmp_path / "private.png"
    PICTURE.save(path)
    for settings in ({"task": "edit", "image": str(path)}, {"task": "inpaint", "image": str(path), "mask": str(path)}):
        with pytest.raises(DimooError, match="Picture is missing"):
            request_from(settings | {"prompt": "a ball"})
    written = {"task": "edit", "kind": "style", "prompt": "", "reference": str(path)}
    with pytest.raises(DimooError, match="Style picture is missing"):
        request_from(written, image=PICTURE)


def test_edits_drop_what_their_kind_does_not_use():
    for kind in ("style", "predict", "view"):
        assert Edit(PICTURE, kind, "a ball", PICTURE).prompt == ""
    assert Edit(PICTURE, "style", "", PICTURE).reference is not None
    for kind in ("instruct", "control", "subject"):
        edit = Edit(PICTURE, kind, "a ball", PICTURE)
        assert (edit.prompt, edit.reference) == ("a ball", None)


def test_defaults_of_every_task():
    edit = Edit(PICTURE, prompt="a ball").resolve(DEFAULTS)
    assert (edit.steps, edit.guidance, edit.guidance_image, edit.keep) == (64, 2.5, 4.0, 0)
    assert Inpaint(PICTURE, MASK).resolve(DEFAULTS).guidance == 4.0
    long, short = (Chat((), "how many?", short=short).resolve(DEFAULTS) for short in (False, True))
    assert (long.length, long.block, long.steps) == (128, 32, 128)
    assert (short.length, short.block, short.steps) == (16, 16, 16)
    assert Chat((), "how many?", length=7).resolve(DEFAULTS).length == 7


def test_defaults_of_a_demo_section():
    demo = {
        "name": "Toytown",
        "default_size": [256, 192],
        "presets": [[256, 192, "Wide"]],
        "steps": 32,
        "other": 1,
    }
    defaults = Defaults.of(demo)
    assert (defaults.name, defaults.width, defaults.height, defaults.steps) == ("Toytown", 256, 192, 32)
    assert defaults.presets[0].label == "Wide"
    assert defaults.guidance == 4.0
    with pytest.raises(DimooError, match="demo section"):
        Defaults.of({"presets": [[256]]})


def test_frames_travel_between_processes():
    grid = np.zeros((2, 3), np.int32)
    frame = Frame(
        1, 4, 0.5, 1.5, 0, 1, 7, grid, grid > 0, grid.astype(np.float32), np.zeros((8, 12, 3), np.uint8)
    )
    copy = pickle.loads(pickle.dumps(frame))
    assert copy.picture("confidence").size == (12, 8)
    with pytest.raises(DimooError, match="There is no view 'x'"):
        copy.picture("x")


def test_importing_the_package_and_its_requests_leaves_torch_alone():
    code = (
        "import sys, dimoo; from PIL import Image; dimoo.Edit(Image.new('RGB', (64, 64)), prompt='a');"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.split() == ["False", "False"]


def test_what_is_left_out_may_be_said_as_none():
    left_out = Extrapolate(PICTURE, None, 16, None, None, None, None, count=None, cache=None)
    assert left_out == Extrapolate(PICTURE, left=16)
    assert Inpaint(PICTURE, MASK, invert=None, grow=None, feather=None).settings() == Inpaint(PICTURE, MASK).settings()
    assert Edit(PICTURE, None, "a ball", map=None).kind == "instruct"


def test_questions_keep_their_lines():
    question = Chat(PICTURE, "\n which one? \r\n\na)  a ball\u2028b) a cube\n").prompt
    assert question == "which one?\n\na) a ball\nb) a cube"
    assert Generate("a ball\nin the snow").prompt == "a ball in the snow"
    with pytest.raises(DimooError, match="Question is empty"):
        Chat(PICTURE, " \n \n")


def test_characters_that_cannot_be_seen_do_not_tear_words_apart():
    assert one_line("a\u200bb soft\u00adhyphen\ufeff") == "ab softhyphen"
    assert one_line("\u202ea red\x00ball\u2028x\u00a0y ") == "a red ball x y"
    for shaped in ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\U0001f469\u200d\U0001f680"):
        assert one_line(f" {shaped}\u200d ") == shaped
