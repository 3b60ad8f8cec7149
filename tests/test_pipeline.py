"""Requests through a whole (random) checkpoint: frames, seeds, stopping, unknown words."""

from __future__ import annotations

import pickle
import weakref
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from conftest import EVERY_TASK, ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dimoo import passes, plans
from dimoo.defaults import Defaults
from dimoo.errors import DimooError
from dimoo.noise import PublishedNoise
from dimoo.plans import at_working_size, pictures_of
from dimoo.preview import NEUTRAL
from dimoo.sampler import unmask_image
from dimoo.tasks import Chat, Edit, Extrapolate, Generate, Inpaint, request_from
from dimoo.timing import Stopwatch


def pixels(frame):
    return np.asarray(frame.image)


def last(pipeline, request, **options):
    return list(pipeline.run(request, **options))[-1]


def notes(pipeline, request):
    return pipeline.check(request)[1]


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
        "temperature": 0.5, "seed": first.seed, "count": 1, "tries": 1, "cache": False, "model": "Testville",
        "precision": "float32", "version": first.settings["version"],
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
    (note,) = notes(pipeline, Generate(prompt))
    assert note.startswith("Testville does not know: Dragon") and "castle" in note
    assert note.endswith("It knows: ball, cube, cone; red, green, blue; beach, snow, night.")
    with_dragon = last(pipeline, Generate("a red dragon ball", steps=3, seed=1))
    without = last(pipeline, Generate("a red ball", steps=3, seed=1))
    assert np.array_equal(with_dragon.tokens, without.tokens)
    assert with_dragon.settings["prompt"] == "a red dragon ball"


