"""What the tabs share, without a browser: runs and their messages, the session, the controls, the line."""

from __future__ import annotations

import base64
import io
import json
import time
from itertools import islice

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from dimoo.errors import DimooError
from dimoo.metadata import read_settings, save_png
from dimoo.tasks import Generate
from dimoo.ui import files
from dimoo.ui.controls import literal, split_size, surprise_script
from dimoo.ui.gallery import choose, details_html, publish
from dimoo.ui.generate import load_settings, request_of
from dimoo.ui.line import Line, StopSign, new_ticket
from dimoo.ui.stage import Pace, pack_frame, status_line
from dimoo.ui.workbench import BROKEN, Shop, Workbench

# What a run sends


@pytest.fixture
def workbench(pipeline):
    def run(request, sign):
        return pipeline.run(request, StopSign(sign).seen)

    with gr.Blocks():
        yield Workbench(Shop(run, pipeline.notes), "test")


def joined(workbench) -> str:
    ticket = new_ticket()
    workbench.shop.line.join(ticket)
    return ticket


def make(**values):
    return lambda: Generate(**{"prompt": "a red ball", "steps": 6, "seed": 1, **values})


def test_a_run_starts_at_once_and_ends_with_a_picture(workbench):
    ticket = joined(workbench)
    sent = list(workbench._run(ticket, [], make(), ()))
    messages = [message for message, _ in sent]
    assert messages[0]["status"] == "Starting …" and not messages[0]["frames"]
    assert {message["phase"] for message in messages[:-1]} == {"running"}
    steps = [frame["step"] for message in messages for frame in message["frames"]]
    assert steps == list(range(7))
    end, pictures = sent[-1]
    assert end["phase"] == "done" and end["fresh"] and end["final"].startswith("data:image/jpeg;base64,")
    assert end["status"].endswith("seed 1")
    assert read_settings(pictures[0].path)["seed"] == 1
    assert not workbench.shop.line.holds(ticket)


def test_messages_are_small_and_not_too_many(workbench):
    begin = time.monotonic()
    sent = list(workbench._run(joined(workbench), [], make(steps=100), ()))
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


def test_several_pictures_are_kept_newest_first(workbench):
    sent = list(workbench._run(joined(workbench), ["older"], make(count=2), ()))
    assert [p if p == "older" else p.settings["seed"] for p in sent[-1][1]] == [2, 1, "older"]
    assert [message["phase"] for message, _ in sent if message["final"]] == ["running", "done"]
    assert sent[-1][0]["status"].startswith("Finished in")


def test_stop_ends_within_a_step_and_keeps_the_picture(workbench):
    ticket = joined(workbench)
    run = workbench._run(ticket, [], make(steps=100, count=3), ())
    list(islice(run, 3))
    workbench._stop(ticket)
    end, pictures = list(run)[-1]
    assert end["phase"] == "stopped" and end["status"].startswith("Stopped at step")
    stopped = read_settings(pictures[0].path)["stopped"]
    assert 0 < int(stopped.split("/")[0]) < 100 and stopped.endswith("/100")
    assert not StopSign.of(ticket).seen()
    assert list(workbench._run(joined(workbench), [], make(), ()))[-1][0]["phase"] == "done"


def test_a_cancelled_run_frees_everything(workbench):
    ticket = joined(workbench)
    closed = []
    inner = workbench.shop.run

    def watched(request, sign):
        try:
            yield from inner(request, sign)
        finally:
            closed.append(True)

    workbench.shop.run = watched
    run = workbench._run(ticket, [], make(), ())
    list(islice(run, 2))
    run.close()
    assert closed == [True]
    assert not workbench.shop.line.holds(ticket)


def test_a_ticket_that_is_not_in_the_line_does_not_run(workbench):
    assert list(workbench._run("", [], make(), ())) == []
    assert list(workbench._run(new_ticket(), [], make(), ())) == []
    workbench._stop("")
    assert not StopSign.of("").path.is_file()


def test_a_request_that_cannot_run_never_waits(workbench):
    for values, sentence in (({"prompt": ""}, "Prompt is empty"), ({"prompt": "dragon"}, "knows none")):
        ticket, message = workbench._begin("", make(**values), ())
        assert message["phase"] == "failed" and sentence in message["status"]
        assert not workbench.shop.line.holds(ticket)


def test_one_run_at_a_time_and_session(workbench):
    ticket, message = workbench._begin("", make(prompt="a red dragon ball"), ())
    assert message["phase"] == "waiting" and "dragon" in message["notes"][0]
    again, update = workbench._begin(ticket, make(), ())
    assert again == ticket and update == gr.skip()


