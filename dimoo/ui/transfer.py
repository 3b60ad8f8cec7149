"""Between the tabs: a picture sent to another one, and settings that go back to where they came from."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

from dimoo.errors import DimooError
from dimoo.metadata import read_settings
from dimoo.tasks import REQUESTS, checked
from dimoo.ui.easel import Easel
from dimoo.ui.files import Picture
from dimoo.ui.gallery import listed
from dimoo.ui.inpaint import NO_MASK
from dimoo.ui.workbench import PRIVATE, QUICK, Workbench

Update = dict[Any, Any]


def connect(tabs: gr.Tabs, benches: Mapping[str, Workbench]) -> None:
    """Connects the buttons that reach over several tabs. benches: by the ids of their tabs."""
    everything = [tabs, *[component for bench in benches.values() for component in reached(bench)]]

    def load(path: str, pictures: list[Picture]) -> Update:
        try:
            return to_controls(tabs, benches, read_settings(path), pictures)
        except DimooError as error:
            raise gr.Error(html.escape(str(error)), title="Not loaded", print_exception=False) from error

    def reuse(chosen: Picture | None, pictures: list[Picture]) -> Update:
        if chosen is None:
            return {tabs: gr.skip()}
        given = {name: str(path) for name, path in chosen.given.items() if path.exists()}
        return to_controls(tabs, benches, chosen.settings, pictures, given)

    for bench in benches.values():
        if not isinstance(bench, Easel):
            continue
        # what can fail is in the queue, outside of which nothing can be said
        bench.load.upload(load, [bench.load, bench.kept], everything, concurrency_limit=None, **PRIVATE)
        bench.reuse_all.click(reuse, [bench.chosen, bench.kept], everything, **QUICK)
        buttons = [(button, benches[target]) for target, button in bench.send.items()]
        if "inpaint" in benches:
            buttons.append((bench.retouch, benches["inpaint"]))
        for button, goal in buttons:
            given, changed = [bench.chosen, bench.kept], [tabs, *reached(goal)]
            button.click(sender(tabs, goal), given, changed, concurrency_limit=None, **PRIVATE)


def reached(bench: Workbench) -> list[Component]:
    """What changes in a tab when something is sent to it."""
    return [*bench.filled, bench.gallery] if isinstance(bench, Easel) else bench.filled


def turn_to(tabs: gr.Tabs, bench: Workbench, pictures: list[Picture]) -> Update:
    """Opens a tab, and shows the pictures of the session there."""
    shown = {bench.gallery: listed(pictures)} if isinstance(bench, Easel) else {}
    return {tabs: gr.update(selected=bench.task), **shown}


def to_controls(
    tabs: gr.Tabs,
    benches: Mapping[str, Workbench],
    settings: Mapping[str, Any],
    pictures: list[Picture],
    given: Mapping[str, str] | None = None,
) -> Update:
    """Opens the tab that settings belong to, and fills its controls.

    pictures: the session's; given: paths of the pictures that it started from, by field. Raises DimooError when
    no tab here could make such a picture.
    """
    task = str(settings.get("task"))
    if task not in benches or "prompt" not in settings:
        raise DimooError("These settings are not of a picture that can be made again here.")
    values = {name: value for name, value in checked(REQUESTS[task], settings).items() if value is not None}
    if "seed" in values:
        values["random_seed"] = False
    bench = benches[task]
    return turn_to(tabs, bench, pictures) | bench.fill(values | dict(given or {}))


def sender(tabs: gr.Tabs, goal: Workbench) -> Callable[[Picture | None, list[Picture]], Update]:
    """The function behind a button that sends the chosen picture to a tab."""

    def send(chosen: Picture | None, pictures: list[Picture]) -> Update:
        if chosen is None:
            return {tabs: gr.skip()}
        values = sent(chosen, goal.task)
        if not values:
            gr.Info("There are no words that describe this picture as a whole.", title="Nothing to take along")
        return turn_to(tabs, goal, pictures) | goal.fill(values)

    return send


def sent(picture: Picture, task: str) -> dict[str, Any]:
    """What the controls of a tab are filled with when a picture is sent to it."""
    path, words = str(picture.path), description(picture)
    if task == "generate":
        return {"prompt": words} if words else {}
    if task == "chat":
        return {"images": [path]}
    if task == "extrapolate":
        return {"image": path, "prompt": words}
    if task == "inpaint":
        return {"image": path, "prompt": words} | NO_MASK
    return {"image": path}


def description(picture: Picture) -> str:
    """The words that describe a whole picture, as far as its prompt does: an instruction does not."""
    settings = picture.settings
    return settings["prompt"] if settings["task"] != "edit" or settings.get("kind") == "control" else ""
