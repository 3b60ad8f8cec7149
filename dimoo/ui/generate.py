"""The tab Generate: text to image."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from dimoo.defaults import Defaults
from dimoo.errors import DimooError
from dimoo.knobs import knobs
from dimoo.metadata import read_settings
from dimoo.tasks import Generate, request_from
from dimoo.ui.controls import prompt_box, prompt_chips, size_choice, slider, split_size, surprise_script
from dimoo.ui.files import Picture
from dimoo.ui.workbench import PRIVATE, Shop, Workbench

HINT = "Your picture appears here, token by token."


def build(shop: Shop, defaults: Defaults) -> Workbench:
    """Lays out the tab inside the current gr.Tab and connects it."""
    workbench = Workbench(shop, "generate")
    with gr.Row(elem_classes=["task-tab"], equal_height=False):
        with gr.Column(scale=4, min_width=320, elem_classes=["controls"]):
            with gr.Group(elem_classes=["prompt-group"]):
                prompt = prompt_box(Generate, "prompt", "prompt", "a red ball to the left of a blue cube")
                surprise = gr.Button("Surprise me", size="sm", elem_id="surprise", elem_classes=["quiet"])
            chips = prompt_chips(defaults.prompts, "examples")
            size = size_choice(defaults)
            workbench.build_buttons("Generate")
            with gr.Accordion("Settings", open=True, elem_classes=["settings"]):
                with gr.Row(elem_classes=["seed-row"]):
                    seed = gr.Number(
                        label="Seed",
                        value=0,
                        precision=0,
                        minimum=0,
                        maximum=knobs(Generate)["seed"].high,
                        elem_id="seed",
                    )
                    random_seed = gr.Checkbox(label="New seed each time", value=True, elem_id="random-seed")
                count = slider(Generate, "count", 1)
                steps = slider(Generate, "steps", defaults.steps)
                guidance = slider(Generate, "guidance", defaults.guidance, 0.1)
                temperature = slider(Generate, "temperature", defaults.temperature, 0.05)
                load = gr.UploadButton(
                    "Load settings from a PNG", file_types=[".png"], size="sm", elem_id="load"
                )
        with gr.Column(scale=7, min_width=320, elem_classes=["result"]):
            workbench.build_stage(HINT)
            workbench.build_gallery()

    controls = [prompt, size, steps, guidance, temperature, seed, random_seed, count]
    workbench.connect([workbench.start.click, prompt.submit], controls, request_of)
    chips.input(None, chips, prompt, js="(chosen) => chosen", **PRIVATE)
    surprise.click(None, prompt, prompt, js=surprise_script(defaults.prompts), **PRIVATE)
    workbench.reuse_seed.click(reuse_seed, workbench.chosen, [seed, random_seed], queue=False, **PRIVATE)
    settings = [prompt, size, steps, guidance, temperature, seed, random_seed]
    workbench.reuse_all.click(reuse_all, [workbench.chosen, size], settings, queue=False, **PRIVATE)
    load.upload(load_settings, [load, size], settings, queue=False, **PRIVATE)
    return workbench


def request_of(
    prompt: str,
    size: str | None,
    steps: float,
    guidance: float,
    temperature: float,
    seed: float | None,
    random_seed: bool,
    count: float,
) -> Generate:
    width, height = split_size(size)
    return Generate(
        prompt=prompt,
        width=width,
        height=height,
        steps=steps,
        guidance=guidance,
        temperature=temperature,
        seed=None if random_seed else seed,
        count=count,
    )


def reuse_seed(picture: Picture | None) -> tuple[Any, Any]:
    if picture is None:
        return gr.skip(), gr.skip()
    return picture.settings["seed"], False


def reuse_all(picture: Picture | None, size: str | None) -> tuple:
    if picture is None:
        return (gr.skip(),) * 7
    return fill_controls(picture.settings, size)


def load_settings(path: str, size: str | None) -> tuple:
    try:
        return fill_controls(read_settings(path), size)
    except DimooError as error:
        raise gr.Error(html.escape(str(error)), title="Not loaded", print_exception=False) from error


def fill_controls(settings: dict[str, Any], size: str | None) -> tuple:
    """Values of the controls for the settings of a picture; a size that is not offered becomes an offer."""
    request = request_from(settings)
    wanted = size if None in (request.width, request.height) else f"{request.width}x{request.height}"
    return (
        request.prompt,
        wanted,
        request.steps,
        request.guidance,
        request.temperature,
        request.seed,
        False,
    )
