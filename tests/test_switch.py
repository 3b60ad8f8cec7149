"""Another checkpoint for the whole server: how its loading goes, whatever becomes of the page that asked for it."""

from __future__ import annotations

import threading
import time

import gradio as gr
import pytest

from dimoo.errors import DimooError
from dimoo.ui import switch as module
from dimoo.ui.line import Line
from dimoo.ui.switch import Switch


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "GRACE", 0.01)


def test_a_checkpoint_is_handed_out_and_the_line_knows_of_its_loading():
    line, go = Line(), threading.Event()
    line.join("ticket", "a request")
    switch = Switch(["one", "two"], lambda name: go.wait() and name)
    words = switch.to("two", line)
    assert "Loading two" in next(words) and "one run is ahead" in line.describe("ticket")
    go.set()
    assert "two is there" in list(words)[-1]
    assert switch.current == switch.wait() == "two" and line.describe("ticket") == "Next in line …"


def test_who_leaves_while_it_loads_holds_nobody_up():
    line, go = Line(), threading.Event()
    line.join("ticket", "a request")
    loads = []
    switch = Switch(["one", "two"], lambda name: loads.append(name) or go.wait() and name)
    words = switch.to("two", line)
    next(words)
    began = time.monotonic()
    words.close()
    assert time.monotonic() - began < 0.5
    assert switch.current == "one" and switch.loaded.empty() and line.describe("ticket") == "Next in line …"
    again = switch.to("two", line)
    assert "Loading two" in next(again) and next(again) and loads == ["two"]  # never two at once
    go.set()
    assert "two is there" in list(again)[-1]


def test_what_cannot_be_loaded_is_said_and_the_words_on_its_loading_go():
    def load(name):
        raise DimooError("There is no checkpoint folder two.")

    line = Line()
    switch = Switch(["one", "two"], load)
    seen = []
    with pytest.raises(gr.Error, match="no checkpoint folder"):
        for words in switch.to("two", line):
            seen.append(words)
    assert seen[-1] == "" and switch.current == "one"
    switch.load = lambda name: 1 / 0
    seen.clear()
    with pytest.raises(ZeroDivisionError):
        for words in switch.to("two", line):
            seen.append(words)
    assert seen[-1] == ""
    for name, sentence in (("one", "is loaded"), ("three", "not on offer")):
        with pytest.raises(gr.Error, match=sentence):
            next(switch.to(name, line))
