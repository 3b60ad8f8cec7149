"""Controls read off the fields of a request, and what several tabs offer in the same form."""

from __future__ import annotations

import html
import json
from abc import ABCMeta
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.data_classes import ImageData

from dimoo.defaults import Defaults
from dimoo.knobs import Choice, Flag, Knob, Real, Text, Whole, knobs
from dimoo.tasks import Request
from dimoo.ui.workbench import PRIVATE, Workbench

CHIPS = 5

PICK = """
element.addEventListener('click', (event) => {
  const chip = event.target.closest('button');
  if (chip) { props.value = chip.dataset.value; trigger('input'); }
});
"""


def control(kind: type[Request], name: str, defaults: Defaults, **options: Any) -> Component:
    """The control for a field of a request, with its bounds, default and help; options go to the component."""
    knob = knobs(kind)[name]
    options = {
        "label": knob.label,
        "info": knob.help,
        "value": default_value(kind, name, defaults),
        "elem_id": f"{kind.task}-{name}",
        **options,
    }
    if isinstance(knob, Flag):
        return gr.Checkbox(**options)
    if isinstance(knob, Choice):
        return gr.Radio([(words, value) for value, words in knob.options.items()], elem_classes=["segments", "words"], **options)
    if isinstance(knob, Text):
        # one character more than allowed, so that a cut is seen as too long instead of passing silently
        bounds = {"lines": 3, "max_lines": 6, "max_length": int(knob.high) + 1, "elem_classes": ["prompt"]}
        return gr.Textbox(**bounds | options | {"info": None, "value": options["value"] or None})
    return gr.Slider(**{"minimum": knob.low, "maximum": knob.high, "step": slider_step(knob)} | options)


def slider_step(knob: Knob) -> float:
    """How finely a number can be chosen with a slider."""
    if isinstance(knob, Whole):
        return knob.step
    return 0.05 if isinstance(knob, Real) and knob.high <= 2 else 0.1


def default_value(kind: type[Request], name: str, defaults: Defaults) -> Any:
    """What a field is when nobody says anything."""
    own = next(field.default for field in fields(kind) if field.name == name)
    if own is MISSING:
        return None
    return defaults.for_task(kind.task).get(name) if own is None else own


def settings_panel(
    bench: Workbench, kind: type[Request], defaults: Defaults, names: Sequence[str], sides: Sequence[str] = ()
) -> None:
    """The seed row, controls for the named fields, and a button that loads settings; added to the workbench.

    sides: further fields, beside each other.
    """
    limits = knobs(kind)
    with gr.Accordion("Settings", open=True, elem_classes=["settings"]):
        if "seed" in limits:
            with gr.Row(elem_classes=["seed-row"]):
                bench.controls["seed"] = gr.Number(
                    label=limits["seed"].label,
                    value=0,
                    precision=0,
                    minimum=0,
                    maximum=limits["seed"].high,
                    elem_id=f"{kind.task}-seed",
                )
                bench.controls["random_seed"] = gr.Checkbox(
                    label="New seed each time", value=True, elem_id=f"{kind.task}-random-seed", elem_classes=["random-seed"]
                )
            # a seed that somebody writes is meant
            bench.controls["seed"].input(None, None, bench.controls["random_seed"], js="() => false", **PRIVATE)
        for name in names:
            bench.controls[name] = control(kind, name, defaults)
        if sides:
            with gr.Row(elem_classes=["sides"]):
                for name in sides:
                    bench.controls[name] = control(kind, name, defaults, label=f"{limits[name].label} in pixels", info=None)
        bench.load = gr.UploadButton(
            "Load settings from a PNG", file_types=[".png"], size="sm", elem_id=f"{kind.task}-load", elem_classes=["load"]
        )


def settle_seed(values: dict[str, Any]) -> dict[str, Any]:
    """Values of the controls with the two of the seed row as one."""
    values = dict(values)
    return values | {"seed": None if values.pop("random_seed") else values["seed"]}


def uploaded_path(self: gr.Image, payload: ImageData | None) -> str | None:
    """The file of an upload; Gradio has checked that it is one. Its own form fails on files that are no pictures."""
    return None if payload is None else payload.path


# A class, because Gradio builds a component anew whenever an event leaves it as it is. Its metaclass would write a stub file
# beside this one.
PictureBox = ABCMeta.__new__(
    type(gr.Image), "PictureBox", (gr.Image,), {"__module__": __name__, "preprocess": uploaded_path, "is_template": True}
)


def picture_box(label: str, elem_id: str, **options: Any) -> gr.Image:
    """A place for a picture. Its value is the path of the file, so that requests judge what is in it."""
    return PictureBox(
        **{
            "label": label,
            "type": "filepath",
            "image_mode": None,
            "sources": ["upload", "clipboard"],
            "height": 190,
            "buttons": [],
            "placeholder": "Drop or choose a picture",
            "elem_id": elem_id,
            "elem_classes": ["picture-box"],
            **options,
        }
    )


def prompt_chips(
    prompts: Sequence[str], box: gr.Textbox, elem_id: str, label: str = "Example prompts", **options: Any
) -> gr.HTML:
    """Example texts; the one that is clicked goes into the box."""
    row = chips([(prompt, html.escape(prompt)) for prompt in prompts[:CHIPS]], elem_id, label, "chips", **options)
    row.input(None, row, box, js="(chosen) => chosen", **PRIVATE)
    return row


def chips(choices: Sequence[tuple[str, str]], elem_id: str, label: str, look: str, **options: Any) -> gr.HTML:
    """Buttons, as (value, HTML inside), in a group with a label; the event `input` brings the value of the clicked one."""
    buttons = "".join(
        f'<button type="button" data-value="{html.escape(value)}">{inside}</button>' for value, inside in choices
    )
    return gr.HTML(
        value="",
        html_template=f'<div class="{look}" role="group" aria-label="{label}">{literal(buttons)}</div>',
        js_on_load=PICK,
        apply_default_css=False,
        elem_id=elem_id,
        **options,
    )


def hint(words: str) -> str:
    """HTML of a sentence in the place of something that cannot be shown yet."""
    return f'<p class="hint" role="status">{html.escape(words)}</p>'


def literal(text: str) -> str:
    """Text that a template of gr.HTML leaves as it is: JavaScript and Handlebars at once."""
    return text.replace("`", "&#96;").replace("$", "&#36;").replace("{", "&#123;").replace("\\", "&#92;")


def surprise_script(prompts: Sequence[str]) -> str:
    """JavaScript that answers with one of the prompts, never the one that is there."""
    texts = json.dumps(list(prompts)).replace("<", "\\u003c")  # it travels inside a script element
    return (
        f"(now) => {{ const all = {texts}.filter((p) => p !== now); "
        "return all.length ? all[Math.floor(Math.random() * all.length)] : now; }"
    )
