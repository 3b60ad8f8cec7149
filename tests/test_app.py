"""The page without a browser: launch options, reservations, and the public endpoints."""

from __future__ import annotations

import base64
import gc
import json
import socket
import time
import urllib.error
import urllib.request
import weakref

import numpy as np
import pytest
from conftest import EVERY_TASK, write_checkpoint
from gradio_client import Client, handle_file
from PIL import Image

import app
from dimoo.checkpoint import load
from dimoo.metadata import read_settings
from dimoo.tasks import Generate
from dimoo.ui.cards import LONGEST_RESERVATION

TASKS = EVERY_TASK["tasks"]


@pytest.fixture(scope="module")
def every_task(tmp_path_factory):
    """Folder of a small checkpoint that knows every task."""
    return write_checkpoint(tmp_path_factory.mktemp("every-task"), **EVERY_TASK)


@pytest.fixture(scope="module")
def address(every_task):
    page = app.build(load(str(every_task), "cpu"))
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


def test_ctrl_c_while_a_checkpoint_is_fetched_is_no_error(monkeypatch, capsys):
    def fetch(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "load_as_asked", fetch)
    assert app.main(["--port", "0"]) == 130
    assert capsys.readouterr().err == "app.py: stopped.\n"


def test_credentials():
    assert app.credentials(None) is None
    assert app.credentials("me:a:b") == ("me", "a:b")


def test_the_page_is_healthy_and_says_so(address):
    with urllib.request.urlopen(address + "healthz") as answer:
        health = json.load(answer)
    assert health["status"] == "ok" and health["since"] <= time.time()


def test_a_checkpoint_that_is_replaced_gives_its_memory_back(every_task, monkeypatch):
    models, rounds = [], iter([True, True, False])

    def noted(*arguments, **options):
        pipeline = load(*arguments, **options)
        models.append(weakref.ref(pipeline.model))
        return pipeline

    def following(page, switch):
        page.close(verbose=False)
        gc.collect()
        alive.append(sum(model() is not None for model in models))
        return noted(str(every_task), "cpu") if next(rounds) else None

    alive: list[int] = []
    monkeypatch.setattr("dimoo.checkpoint.load", noted)
    monkeypatch.setattr(app, "following", following)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert app.main(["--checkpoint", str(every_task), "--device", "cpu", "--port", str(port)]) == 0
    gc.collect()
    assert alive == [1, 1, 1] and not any(model() for model in models)


def test_reservations_are_for_the_request_and_bounded(pipeline, monkeypatch):
    asked = {}

    def reserve(duration):
        asked["duration"] = duration
        return lambda function: function

    monkeypatch.setattr(app.spaces, "GPU", reserve)
    run = app.reserved_runner(pipeline)
    small = asked["duration"](Generate("a"), "sign")
    assert 0 < small < asked["duration"](Generate("a", count=8, steps=128), "sign") <= LONGEST_RESERVATION
    frames = list(run(Generate("a red ball", steps=2), "/no/sign"))
    assert frames[-1].image is not None


# The public endpoints


@pytest.fixture
def red(tmp_path):
    """A red picture and a mask of its left quarter, as files to send."""
    Image.new("RGB", (128, 96), "red").save(tmp_path / "red.png")
    mask = Image.new("L", (128, 96))
    mask.paste(255, (0, 0, 32, 96))
    mask.save(tmp_path / "mask.png")
    return {name: handle_file(tmp_path / f"{name}.png") for name in ("red", "mask")}


