"""What the tabs share, without a browser: runs and their messages, the session, the controls, the line."""

from __future__ import annotations

import base64
import io
import json
import os
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from dimoo.frames import Frame
from dimoo.metadata import read_settings
from dimoo.tasks import Chat, Edit, Extrapolate, Generate, Inpaint
from dimoo.ui import files
from dimoo.ui.controls import literal, surprise_script
from dimoo.ui.easel import Easel, reused_seed
from dimoo.ui.examples import path_of, served
from dimoo.ui.files import found, keep
from dimoo.ui.gallery import (
    FORGOTTEN,
    MOST_PICTURES,
    added,
    before,
    choose,
    details_html,
    given_pictures,
    listed,
    publish,
    restored,
    title_of,
)
from dimoo.ui.generate import request_of
from dimoo.ui.line import Line, StopSign, new_ticket
from dimoo.ui.stage import Pace, pack_frame, status_line
from dimoo.ui.workbench import BROKEN, Shop, Wanted

# What a run sends


@pytest.fixture
def easel(pipeline):
    def run(request, sign):
        return pipeline.run(request, StopSign(sign).seen)

    with gr.Blocks():
        yield Easel(Shop(run, pipeline.check, pipeline.defaults, gr.State([])), "test")


def joined(easel, request) -> str:
    ticket = new_ticket()
    easel.shop.line.join(ticket, Wanted(request, []))
    return ticket


def make(**values) -> Generate:
    return Generate(**{"prompt": "a red ball", "steps": 6, "seed": 1, **values})


def test_a_run_starts_at_once_and_ends_with_a_picture(easel):
    ticket = joined(easel, make())
    sent = list(easel.run(ticket, []))
    messages = [message for message, _ in sent]
    assert messages[0]["status"] == "Starting …" and not messages[0]["frames"]
    assert {message["phase"] for message in messages[:-1]} == {"running"}
    steps = [frame["step"] for message in messages for frame in message["frames"]]
    assert steps == list(range(7))
    end, pictures = sent[-1]
    assert end["phase"] == "done" and end["fresh"] and end["final"].startswith("data:image/jpeg;base64,")
    assert end["status"].endswith("seed 1")
    assert read_settings(pictures[0].path)["seed"] == 1
    assert not easel.shop.line.holds(ticket)


def test_messages_are_small_and_not_too_many(easel):
    begin = time.monotonic()
    sent = list(easel.run(joined(easel, make(steps=100)), []))
    assert len(sent) <= 4 + 12 * (time.monotonic() - begin)
    assert max(len(json.dumps(frame)) for message, _ in sent for frame in message["frames"]) < 8000


def test_pace_is_an_average_without_bursts():
    now = 0.0
    pace = Pace(10, lambda: now)
    said = 0
    for _ in range(1000):
        now += 0.06
        said += pace.due()
    assert 590 <= said <= 610
    now += 100
    assert sum(pace.due() for _ in range(50)) <= 2


def test_several_pictures_are_kept_newest_first(easel):
    sent = list(easel.run(joined(easel, make(count=2)), ["older"]))
    assert [p if p == "older" else p.settings["seed"] for p in sent[-1][1]] == [2, 1, "older"]
    assert [message["phase"] for message, _ in sent if message["final"]] == ["running", "done"]
    assert sent[-1][0]["status"].startswith("Finished in")


def test_a_session_keeps_so_many_pictures_and_no_more():
    pictures = []
    for number in range(MOST_PICTURES + 5):
        pictures = added(number, pictures)
    assert pictures == list(range(MOST_PICTURES + 4, 4, -1))


def test_stop_ends_within_a_step_and_keeps_the_picture(easel):
    ticket = joined(easel, make(steps=100, count=3))
    run = easel.run(ticket, [])
    list(islice(run, 3))
    easel.halt(ticket)
    end, pictures = list(run)[-1]
    assert end["phase"] == "stopped" and end["status"].startswith("Stopped at step")
    stopped = read_settings(pictures[0].path)["stopped"]
    assert 0 < int(stopped.split("/")[0]) < 100 and stopped.endswith("/100")
    assert not StopSign.of(ticket).seen()
    assert list(easel.run(joined(easel, make()), []))[-1][0]["phase"] == "done"


