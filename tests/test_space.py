"""The Space: what its files promise, runs on shared graphics cards, and refusals in sentences."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import gradio as gr
import pytest
from packaging.requirements import Requirement

import app
from dimoo.checkpoint import PUBLISHED, ROOT, load
from dimoo.errors import DimooError
from dimoo.tasks import Chat, Generate
from dimoo.ui import cards
from dimoo.ui.cards import duration, from_the_card, refusal, what_would_fit

# On ZeroGPU


@pytest.fixture(scope="module")
def told(checkpoint, tmp_path_factory):
    """What comes of runs of app.py under the real `spaces` package, in its ZeroGPU mode."""
    home = tmp_path_factory.mktemp("space")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HOME": str(home), "TMPDIR": str(home)}
    command = [sys.executable, str(Path(__file__).with_name("zero_gpu.py")), str(checkpoint)]
    program = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = program.communicate(timeout=180)
    finally:
        try:
            os.killpg(program.pid, signal.SIGKILL)  # workers outlive it
        except ProcessLookupError:
            pass
    lines = [line for line in out.splitlines() if line.startswith("TOLD ")]
    assert lines, err[-3000:]
    return json.loads(lines[0].removeprefix("TOLD "))


def test_the_model_is_on_the_card_at_import(told):
    assert told["devices"] == ["cuda:0"]


@pytest.mark.parametrize("task", ["generate", "inpaint"])
def test_pictures_cross_the_border_of_processes(told, task):
    assert told[task]["size"] == [128, 128] and told[task]["settings"]["task"] == task
    assert told[task]["frames"] == told[task]["settings"]["steps"] + 1


def test_answers_cross_the_border_of_processes(told):
    assert told["chat"]["done"] and told["chat"]["settings"]["answer"] is not None
    assert told["own process"]


def test_a_stop_reaches_the_other_process(told):
    assert told["stopped"]["stopped"] and told["stopped"]["frames"] < 20
    assert told["stopped"]["settings"]["stopped"].endswith("/64")


def test_sentences_cross_the_border_of_processes(told):
    assert told["refused"]["sentence"].startswith("Testville knows none of these words: dragon")


def test_what_takes_too_long_or_exceeds_the_quota_never_gets_a_card(told):
    assert "and 20 s are the most. One picture with 128 steps would fit." in told["too long"]["sentence"]
    assert "12 s are left, and this asks for 18 s. One picture with 45 steps would fit." in told["over quota"]["sentence"]
    assert "try again in 1:00:00" in told["over quota"]["sentence"]
    assert told["allowed"] == 5  # the runs above that were not refused beforehand


# Refusals


def test_what_would_fit_fits(pipeline):
    request = Generate("a red ball", steps=100)
    words = what_would_fit(request, pipeline, 12)
    steps = int(words.split()[0])
    assert words == f"{steps} steps would fit."
    fits, not_any_more = (pipeline.gpu_seconds(Generate("a red ball", steps=n)) for n in (steps, steps + 1))
    assert fits <= 12 < not_any_more
    assert what_would_fit(request, pipeline, 5) == "Not one step would fit."
    assert what_would_fit(Chat((), "are there", length=16, steps=16), pipeline, 10.1).endswith("would fit.")


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("You have exceeded your free ZeroGPU quota (60s requested vs. 0s left). Try again in 2 days, 3:04:05. Sign up",
         "0 s are left, and this asks for 60 s. Not one step would fit. Or try again in 2 days, 3:04:05."),
        ("GPU task aborted", "The shared graphics card was taken back before the run was done"),
        ("The requested GPU duration (180s) is larger than the maximum allowed", "longer than a shared graphics card can be"),
        ("No GPU was available. <a href='x'>Retry later</a>", "could be had (No GPU was available. Retry later)"),
        ("", "(no reason given)"),
    ],
)  # fmt: skip
def test_refusals_are_sentences(message, sentence, pipeline):
    assert sentence in refusal(message, Generate("a red ball", steps=10), pipeline)


def test_refusals_reach_the_page_as_sentences(pipeline):
    def run(request, sign):
        raise gr.Error("No GPU was available")
        yield

    with pytest.raises(DimooError, match="No shared graphics card could be had"):
        next(from_the_card(run, pipeline)(Generate("a red ball"), "sign"))


def test_what_breaks_on_the_card_is_no_refusal(pipeline):
    def run(request, sign):
        raise gr.Error("ValueError", title="ZeroGPU worker error")
        yield

    with pytest.raises(RuntimeError, match="ValueError"):
        next(from_the_card(run, pipeline)(Generate("a red ball"), "sign"))


def test_reservations_grow_with_the_work(pipeline, monkeypatch):
    seconds = duration(pipeline)
    short, long, more = (seconds(Generate("a", **v), "") for v in ({"steps": 4}, {"steps": 100}, {"steps": 100, "count": 4}))
    assert 0 < short < long < more <= cards.LONGEST_RESERVATION
    monkeypatch.setattr(cards, "LONGEST_RESERVATION", short)
    with pytest.raises(DimooError, match=f"and {short} s are the most. .* steps? would fit"):
        seconds(Generate("a", steps=100), "")


# The server


def test_it_runs_behind_the_path_of_a_proxy(checkpoint):
    page = app.build(load(str(checkpoint), "cpu"))
    address = app.serve(page, server_name="127.0.0.1", root_path="/dimoo")
    try:
        for path, wanted in {"": "/dimoo", "config": "/dimoo", "healthz": "ok"}.items():
            with urllib.request.urlopen(address.rstrip("/").removesuffix("/dimoo") + f"/{path}") as answer:
                assert wanted in answer.read().decode()
    finally:
        page.close()


def test_launch_options(monkeypatch):
    options = app.options()
    given = options.parse_args(["--quantize", "nf4", "--offload", "--root-path", "/x", "--checkpoint", "a/b@c"])
    assert (given.quantize, given.offload, given.root_path, given.checkpoint) == ("nf4", True, "/x", "a/b@c")
    monkeypatch.setenv("DIMOO_CHECKPOINT", PUBLISHED)
    assert app.options().parse_args([]).checkpoint == PUBLISHED
    for value, offloaded in (("0", False), ("", False), ("1", True)):
        monkeypatch.setenv("DIMOO_OFFLOAD", value)
        assert app.options().parse_args([]).offload is offloaded
    assert app.main(["--quantize", "int3", "--port", "0"]) == 2


# The files


def requirements(name):
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [r for r in (Requirement(line) for line in lines if line and not line.startswith("#")) if r.name == name]


def front_matter():
    _, head, _ = (ROOT / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return head


def test_the_front_matter_is_what_spaces_read():
    head = front_matter()
    values = dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)
    assert values["sdk"] == "gradio" and values["app_file"] == "app.py" and (ROOT / values["app_file"]).is_file()
    assert requirements("gradio")[0].specifier.contains(values["sdk_version"])
    assert values["python_version"] == '"3.12"' and values["license"] == "apache-2.0"
    assert values["suggested_hardware"] == "zero-a10g" and len(values["short_description"]) <= 60
    assert {values["colorFrom"], values["colorTo"]} <= {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert f"  - {PUBLISHED}\n" in head and "tags:\n" in head


def test_requirements_leave_no_torch_but_those_of_zero_gpu():
    known = {"3.12": ("2.8.0", "2.9.1", "2.10.0", "2.11.0"), "3.11": ("2.13.0",)}
    for python, versions in known.items():
        (torch,) = (r for r in requirements("torch") if r.marker.evaluate({"python_version": python}))
        assert all(torch.specifier.contains(version) for version in versions)
        assert not any(torch.specifier.contains(version) for version in ("2.7.1", "2.12.0"))
