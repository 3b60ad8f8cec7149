"""The page without a browser: launch options, reservations, and the public endpoint."""

from __future__ import annotations

import json
import socket
import time
import urllib.request

import pytest
from gradio_client import Client
from PIL import Image

import app
from dimoo.metadata import read_settings
from dimoo.tasks import Generate


@pytest.fixture(scope="module")
def address(checkpoint):
    page = app.build(str(checkpoint), "cpu")
    yield app.serve(page, server_name="127.0.0.1")
    page.close()


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False)


# Launching


def test_a_port_in_use_ends_in_a_sentence(capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert app.main(["--port", str(other.getsockname()[1])]) == 2
    assert "choose another with --port" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--checkpoint", "/nowhere/at/all"], "There is no checkpoint folder /nowhere/at/all"),
        (["--auth", "name"], "--auth wants a user and a password"),
        (["--port", "99999999"], "There is no port 99999999"),
        (["--host", "no.such.host.invalid"], "Cannot serve on no.such.host.invalid"),
    ],
)
def test_wrong_options_end_in_a_sentence(options, sentence, capsys):
    assert app.main([*options] if "--port" in options else [*options, "--port", "0"]) == 2
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error


def test_credentials():
    assert app.credentials(None) is None
    assert app.credentials("me:a:b") == ("me", "a:b")


def test_the_page_is_healthy_and_says_so(address):
    with urllib.request.urlopen(address + "healthz") as answer:
        assert json.load(answer) == {"status": "ok"}


def test_reservations_are_for_the_request_and_bounded(pipeline, monkeypatch):
    asked = {}

    def reserve(duration):
        asked["duration"] = duration
        return lambda function: function

    monkeypatch.setattr(app.spaces, "GPU", reserve)
    run = app.reserved_runner(pipeline)
    small = asked["duration"](Generate("a"), "sign")
    assert 0 < small < asked["duration"](Generate("a", count=8, steps=128), "sign") <= app.LONGEST_RESERVATION
    frames = list(run(Generate("a red ball", steps=2), "/no/sign"))
    assert frames[-1].image is not None


# The public endpoint


def test_the_endpoint_needs_a_prompt_only(client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert list(endpoints) == ["/generate"]
    prompt, *others = endpoints["/generate"]["parameters"]
    assert prompt["parameter_name"] == "prompt" and not prompt["parameter_has_default"]
    assert all(parameter["parameter_has_default"] for parameter in others)


def test_the_endpoint_returns_pictures_with_settings(client):
    pictures, settings = client.predict("a red ball", steps=3, seed=4, count=2, api_name="/generate")
    assert [read_settings(path) for path in pictures] == settings
    assert [s["seed"] for s in settings] == [4, 5]
    assert Image.open(pictures[0]).size == (256, 256)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"prompt": " "}, "Prompt is empty"),
        ({"prompt": "ball " * 500}, "shorten it to at most 2000"),
        ({"prompt": "ball", "width": 100}, "Width must be a multiple of 16"),
        ({"prompt": "ball", "height": 16}, "Height must lie between 64 and 2048"),
        ({"prompt": "a dragon"}, "Testville knows none of these words: dragon"),
        ({"prompt": "ball", "steps": "<b>many</b>"}, "Steps must be a number, not &#x27;&lt;b&gt;many"),
    ],
)
def test_the_endpoint_refuses_in_a_sentence(client, values, sentence):
    with pytest.raises(Exception, match=sentence):
        client.predict(**values, api_name="/generate")


def test_a_client_that_hangs_up_frees_the_model(client):
    job = client.submit("a red ball", steps=128, count=8, api_name="/generate")
    while not job.outputs():
        time.sleep(0.02)
    job.cancel()
    begin = time.monotonic()
    client.predict("a red ball", steps=1, api_name="/generate")
    assert time.monotonic() - begin < 5


def test_the_plumbing_is_no_public_endpoint(checkpoint):
    page = app.build(str(checkpoint), "cpu")
    for function in page.fns.values():
        assert function.api_visibility == ("public" if function.api_name == "generate" else "private")
    on_model = [f for f in page.fns.values() if f.concurrency_id == "model"]
    assert len(on_model) == 2 and all(f.concurrency_limit == 1 for f in on_model)