def test_a_cancelled_run_frees_everything(easel):
    ticket = joined(easel, make())
    closed = []
    inner = easel.shop.run

    def watched(request, sign):
        try:
            yield from inner(request, sign)
        finally:
            closed.append(True)

    easel.shop.run = watched
    run = easel.run(ticket, [])
    list(islice(run, 2))
    run.close()
    assert closed == [True]
    assert not easel.shop.line.holds(ticket)


def test_a_ticket_that_is_not_in_the_line_does_not_run(easel):
    signs = StopSign.of("any").path.parent
    before = set(signs.iterdir())
    for ticket in ("", new_ticket()):
        assert list(easel.run(ticket, [])) == [(gr.skip(), gr.skip())]
        easel.halt(ticket)
    assert set(signs.iterdir()) == before


def test_a_request_that_cannot_run_never_waits(easel):
    for values, sentence in (({"prompt": ""}, "Prompt is empty"), ({"prompt": "dragon"}, "knows none")):
        ticket, message = easel.begin(None, lambda values=values: make(**values))
        assert message["phase"] == "failed" and sentence in message["status"]
        assert not easel.shop.line.holds(ticket)


def test_what_only_the_checkpoint_can_refuse_never_waits_either(easel, pipeline):
    small = replace(pipeline.defaults, max_area=512 * 512, text_only=False)
    easel.shop.check = replace(pipeline, defaults=small).check
    red, black = Image.new("RGB", (64, 64), "red"), Image.new("L", (64, 64))
    for request, sentence in (
        (make(width=1024, height=1024), "is too large"),
        (Extrapolate(red, left=1024, right=1024, top=1024), "is too large"),
        (Chat((), "is the ball red"), "about pictures only"),
        (Inpaint(red, black, "a ball"), "mask is empty"),
        (Inpaint(red, Image.new("L", (64, 32), 255), "a ball"), "does not fit the picture"),
    ):
        ticket, message = easel.begin(None, lambda request=request: request)
        assert message["phase"] == "failed" and sentence in message["status"]
        assert not easel.shop.line.holds(ticket)


def test_one_run_at_a_time_and_tab(easel):
    ticket, message = easel.begin("mine", lambda: make(prompt="a red dragon ball"))
    assert message["phase"] == "waiting" and "dragon" in message["notes"][0]
    assert easel.begin("mine", make) == (gr.skip(), gr.skip())
    assert easel.begin("another", make)[1]["phase"] == "waiting"
    first, _ = next(easel.run(ticket, []))
    assert first["phase"] == "running" and first["notes"] == message["notes"]


def test_two_presses_at_once_are_one_run(easel):
    """The second comes while the first is still being checked."""
    inside = []

    def slow():
        inside.append(easel.begin("mine", make))
        return make()

    assert easel.begin("mine", slow) == (gr.skip(), gr.skip())
    (ticket, message), = inside
    assert message["phase"] == "waiting" and easel.shop.line.serves(("mine", easel.task))
    list(easel.run(ticket, []))
    assert not easel.shop.line.serves(("mine", easel.task))
    assert easel.begin("mine", make)[1]["phase"] == "waiting"


def test_a_full_queue_is_said(easel):
    ticket, *_ = easel.begin(None, make)
    assert "Too many people" in easel.refused(ticket)["status"]
    assert not easel.shop.line.holds(ticket)
    assert easel.refused(ticket) == gr.skip()


def test_leaving_the_line(easel):
    ticket, _ = easel.begin(None, make)
    assert easel.quit_line(ticket)["phase"] == "idle"
    assert list(easel.run(ticket, [])) == [(gr.skip(), gr.skip())]
    ticket, _ = easel.begin(None, make)
    run = easel.run(ticket, [])
    list(islice(run, 2))
    easel.quit_line(ticket)  # it had begun before the page knew
    [(message, kept)] = list(run)
    assert message["phase"] == "idle" and kept == gr.skip()