def test_a_full_queue_is_said(workbench):
    ticket, _ = workbench._begin("", make(), ())
    assert "Too many people" in workbench._refused(ticket)["status"]
    assert not workbench.shop.line.holds(ticket)
    assert workbench._refused(ticket) == gr.skip()


def test_leaving_the_line(workbench):
    ticket, _ = workbench._begin("", make(), ())
    assert workbench._leave(ticket)["phase"] == "idle"
    assert list(workbench._run(ticket, [], make(), ())) == []


def test_what_breaks_is_logged_and_said_plainly(workbench, caplog):
    def broken(request, sign):
        raise RuntimeError("secret <path>")
        yield

    workbench.shop.run = broken
    message, _ = list(workbench._run(joined(workbench), [], make(), ()))[-1]
    assert message["phase"] == "failed" and message["status"] == BROKEN
    assert "secret" in caplog.text


def test_pictures_of_the_session_come_back(workbench):
    pictures = list(workbench._run(joined(workbench), [], make(count=2), ()))[-1][1]
    chosen, details, download, gallery = publish(pictures)
    assert chosen == pictures[0] and download == str(pictures[0].path)
    assert [path for path, _ in gallery] == [str(p.path) for p in pictures]
    event = type("Event", (), {"index": 1})()
    message, chosen, details, download = choose(pictures, event)
    assert chosen == pictures[1] and message["final"] and not message["fresh"]
    assert (message["run"], message["index"]) == (pictures[1].ticket, 0)
    assert publish([])[0] == gr.skip()


def test_old_pictures_are_swept_up(workbench, served_files):
    picture = list(workbench._run(joined(workbench), [], make(), ()))[-1][1][0]
    assert picture.path.is_relative_to(served_files)
    files.sweep()
    assert picture.path.exists()
    files.sweep(age=-1)
    assert not picture.path.exists()


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
    settings = Generate(
        "<img src=x onerror=alert(1)>", width=64, height=64, steps=1, guidance=1, temperature=1, seed=1
    )
    html = details_html(settings.settings() | {"seconds": 1.0, "model": "Testville"})
    assert "<img" not in html and "&lt;img" in html
    assert "</script" not in surprise_script(['"</script>'])
    assert not set(literal("`${x}` {{y}} \\n")) & set("`$\\{")


# Controls


def test_controls_make_requests():
    request = request_of("a ball", "320x192", 8, 2.5, 0.5, 7, False, 2)
    assert request == Generate("a ball", 320, 192, 8, 2.5, 0.5, 7, 2)
    assert request_of("a ball", "320x192", 8, 2.5, 0.5, 7, True, 1).seed is None
    assert split_size(None) == (None, None)


def test_settings_are_loaded_from_a_picture(tmp_path):
    settings = Generate("a ball", 320, 192, 8, 2.5, 0.5, 7).settings()
    path = save_png(Image.new("RGB", (8, 8)), settings, tmp_path / "a.png")
    assert load_settings(str(path), "256x256") == ("a ball", "320x192", 8, 2.5, 0.5, 7, False)
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    with pytest.raises(gr.Error, match="carries no settings"):
        load_settings(str(tmp_path / "plain.png"), None)
    with pytest.raises(DimooError):
        read_settings(tmp_path / "plain.png")


# The line


def test_the_line_counts_who_is_ahead():
    now = 0.0
    line = Line(lambda: now)
    line.join("a")
    line.start("a")
    line.join("b")
    line.join("c")
    assert line.describe("b") == "Waiting in line: one run is ahead of yours."
    assert line.describe("c") == "Waiting in line: 2 runs are ahead of yours."
    line.expect("a", 12.0)
    now = 2.0
    assert line.describe("b") == "Waiting in line: one run is ahead of yours, free in about 10 s."
    line.leave("a")
    assert line.describe("b") == "Starting …"
    assert line.describe("a") is None and line.describe("nobody") is None


def test_pages_that_are_gone_are_not_counted():
    now = 0.0
    line = Line(lambda: now)
    line.join("closed")
    line.join("open")
    now = 7.0
    assert line.ahead("open") == 1
    now = 14.0
    assert line.ahead("open") == 0
    assert line.holds("closed")  # a page in the background is slow to ask
    assert line.ahead("closed") == 0
    now = 5000.0
    line.join("new")
    assert not line.holds("closed")


def test_a_stop_sign_is_seen_by_its_path_alone():
    sign = StopSign.of(new_ticket())
    assert not StopSign(str(sign.path)).seen()
    sign.show()
    assert StopSign(str(sign.path)).seen()
    sign.remove()
    sign.remove()
    assert not sign.seen()
