"""The page in a real browser: every tab, streaming, stopping, what goes from tab to tab, waiting in line, a phone's width."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import EVERY_TASK, ROOT, write_checkpoint
from PIL import Image

from dimoo.metadata import read_settings
from dimoo.preview import NEUTRAL

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: install Debian's package chromium"
)
ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
FIRST_PICTURE_SECONDS = 1.0
START_SECONDS = 120  # a guard against hanging on a machine that is busy with other things
PATIENCE = 3  # how much longer than promised a test waits: a machine may have other things to do
STEPS = 40


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def program(folder: Path, *options: str):
    """The address of the real program while it serves a checkpoint."""
    port = free_port()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, str(ROOT / "app.py"), "--checkpoint", str(folder), "--port", str(port), *options]
    began = time.monotonic()
    said = folder / "said.txt"
    with said.open("w") as file:
        process = subprocess.Popen(command, env=environment, cwd=folder, stderr=file)
    address = f"http://127.0.0.1:{port}/"
    try:
        while True:
            try:
                urllib.request.urlopen(address + "healthz")
                break
            except OSError:
                assert process.poll() is None, said.read_text()
                assert time.monotonic() - began < START_SECONDS, "the page was not ready in time"
                time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The real program with a checkpoint whose steps take some tens of milliseconds."""
    folder = write_checkpoint(tmp_path_factory.mktemp("slower"), width=128, layers=4, steps=STEPS, **EVERY_TASK)
    with program(folder) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """Opens the page as a new visitor; fails the test if the page had an error or asked another server."""
    contexts, problems = [], []

    def visit(**options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request", lambda request: None if is_ours(request.url, address) else problems.append(request.url)
        )
        page.goto(address)
        page.wait_for_selector("#generate-run:visible")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert problems == []


def is_ours(url: str, address: str) -> bool:
    return url.startswith((address, "data:", "blob:"))


def wait_for(page, phase: str, task: str = "generate") -> None:
    from playwright.sync_api import TimeoutError

    stage = page.locator(f"#{task}-stage .stage")
    try:
        page.wait_for_selector(f'#{task}-stage .stage[data-phase="{phase}"]')
    except TimeoutError:
        status = stage.locator(".stage-status").inner_text()
        pytest.fail(f"{task} never was {phase}: it is {stage.get_attribute('data-phase')}, {status!r}")


def generate(page, prompt: str = "a red ball") -> None:
    page.fill("#generate-prompt textarea", prompt)
    page.click("#generate-run")


def open_tab(page, task: str) -> None:
    page.click(f"#{task}-tab-button")
    page.wait_for_selector(f"#{task}-run:visible")


def upload(page, name: str, path: Path) -> None:
    page.set_input_files(f"#{name} input[type=file]", str(path))
    page.wait_for_selector(f"#{name} img")


def run(page, task: str, steps: int = 3) -> None:
    """Runs a tab with few steps, to the end."""
    set_number(page, "steps", steps, task)
    page.click(f"#{task}-run")
    wait_for(page, "done", task)
    page.wait_for_selector(f"#{task}-details .details-prompt")


def set_number(page, name: str, value: int, task: str = "generate") -> None:
    page.fill(f"#{task}-{name} input[type=number]", str(value))
    page.press(f"#{task}-{name} input[type=number]", "Tab")


def canvas(page) -> str:
    return page.evaluate("document.querySelector('.stage canvas').toDataURL('image/png')")