def test_what_waits_has_the_size_at_which_it_is_worked_on(easel, pipeline):
    large, mask = Image.new("RGB", (3000, 2000), "red"), Image.new("L", (3000, 2000))
    mask.paste(255, (1000, 500, 1100, 600))
    easel.shop.check = replace(pipeline, defaults=replace(pipeline.defaults, tasks=("inpaint", "extrapolate"))).check
    for request in (Inpaint(large, mask, "a ball"), Extrapolate(large, "a ball", left=64)):
        ticket, message = easel.begin(None, lambda request=request: request)
        wanted = easel.shop.line.start(ticket)
        width, height = wanted.request.image.size
        assert width * height <= easel.shop.defaults.max_area
        assert wanted.notes == message["notes"] and "scaled from 3000 × 2000" in wanted.notes[0]
        if isinstance(request, Inpaint):
            left, top, right, bottom = wanted.request.mask.getbbox()
            assert wanted.request.mask.size == (width, height)
            assert abs(left - width / 3) < 2 and abs(bottom - 0.3 * height) < 2


def test_what_breaks_is_logged_and_said_plainly(easel, caplog):
    def broken(request, sign):
        raise RuntimeError("secret <path>")
        yield

    easel.shop.run = broken
    message, _ = list(easel.run(joined(easel, make()), []))[-1]
    assert message["phase"] == "failed" and message["status"] == BROKEN
    assert "secret" in caplog.text


# The session


def clicked(picture):
    """What the page says of a click on a picture of the gallery that it shows."""
    return type("Event", (), {"index": 0, "value": {"image": {"path": str(picture.small)}, "caption": ""}})()


def make_more(easel) -> list:
    return list(easel.run(joined(easel, make()), []))[-1][1]


def test_pictures_of_the_session_come_back(easel):
    pictures = list(easel.run(joined(easel, make(count=2)), []))[-1][1]
    chosen, details, download, gallery = publish(pictures)
    assert chosen == pictures[0] and download == str(pictures[0].path)
    assert gallery == [(str(p.path), "a red ball") for p in pictures]
    event = clicked(pictures[1])
    message, chosen, details, download = choose(pictures, event)
    assert chosen == pictures[1] and message["final"] and not message["fresh"]
    assert (message["run"], message["index"]) == (pictures[1].ticket, 0)
    assert publish([])[0] == gr.skip() and choose([], event)[0]["status"] == FORGOTTEN
    assert choose([*make_more(easel), *pictures], event)[1] == pictures[1]  # whatever its place is by now
    pictures[1].path.unlink()
    forgotten, *others = choose(pictures, event)
    assert forgotten["phase"] == "failed" and others == [gr.skip()] * 3
    assert reused_seed(pictures[1]) == (1, False) and reused_seed(None)[0] == gr.skip()


def test_pictures_are_found_again_by_their_tickets(easel):
    red = Image.new("RGB", (64, 48), "red")
    request = Inpaint(red, Image.new("L", (64, 48), 255), "a ball")
    easel.shop.run = lambda request, sign: (drawn(r) for r in [request])
    [repaired] = list(easel.run(joined(easel, request), []))[-1][1]
    assert found(repaired.ticket) == [repaired]
    for wrong in ("", "..", "x" * 32, f"../{repaired.ticket}", repaired.ticket.upper() + "/", new_ticket()):
        assert found(wrong) == []


def test_a_page_that_is_opened_anew_has_the_pictures_of_its_session(easel):
    pictures = list(easel.run(joined(easel, make(count=2)), []))[-1][1]
    pictures = list(easel.run(joined(easel, make(steps=2)), pictures))[-1][1]
    tickets = [pictures[-1].ticket, pictures[0].ticket]
    assert [p.path for p in restored(tickets, [])] == [p.path for p in pictures]
    assert restored(tickets, pictures[:1]) == pictures[:1]
    assert restored(None, []) == restored("all", []) == restored([3, None, "a/b"], []) == []


def test_examples_served_are_those_of_this_version(served_files):
    copy = Path(served(path_of("beach.png")))
    copy.write_bytes(path_of("rocket.png").read_bytes())  # as an older version may have left it
    assert Path(served(path_of("beach.png"))).read_bytes() == path_of("beach.png").read_bytes()


