"""Requests: bounds with a sentence each, defaults, and the way through settings and back."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from dimoo.defaults import Defaults
from dimoo.errors import DimooError
from dimoo.frames import Frame
from dimoo.knobs import knobs
from dimoo.tasks import SEEDS, Generate, request_from

DEFAULTS = Defaults()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"prompt": ""}, "Prompt is empty"),
        ({"prompt": " \n\t\u200b"}, "Prompt is empty"),
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
    assert (full.guidance, full.temperature) == (4.0, 1.0)
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


def test_every_field_explains_itself():
    for name, knob in knobs(Generate).items():
        assert knob.label and knob.help.endswith("."), name
        assert knob.low < knob.high


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
        "import sys, dimoo; dimoo.Generate('a'); print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.split() == ["False", "False"]
