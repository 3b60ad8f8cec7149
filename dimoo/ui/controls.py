"""Controls read off the fields of a request, and what several tabs offer in the same form."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence

import gradio as gr

from dimoo.defaults import Defaults, Preset
from dimoo.knobs import knobs

CHIPS = 4

PICK = """
element.addEventListener('click', (event) => {
  const chip = event.target.closest('button');
  if (chip) { props.value = chip.dataset.prompt; trigger('input'); }
});
"""


def slider(kind: type, name: str, value: float, step: float = 1) -> gr.Slider:
    """A slider for a number of a request, with its bounds and help."""
    knob = knobs(kind)[name]
    return gr.Slider(knob.low, knob.high, value, step=step, label=knob.label, info=knob.help, elem_id=name)


def prompt_box(kind: type, name: str, elem_id: str, placeholder: str) -> gr.Textbox:
    knob = knobs(kind)[name]
    return gr.Textbox(
        label=knob.label,
        placeholder=placeholder,
        lines=3,
        max_lines=6,
        max_length=int(knob.high)
        + 1,  # one more, so that a cut is seen as too long instead of passing silently
        elem_id=elem_id,
    )


def prompt_chips(prompts: Sequence[str], elem_id: str) -> gr.HTML:
    """Example prompts to click; the event `input` brings the clicked one as the value."""
    chips = "".join(
        f'<button type="button" data-prompt="{html.escape(prompt)}">{html.escape(prompt)}</button>'
        for prompt in prompts[:CHIPS]
    )
    return gr.HTML(
        value="",
        html_template=f'<div class="chips" role="group" aria-label="Example prompts">{literal(chips)}</div>',
        js_on_load=PICK,
        apply_default_css=False,
        elem_id=elem_id,
    )


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


def size_choice(defaults: Defaults) -> gr.Radio:
    """Aspect presets; the value is widthxheight."""
    return gr.Radio(
        [(preset_label(preset), f"{preset.width}x{preset.height}") for preset in defaults.presets],
        value=f"{defaults.width}x{defaults.height}",
        label="Shape",
        elem_id="size",
        elem_classes=["segments"],
    )


def preset_label(preset: Preset) -> str:
    return f"{preset.label}\n{preset.width} × {preset.height}"


def split_size(choice: str | None) -> tuple[int | None, int | None]:
    """The value of `size_choice` -> width, height; nothing chosen means the default."""
    if not choice:
        return None, None
    width, height = choice.split("x")
    return int(width), int(height)