def test_old_pictures_are_swept_up(easel, served_files):
    picture = list(easel.run(joined(easel, make()), []))[-1][1][0]
    assert picture.path.is_relative_to(served_files)
    example = Path(served(path_of("beach.png")))
    files.sweep()
    assert picture.path.exists()
    long_ago = time.time() - files.KEEP_SECONDS - 60
    os.utime(files.folder() / picture.ticket, (long_ago, long_ago))
    files.sweep_regularly()
    for _ in range(100):
        if not picture.path.exists():
            break
        time.sleep(0.05)
    assert not picture.path.exists() and example.is_relative_to(served_files) and example.exists()


@pytest.mark.parametrize("uploads", [True, False])
def test_uploads_of_earlier_processes_are_swept_up_where_nobody_else_keeps_files(tmp_path, monkeypatch, uploads):
    home = tmp_path / "gradio"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(home))
    example = Path(served(path_of("beach.png")))
    for name in ("old", "new"):
        (home / name).mkdir(parents=True)
        (home / name / "photo.png").touch()
    long_ago = time.time() - files.KEEP_SECONDS - 60
    (home / "broken-off").touch()
    for old in (home / "old", home / "broken-off", example.parent):
        os.utime(old, (long_ago, long_ago))
    files.sweep(uploads=uploads)
    assert (home / "old").exists() == (home / "broken-off").exists() == (not uploads)
    assert (home / "new" / "photo.png").exists() and example.exists()


