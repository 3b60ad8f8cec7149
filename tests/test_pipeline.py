"""Requests through a whole (random) checkpoint: frames, seeds, stopping, unknown words."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from dimoo.errors import DimooError
from dimoo.pipeline import Stopwatch
from dimoo.preview import NEUTRAL
from dimoo.tasks import Generate, request_from


def pixels(frame):
    return np.asarray(frame.image)


def last(pipeline, request, **options):
    return list(pipeline.run(request, **options))[-1]


def test_frames_count_the_steps_and_end_in_a_picture(pipeline):
    frames = list(pipeline.run(Generate("a red ball", seed=3)))
    assert [frame.step for frame in frames] == list(range(13))
    assert all(frame.steps == 12 and frame.seed == 3 for frame in frames)
    assert frames[0].masked.all() and not frames[-1].masked.any()
    masked = [int(frame.masked.sum()) for frame in frames]
    assert masked == sorted(masked, reverse=True) and len(set(masked)) == 13
    for before, after in zip(frames, frames[1:], strict=False):
        kept = ~before.masked
        assert np.array_equal(before.tokens[kept], after.tokens[kept])
        assert np.array_equal(after.tokens < 0, after.masked)
    assert all(frame.image is None for frame in frames[:-1])
    assert frames[-1].image.size == (256, 256)
    assert frames[0].seconds_left is None and frames[-1].seconds_left == 0
    assert frames[-1].preview.shape == (64, 64, 3)
    assert frames[-1].picture("prediction").size == (64, 64)


def test_settings_make_the_same_picture_again(pipeline):
    first = last(pipeline, Generate("a red ball", steps=5, temperature=0.5))
    again = last(pipeline, request_from(first.settings))
    assert np.array_equal(pixels(first), pixels(again))
    assert {k: v for k, v in first.settings.items() if k != "seconds"} == {
        "task": "generate", "prompt": "a red ball", "width": 256, "height": 256, "steps": 5, "guidance": 4.0,
        "temperature": 0.5, "seed": first.seed, "count": 1, "model": "Testville", "precision": "float32",
        "version": first.settings["version"],
    }  # fmt: skip


def test_several_pictures_have_consecutive_seeds_and_stand_alone(pipeline):
    frames = list(pipeline.run(Generate("a red ball", steps=4, seed=10, count=3)))
    done = [frame for frame in frames if frame.image]
    assert [(frame.index, frame.seed) for frame in done] == [(0, 10), (1, 11), (2, 12)]
    assert len({pixels(frame).tobytes() for frame in done}) == 3
    assert np.array_equal(pixels(done[2]), pixels(last(pipeline, Generate("a red ball", steps=4, seed=12))))


@pytest.mark.parametrize(
    "change", [{"prompt": "a blue cube"}, {"guidance": 0}, {"temperature": 0}, {"seed": 2}]
)
def test_every_setting_matters(pipeline, change):
    base = {"prompt": "a red ball", "steps": 4, "seed": 1}
    one, other = (last(pipeline, Generate(**values)) for values in (base, base | change))
    assert not np.array_equal(one.tokens, other.tokens)


def test_sizes_and_their_grid(pipeline, monkeypatch):
    frame = last(pipeline, Generate("a red ball", width=320, height=192, steps=2))
    assert frame.image.size == (320, 192)
    assert frame.tokens.shape == (12, 20)
    monkeypatch.setattr(pipeline, "defaults", replace(pipeline.defaults, max_area=256 * 256))
    with pytest.raises(DimooError, match="320 × 256 is too large for Testville"):
        next(pipeline.run(Generate("a red ball", width=320, height=256)))


def test_a_stop_keeps_the_partial_picture(pipeline):
    seen = []

    def stop():
        seen.append(1)
        return len(seen) > 5

    frames = list(pipeline.run(Generate("a red ball", seed=3, count=4), stop))
    end = frames[-1]
    assert end.stopped and end.step == 5 and end.index == 0
    assert end.settings["stopped"] == "5/12"
    tiles = end.masked.repeat(16, 0).repeat(16, 1)
    assert tiles.any() and (pixels(end)[tiles] == NEUTRAL).all()
    assert not (pixels(end)[~tiles] == NEUTRAL).all(-1).all()
    assert np.array_equal(end.tokens, list(pipeline.run(Generate("a red ball", seed=3)))[5].tokens)


def test_a_stop_before_the_first_step_has_nothing_to_keep(pipeline):
    frames = list(pipeline.run(Generate("a red ball"), lambda: True))
    assert len(frames) == 1 and frames[0].stopped and frames[0].image is None


def test_a_stop_at_the_end_changes_nothing(pipeline):
    end = last(pipeline, Generate("a red ball", steps=1, seed=1), stop=lambda: False)
    assert not end.stopped and "stopped" not in end.settings


def test_closing_ends_the_work(pipeline, monkeypatch):
    passes = []
    predict = pipeline.model.predict
    monkeypatch.setattr(pipeline.model, "predict", lambda *a, **k: passes.append(1) or predict(*a, **k))
    frames = pipeline.run(Generate("a red ball"))
    list(islice(frames, 4))
    frames.close()
    assert len(passes) == 3
    assert list(frames) == []


def test_unknown_words_are_named_and_left_out(pipeline):
    prompt = "a red ball and a Dragon in 1 castle, dragon"
    note = pipeline.notes(Generate(prompt))
    assert len(note) == 1
    assert note[0].startswith("Testville does not know: Dragon") and "castle" in note[0]
    assert note[0].endswith("It knows: ball, cube, cone; red, green, blue; beach, snow, night.")
    assert pipeline.known_words("a red Dragon ball") == "a red ball"
    with_dragon = last(pipeline, Generate("a red dragon ball", steps=3, seed=1))
    without = last(pipeline, Generate("a red ball", steps=3, seed=1))
    assert np.array_equal(with_dragon.tokens, without.tokens)
    assert with_dragon.settings["prompt"] == "a red dragon ball"


@pytest.mark.parametrize(
    "prompt", ["dragon", "a dragon in the castle", "<answer>", "球", "the dragon's lair!"]
)
def test_a_prompt_of_unknown_words_only_is_refused(pipeline, prompt):
    with pytest.raises(DimooError, match="Testville knows none of these words: .* It knows: ball"):
        next(pipeline.run(Generate(prompt)))


@pytest.mark.parametrize(
    "prompt", ["ball <IMAGE> </answer> <|mdm_mask|>", "ball 'quoted' \"twice\"", "ball " * 300]
)
def test_odd_prompts_run(pipeline, prompt):
    assert last(pipeline, Generate(prompt, steps=1)).image is not None


def test_a_size_the_tokenizer_cannot_cut_is_refused(pipeline, monkeypatch):
    monkeypatch.setattr(type(pipeline.vq), "cell", 32)
    with pytest.raises(DimooError, match="multiples of 32"):
        next(pipeline.run(Generate("a red ball", width=80, height=64)))


def test_frames_can_be_sent_to_another_process(pipeline):
    frames = list(pipeline.run(Generate("a red ball", steps=2)))
    copy = pickle.loads(pickle.dumps(frames[-1]))
    assert np.array_equal(pixels(copy), pixels(frames[-1]))
    assert len(pickle.dumps(frames[0])) < 40_000


def test_previews_stay_within_their_share_of_the_time(pipeline, monkeypatch):
    import time

    draw = pipeline._preview
    spent = []

    def slow(*args):
        start = time.perf_counter()
        time.sleep(0.02)
        picture = draw(*args)
        spent.append(time.perf_counter() - start)
        return picture

    monkeypatch.setattr(pipeline, "_preview", slow, raising=False)
    start = time.perf_counter()
    frames = list(pipeline.run(Generate("a red ball", steps=60)))
    assert len(spent) < 20
    assert sum(spent[1:-1]) <= 0.06 * (time.perf_counter() - start)  # the first and the last are always drawn
    assert all(frame.preview is not None for frame in frames)


def test_reservations_grow_with_the_work(pipeline):
    one = pipeline.gpu_seconds(Generate("a"))
    assert pipeline.gpu_seconds(Generate("a", count=4)) > one
    assert pipeline.gpu_seconds(Generate("a", steps=100)) > one
    assert pipeline.gpu_seconds(Generate("a", guidance=0)) < one


def test_the_stopwatch_reckons_over_all_pictures():
    now = 0.0
    watch = Stopwatch(2, lambda: now)
    now = 1.0
    watch.tick(0, 0, 4)
    assert watch.seconds_left is None
    now = 3.0
    watch.tick(0, 2, 4)
    assert watch.seconds_left == pytest.approx(9.0)
    now = 6.0
    watch.tick(0, 4, 4)
    watch.tick(1, 0, 4)
    now = 7.5
    watch.tick(1, 1, 4)
    assert (watch.seconds, watch.picture_seconds) == (7.5, 1.5)
    assert watch.seconds_left == pytest.approx(4.5)


def test_the_built_in_checkpoint_makes_a_picture(built_in):
    frame = last(built_in, Generate(built_in.defaults.prompts[0], seed=1, steps=8))
    assert frame.image.size == (built_in.defaults.width, built_in.defaults.height)
    assert pixels(frame).std() > 10
