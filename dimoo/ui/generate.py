"""The tab Generate: text to image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

from dimoo.defaults import Defaults, Preset
from dimoo.tasks import Generate
from dimoo.ui.controls import control, prompt_chips, settings_panel, settle_seed, surprise_script
from dimoo.ui.easel import Easel
from dimoo.ui.workbench import PRIVATE, Shop

SIDES = ("width", "height")
HINT = "Your picture appears here, token by token."


def build(shop: Shop) -> Easel:
    """Lays out the tab inside the current gr.Tab and connects it."""
    defaults = shop.defaults
    easel = Easel(shop, Generate.task)
    controls = easel.controls
    with gr.Row(elem_classes=["task-tab"], equal_height=False):
        with gr.Column(scale=4, min_width=320, elem_classes=["controls"]):
            with gr.Group(elem_classes=["prompt-group"]):
                prompt = control(Generate, "prompt", defaults, placeholder="a red ball to the left of a blue cube")
                surprise = gr.Button("Surprise me", size="sm", elem_id="surprise", elem_classes=["quiet"])
            prompt_chips(defaults.prompts, prompt, "generate-examples")
            controls["prompt"], shape = prompt, shape_choice(defaults)
            easel.build_buttons("Generate")
            tries = ["tries"] if defaults.assess != "none" else []  # others cannot tell which is best
            names = ["count", *tries, "steps", "guidance", "temperature", "cache"]
            settings_panel(easel, Generate, defaults, names, sides=SIDES)
        with gr.Column(scale=7, min_width=320, elem_classes=["result"]):
            easel.build_result(HINT)

    def derive(values: Mapping[str, Any]) -> dict[Component, Any]:
        return {shape: chosen_shape(defaults, *(values[side] for side in SIDES))} if values.keys() >= set(SIDES) else {}

    easel.derive, easel.derived = derive, [shape]
    easel.listen([easel.start.click, prompt.submit], request_of)
    easel.serve()
    connect_shape(shape, controls["width"], controls["height"])
    surprise.click(None, prompt, prompt, js=surprise_script(defaults.prompts), **PRIVATE)
    return easel


def request_of(**values: Any) -> Generate:
    return Generate(**settle_seed(values))


def shape_choice(defaults: Defaults) -> gr.Radio:
    """The presets; the value is widthxheight, and None while the sides are others."""
    return gr.Radio(
        [(f"{preset.label}\n{preset.width} × {preset.height}", shape) for shape, preset in shapes(defaults).items()],
        value=chosen_shape(defaults, defaults.width, defaults.height),
        label="Shape",
        elem_id="generate-shape",
        elem_classes=["segments"],
    )


def shapes(defaults: Defaults) -> dict[str, Preset]:
    """Values of `shape_choice`, and what they mean."""
    return {f"{preset.width}x{preset.height}": preset for preset in defaults.presets}


def chosen_shape(defaults: Defaults, width: int, height: int) -> str | None:
    """The value of `shape_choice` that belongs to two sides."""
    shape = f"{width}x{height}"
    return shape if shape in shapes(defaults) else None


def connect_shape(shape: gr.Radio, width: gr.Slider, height: gr.Slider) -> None:
    """A shape sets the sides, and sides of one's own leave none chosen, all within the browser: who starts at once gets them."""
    shape.input(None, shape, [width, height], js="(shape) => shape.split('x').map(Number)", **PRIVATE)
    known = json.dumps([value for _, value in shape.choices])
    chosen = f"(...sides) => {known}.find((shape) => shape === sides.join('x')) ?? null"
    gr.on([width.input, height.input], None, [width, height], shape, js=chosen, **PRIVATE)