def test_endpoints_need_what_cannot_be_guessed_only(client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert list(endpoints) == [f"/{task}" for task in TASKS]
    needed = {
        name: [p["parameter_name"] for p in endpoint["parameters"] if not p["parameter_has_default"]]
        for name, endpoint in endpoints.items()
    }
    assert needed == {
        "/generate": ["prompt"], "/edit": ["image"], "/inpaint": ["image", "mask"], "/extrapolate": ["image"],
        "/chat": ["question"],
    }  # fmt: skip


def test_endpoints_are_documented(every_task):
    info = app.build(load(str(every_task), "cpu")).get_api_info()["named_endpoints"]
    for name, endpoint in info.items():
        assert endpoint["description"].endswith("Lumina-DiMOO.") or "with Lumina-DiMOO" in endpoint["description"], name
        assert endpoint["parameters"]


def test_the_endpoint_returns_pictures_with_settings(client):
    pictures, settings = client.predict("a red ball", steps=3, seed=4, count=2, api_name="/generate")
    assert [read_settings(path) for path in pictures] == settings
    assert [s["seed"] for s in settings] == [4, 5]
    assert Image.open(pictures[0]).size == (256, 256)


def test_a_picture_is_edited(client, red):
    [path], [settings] = client.predict(red["red"], "a green ball", steps=2, seed=3, api_name="/edit")
    assert settings["task"] == "edit" and settings["kind"] == "instruct" and read_settings(path) == settings
    values = {"image": red["red"], "kind": "style", "reference": red["mask"], "steps": 2}
    assert client.predict(**values, api_name="/edit")[1][0]["kind"] == "style"


def test_a_picture_is_inpainted_and_kept_elsewhere(client, red):
    [path], [settings] = client.predict(red["red"], red["mask"], "a ball", steps=2, seed=3, api_name="/inpaint")
    pixels = np.asarray(Image.open(path))
    assert pixels.shape == (96, 128, 3) and settings["feather"] == 8
    assert (pixels[:, 32:] == (255, 0, 0)).all() and not (pixels[:, :16] == (255, 0, 0)).all()


def test_a_picture_is_continued(client, red):
    [path], [settings] = client.predict(red["red"], left=64, bottom=16, steps=2, api_name="/extrapolate")
    pixels = np.asarray(Image.open(path))
    assert pixels.shape == (112, 192, 3) and (settings["width"], settings["height"]) == (192, 112)
    assert (pixels[:96, 64:] == (255, 0, 0)).all()
    _, [settings] = client.predict(red["red"], aspect="2:1", align="end", steps=2, api_name="/extrapolate")
    assert (settings["left"], settings["right"], settings["width"], settings["height"]) == (64, 0, 192, 96)


def test_a_question_is_answered_step_by_step(client, red):
    job = client.submit("is the ball red", [red["red"], red["mask"]], short=False, api_name="/chat")
    answer, settings = job.result()
    assert settings["question"] == "is the ball red" and settings["answer"] == answer
    assert len(job.outputs()) > 2


@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        ("/extrapolate", {"image": "red", "aspect": "16:0"}, "16:0 is not an aspect"),
        ("/extrapolate", {"image": "red", "aspect": "2:1", "left": 16}, "either an aspect or the sides"),
        ("/edit", {"image": "red"}, "Instruction is empty"),
        ("/edit", {"image": "red", "kind": "style"}, "Style picture is missing"),
        ("/edit", {"image": "red", "kind": "dance"}, "Kind is one of instruct, control"),
        ("/inpaint", {"image": "red", "mask": None}, "Mask is empty"),
        ("/inpaint", {"image": "mask", "mask": "red", "grow": 1000}, "Grow must lie between"),
        ("/extrapolate", {"image": "red"}, "Nothing to add"),
        ("/extrapolate", {"image": "red", "left": 10}, "Left must be a multiple of 16"),
        ("/chat", {"question": "is the ball red"}, "questions about pictures only"),
        ("/chat", {"question": " ", "images": ["red"]}, "Question is empty"),
    ],
)
def test_endpoints_refuse_in_a_sentence(client, red, name, values, sentence):
    sent = {n: red.get(v, v) if isinstance(v, str) else v for n, v in values.items()}
    if "images" in sent:
        sent["images"] = [red[n] for n in sent["images"]]
    with pytest.raises(Exception, match=sentence):
        client.predict(**sent, api_name=name)


def test_a_picture_may_come_in_a_data_address(client, red):
    data = base64.b64encode(open(red["red"]["path"], "rb").read()).decode()
    answer, settings = client.predict("is the ball red", [f"data:image/png;base64,{data}"], api_name="/chat")
    assert settings["answer"] == answer
    refused = {"data:;base64,§": "written in base64", "http://127.0.0.1/a.png": "is no picture to be had", "a": "must be sent"}
    for broken, sentence in refused.items():
        with pytest.raises(Exception, match=sentence):
            client.predict("is the ball red", [broken], api_name="/chat")


def test_files_of_the_server_cannot_be_read(client, address):
    for file in ({"path": "/etc/hostname"}, {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}):
        body = json.dumps({"data": [file, "a ball"]}).encode()
        request = urllib.request.Request(
            f"{address}gradio_api/call/edit", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            event = json.load(answer)["event_id"]
        with urllib.request.urlopen(f"{address}gradio_api/call/edit/{event}") as answer:
            said = answer.read().decode()
        assert "event: error" in said and "event: complete" not in said


def test_a_call_that_goes_past_the_queue_is_told_so(address):
    """It would get the first of what the endpoint yields, which is no picture yet."""
    body = json.dumps({"data": ["a ball"]}).encode()
    request = urllib.request.Request(f"{address}gradio_api/run/generate", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(request)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"prompt": " "}, "Prompt is empty"),
        ({"prompt": "ball " * 500}, "shorten it to at most 2000"),
        ({"prompt": "ball", "width": 100}, "Width must be a multiple of 16"),
        ({"prompt": "ball", "height": 16}, "Height must lie between 64 and 2048"),
        ({"prompt": "a dragon"}, "Testville knows none of these words: dragon"),
        ({"prompt": "ball", "steps": "<b>many</b>"}, "Steps must be a number, not '<b>many"),
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


def test_the_plumbing_is_no_public_endpoint(every_task):
    page = app.build(load(str(every_task), "cpu"))
    for function in page.fns.values():
        assert function.api_visibility == ("public" if function.api_name in TASKS else "private")
    on_model = [f for f in page.fns.values() if f.concurrency_id == "model"]
    assert len(on_model) == 2 * len(TASKS) and all(f.concurrency_limit == 1 for f in on_model)
