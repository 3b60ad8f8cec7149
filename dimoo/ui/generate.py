"""The tab Generate: text to image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

from dimoo.tasks import Generate
from dimoo.ui.controls import control, prompt_chips, settings_panel, settle_seed, size_choice, sizes, split_size, surprise_script
from dimoo.ui.easel import Easel
from dimoo.ui.workbench import PRIVATE, Shop

HINT = "Your picture appears here, token by token."


def build(shop: Shop) -> Easel:
    """Lays out the tab inside the current gr.Tab and connects it."""
    defaults = shop.defaults
    easel = Easel(shop, Generate.task)
    with gr.Row(elem_classes=["task-tab"], equal_height=False):
        with gr.Column(scale=4, min_width=320, elem_classes=["controls"]):
            with gr.Group(elem_classes=["prompt-group"]):
                prompt = control(Generate, "prompt", defaults, placeholder="a red ball to the left of a blue cube")
                surprise = gr.Button("Surprise me", size="sm", elem_id="surprise", elem_classes=["quiet"])
            prompt_chips(defaults.prompts, prompt, "generate-examples")
            size = size_choice(defaults, "generate-size")
            easel.controls |= {"prompt": prompt, "size": size}
            easel.build_buttons("Generate")
            tries = ["tries"] if defaults.assess != "none" else []  # others cannot tell which is best
            settings_panel(easel, Generate, defaults, ["count", *tries, "steps", "guidance", "temperature", "cache"])
        with gr.Column(scale=7, min_width=320, elem_classes=["result"]):
            easel.build_result(HINT)

    def derive(values: Mapping[str, Any]) -> dict[Component, Any]:
        if "size" not in values:
            return {}
        return {size: gr.update(choices=sizes(defaults, values["size"]), value=values["size"])}

    easel.derive = derive
    easel.listen([easel.start.click, prompt.submit], request_of)
    easel.serve()
    surprise.click(None, prompt, prompt, js=surprise_script(defaults.prompts), **PRIVATE)
    return easel


def request_of(size: str | None, **values: Any) -> Generate:
    width, height = split_size(size)
    return Generate(width=width, height=height, **settle_seed(values))