def download(page, folder: Path, task: str = "generate") -> Path:
    with page.expect_download() as event:
        page.click(f"#{task}-download")
    path = folder / event.value.suggested_filename
    event.value.save_as(path)
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    """A picture in which no two places are alike."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)).save(path)
    return path


def test_the_picture_changes_step_by_step_and_downloads_with_its_settings(visit, tmp_path):
    page = visit()
    generate(page, "a red ball")
    clicked = time.monotonic()
    page.wait_for_function("Number(document.querySelector('.stage').dataset.drawn) > 0")
    assert time.monotonic() - clicked < PATIENCE * FIRST_PICTURE_SECONDS
    seen, status = set(), set()
    while page.get_attribute(".stage", "data-phase") == "running":
        seen.add(canvas(page))
        status.add(page.inner_text(".stage-status"))
    assert len(seen) >= 4
    line = re.compile(rf"Step \d+ of {STEPS} · [\d.]+ s · [\d.]+ s left · seed \d+")
    assert any(line.fullmatch(text) for text in status)
    wait_for(page, "done")
    assert page.get_attribute(".stage", "data-showing") == "final"
    page.wait_for_selector("#generate-gallery .thumbnail-item img")
    path = download(page, tmp_path)
    settings = read_settings(path)
    assert settings["prompt"] == "a red ball" and settings["steps"] == STEPS
    assert f"seed {settings['seed']}" in page.inner_text(".stage-status")
    assert path.name == f"a-red-ball_seed-{settings['seed']}.png"
    with Image.open(path) as image:
        assert image.size == (256, 256)


def test_the_steps_can_be_replayed_in_three_views(visit):
    page = visit()
    generate(page)
    wait_for(page, "done")
    slider = page.locator(".stage-replay input")
    assert int(slider.get_attribute("max")) == STEPS + 1
    pictures = {}
    for view in ("committed", "prediction", "confidence"):
        page.click(f'.stage-views [data-view="{view}"]')
        drawn = page.get_attribute(".stage", "data-drawn")
        slider.fill(str(STEPS // 2))
        page.wait_for_function(f"document.querySelector('.stage').dataset.drawn !== '{drawn}'")
        assert page.inner_text(".stage-replay output") == f"{STEPS // 2} / {STEPS}"
        pictures[view] = canvas(page)
    assert len(set(pictures.values())) == 3
    page.click(".stage-play")
    page.wait_for_selector(".stage.replaying")
    page.wait_for_selector(".stage:not(.replaying)")
    assert page.inner_text(".stage-replay output") == "result"


def test_stop_keeps_the_partial_picture_and_frees_the_model(visit, tmp_path):
    page = visit()
    set_number(page, "steps", 120)
    generate(page)
    page.wait_for_function("parseInt(document.querySelector('.stage-status').textContent.slice('Step '.length)) > 1")
    page.evaluate(
        "window.said = []; const status = document.querySelector('.stage-status');"
        "new MutationObserver(() => said.push(status.textContent)).observe(status, {childList: true})"
    )
    page.click("#generate-stop")
    clicked = time.monotonic()
    wait_for(page, "stopped")
    assert time.monotonic() - clicked < PATIENCE * 1.0
    first = page.evaluate("said.find((text) => !text.startsWith('Step '))")  # a step may end before the click
    assert first == "Stopping after this step …"  # before the server says anything
    step = int(re.fullmatch(r"Stopped at step (\d+) of 120", page.inner_text(".stage-status"))[1])
    page.wait_for_selector("#generate-details .stopped")
    path = download(page, tmp_path)
    assert read_settings(path)["stopped"] == f"{step}/120"
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert (pixels[::16, ::16] == NEUTRAL).all(-1).sum() > 20
    set_number(page, "steps", 2)
    generate(page, "a blue cube")
    wait_for(page, "done")
    page.wait_for_function("document.querySelectorAll('#generate-gallery .thumbnail-item').length === 2")


def test_an_earlier_picture_stays_on_the_stage_until_the_next_is_there(visit):
    page = visit()
    set_number(page, "steps", 2)
    generate(page)
    wait_for(page, "done")
    page.wait_for_selector("#generate-gallery .thumbnail-item img")
    set_number(page, "steps", 120)
    generate(page, "a blue cube")
    page.wait_for_function("parseInt(document.querySelector('.stage-status').textContent.slice('Step '.length)) > 1")
    page.click("#generate-gallery .thumbnail-item")
    earlier = page.locator('#generate-stage .stage[data-phase="running"][data-showing="final"]')
    earlier.wait_for()
    step = page.inner_text(".stage-status")
    page.wait_for_function("step => document.querySelector('.stage-status').textContent !== step", arg=step)
    assert earlier.is_visible() and page.inner_text(".details-prompt") == "a red ball"
    page.click("#generate-stop")
    wait_for(page, "stopped")
    page.wait_for_function("document.querySelector('.details-prompt').textContent === 'a blue cube'")
    assert page.get_attribute("#generate-stage .stage-final", "alt") == "a blue cube"


def test_what_cannot_be_made_leaves_the_picture_before(visit):
    page = visit()
    set_number(page, "steps", 2)
    generate(page)
    wait_for(page, "done")
    made = page.get_attribute("#generate-stage .stage-final", "src")
    generate(page, "")
    wait_for(page, "failed")
    assert "Prompt is empty" in page.inner_text(".stage-status")
    assert page.get_attribute("#generate-stage .stage", "data-showing") == "final"
    assert page.get_attribute("#generate-stage .stage-final", "src") == made


def test_two_visitors_wait_for_each_other_and_see_only_their_own(visit):
    one, two = visit(), visit()
    set_number(one, "steps", 120)
    set_number(two, "steps", 3)
    generate(one, "a red ball")
    wait_for(one, "running")
    generate(two, "a blue cube")
    wait_for(two, "waiting")
    assert "one run is ahead of yours" in two.inner_text(".stage-status")
    two.click("#generate-leave")
    wait_for(two, "idle")
    assert two.inner_text(".stage-status") == "You left the line."
    generate(two, "a blue cube")
    wait_for(two, "waiting")
    one.click("#generate-stop")
    wait_for(one, "stopped")
    wait_for(two, "done")
    for page, prompt in ((one, "a red ball"), (two, "a blue cube")):
        page.wait_for_selector("#generate-gallery .thumbnail-item img")
        assert page.locator("#generate-gallery .thumbnail-item img").count() == 1
        assert page.inner_text(".details-prompt") == prompt
        assert prompt.split()[-1] in page.get_attribute("#generate-gallery .thumbnail-item img", "src")


def test_the_last_picture_stays_while_the_next_one_waits(visit):
    one, two = visit(), visit()
    set_number(two, "steps", 2)
    generate(two, "a blue cube")
    wait_for(two, "done")
    made = two.get_attribute("#generate-stage .stage-final", "src")
    set_number(one, "steps", 120)
    generate(one)
    wait_for(one, "running")
    generate(two, "a red ball")
    wait_for(two, "waiting")
    stage = two.locator("#generate-stage .stage")
    assert stage.get_attribute("data-showing") == "final"
    two.click("#generate-leave")
    wait_for(two, "idle")
    assert stage.get_attribute("data-showing") == "final"
    assert two.get_attribute("#generate-stage .stage-final", "src") == made and two.inner_text(".details-prompt") == "a blue cube"


def test_runs_are_started_and_stopped_by_the_keyboard_and_one_at_a_time(visit):
    page = visit()
    set_number(page, "steps", 120)
    page.fill("#generate-prompt textarea", "a red ball")
    page.dblclick("#generate-run")
    wait_for(page, "running")
    page.click("#generate-stop")
    wait_for(page, "stopped")
    page.focus("#generate-run")
    for phase, focused in (("running", "generate-stop"), ("stopped", "generate-run")):
        page.keyboard.press("Enter")
        wait_for(page, phase)
        assert page.evaluate("document.activeElement.id") == focused
    page.wait_for_function("document.querySelectorAll('#generate-gallery .thumbnail-item').length === 2")


@pytest.mark.parametrize("width, height", [(1280, 900), (800, 600), (844, 390), (390, 844)])
def test_the_whole_picture_is_seen_on_every_screen(visit, width, height):
    page = visit(viewport={"width": width, "height": height})
    set_number(page, "steps", 2)
    generate(page)
    wait_for(page, "done")
    frame, picture = page.evaluate(  # at one moment: the page may still be scrolling
        "['.stage-view', '.stage-final']"
        ".map(name => document.querySelector(`#generate-stage ${name}`).getBoundingClientRect().toJSON())"
    )
    assert picture["width"] == pytest.approx(picture["height"], abs=1) and picture["height"] > min(250, 0.7 * height)
    for side, length in (("x", "width"), ("y", "height")):
        assert frame[side] - 1 <= picture[side] and picture[side] + picture[length] <= frame[side] + frame[length] + 1


def test_closing_the_page_frees_the_model(visit):
    gone, next_one = visit(), visit()
    set_number(gone, "steps", 128)
    set_number(gone, "count", 8)
    generate(gone)
    gone.wait_for_function("Number(document.querySelector('.stage').dataset.drawn) > 1")
    gone.close()
    set_number(next_one, "steps", 2)
    began = time.monotonic()
    generate(next_one)
    wait_for(next_one, "done")
    assert time.monotonic() - began < PATIENCE * 3


def test_the_session_outlasts_its_page(visit, photo):
    page = visit()
    set_number(page, "steps", 2)
    generate(page)
    wait_for(page, "done")
    open_tab(page, "extrapolate")
    upload(page, "extrapolate-image", photo)
    set_number(page, "left", 64, "extrapolate")
    run(page, "extrapolate", 2)
    page.reload()
    page.wait_for_function("document.querySelectorAll('#generate-gallery .thumbnail-item').length === 2")
    open_tab(page, "extrapolate")
    page.click("#extrapolate-gallery .thumbnail-item >> nth=0")
    page.wait_for_selector('#extrapolate-stage .stage[data-both="true"]')
    page.click("#extrapolate-reuse")
    page.wait_for_selector("#extrapolate-image img")
    assert page.input_value("#extrapolate-left input[type=number]") == "64"
    run(page, "extrapolate", 2)
    page.wait_for_function("document.querySelectorAll('#extrapolate-gallery .thumbnail-item').length === 3")


def test_seeds_and_settings_are_reused(visit, tmp_path):
    page = visit()
    set_number(page, "steps", 3)
    generate(page)
    wait_for(page, "done")
    page.wait_for_selector("#generate-reuse-seed:visible")
    page.click("#generate-reuse-seed")
    page.wait_for_selector("#generate-random-seed input:not(:checked)")
    first = download(page, tmp_path)
    assert page.input_value("#generate-seed input") == str(read_settings(first)["seed"])
    first = first.rename(tmp_path / "first.png")
    generate(page)
    page.wait_for_function("document.querySelectorAll('#generate-gallery .thumbnail-item').length === 2")
    again = download(page, tmp_path)
    assert np.array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(again)))
    other = visit()
    other.set_input_files("#generate-tab input[type=file]", str(first))
    other.wait_for_function("document.querySelector('#generate-prompt textarea').value === 'a red ball'")
    assert other.input_value("#generate-steps input[type=number]") == "3"
    assert other.input_value("#generate-seed input") == str(read_settings(first)["seed"])


def test_a_seed_that_is_written_counts(visit, tmp_path):
    page = visit()
    set_number(page, "steps", 2)
    assert page.is_checked("#generate-random-seed input")
    page.fill("#generate-seed input", "42")
    page.wait_for_selector("#generate-random-seed input:not(:checked)")
    generate(page)
    wait_for(page, "done")
    assert read_settings(download(page, tmp_path))["seed"] == 42


def test_shapes_and_sides_follow_each_other(visit, tmp_path):
    page = visit()
    set_number(page, "steps", 2)
    page.click("#generate-shape label >> text=Wide")
    page.wait_for_function("document.querySelector('#generate-width input[type=number]').value === '320'")
    assert page.input_value("#generate-height input[type=number]") == "192"
    set_number(page, "height", 160)
    page.wait_for_function("!document.querySelector('#generate-shape label.selected')")
    generate(page)
    wait_for(page, "done")
    assert Image.open(download(page, tmp_path)).size == (320, 160)
    set_number(page, "height", 192)
    page.wait_for_selector("#generate-shape label.selected >> text=Wide")


def test_examples_and_surprises_fill_in_the_prompt(visit):
    page = visit()
    page.click("#generate-examples button >> nth=1")
    page.wait_for_function("document.querySelector('#generate-prompt textarea').value === 'a blue cube in the snow'")
    page.click("#surprise")
    page.wait_for_function(
        "!['', 'a blue cube in the snow'].includes(document.querySelector('#generate-prompt textarea').value)"
    )


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("", "Prompt is empty"),
        ("dragon castle", "Testville knows none of these words: dragon, castle. It knows: ball"),
        ("ball " * 500, "Prompt has 2001 characters: shorten it to at most 2000"),
    ],
)
def test_what_cannot_run_is_said(visit, prompt, sentence):
    page = visit()
    generate(page, prompt)
    wait_for(page, "failed")
    assert sentence in page.inner_text(".stage-status")
    page.wait_for_selector(f".toast-wrap >> text={sentence[:20]}")
    assert page.is_visible("#generate-run")


def test_unknown_words_are_noted_and_nothing_is_injected(visit):
    page = visit()
    set_number(page, "steps", 2)
    generate(page, 'a red ball <img src="x" onerror="window.injected=1"> dragon')
    wait_for(page, "done")
    assert "Testville does not know:" in page.inner_text(".stage-notes") and "dragon" in page.inner_text(
        ".stage-notes"
    )
    page.wait_for_selector(".details-prompt")
    assert "<img" in page.inner_text(".details-prompt")
    assert page.evaluate("window.injected") is None


# The other tabs


def test_a_picture_is_edited_and_compared(visit, photo, tmp_path):
    page = visit()
    open_tab(page, "edit")
    upload(page, "edit-image", photo)
    page.fill("#edit-prompt textarea", "a green ball")
    run(page, "edit")
    settings = read_settings(download(page, tmp_path, "edit"))
    assert settings["task"] == "edit" and settings["prompt"] == "a green ball"
    page.click('#edit-stage [data-view="compare"]')
    page.wait_for_selector('#edit-stage .stage[data-showing="both"] .stage-before')
    cut = page.locator("#edit-stage .stage-cut")
    cut.focus()
    page.keyboard.press("Home")
    assert page.evaluate("document.querySelector('#edit-stage .stage').style.getPropertyValue('--cut')") == "0%"
    page.click("#edit-kind label >> text=New view")
    page.wait_for_selector("#edit-direction:visible")
    page.wait_for_selector("#edit-prompt", state="hidden")
    page.click("#edit-direction label >> text=Back")
    run(page, "edit", 2)
    page.wait_for_selector("#edit-details .details-prompt >> text=Another view: back")
    pressed = '#edit-stage [data-view="{}"][aria-pressed="{}"]'
    page.wait_for_selector(pressed.format("committed", "true"))  # there is nothing to compare another view with
    assert page.locator(pressed.format("compare", "false")).count() == 1


def test_maps_are_made_from_a_picture(visit, photo):
    page = visit()
    open_tab(page, "edit")
    page.click("#edit-kind label >> text=Control map")
    page.wait_for_selector("#edit-make-map:visible")
    upload(page, "edit-image", photo)
    source = "document.querySelector('#edit-image img').src"
    page.click("#edit-make-map")
    page.wait_for_function(f"{source}.includes('canny')")
    page.click("#edit-map label >> text=Depth")
    set_number(page, "steps", 2, "edit")
    page.click("#edit-make-map")
    wait_for(page, "done", "edit")
    page.wait_for_function(f"{source}.includes('predict-depth')")


def test_what_is_painted_is_redrawn_and_nothing_else(visit, photo, tmp_path):
    from playwright.sync_api import TimeoutError

    page = visit()
    open_tab(page, "inpaint")
    upload(page, "inpaint-image", photo)
    editor = page.locator("#inpaint-editor canvas").first
    counted = page.locator("#inpaint-cells figcaption")
    for _ in range(10):  # the editor takes its time to load a picture
        editor.scroll_into_view_if_needed()
        box = editor.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 30, y + 8, steps=4)
        page.mouse.up()
        page.click("#inpaint-show")
        try:
            counted.wait_for(timeout=4000)
            break
        except TimeoutError:
            continue
    count = int(re.match(r"(\d+) of 256 tokens will be redrawn", counted.inner_text())[1])
    assert 1 < count < 60
    page.wait_for_timeout(1000)
    assert counted.is_visible()
    page.mouse.move(x - 20, y + 20)
    page.mouse.down()
    page.mouse.move(page.locator("#inpaint-editor").bounding_box()["x"] - 10, y + 20, steps=8)  # and beyond
    page.mouse.up()
    counted.wait_for(state="detached")  # what it said is not so any more
    page.click("#inpaint-show")
    counted.wait_for()
    first, count = count, int(counted.inner_text().split()[0])
    assert first < count < 60
    held = []
    page.route("**/gradio_api/run/predict*", lambda route: route.continue_() if held else held.append(route))
    page.click("#inpaint-show")
    page.wait_for_timeout(2500)  # the editor writes its picture first
    page.mouse.move(x, y + 30)
    page.mouse.down()
    page.mouse.move(x + 20, y + 34, steps=3)
    page.mouse.up()
    with page.expect_response("**/gradio_api/run/predict*"):
        held[0].continue_()
    page.wait_for_timeout(500)
    assert not counted.is_visible()  # it came too late
    page.unroute("**/gradio_api/run/predict*")
    page.click("#inpaint-show")
    counted.wait_for()
    count = int(counted.inner_text().split()[0])
    page.fill("#inpaint-prompt textarea", "a red ball")
    set_number(page, "steps", STEPS, "inpaint")
    page.click("#inpaint-run")
    seen = set()
    while page.locator('#inpaint-stage .stage:is([data-phase="done"], [data-phase="failed"])').count() == 0:
        seen.add(page.get_attribute("#inpaint-stage .stage", "data-drawn"))
    assert len(seen) >= 2
    wait_for(page, "done", "inpaint")
    page.wait_for_selector("#inpaint-details .details-prompt")
    result = download(page, tmp_path, "inpaint")
    changed = (pixels(result) != pixels(photo)).any(-1).reshape(16, 16, 16, 16).any((1, 3))
    assert 0 < changed.sum() <= count and read_settings(result)["steps"] == STEPS

    # its settings open the tab that made it, in another session
    other = visit()
    other.set_input_files("#generate-tab input[type=file]", str(result))
    other.wait_for_selector("#inpaint-run:visible")
    other.wait_for_function("document.querySelector('#inpaint-prompt textarea').value === 'a red ball'")
    assert other.input_value("#inpaint-seed input") == str(read_settings(result)["seed"])


def test_a_browser_that_cannot_paint_says_what_else_to_do(browser, address):
    page = browser.new_context().new_page()
    page.add_init_script(
        "const get = HTMLCanvasElement.prototype.getContext; HTMLCanvasElement.prototype.getContext = "
        "function (kind, ...rest) { return kind.startsWith('webgl') ? null : get.call(this, kind, ...rest); };"
    )
    page.goto(address)
    open_tab(page, "inpaint")
    words = "getComputedStyle(document.querySelector('.mask-editor'), '::after').content"
    assert "Upload a mask under Mask instead" in page.evaluate(words)
    page.context.close()


def test_why_a_picture_cannot_be_painted_on_stays(visit, photo, tmp_path):
    page = visit()
    open_tab(page, "inpaint")
    page.click("#inpaint-editor", force=True)  # as if something had been painted before
    (tmp_path / "broken.png").write_bytes(b"no picture")
    page.set_input_files("#inpaint-image input[type=file]", str(tmp_path / "broken.png"))
    page.wait_for_selector("#inpaint-cells >> text=cannot be read")
    page.wait_for_timeout(500)
    assert page.is_visible("#inpaint-cells >> text=cannot be read")


def test_a_picture_grows_to_the_left(visit, photo, tmp_path):
    page = visit()
    open_tab(page, "extrapolate")
    upload(page, "extrapolate-image", photo)
    set_number(page, "left", 64, "extrapolate")
    page.wait_for_selector("#extrapolate-layout figcaption >> text=256 × 256 → 320 × 256 pixels: 64 on the left")
    run(page, "extrapolate", 4)
    result = pixels(download(page, tmp_path, "extrapolate"))
    assert result.shape == (256, 320, 3) and np.array_equal(result[:, 64:], pixels(photo))
    page.click("#extrapolate-aspect label >> text=16 : 9")
    page.wait_for_selector("#extrapolate-layout figcaption >> text=→ 464 × 256 pixels")
    page.click("#extrapolate-align label >> text=Left or top")
    page.wait_for_selector("#extrapolate-layout figcaption >> text=208 on the right")


def test_a_png_without_settings_is_refused_in_a_sentence(visit, photo):
    page = visit()
    page.set_input_files("#generate-tab input[type=file]", str(photo))
    page.wait_for_selector(".toast-wrap >> text=carries no settings", timeout=10_000)


def test_a_side_set_while_the_picture_is_on_its_way_stays(visit, photo):
    page, held = visit(), []
    open_tab(page, "extrapolate")
    page.route("**/gradio_api/run/predict*", lambda route: route.continue_() if held else held.append(route))
    upload(page, "extrapolate-image", photo)
    page.wait_for_timeout(500)
    set_number(page, "left", 64, "extrapolate")
    page.wait_for_timeout(500)
    with page.expect_response("**/gradio_api/run/predict*"):
        held[0].continue_()
    page.wait_for_timeout(1000)
    assert page.input_value("#extrapolate-left input[type=number]") == "64"
    assert "256 × 256 → 320 × 256 pixels: 64 on the left" in page.inner_text("#extrapolate-layout figcaption")


def test_a_talk_goes_on(visit, photo):
    page = visit()
    open_tab(page, "chat")
    page.set_input_files("#chat-images input[type=file]", str(photo))
    page.wait_for_selector("#chat-images .thumbnail-item img")
    answers = page.locator("#chat-talk [data-testid=bot]")
    page.evaluate(
        "new MutationObserver(() => { window.masked ||= document.querySelector('#chat-talk').textContent.includes('░'); })"
        ".observe(document.querySelector('#chat-tab'), { subtree: true, childList: true, characterData: true })"
    )
    for number, question in enumerate(("is the ball <b>red</b>", "is the cube on the left"), 1):
        page.fill("#chat-prompt textarea", question)
        page.press("#chat-prompt textarea", "Enter")
        page.wait_for_function(f"document.querySelectorAll('#chat-talk [data-testid=bot]').length === {number}")
        wait_for(page, "done", "chat")
        assert page.inner_text("#chat-stage .stage-status").startswith("Answered in")
    assert page.evaluate("window.masked") is True
    assert answers.count() == 2 and page.locator("#chat-talk [data-testid=user] img").count() == 1
    assert "<b>red</b>" in page.inner_text("#chat-talk")
    page.click("#chat-examples button >> nth=0")
    page.wait_for_function("document.querySelectorAll('#chat-talk [data-testid=user] img').length === 2")
    page.wait_for_function("document.querySelectorAll('#chat-talk [data-testid=bot]').length === 3")
    wait_for(page, "done", "chat")
    page.click("#chat-clear")
    page.wait_for_function("!document.querySelector('#chat-talk [data-testid=bot]')")


def test_pictures_travel_between_tabs(visit):
    page = visit()
    set_number(page, "steps", 3)
    generate(page, "a red ball")
    wait_for(page, "done")
    page.wait_for_selector("#generate-send-edit:visible")
    for task, picture in (("edit", "image img"), ("extrapolate", "image img"), ("chat", "images .thumbnail-item img")):
        page.click(f"#generate-send-{task}")
        page.wait_for_selector(f"#{task}-run:visible")
        page.wait_for_selector(f"#{task}-{picture}")
        page.click("#generate-tab-button")
    assert page.input_value("#extrapolate-prompt textarea") == "a red ball"
    page.click("#generate-retouch")
    page.wait_for_selector("#inpaint-run:visible")
    page.wait_for_function("document.querySelector('#inpaint-prompt textarea').value === 'a red ball'")
    page.wait_for_selector("#inpaint-image img")
    # the gallery is the session's, and a picture's settings go back to where it was made
    page.wait_for_selector("#generate-tab-button")
    open_tab(page, "edit")
    page.click("#edit-gallery .thumbnail-item")
    page.wait_for_selector('#edit-stage .stage[data-showing="final"]')
    page.click("#edit-reuse")
    page.wait_for_selector("#generate-run:visible")
    page.wait_for_selector("#generate-random-seed input:not(:checked)")


def test_examples_run_at_a_click(visit):
    page = visit()
    for task in ("edit", "extrapolate"):
        open_tab(page, task)
        page.click(f"#{task}-examples button >> nth=0")
        page.wait_for_selector(f"#{task}-image img")
        wait_for(page, "done", task)
        page.wait_for_selector(f"#{task}-details .details-prompt")
    open_tab(page, "inpaint")
    page.click("#inpaint-examples button >> nth=1")  # what is to be painted first is only laid out
    page.wait_for_selector("#inpaint-image img")
    page.wait_for_timeout(500)
    assert page.get_attribute("#inpaint-stage .stage", "data-phase") == "idle"


def test_the_mask_of_an_example_is_not_that_of_the_next_picture(visit, photo):
    page = visit()
    open_tab(page, "inpaint")
    page.click("#inpaint-examples button >> nth=0")
    wait_for(page, "done", "inpaint")
    page.click("#inpaint-tab .mask-settings .label-wrap")
    page.wait_for_selector("#inpaint-mask img")
    page.click("#inpaint-image button >> nth=0")  # takes the picture away
    upload(page, "inpaint-image", photo)
    page.wait_for_selector("#inpaint-mask img", state="detached")


@pytest.mark.parametrize("task", ["edit", "inpaint", "extrapolate"])
def test_what_is_no_picture_is_said(visit, tmp_path, photo, task):
    page = visit()
    open_tab(page, task)
    page.click(f"#{task}-run")
    wait_for(page, "failed", task)
    assert "Picture is missing" in page.inner_text(f"#{task}-stage .stage-status")
    broken = tmp_path / "broken.png"
    broken.write_bytes(photo.read_bytes()[:4000])
    page.set_input_files(f"#{task}-image input[type=file]", str(broken))
    page.wait_for_selector(f"#{task}-image img")
    if task == "inpaint":  # the editor stays empty
        page.wait_for_selector("#inpaint-cells >> text=broken.png cannot be read as a picture")
    page.fill(f"#{task}-prompt textarea", "a ball")
    page.click(f"#{task}-run")
    page.wait_for_selector(f"#{task}-stage .stage-status >> text=broken.png cannot be read as a picture")


# Phones


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(visit, scheme):
    page = visit(viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True, is_mobile=True)
    set_number(page, "steps", 3)
    widths = [page.evaluate("document.documentElement.scrollWidth")]
    generate(page, "a red dragon ball")
    wait_for(page, "done")
    page.wait_for_selector("#generate-gallery .thumbnail-item img")
    widths.append(page.evaluate("document.documentElement.scrollWidth"))
    assert max(widths) <= 390
    stage, settings = (page.locator(selector).bounding_box() for selector in (".stage-view", "#generate-steps"))
    assert stage["width"] > 330 and stage["y"] < settings["y"]
    for task in EVERY_TASK["tasks"][1:] if scheme == "light" else ():
        open_tab(page, task)
        page.click(f"#{task}-examples button >> nth=1")
        page.wait_for_selector(f"#{task}-image img, #{task}-images .thumbnail-item img")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, task
    background = page.evaluate(
        "getComputedStyle(document.querySelector('.gradio-container')).backgroundColor"
    )
    lightness = sum(map(int, re.findall(r"\d+", background)[:3])) / 3
    assert lightness > 200 if scheme == "light" else lightness < 60


def test_another_checkpoint_takes_the_place_of_the_first(browser, tmp_path):
    first = write_checkpoint(tmp_path / "first", **EVERY_TASK)
    second = write_checkpoint(tmp_path / "second", **EVERY_TASK | {"name": "The other one"})
    broken = tmp_path / "broken"
    broken.mkdir()
    with program(first, "--offer", f"{broken},{second}") as address:
        other, page = browser.new_page(), browser.new_page()
        for visitor in (other, page):
            visitor.goto(address)
        page.locator("#switch .label-wrap").click()

        def pick(name):
            page.locator("#switch-name input").click()
            page.get_by_role("option", name=str(name)).click()
            page.locator("#switch-load").click()

        pick(broken)
        page.get_by_text("it has no config.json").first.wait_for()
        pick(second)
        for visitor in (page, other):
            visitor.get_by_text("The other one").first.wait_for()
        other.close()
        page.locator("#generate-prompt textarea").fill("a red ball")
        page.locator("#generate-run").click()
        wait_for(page, "done")
        page.close()