@pytest.mark.parametrize(
    "prompt", ["dragon", "a dragon in the castle", "<answer>", "球", "🙂", "!!!", "the dragon's lair!"]
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
    assert 3 <= len(spent) < 20
    # the first two and the last are always drawn: only the second one tells what others will cost
    assert sum(spent[2:-1]) <= 0.06 * (time.perf_counter() - start)
    assert all(frame.preview is not None for frame in frames)


def test_reservations_grow_with_the_work(pipeline):
    one = pipeline.gpu_seconds(Generate("a"))
    assert pipeline.gpu_seconds(Generate("a", count=4)) > one
    assert pipeline.gpu_seconds(Generate("a", steps=100)) > one
    assert pipeline.gpu_seconds(Generate("a", guidance=0)) < one


RNG = np.random.default_rng(0)
PICTURE = Image.fromarray(RNG.integers(0, 256, (128, 192, 3), np.uint8))
MASK = Image.new("L", (192, 128), 0)
MASK.paste(255, (40, 30, 110, 90))
TASKS = [
    Generate("a red ball", width=192, height=128, steps=6, seed=1),
    Edit(PICTURE, prompt="a red ball", steps=6, seed=1),
    Edit(PICTURE, kind="style", reference=PICTURE, steps=6, seed=1),
    Inpaint(PICTURE, MASK, "a red ball", steps=6, seed=1),
    Inpaint(PICTURE, MASK, steps=6, seed=1),
    Extrapolate(PICTURE, "a red ball", left=64, bottom=32, steps=6, seed=1),
]
every_task = pytest.mark.parametrize("request_", TASKS, ids=lambda request: request.task)


@pytest.fixture
def small(pipeline, monkeypatch):
    """The pipeline with small pictures to edit."""
    monkeypatch.setattr(pipeline, "defaults", replace(pipeline.defaults, edit_side=128))
    return pipeline


@every_task
def test_every_task_makes_a_picture(small, request_):
    frames = list(small.run(request_))
    end = frames[-1]
    assert [frame.step for frame in frames] == list(range(7)) and not end.masked.any()
    assert end.image.size == (16 * end.tokens.shape[1], 16 * end.tokens.shape[0])
    assert (end.settings["width"], end.settings["height"]) == end.image.size
    assert end.settings["task"] == request_.task and "image" not in end.settings
    pictures = {name: getattr(request_, name) for name in ("image", "mask", "reference") if hasattr(request_, name)}
    if request_.task == "generate":
        again = request_from(end.settings)
    else:
        again = request_from(end.settings, **pictures)
    assert np.array_equal(pixels(end), pixels(last(small, again)))


@every_task
def test_the_cache_works_for_every_task_and_is_freed(small, monkeypatch, request_):
    alive = []

    class Watched(passes.KeyValueCache):
        def __init__(self):
            super().__init__()
            alive.append(weakref.ref(self))

    monkeypatch.setattr(passes, "KeyValueCache", Watched)
    plain, cached = last(small, request_), last(small, replace(request_, cache=True))
    assert cached.settings["cache"] and not plain.settings["cache"]
    assert alive and all(kept() is None for kept in alive)
    monkeypatch.setattr(plans, "REUSE", passes.PartialCache(refresh_interval=1))
    assert np.array_equal(last(small, replace(request_, cache=True)).tokens, plain.tokens)
    frames = small.run(replace(request_, cache=True))
    list(islice(frames, 3))
    assert alive[-1]() is not None
    frames.close()
    assert alive[-1]() is None


def test_inpainting_leaves_codes_and_pixels_outside_alone(pipeline):
    frames = list(pipeline.run(Inpaint(PICTURE, MASK, "a ball", seed=3, feather=8)))
    cells = frames[0].masked
    assert cells[1:6, 2:7].all() and cells.sum() == 25
    codes = pipeline.encode(PICTURE).numpy()
    inside = np.kron(cells, np.ones((16, 16), bool))
    for frame in frames:
        assert np.array_equal(frame.tokens[~cells], codes[~cells])
    assert np.array_equal(pixels(frames[-1])[~inside], np.asarray(PICTURE)[~inside])
    assert not np.array_equal(pixels(frames[-1])[inside], np.asarray(PICTURE)[inside])


def test_a_small_mask_takes_no_more_steps_than_it_has_cells(pipeline):
    mask = Image.new("L", PICTURE.size, 0)
    mask.paste(255, (70, 70, 90, 90))
    frames = list(pipeline.run(Inpaint(PICTURE, mask, "a ball", seed=3, steps=64)))
    assert frames[-1].steps == len(frames) - 1 == frames[0].masked.sum() == 4


def test_a_stopped_inpainting_has_the_original_around(pipeline):
    frames = pipeline.run(Inpaint(PICTURE, MASK, "a ball", feather=0), lambda: next(steps) > 3)
    steps = iter(range(100))
    *_, end = frames
    assert end.stopped and end.masked.any()
    outside, still = (np.kron(cells, np.ones((16, 16), bool)) for cells in (end.confidence == 1, end.masked))
    assert np.array_equal(pixels(end)[outside], np.asarray(PICTURE)[outside])
    assert (pixels(end)[still] == NEUTRAL).all()


@pytest.mark.parametrize(
    ("sides", "windows"), [({"left": 64}, 1), ({"right": 16, "top": 48}, 1), ({"left": 448, "right": 448}, 5)]
)
def test_extrapolation_keeps_the_picture_and_shows_the_whole_canvas(pipeline, sides, windows):
    request = Extrapolate(PICTURE, "a ball", **sides, steps=3, seed=3)
    frames = list(pipeline.run(request))
    end = frames[-1]
    left, top = request.left, request.top
    assert end.image.size == (192 + left + request.right, 128 + top)
    assert np.array_equal(pixels(end)[top : top + 128, left : left + 192], PICTURE)
    assert end.steps == 3 * windows == len(frames) - 1
    for frame in frames:
        assert frame.masked.shape == (8 + top // 16, (192 + left + request.right) // 16)
        assert frame.preview.shape[1] == frame.preview.shape[0] * frame.masked.shape[1] // frame.masked.shape[0]
    assert frames[0].masked.sum() == frames[0].masked.size - 8 * 12


def test_pictures_that_have_settled_can_be_edited_again(pipeline):
    first = last(pipeline, Generate("a red ball", width=192, height=128, steps=2)).image
    again = last(pipeline, Inpaint(first, MASK, "a ball", steps=2))
    outside = ~np.kron(again.confidence < 1, np.ones((16, 16), bool))
    assert again.image.size == first.size
    assert np.array_equal(pixels(again)[outside], np.asarray(first)[outside])


def test_reservations_for_every_task(pipeline):
    base = pipeline.gpu_seconds(Generate("a", width=192, height=128))
    assert pipeline.gpu_seconds(Edit(PICTURE, prompt="a ball")) > base
    assert pipeline.gpu_seconds(Inpaint(PICTURE, MASK)) < base
    assert pipeline.gpu_seconds(Extrapolate(PICTURE, left=448, right=448)) > base
    assert pipeline.gpu_seconds(Chat((PICTURE,), "is it red?")) > 10


def test_tasks_that_were_not_learned_are_noted(pipeline):
    assert pipeline.defaults.tasks == ("generate",) and notes(pipeline, Generate("a red ball")) == []
    sentences = {
        "edit pictures": Edit(PICTURE, kind="view"),
        "draw parts of pictures anew": Inpaint(PICTURE, MASK),
        "continue pictures beyond their sides": Extrapolate(PICTURE, left=16),
        "answer questions": Chat((PICTURE,), "is it red?"),
    }
    for skill, request in sentences.items():
        assert f"Testville has not learned to {skill}: do not expect much." in notes(pipeline, request)


def test_pictures_that_are_larger_than_usual_are_noted(pipeline):
    assert notes(pipeline, Generate("a red ball", 320, 256)) == notes(pipeline, Generate("a red ball")) == []
    (note,) = notes(pipeline, Generate("a red ball", 384, 256))
    assert note == "Testville draws best at about 256 × 256 pixels: larger pictures may fall apart."


def test_shapes_that_were_not_taught_are_noted(pipeline):
    taught = replace(pipeline, defaults=replace(pipeline.defaults, other_shapes=False))
    assert [notes(taught, Generate("a red ball", preset.width, preset.height)) for preset in taught.defaults.presets] == [[]] * 3
    (note,) = notes(taught, Generate("a red ball", 256, 192))
    assert note == "Testville has learned the shapes it offers: in 256 × 192 pixels things may fall apart."


def test_pictures_that_are_scaled_are_noted(pipeline):
    able = replace(pipeline, defaults=replace(pipeline.defaults, tasks=EVERY_TASK["tasks"], max_area=256 * 256))
    large, odd = Image.new("RGB", (1000, 500), "white"), Image.new("RGB", (250, 170), "white")
    for request in (Inpaint(large, large), Extrapolate(large, left=16)):
        (note,) = notes(able, request)
        assert note.startswith("The picture is scaled from 1000 × 500 to 352 × 176, a size that Testville can work on")
    assert notes(able, Inpaint(odd, odd)) == notes(able, Extrapolate(odd, left=16)) == []


def test_pictures_that_are_fitted_to_what_was_trained_are_noted(pipeline):
    able = replace(pipeline, defaults=replace(pipeline.defaults, tasks=EVERY_TASK["tasks"]))
    side = able.defaults.edit_side
    square, small, long = (Image.new("RGB", size) for size in ((1200, 1200), (64, 64), (3000, 400)))
    edits = notes(able, Edit(long, kind="style", reference=square))
    fitted = pictures_of(at_working_size(Edit(long, prompt="a red ball"), able.defaults))["The picture"].size
    assert f"The picture is scaled from 3000 × 400 to {fitted[0]} × {fitted[1]}" in edits[0]
    assert edits[0].endswith(" at its edges.") and ", and cut by " in edits[0]
    assert "The reference is scaled from 1200 × 1200 to" in edits[1]
    first, second, *words = notes(able, Chat((square, long), "is it red?"))
    assert first == f"Picture 1 is scaled from 1200 × 1200 to {side} × {side}, a size that Testville can work on."
    assert second.startswith("Picture 2 is scaled from 3000 × 400 to ") and second.endswith(" at its edges.")
    assert notes(able, Chat((small, small), "is it red?")) == words  # what becomes larger loses nothing


@given(st.integers(64, 1500), st.integers(64, 1500))
@settings(max_examples=30, deadline=None)
def test_what_is_at_its_working_size_stays(width, height):
    picture, defaults = Image.new("RGB", (width, height)), Defaults(edit_side=256, chat_sides=(256, 512))
    for request in (
        Edit(picture, kind="style", reference=picture), Chat((picture,), "a ball?"), Chat((picture,) * 2, "a ball?"),
        Inpaint(picture, picture), Extrapolate(picture, left=16),
    ):  # fmt: skip
        worked = at_working_size(request, defaults)
        again = at_working_size(worked, defaults)
        assert [p.size for p in pictures_of(again).values()] == [p.size for p in pictures_of(worked).values()]


def test_a_checkpoint_may_choose_the_published_noise(pipeline):
    request = Generate("a red ball", width=64, height=64, steps=3, seed=5)
    published = replace(pipeline, defaults=replace(pipeline.defaults, noise="published"))
    first, again, other = last(published, request), last(published, request), last(pipeline, request)
    assert np.array_equal(first.tokens, again.tokens) and not np.array_equal(first.tokens, other.tokens)
    grid = published._plan(request.resolve(published.defaults), None)
    *_, state = unmask_image(
        pipeline.model.predict, grid.branches(grid.grid), grid.sampling, PublishedNoise.seeded(5),
        pipeline.vocab.image_codes, pipeline.vocab.ids.mask,
    )  # fmt: skip
    assert np.array_equal(state.tokens, first.tokens.flatten())


def test_without_chance_one_try_is_enough(pipeline):
    request = Generate("a red ball", 64, 64, steps=4, seed=7, tries=2, temperature=0.0)
    assert list(pipeline.run(request))[-1].steps == 4


def test_one_picture_may_be_given_bare(pipeline):
    assert Chat(PICTURE, "is it red?") == Chat((PICTURE,), "is it red?")
    with pytest.raises(DimooError, match="nowhere.png"):
        Chat("nowhere.png", "is it red?")


def test_notes_for_every_task(pipeline):
    pipeline = replace(pipeline, defaults=replace(pipeline.defaults, tasks=EVERY_TASK["tasks"]))
    assert notes(pipeline, Inpaint(PICTURE, MASK)) == notes(pipeline, Extrapolate(PICTURE, left=16)) == []
    assert notes(pipeline, Edit(PICTURE, kind="view")) == []
    (note,) = notes(pipeline, Edit(PICTURE, prompt="make the dragon red"))
    assert "does not know: make, dragon." in note
    with pytest.raises(DimooError, match="knows none of these words: dragon"):
        next(pipeline.run(Inpaint(PICTURE, MASK, "dragon")))
    assert "dragon" in notes(pipeline, Chat((PICTURE,), "is it a dragon?"))[0]
    with pytest.raises(DimooError, match="knows none of these words"):
        notes(pipeline, Chat((PICTURE,), "dragon?"))


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


def test_time_left_counts_on_pictures_that_take_as_many_steps_as_those_before():
    now = 0.0
    watch = Stopwatch(3, lambda: now)
    now = 2.0
    watch.tick(0, 2, 8)
    assert watch.seconds_left == pytest.approx(22.0)  # two of twenty-four steps are done
    watch.tick(0, 4, 4)  # the first of two tries was good enough
    now = 5.0
    watch.tick(1, 1, 8)
    assert watch.seconds_left == pytest.approx(7 + 4)
    now = 8.0
    watch.tick(1, 4, 4)
    watch.tick(2, 4, 4)
    assert watch.seconds_left == 0


def test_the_built_in_checkpoint_makes_a_picture(built_in):
    frame = last(built_in, Generate(built_in.defaults.prompts[0], seed=1, steps=8))
    assert frame.image.size == (built_in.defaults.width, built_in.defaults.height)
    assert pixels(frame).std() > 10


@pytest.mark.parametrize("left", [48, 128])
def test_sky_and_ground_of_an_example_go_on_beyond_its_side(built_in, left):
    """However much is added: in the shapes that the model was never shown it draws rubbish."""
    beach = Image.open(ROOT / "examples" / "beach.png")
    *_, frame = built_in.run(Extrapolate(beach, "a red ball on the beach", left=left, seed=1))
    grown = np.asarray(frame.image).astype(float)
    away = np.abs(grown[:, :left].mean(1) - grown[:, left : left + 16].mean(1)).max(1)  # of each row's mean colour
    assert np.median(away) < 12
