"""Requests with pictures as sequences, windows and finishing touches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from dimoo import layout
from dimoo.defaults import Defaults
from dimoo.errors import DimooError
from dimoo.passes import PartialCache
from dimoo.plans import REUSE, Planner, canvas, chat_pictures, inpainting, sampling
from dimoo.tasks import Chat, Edit, Extrapolate, Generate, Inpaint
from dimoo.windows import whole


def flat(width, height, code):
    """A picture that the planner below reads as cells of one code."""
    return Image.new("RGB", (width, height), (code, 0, 0))


def read(picture):
    assert picture.width % 16 == picture.height % 16 == 0
    code = np.asarray(picture)[..., 0]
    return torch.from_numpy(code.reshape(picture.height // 16, 16, -1, 16).max((1, 3)).astype(np.int64))


@pytest.fixture(scope="module")
def planner(pipeline):
    defaults = replace(pipeline.defaults, edit_side=256, chat_sides=(128, 256), max_area=320 * 320)
    return Planner(pipeline.vocab, defaults, read)


def half_mask(width, height, columns):
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (0, 0, columns, height))
    return mask


def draw(planner, request):
    return planner.draw(request.resolve(planner.defaults))


def same(branches, wanted):
    assert len(branches) == len(wanted)
    assert all(torch.equal(a.ids, b.ids) and torch.equal(a.cells, b.cells) for a, b in zip(branches, wanted, strict=True))


def test_generate_fills_everything(planner):
    plan = draw(planner, Generate("a red dragon ball", width=320, height=192, guidance=3))
    assert plan.grid.shape == (12, 20) and (plan.grid == -1).all()
    assert plan.windows == whole(plan.grid)
    same(plan.branches(plan.grid), layout.text_to_image(planner.vocab, "a red ball", 12, 20))
    assert (plan.sampling.guidance, plan.sampling.guidance_image, plan.sampling.reuse) == (3, 0, None)
    picture = flat(320, 192, 3)
    assert plan.finish(picture) is picture


@pytest.mark.parametrize(
    ("fields", "system", "text"),
    [
        ({"prompt": "a red ball"}, "Generate an image applying the following editing instruction based on the original image.",
         "a red ball"),
        ({"kind": "control", "prompt": "a cone", "map": "depth"},
         "Generate an image according to the text prompt and the given control image.", "a cone"),
        ({"kind": "subject", "prompt": "a cone"}, "Generate an image according to the text prompt and the given object image.",
         "a cone"),
        ({"kind": "predict", "map": "canny"}, "Perform dense prediction on the given images.",
         "Generate a canny edge map according to the image."),
        ({"kind": "predict", "map": "hed"}, "Perform dense prediction on the given images.",
         "Generate a hed edge map according to the image."),
        ({"kind": "predict", "map": "depth"}, "Perform dense prediction on the given images.",
         "Generate a depth map according to the image."),
        ({"kind": "predict", "map": "openpose"}, "Perform dense prediction on the given images.",
         "Generate a pose estimation map according to the image."),
        ({"kind": "style", "reference": flat(256, 256, 9)}, "Transform the current image into the style of the provided image.",
         "Transform the current image into the style of the provided image."),
        ({"kind": "view", "direction": "back"}, "Generate a view-image based on the given image.",
         "Generate the back view based on the provided front view."),
    ],
)  # fmt: skip
def test_every_kind_of_edit_has_its_words(planner, fields, system, text):
    request = Edit(flat(320, 192, 7), **fields)
    assert layout.edit_texts(request.kind, request.prompt, request.map, request.direction) == (system, text)
    plan = draw(planner, request)
    assert plan.grid.shape == (12, 20) and (plan.grid == -1).all()
    given = [torch.full((12, 20), 7)]
    if request.kind == "style":
        given.append(torch.full((16, 16), 9))  # content first; the result has its size
    words = planner.vocab.known_words(text)
    same(plan.branches(plan.grid), layout.image_to_image(planner.vocab, system, words, given, 12, 20))


def test_edits_have_two_guidance_scales_of_their_own(planner):
    plan = draw(planner, Edit(flat(256, 256, 7), prompt="a ball"))
    assert (plan.sampling.guidance, plan.sampling.guidance_image) == (2.5, 4.0)
    plan = draw(planner, Edit(flat(256, 256, 7), prompt="a ball", guidance=0, guidance_image=1.5, temperature=0.5, cache=True))
    assert (plan.sampling.guidance, plan.sampling.guidance_image) == (0, 1.5)
    assert (plan.sampling.token_temperature, plan.sampling.order_temperature) == (0.5, 1.0)
    assert plan.sampling.reuse is REUSE and isinstance(REUSE, PartialCache)
    used = plan.sampling.used_branches(plan.branches(plan.grid))
    assert [len(branch.ids) for branch in used] == [len(plan.branches(plan.grid)[i].ids) for i in (0, 2)]


def test_instructions_may_hold_on_to_what_they_start_from(planner):
    plan = draw(planner, Edit(flat(256, 256, 7), prompt="a ball", keep=1.5))
    assert plan.sampling.keep == 1.5 and torch.equal(plan.sampling.before, torch.full((256,), 7))
    for request in (Edit(flat(256, 256, 7), prompt="a ball"), Edit(flat(256, 256, 7), "view", keep=1.5)):
        assert draw(planner, request).sampling.before is None


def test_chance_is_that_of_the_published_sampler_unless_the_checkpoint_says_otherwise():
    def chance(demo, **fields):
        defaults = Defaults.of(demo)
        used = sampling(Generate("a ball", **fields).resolve(defaults), defaults)
        return used.token_temperature, used.order_temperature, used.top_k, used.plausible

    assert chance({}) == (0.7, 1.0, 256, 0)
    assert chance({}, temperature=1.5) == (1.5, 1.0, 256, 0)
    assert chance({}, temperature=0) == (0, 0, 256, 0)
    assert chance({"temperature": 1.0, "top_k": None}) == (1.0, 1.0, None, 0)
    assert chance({"order_temperature": 0.5, "plausible": 0.1}) == (0.7, 0.5, 256, 0.1)
    for wrong in ({"noise": "loud"}, {"top_k": 0}, {"plausible": 2.0}):
        with pytest.raises(DimooError, match="demo section cannot be read .(noise|top_k|plausible) must be"):
            Defaults.of(wrong)


def test_nothing_is_scaled_that_cropping_is_enough_for(planner):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (170, 200, 3), np.uint8))
    mask = Image.new("L", (200, 170), 0)
    mask.paste(255, (4 + 64, 5 + 32, 4 + 80, 5 + 48))  # exactly one cell of what is left
    original, _, cells = inpainting(Inpaint(picture, mask), planner.defaults)
    assert np.array_equal(original, np.asarray(picture)[5:165, 4:196])
    assert cells.nonzero()[0].tolist() == [2] and cells.nonzero()[1].tolist() == [4]


def test_pictures_to_edit_are_fitted_to_what_was_trained(planner):
    plan = draw(planner, Edit(flat(1000, 620, 7), prompt="a ball"))
    height, width = plan.grid.shape
    assert (width * 16, height * 16) in layout.size_buckets(256)
    assert width / height == pytest.approx(1.6, abs=0.1)


def test_inpainting_keeps_the_codes_outside_the_mask(planner):
    mask = half_mask(256, 128, 40)
    plan = draw(planner, Inpaint(flat(256, 128, 7), mask, "a red ball"))
    assert (plan.grid[:, :3] == -1).all() and (plan.grid[:, 3:] == 7).all()
    same(plan.branches(plan.grid), layout.text_to_image(planner.vocab, "a red ball", 8, 16, plan.grid))
    drawn = np.asarray(plan.finish(Image.new("RGB", (256, 128), "white")))
    assert (drawn[:, 48:] == (7, 0, 0)).all() and (drawn[:, :32] == 255).all()


def test_without_a_prompt_only_the_unconditional_branch_runs(planner):
    plan = draw(planner, Inpaint(flat(256, 128, 7), half_mask(256, 128, 40)))
    (branch,) = plan.branches(plan.grid)
    same([branch], layout.text_to_image(planner.vocab, "whatever", 8, 16, plan.grid)[1:])
    assert planner.vocab.ids.uncondition in branch.ids.tolist()
    assert len(plan.sampling.used_branches([branch])) == 1


def test_masks_are_prepared_as_asked(planner):
    picture, mask = flat(256, 128, 7), half_mask(256, 128, 40)

    def columns(**fields):
        return inpainting(Inpaint(picture, mask, **fields), planner.defaults)[2].all(0).nonzero()[0].tolist()

    assert columns() == [0, 1, 2]
    assert columns(grow=9) == [0, 1, 2, 3]
    assert columns(invert=True) == [*range(2, 16)]
    assert columns(invert=True, grow=9) == [*range(1, 16)]


def test_masks_of_another_size(planner):
    picture = flat(256, 128, 7)
    plan = draw(planner, Inpaint(picture, half_mask(1024, 512, 4 * 64)))
    assert (plan.grid == -1).sum() == 4 * 8
    with pytest.raises(DimooError, match="does not fit the picture"):
        draw(planner, Inpaint(picture, half_mask(256, 256, 64)))
    large = flat(1024, 512, 7)  # is worked on at 352 x 176
    for mask in (half_mask(1024, 512, 512), half_mask(256, 128, 128), half_mask(352, 176, 176)):
        plan = draw(planner, Inpaint(large, mask))
        assert plan.grid.shape == (11, 22) and (plan.grid[:, :11] == -1).all() and (plan.grid[:, 11:] == 7).all()


def test_of_a_large_picture_only_what_is_around_the_mask_is_looked_at(planner):
    able = replace(planner, defaults=replace(planner.defaults, max_area=1024 * 1024))
    height, width = able.defaults.height // 16, able.defaults.width // 16
    mask = Image.new("L", (1024, 1024), 0)
    mask.paste(255, (512, 640, 544, 656))
    plan = draw(able, Inpaint(flat(1024, 1024, 7), mask, "a red ball"))
    (window,) = plan.windows
    assert (window.height, window.width) == (height, width) and plan.grid.shape == (64, 64)
    assert abs(window.left + width / 2 - 33) <= 1 and abs(window.top + height / 2 - 40.5) <= 1
    assert plan.steps() == 2 and plan.rows() < 2 * 2 * (height * (width + 1) + 60)
    small = Image.new("L", (256, 256), 0)
    small.paste(255, (0, 0, 32, 32))
    assert draw(able, Inpaint(flat(256, 256, 7), small)).windows == whole(np.zeros((16, 16)))


def test_masks_of_nothing_and_of_everything(planner):
    picture = flat(128, 128, 7)
    with pytest.raises(DimooError, match="mask is empty: paint over"):
        draw(planner, Inpaint(picture, half_mask(128, 128, 0)))
    with pytest.raises(DimooError, match="mask is empty"):
        draw(planner, Inpaint(picture, half_mask(128, 128, 128), invert=True))
    plan = draw(planner, Inpaint(picture, half_mask(128, 128, 128)))
    assert (plan.grid == -1).all()
    new = Image.new("RGB", (128, 128), "white")
    assert np.array_equal(plan.finish(new), new)


def test_extrapolation_places_the_picture(planner):
    plan = draw(planner, Extrapolate(flat(128, 96, 7), "a ball", left=32, top=16, right=48))
    assert plan.grid.shape == (7, 13)
    assert (plan.grid[1:, 2:10] == 7).all() and (plan.grid >= 0).sum() == 6 * 8
    assert plan.windows == whole(plan.grid)
    drawn = np.asarray(plan.finish(Image.new("RGB", (208, 112), (9, 9, 9))))
    assert (drawn[16:, 32:160] == (7, 0, 0)).all()
    assert (drawn[:, -30:] == 9).all()


def test_large_canvases_are_drawn_in_windows_and_larger_ones_refused(planner):
    picture = flat(256, 256, 7)
    assert len(draw(planner, Extrapolate(picture, left=128)).windows) == 1
    plan = draw(planner, Extrapolate(picture, left=512))
    assert len(plan.windows) == 4 and {(w.height, w.width) for w in plan.windows} == {(16, 16)}
    with pytest.raises(DimooError, match="768 × 768 is too large for Testville: .* at most 640 × 640"):
        draw(planner, Extrapolate(picture, left=256, right=256, top=512))
    with pytest.raises(DimooError, match="multiples of 32"):
        canvas(Extrapolate(picture, left=16), (256, 256), planner.defaults, cell=32)


@pytest.mark.parametrize(
    ("sizes", "fitted"),
    [
        ([(200, 170)], [(192, 160)]),  # as it is, but for whole cells
        ([(128, 128)], [(128, 128)]),
        ([(256, 256)], [(256, 256)]),
        ([(100, 100)], [(128, 128)]),
        ([(800, 400)], [(320, 160)]),
        ([(100, 100), (400, 400)], [(256, 256), (256, 256)]),
        ([], []),
    ],
)
def test_pictures_that_are_asked_about(planner, sizes, fitted):
    pictures = chat_pictures(tuple(flat(*size, 7) for size in sizes), planner.defaults)
    assert [picture.size for picture in pictures] == fitted


def test_questions(planner):
    request = Chat((flat(128, 128, 7),), "what dragon is left?", short=True).resolve(planner.defaults)
    talk = planner.ask(request)
    assert talk.question == "what dragon is left? Answer the question using a single word or phrase."
    known = planner.vocab.known_words(talk.question)
    assert "dragon" not in known and "left" in known
    wanted = layout.understanding(planner.vocab, known, [torch.full((8, 8), 7)], 16)
    same([talk.branch], [wanted])
    assert (talk.sampling.steps, talk.sampling.block, talk.sampling.reuse) == (16, 16, True)
    assert planner.vocab.ids.mask in talk.sampling.never
    assert planner.vocab.ids.answer_end in talk.sampling.ends and not set(talk.sampling.ends) & set(talk.sampling.never)
    plain = planner.ask(Chat((), "is it red?", cache=False, length=8).resolve(planner.defaults))
    assert plain.question == "is it red?" and not plain.sampling.reuse and len(plain.branch.cells) == 8


def test_a_checkpoint_may_need_a_picture(planner):
    blind = replace(planner, defaults=replace(planner.defaults, text_only=False))
    with pytest.raises(DimooError, match="Testville answers questions about pictures only: add a picture"):
        blind.ask(Chat((), "is it red?").resolve(blind.defaults))


def counted(monkeypatch, pipeline):
    """Rows of every pass of the model from here on."""
    rows, predict = [], pipeline.model.predict

    def count(packed, wanted, vocab, cache=None, queries=None):
        rows.append(len(packed.ids) if queries is None else len(queries))
        return predict(packed, wanted, vocab, cache, queries)

    monkeypatch.setattr(pipeline.model, "predict", count)
    return rows


PICTURE = flat(256, 128, 90)


@pytest.mark.parametrize(
    "request_",
    [
        Generate("a ball", width=64, height=64),
        Generate("a ball", width=96, height=64, cache=True, steps=10),
        Edit(PICTURE, prompt="a ball", guidance_image=0, steps=3),
        Inpaint(PICTURE, half_mask(256, 128, 64), "a ball", cache=True),
        Extrapolate(flat(64, 64, 9), "a ball", left=32, cache=True, steps=9),
        Chat((PICTURE,), "is it red?", length=12, block=4, steps=12),
        Chat((PICTURE,), "is it red?", length=12, block=4, steps=6, cache=False),
        Chat((PICTURE,), "is it red?", length=10, block=4, steps=2),
        Chat((PICTURE,), "is it red?", length=10, block=4, steps=100),
    ],
    ids=lambda request: type(request).__name__,
)
def test_the_work_is_reckoned_as_it_comes(pipeline, monkeypatch, request_):
    monkeypatch.setattr("dimoo.sampler.answer_is_fixed", lambda *_: False)
    full = request_.resolve(pipeline.defaults)
    work = pipeline._plan(full, pipeline._no_codes)
    rows = counted(monkeypatch, pipeline)
    *_, last = pipeline.run(full)
    assert (sum(rows), len(rows)) == (work.rows(), work.steps())
    assert last.steps == work.steps()
