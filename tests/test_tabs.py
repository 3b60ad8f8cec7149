"""Each tab without a browser: what its controls become, its previews, and what goes from tab to tab."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from gradio.data_classes import ImageData
from gradio.state_holder import SessionState
from PIL import Image, ImageDraw

from dimoo.defaults import Defaults
from dimoo.errors import DimooError
from dimoo.frames import Answer
from dimoo.metadata import save_png
from dimoo.tasks import Chat, Edit, Extrapolate, Generate, Inpaint
from dimoo.ui import api, chat, edit, extrapolate, inpaint, transfer
from dimoo.ui.chat import Table, Talk, bubble, plain
from dimoo.ui.controls import picture_box
from dimoo.ui.easel import AGAIN
from dimoo.ui.examples import FOR_TASK, chosen_values, path_of
from dimoo.ui.files import Picture, opened
from dimoo.ui.line import new_ticket
from dimoo.ui.page import TABS, build_page
from dimoo.ui.workbench import Shop, Wanted

DEFAULTS = Defaults.of({"name": "Testville", "default_size": [256, 256], "max_area": 512 * 512, "text_only": False})
SAMPLING = {"steps": 4, "guidance": 2.0, "temperature": 1.0, "seed": 7, "random_seed": False, "count": 1, "cache": False}


@pytest.fixture
def file(tmp_path):
    """Makes a picture file; returns its path."""

    def file(name="a.png", size=(256, 256), colour="red", **options):
        Image.new("RGB", size, colour).save(tmp_path / name, **options)
        return str(tmp_path / name)

    return file


@pytest.fixture(autouse=True)
def warnings(monkeypatch):
    """What pops up."""
    said = []
    monkeypatch.setattr(gr, "Warning", lambda text, **_: said.append(text))
    return said


# Pictures


def test_the_box_passes_on_the_file_itself(file):
    with gr.Blocks():
        box = picture_box("Picture", "box")
    upload = type("Upload", (), {"path": "/x/broken.png"})()
    assert box.preprocess(upload) == "/x/broken.png" and box.preprocess(None) is None


def test_pictures_are_read_upright_and_whole(file, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    assert opened(file("turned.jpg", (64, 128), exif=exif)).size == (128, 64)
    assert opened(file("large.png", (3000, 1500))).size == (3000, 1500)
    assert opened(None) is None
    (tmp_path / "broken.png").write_bytes(b"\x89PNG not at all")
    with pytest.raises(DimooError, match=r"broken\.png cannot be read"):
        opened(tmp_path / "broken.png")


# Edit


def test_a_kind_asks_for_what_it_needs_only(file):
    path = file()
    values = {"image": path, "reference": path, "prompt": "a ball", "map": "depth", "direction": "back", "guidance_image": 1.5}
    request = edit.request_of(kind="instruct", **values, **SAMPLING)
    assert isinstance(request, Edit) and request.prompt == "a ball" and request.reference is None and request.seed == 7
    assert edit.request_of(kind="style", **values, **SAMPLING).reference.size == (256, 256)
    assert edit.request_of(kind="view", **values, **SAMPLING).prompt == ""
    with pytest.raises(DimooError, match="Picture is missing"):
        edit.request_of(kind="view", **(values | {"image": None}), **SAMPLING)
    with pytest.raises(DimooError, match="Style picture is missing"):
        edit.request_of(kind="style", **(values | {"reference": None}), **SAMPLING)
    with pytest.raises(DimooError, match="Instruction is empty"):
        edit.request_of(kind="instruct", **(values | {"prompt": " "}), **SAMPLING)


@pytest.mark.parametrize("kind", Edit.KINDS)
def test_a_kind_shows_its_own_controls(kind):
    looks = edit.looks_of(kind)
    assert looks["prompt"]["visible"] == (kind in ("instruct", "control", "subject"))
    assert looks["style_only"]["visible"] == (kind == "style")
    assert looks["map"]["visible"] == (kind in ("control", "predict"))
    assert looks["direction"]["visible"] == (kind == "view")
    assert looks["make_map"]["visible"] == (kind == "control")


def test_edges_become_a_map_without_the_model(tmp_path, warnings):
    picture = Image.new("RGB", (64, 64))
    ImageDraw.Draw(picture).rectangle((20, 20, 44, 44), fill="white")
    picture.save(tmp_path / "square.png")
    made = Image.open(edit.computed_map(str(tmp_path / "square.png"), "canny", replace(DEFAULTS, edit_side=64)))
    pixels = np.asarray(made.convert("L"))
    assert pixels.max() == 255 and 0.02 < (pixels > 0).mean() < 0.2
    assert edit.computed_map(None, "hed", DEFAULTS) is None and "Picture is missing" in warnings[0]


def test_edges_of_a_large_picture_are_as_wide_as_those_of_a_small_one(tmp_path):
    defaults = replace(DEFAULTS, edit_side=256)
    for side in (256, 1024):
        picture = Image.new("RGB", (side, side))
        ImageDraw.Draw(picture).ellipse((side // 4, side // 4, 3 * side // 4, 3 * side // 4), fill="white")
        picture.save(tmp_path / f"{side}.png")
    small, large = (np.asarray(Image.open(edit.computed_map(str(tmp_path / f"{side}.png"), "canny", defaults)).convert("L"))
                    for side in (256, 1024))  # fmt: skip
    assert small.shape == large.shape == (256, 256)
    assert (large > 127).mean() == pytest.approx((small > 127).mean(), rel=0.2) and (small > 127).any()


def test_another_map_is_made_of_the_picture_and_a_stopped_one_is_none(tmp_path):
    assert edit.source_of("photo.png", ("", None)) == "photo.png" and edit.source_of(None, ("", None)) is None
    assert edit.source_of("map.png", ("map.png", "photo.png")) == "photo.png"
    assert edit.source_of("other.png", ("map.png", "photo.png")) == "other.png"
    request = Edit(Image.new("RGB", (64, 64)), kind="predict", map="depth")
    whole, half = picture(tmp_path, request), picture(tmp_path, request, stopped="1/3")
    path = str(whole.path)
    box = "control", "photo.png", ("", None)
    assert edit.predicted_map([whole], ("ticket", "photo.png"), *box) == (path, (path, "photo.png"))
    for now in (("instruct", *box[1:]), ("control", "another.png", ("", None)), ("control", None, ("", None))):
        assert edit.predicted_map([whole], ("ticket", "photo.png"), *now) == (gr.skip(), gr.skip())
    for pictures, wanted in (([half], "ticket"), ([whole], "another"), ([], "ticket")):
        assert edit.predicted_map(pictures, (wanted, "photo.png"), *box) == (gr.skip(), gr.skip())


def test_no_picture_box_is_built_anew(page):
    _, tabs, benches = page
    boxes = [benches["edit"].controls[name] for name in ("image", "reference")]
    for kind in Edit.KINDS:
        update = benches["edit"].fill({"kind": kind, "image": "a.png", "reference": "b.png"})
        assert [update[box] for box in boxes] == ["a.png", "b.png"]


def test_a_picture_box_that_is_left_as_it_is_stays_what_it_is():
    with gr.Blocks() as demo:
        box = picture_box("Picture", "box")
        gr.Button().click(lambda: gr.skip(), None, box)
    function, state = demo.fns[0], SessionState(demo)
    asyncio.run(demo.postprocess_data(function, gr.skip(), state))
    payload = ImageData(path="/x/broken.png")
    assert state[box._id].preprocess(payload) == "/x/broken.png"


# Inpaint


def strokes(size, box):
    layer = Image.new("RGBA", size)
    if box:
        ImageDraw.Draw(layer).rectangle(box, fill=(200, 70, 29, 180))
    return {"background": None, "layers": [layer], "composite": None}


def inpaint_values(image, painted=None, mask=None, **more):
    return {"image": image, "strokes": painted, "mask": mask, "invert": False, "prompt": "", "grow": 0, "feather": 4, **more}


def test_strokes_become_the_mask(file):
    request = inpaint.inpaint_request(DEFAULTS, **inpaint_values(file(), strokes((256, 256), (40, 40, 60, 60))))
    assert request.mask.getbbox() == (40, 40, 61, 61) and request.image.size == (256, 256)


def test_a_mask_from_a_file_is_joined_with_strokes_at_the_working_size(file, tmp_path):
    mask = Image.new("L", (600, 300))
    mask.paste(255, (0, 0, 60, 300))
    mask.save(tmp_path / "mask.png")
    picture = file(size=(600, 300))
    working = (592, 288)  # cropped to whole cells, four pixels on the left
    request = inpaint.inpaint_request(
        DEFAULTS, **inpaint_values(picture, strokes(working, (560, 0, 570, 20)), str(tmp_path / "mask.png"))
    )
    assert request.image.size == (600, 300) and request.mask.size == working
    white = np.asarray(request.mask) > 0
    assert white[:, :56].all() and white[10, 565] and not white[:, 56:560].any()


def test_what_is_transparent_in_a_mask_stays(file, tmp_path):
    layer = Image.new("RGBA", (256, 256))
    layer.paste("red", (32, 32, 64, 64))
    layer.save(tmp_path / "mask.png")
    request = inpaint.inpaint_request(DEFAULTS, **inpaint_values(file(), None, str(tmp_path / "mask.png")))
    assert request.mask.getbbox() == (32, 32, 64, 64)


def test_without_a_mask_it_asks_for_one(file):
    for painted in (None, strokes((256, 256), None), {"background": None, "layers": [], "composite": None}):
        with pytest.raises(DimooError, match="Mask is empty: paint"):
            inpaint.inpaint_request(DEFAULTS, **inpaint_values(file(), painted))
    everything = inpaint.inpaint_request(DEFAULTS, **inpaint_values(file(), None, invert=True))
    assert everything.invert and everything.mask.getbbox() is None
    with pytest.raises(DimooError, match="Picture is missing"):
        inpaint.inpaint_request(DEFAULTS, **inpaint_values(None))


def test_the_cells_are_counted_and_marked_before_the_run(file):
    shown = {"image": file(), "strokes": strokes((256, 256), (40, 40, 60, 60)), "mask": None, "invert": False}
    assert "4 of 256 tokens will be redrawn" in inpaint.cells_preview(DEFAULTS, **shown, grow=0)
    assert "16 of 256 tokens" in inpaint.cells_preview(DEFAULTS, **shown, grow=16)
    assert "256 of 256" in inpaint.cells_preview(DEFAULTS, **(shown | {"strokes": None, "invert": True}), grow=0)
    assert "Mask is empty" in inpaint.cells_preview(DEFAULTS, **(shown | {"strokes": None}), grow=0)
    cells = np.zeros((2, 2), bool)
    cells[0, 1] = True
    marked = np.asarray(inpaint.mark_cells(Image.new("RGB", (32, 32), "white"), cells)).astype(int)
    half = marked.shape[0] // 2
    assert (marked[half:] == 255).all() and (marked[:half, :half] == 255).all()
    assert (np.ptp(marked[:half, half:], axis=-1) > 10).mean() > 0.9


def test_the_editor_gets_the_working_size(file, tmp_path):
    canvas, words = inpaint.canvas_for(file(size=(1200, 600)), DEFAULTS)
    assert canvas["background"].size == (352, 176) and not words
    assert inpaint.canvas_for(None, DEFAULTS) == (None, "")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    canvas, words = inpaint.canvas_for(str(tmp_path / "broken.png"), DEFAULTS)
    assert canvas is None and "broken.png cannot be read" in words


# Extrapolate


def test_an_aspect_decides_the_sides(file):
    path = file()
    align, left, right, top, bottom, shown = extrapolate.layout_of(DEFAULTS, path, "3:2", "start", 0, 0, 0, 0)
    assert (left, right, top, bottom) == (0, 128, 0, 0) and align["visible"]
    assert "256 × 256 → 384 × 256 pixels: 128 on the right; 128 new tokens" in shown
    align, *sides, _ = extrapolate.layout_of(DEFAULTS, path, "free", "center", 16, 0, 0, 32)
    assert sides == [16, 0, 0, 32] and not align["visible"]


def test_an_aspect_that_takes_too_much_moves_no_slider(file):
    path = file(size=(128, 1024))
    _, *sides, shown = extrapolate.layout_of(DEFAULTS, path, "16:9", "start", 16, 0, 0, 0)
    assert sides == [16, 0, 0, 0] and "Right must lie between 0 and 1024, not 1696" in shown


def test_the_layout_says_what_is_missing_or_too_large(file, tmp_path):
    assert "Add a picture" in extrapolate.layout_of(DEFAULTS, None, "free", "center", 16, 0, 0, 0)[-1]
    assert "Choose an aspect" in extrapolate.layout_of(DEFAULTS, file(), "free", "center", 0, 0, 0, 0)[-1]
    _, *sides, shown = extrapolate.layout_of(DEFAULTS, file(), "1:1", "center", 16, 0, 0, 0)
    assert "has this aspect already" in shown and sides == [16, 0, 0, 0]
    assert "<svg" not in extrapolate.layout_of(DEFAULTS, file(), "free", "center", 1024, 1024, 1024, 1024)[-1]
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert "cannot be read" in extrapolate.layout_of(DEFAULTS, str(tmp_path / "broken.png"), "1:1", "end", 0, 0, 0, 0)[-1]


def test_controls_become_an_extension(file):
    sides = {"left": 32, "right": 0, "top": 0, "bottom": 0}
    request = extrapolate.extrapolate_request(DEFAULTS, file(), "free", "center", prompt="", feather=8, **sides, **SAMPLING)
    assert isinstance(request, Extrapolate) and request.left == 32 and request.seed == 7
    with pytest.raises(DimooError, match="Nothing to add"):
        none = sides | {"left": 0}
        extrapolate.extrapolate_request(DEFAULTS, file(), "free", "center", prompt="", feather=8, **none, **SAMPLING)


def test_an_aspect_is_met_by_whoever_starts_before_its_sides_are_shown(file):
    """The sides are those of an earlier picture."""
    old = {"left": 32, "right": 0, "top": 0, "bottom": 64}
    path = file(size=(256, 256))
    request = extrapolate.extrapolate_request(DEFAULTS, path, "3:2", "start", prompt="", feather=8, **old, **SAMPLING)
    assert (request.left, request.right, request.top, request.bottom) == (0, 128, 0, 0)
    _, *shown, _ = extrapolate.layout_of(DEFAULTS, path, "3:2", "start", *old.values())
    assert shown == [0, 128, 0, 0]


def test_a_picture_that_will_be_scaled_is_said(pipeline, file):
    able = replace(pipeline, defaults=replace(pipeline.defaults, tasks=("inpaint", "extrapolate"), max_area=256 * 256))
    large = file(size=(1000, 500))
    sides = {"left": 32, "right": 0, "top": 0, "bottom": 0}
    for request in (
        inpaint.inpaint_request(able.defaults, **inpaint_values(large, strokes((352, 176), (0, 0, 20, 20)), None)),
        extrapolate.extrapolate_request(DEFAULTS, large, "free", "center", prompt="", feather=8, **sides, **SAMPLING),
    ):
        _, (note,) = able.check(request)
        assert "scaled from 1000 × 500 to 352 × 176" in note


# Chat


def test_masked_words_are_tiles_and_texts_are_plain():
    answer = Answer(1, 4, 0.1, 0.3, [("a ", 0.9), ("", None), ("<b>*x*</b>", 0.5)], "a <b>*x*</b>")
    assert bubble(answer) == "a " + chat.MASKED + "&lt;b&gt;&#42;x&#42;&lt;/b&gt;"
    answer.done = answer.stopped = True
    assert chat.MASKED not in bubble(answer) and "(stopped)" in bubble(answer)
    assert plain("1. # _a_ [b](c) `d` $e$\nf") == (
        "1&#46; &#35; &#95;a&#95; &#91;b&#93;&#40;c&#41; &#96;d&#96; &#36;e&#36;<br>f"
    )


def answers(*texts):
    steps = len(texts)
    for i, text in enumerate(texts):
        last = i + 1 == steps
        yield Answer(i, steps - 1, 0.1 * i, 0.0, [(text, 0.9), *([] if last else [("", None)])], text, done=last)


def asked(table, request, talk):
    ticket = new_ticket()
    table.shop.line.join(ticket, Wanted(request, []))
    return list(table.run(ticket, talk))


@pytest.fixture
def table():
    with gr.Blocks():
        yield Table_(Shop(lambda request, sign: answers("a", "a ball"), lambda request: (request, []), DEFAULTS, gr.State([])))


class Table_(Table):
    """With stand-ins for the components that a run changes."""

    shown = (None, None)


def test_a_talk_goes_on_and_shows_a_new_picture_once(table):
    red, blue = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue"))
    sent = asked(table, Chat((red,), "what is it"), Talk())
    assert sent[0][0]["status"] == "Starting …"
    message, talk, messages, asked_last = sent[-1]
    assert message["phase"] == "done" and "Answered in" in message["status"]
    assert [m["role"] for m in messages] == ["user", "user", "assistant"]
    assert "path" in messages[0]["content"] and messages[2]["content"] == "a ball"
    now = sent[1][3]
    assert now[1] == "what is it" and asked_last == gr.skip()  # the box is emptied once, of what is being answered
    assert chat.emptied(now, " what  is it\n") == "" and chat.emptied(now, "what is it made of") == gr.skip()
    talk = asked(table, Chat((red,), "how many"), talk)[-1][1]
    assert [m["role"] for m in talk.messages[3:]] == ["user", "assistant"]
    talk = asked(table, Chat((blue,), "and this"), talk)[-1][1]
    assert [isinstance(m["content"], dict) for m in talk.messages[5:]] == [True, False, False]


def test_a_talk_is_bounded(table):
    talk = Talk()
    for number in range(50):
        talk = talk.say("user", str(number)).say("assistant", "yes")
    assert len(talk.messages) == chat.MOST_MESSAGES and talk.messages[-2]["content"] == "49"


def test_a_question_without_a_picture_is_answered_with_a_sentence(table):
    def run(request, sign):
        raise DimooError("Testville answers questions about pictures only.")
        yield

    table.shop.run = run
    message, talk, messages, question = asked(table, Chat((), "hello"), Talk())[-1]
    assert message["phase"] == "failed" and "about pictures only" in message["status"]
    assert question == gr.skip()  # it can be asked again

    def broken(request, sign):
        yield next(answers("a", "a ball"))
        raise DimooError("The card was taken back.")

    table.shop.run = broken
    *_, (_, talk, messages, _), (message, *_) = asked(table, Chat((), "hello"), Talk())
    assert message["phase"] == "failed" and messages[-1]["content"] == talk.messages[-1]["content"] == chat.NO_ANSWER


def test_a_new_talk_gives_up_what_is_asked(table):
    ticket = new_ticket()
    table.shop.line.join(ticket, Wanted(Chat((), "hello"), []))
    talk, messages, message = table.start_anew(ticket)
    assert talk == Talk() and messages == [] and message["phase"] == "idle" and not table.shop.line.holds(ticket)


def test_a_call_says_how_long_it_takes(table):
    shop = table.shop
    shop.run = lambda request, sign: (Answer(0, 2, 0.1, seconds, [("a", 0.9)], "a") for seconds in [9.0])
    call = api.run(shop, "call", lambda: Chat((), "hello"))
    assert next(call) == {} and next(call).text == "a"
    shop.line.join("page", None)
    assert "free in about 9 s" in shop.line.describe("page")


def test_a_question_needs_words():
    with pytest.raises(DimooError, match="Question is empty"):
        chat.request_of(None, prompt="", short=False, length=8, block=8, steps=8, cache=True)


# The whole page


@pytest.fixture
def page():
    """A page of every tab, and its benches by the ids of their tabs."""
    found = {}

    def spy(tabs, benches):
        found.update(tabs=tabs, **benches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "connect", spy)
        blocks = build_page(lambda request, sign: iter(()), lambda request: (request, []), DEFAULTS)
    return blocks, found.pop("tabs"), found


def picture(tmp_path, request, **more) -> Picture:
    settings = request.settings() | {"width": 256, "height": 192, "seed": 5, "steps": 3, "model": "Testville", **more}
    path = save_png(Image.new("RGB", (256, 192), "green"), settings, tmp_path / "made.png")
    return Picture(path, settings, "ticket", 0, 16, 12)


def test_a_page_has_the_tabs_of_its_checkpoint():
    some = Defaults.of({"tasks": ["chat", "inpaint", "flying"]})
    blocks = build_page(lambda request, sign: iter(()), lambda request: (request, []), some)
    tabs = [block.label for block in blocks.blocks.values() if isinstance(block, gr.Tab)]
    assert tabs == ["Inpaint", "Chat"]
    assert [f.api_name for f in blocks.fns.values() if f.api_visibility == "public"] == ["inpaint", "chat"]


def test_settings_go_back_to_where_they_came_from(page, tmp_path):
    _, tabs, benches = page
    settings = picture(tmp_path, Generate("a ball", guidance=2.5, temperature=0.5)).settings
    update = transfer.to_controls(tabs, benches, settings, [])
    controls = benches["generate"].controls
    assert update[tabs]["selected"] == "generate"
    values = {name: update[component] for name, component in controls.items() if component in update}
    assert values["prompt"] == "a ball" and values["random_seed"] is False
    assert (values["width"], values["height"]) == (256, 192)
    (shape,) = benches["generate"].derived
    assert update[shape] is None  # no preset
    settings = picture(tmp_path, Generate("a ball", width=1280, height=768)).settings | {"width": 1280, "height": 768}
    assert transfer.to_controls(tabs, benches, settings, [])[shape] == "1280x768"
    assert (values["seed"], values["steps"], values["guidance"]) == (5, 3, 2.5)
    red = Image.new("RGB", (64, 64), "red")
    update = transfer.to_controls(tabs, benches, Edit(red, kind="view", direction="back", seed=3).settings(), [])
    controls = benches["edit"].controls
    assert update[controls["direction"]] == gr.update(visible=True, value="back")
    assert update[controls["prompt"]]["visible"] is False
    update = transfer.to_controls(tabs, benches, Extrapolate(red, left=48, seed=3).settings(), [])
    assert update[benches["extrapolate"].controls["left"]] == 48
    for broken in ({"task": "dance", "prompt": "x"}, {"prompt": "x"}, {"task": "generate"}, settings | {"steps": "many"}):
        with pytest.raises(DimooError):
            transfer.to_controls(tabs, benches, broken, [])


def test_inpainting_is_reused_with_its_picture_and_mask(page, file):
    _, tabs, benches = page
    red = Image.new("RGB", (64, 64), "red")
    pictures = {"image": file("image.png"), "mask": file("mask.png", colour="white")}
    update = transfer.to_controls(tabs, benches, Inpaint(red, red, "a ball", grow=16, seed=1).settings(), [], pictures)
    controls = benches["inpaint"].controls
    assert update[controls["image"]] == pictures["image"] and update[controls["mask"]] == pictures["mask"]
    assert update[controls["strokes"]]["background"].size == (256, 256) and update[controls["grow"]] == 16


def test_a_picture_is_sent_to_every_other_tab(page, tmp_path):
    _, tabs, benches = page
    made = picture(tmp_path, Generate("a ball"))
    path = str(made.path)
    for task, bench in benches.items():
        if task != "chat":
            assert set(bench.send) == set(TABS) - ({task} - set(AGAIN))
        update = transfer.sender(tabs, bench)(made, [made])
        assert update[tabs]["selected"] == task
        controls = bench.controls
        if task == "generate":
            assert update[controls["prompt"]] == "a ball"
        elif task == "chat":
            assert update[controls["images"]] == [path]
        else:
            assert update[controls["image"]] == path
        if task != "chat":
            assert update[bench.gallery] == [(path, "a ball")]
    update = transfer.sender(tabs, benches["inpaint"])(made, [])
    controls = benches["inpaint"].controls
    assert update[controls["prompt"]] == "a ball" and update[controls["mask"]] is None
    assert update[controls["strokes"]]["background"].size == (256, 192)
    instructed = picture(tmp_path, Edit(Image.new("RGB", (64, 64)), prompt="make it red"))
    assert transfer.sent(instructed, "inpaint")["prompt"] == "" and transfer.sent(instructed, "generate") == {}
    assert transfer.sender(tabs, benches["edit"])(None, []) == {tabs: gr.skip()}


def test_examples_fill_the_controls_of_their_tabs(page):
    _, _, benches = page
    for task, examples in FOR_TASK.items():
        assert len(examples) >= 2
        for number, example in enumerate(examples):
            assert all(path_of(name) and path_of(name).stat().st_size < 100_000 for name in example.pictures.values())
            values = chosen_values(examples, str(number))
            assert set(values) <= set(benches[task].controls)
            update = benches[task].fill(values)
            assert set(update) <= set(benches[task].filled)
            if task == "inpaint" and values.get("mask"):
                shown = inpaint.cells_preview(DEFAULTS, values["image"], None, values["mask"], False, 0)
                assert "of 256 tokens will be redrawn" in shown


def test_a_map_waits_for_what_is_being_made(page, file):
    blocks, _, benches = page
    easel, visit = benches["edit"], SimpleNamespace(session_hash="mine")
    button = next(b for b in blocks.blocks.values() if getattr(b, "elem_id", None) == "edit-make-map")
    [make] = [f.fn for f in blocks.fns.values() if (button._id, "click") in f.targets]
    easel.shop.check = lambda request: (request, [])
    values = dict.fromkeys(easel.controls) | {"image": file(), "map": "depth", "kind": "control", "prompt": ""}
    values["random_seed"] = True
    ticket, message, wanted, *_ = make(visit, ("", None), *values.values())
    assert message["phase"] == "waiting" and wanted == (ticket, values["image"])
    assert make(visit, ("", None), *values.values())[:3] == (gr.skip(),) * 3
    easel.shop.line.leave(ticket)


def test_examples_start_the_run(page):
    blocks, _, benches = page
    for task in FOR_TASK:
        row = next(b for b in blocks.blocks.values() if getattr(b, "elem_id", None) == f"{task}-examples")
        begun = [f for f in blocks.fns.values() if row in f.inputs and benches[task].board in f.outputs]
        assert len(begun) == 1
    row = next(b for b in blocks.blocks.values() if getattr(b, "elem_id", None) == "inpaint-examples")
    [start] = [f.fn for f in blocks.fns.values() if row in f.inputs and benches["inpaint"].board in f.outputs]
    nothing, visit = dict.fromkeys(benches["inpaint"].controls), SimpleNamespace(session_hash="mine")
    assert start(visit, "1", *nothing.values()) == (gr.skip(),) * 2  # to be painted first
    assert start(visit, "0", *nothing.values())[1]["phase"] == "failed"  # without the picture


def test_every_control_has_a_label_and_an_address(page):
    blocks, _, _ = page
    addresses = [block.elem_id for block in blocks.blocks.values() if getattr(block, "elem_id", None)]
    assert len(addresses) == len(set(addresses))
    for block in blocks.blocks.values():
        if isinstance(block, gr.Textbox | gr.Slider | gr.Radio | gr.Checkbox | gr.Number | gr.Image | gr.ImageEditor):
            assert block.label and block.elem_id


def test_the_length_of_an_answer_goes_with_its_form_unless_it_is_said(page):
    _, _, benches = page
    chat = benches["chat"]
    length = chat.controls["length"]
    assert chat.fill({"short": True})[length] == DEFAULTS.short_length
    assert chat.fill({"short": False})[length] == DEFAULTS.answer_length
    assert chat.fill({"short": True, "length": 7})[length] == 7
    assert length not in chat.fill({"prompt": "how many?"})