def drawn(request, size=(64, 48)) -> Frame:
    """The last frame of a run that drew a grey picture."""
    grid = np.zeros((size[1] // 16, size[0] // 16))
    settings = request.settings() | {"width": size[0], "height": size[1], "seconds": 1.0}
    settings |= {"seed": 1, "steps": 2, "guidance": 1.0, "temperature": 1.0}
    preview = np.zeros((*[4 * side for side in grid.shape], 3), np.uint8)
    image = Image.new("RGB", size, "grey")
    return Frame(2, 2, 1.0, 0.0, 0, 1, 1, grid, grid > 0, grid, preview, image, settings)


def test_a_picture_keeps_what_it_was_made_from(easel):
    red = Image.new("RGB", (64, 48), "red")
    request = Inpaint(red, Image.new("L", (64, 48), 255), "a ball")
    easel.shop.run = lambda request, sign: (drawn(r) for r in [request])
    message, [picture] = list(easel.run(joined(easel, request), []))[-1]
    assert set(picture.given) == {"image", "mask"} and message["before"].startswith("data:image/jpeg")
    assert Image.open(picture.given["image"]).getpixel((0, 0)) == (255, 0, 0)
    assert Image.open(picture.before).size == (64, 48)
    back, *_ = choose([picture], clicked(picture))
    assert back["before"] == message["before"]
    picture.before.unlink()
    assert choose([picture], clicked(picture))[0]["before"] is None


def test_large_pictures_are_listed_small_and_come_back_whole():
    large, small = (keep(drawn(Generate("a ball"), size), new_ticket()) for size in ((1024, 512), (256, 256)))
    (path, _), (own, _) = listed([large, small])
    assert Image.open(path).size == (320, 160) and own == str(small.path)
    assert found(large.ticket) == [large]
    _, chosen, _, download = choose([small, large], clicked(large))
    assert chosen == large and Image.open(download).size == (1024, 512)


def test_what_there_is_to_compare():
    red, result = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (128, 64))
    grown = before(Extrapolate(red, left=64), result)
    assert grown.size == (128, 64) and grown.getpixel((127, 5)) == (255, 0, 0) and grown.getpixel((5, 5)) != (255, 0, 0)
    assert before(Edit(red, prompt="a ball"), result).size == (128, 64)
    assert before(Edit(red, kind="view"), result) is None and before(make(), result) is None
    style = Edit(red, kind="style", reference=red)
    assert given_pictures(make()) == {} and set(given_pictures(style)) == {"image", "reference"}


def test_every_picture_has_words():
    red = Image.new("RGB", (64, 64), "red")
    assert title_of(Edit(red, kind="predict", map="depth").settings()) == "Depth of a picture"
    assert title_of(Edit(red, kind="view", direction="back").settings()) == "Another view: back"
    assert title_of(Edit(red, kind="style", reference=red).settings()) == "In the style of another picture"
    assert title_of(Extrapolate(red, left=16).settings()) == "A picture continued"
    assert title_of(Inpaint(red, red, "a ball").settings()) == "a ball"


def test_frames_are_packed_for_the_browser(pipeline):
    frame = list(islice(pipeline.run(Generate("a red ball", seed=1)), 6))[-1]
    packed = pack_frame(frame)
    cells = np.frombuffer(base64.b64decode(packed["cells"]), np.uint8).reshape(frame.masked.shape)
    assert np.array_equal(cells == 0, frame.masked)
    sure = frame.confidence[~frame.masked]
    assert np.abs((cells[~frame.masked] - 1.0) / 254 - sure).max() < 0.003
    picture = Image.open(io.BytesIO(base64.b64decode(packed["picture"].split(",")[1])))
    assert picture.size == (64, 64)
    assert status_line(frame).startswith("Step 5 of 12 · ") and status_line(frame).endswith("left · seed 1")


def test_text_from_people_is_escaped():
    settings = Generate("<img src=x onerror=alert(1)>", 64, 64, steps=1, guidance=1, temperature=1, seed=1).settings()
    html = details_html(settings | {"seconds": 1.0, "model": "Testville"})
    assert "<img" not in html and "&lt;img" in html
    assert "</script" not in surprise_script(['"</script>'])
    assert not set(literal("`${x}` {{y}} \\n")) & set("`$\\{")


# Controls


def test_controls_make_requests():
    values = {"prompt": "a ball", "steps": 8, "guidance": 2.5, "temperature": 0.5, "seed": 7, "count": 2, "cache": True}
    values |= {"width": 320, "height": 192}
    request = request_of(**values, random_seed=False)
    assert request == Generate("a ball", 320, 192, steps=8, guidance=2.5, temperature=0.5, seed=7, count=2, cache=True)
    assert request_of(**values, random_seed=True).seed is None


# The line


def test_the_line_counts_who_is_ahead():
    now = 0.0
    line = Line(lambda: now)
    line.join("a", "its request")
    assert line.start("a") == "its request" and line.start("a") is None
    line.join("b", "another")
    line.join("c", "a third")
    assert line.describe("b") == "Waiting in line: one run is ahead of yours."
    assert line.describe("c") == "Waiting in line: 2 runs are ahead of yours."
    line.expect("a", 12.0)
    now = 2.0
    assert line.describe("b") == "Waiting in line: one run is ahead of yours, free in about 10 s."
    line.leave("a")
    assert line.describe("b") == "Next in line …"
    line.occupy("a call")
    assert line.describe("b") == "Waiting in line: one run is ahead of yours."
    line.leave("a call")
    assert line.describe("a") is None and line.describe("nobody") is None


def test_what_waits_of_a_session_that_is_over_is_forgotten():
    line = Line()
    for ticket, session in {"a": "one", "b": "one", "c": "two"}.items():
        assert line.join(ticket, "its request", (session, ticket))
    line.start("a")
    line.forget("one")
    assert line.holds("a") and line.serves(("one", "a")) and not line.holds("b") and line.start("b") is None
    assert line.start("c") == "its request"


def test_pages_that_are_gone_are_not_counted():
    now = 0.0
    line = Line(lambda: now)
    line.join("closed", "its request")
    line.join("open", "another")
    now = 7.0
    assert line.ahead("open") == 1
    now = 14.0
    assert line.ahead("open") == 0
    assert line.holds("closed")  # a page in the background is slow to ask
    assert line.ahead("closed") == 0
    now = 5000.0
    line.join("new", "a third")
    assert not line.holds("closed") and line.start("closed") is None


def test_a_stop_sign_is_seen_by_its_path_alone():
    sign = StopSign.of(new_ticket())
    assert not StopSign(str(sign.path)).seen()
    sign.show()
    assert StopSign(str(sign.path)).seen()
    sign.remove()
    sign.remove()
    assert not sign.seen()
