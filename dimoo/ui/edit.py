"""The tab Edit: a picture made from a picture, in the six ways that `Edit.KINDS` lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

from dimoo.errors import DimooError
from dimoo.images import edge_map
from dimoo.tasks import Edit
from dimoo.ui.controls import control, picture_box, prompt_chips, settings_panel, settle_seed
from dimoo.ui.easel import Easel
from dimoo.ui.examples import build_examples
from dimoo.ui.files import Picture, folder, opened, write
from dimoo.ui.line import new_ticket
from dimoo.ui.workbench import PRIVATE, QUICK, Shop, warn

HINT = "Choose a picture and say what to make of it."
COMPUTED = ("canny", "hed")  # maps that need no model
PICTURE_LABELS = {"control": "Control map", "subject": "Picture of the subject", "style": "Picture to redraw"}
PROMPT_HELP = {
    "instruct": ("Instruction", "make the ball green"),
    "control": ("Prompt", "What the picture along the map shows"),
    "subject": ("Prompt", "What the new picture with the subject shows"),
}
MAP_HELP = {
    "control": "Which kind of map this is. To make one, add an ordinary picture and press the button below.",
    "predict": "Which kind of map to make of the picture.",
}
# which controls a kind has beside the picture; the prompt is in Edit.NEEDS_PROMPT
KINDS_WITH = {"map": ("control", "predict"), "reference": ("style",), "direction": ("view",)}


def build(shop: Shop) -> Easel:
    """Lays out the tab inside the current gr.Tab and connects it."""
    defaults = shop.defaults
    easel = Easel(shop, Edit.task)
    controls = easel.controls
    with gr.Row(elem_classes=["task-tab"], equal_height=False):
        with gr.Column(scale=4, min_width=320, elem_classes=["controls"]):
            controls["kind"] = kind = control(Edit, "kind", defaults, label="What to do", info=None)
            controls["image"] = picture_box("Picture", "edit-image")
            build_examples(easel)
            controls["reference"] = picture_box("Style picture", "edit-reference", height=150, visible=False)
            controls["map"] = control(Edit, "map", defaults, visible=False)
            make_map = gr.Button("Make a map from the picture", size="sm", elem_id="edit-make-map", visible=False)
            controls["prompt"] = control(Edit, "prompt", defaults, placeholder=PROMPT_HELP["instruct"][1], lines=2)
            instructions = prompt_chips(defaults.instructions, "edit-instructions", "Example instructions")
            prompts = prompt_chips(defaults.prompts, "edit-prompts", visible=False)
            controls["direction"] = control(Edit, "direction", defaults, visible=False)
            easel.build_buttons("Edit")
            names = ["count", "steps", "guidance", "guidance_image", "temperature", "cache"]
            settings_panel(easel, Edit, defaults, names)
        with gr.Column(scale=7, min_width=320, elem_classes=["result"]):
            easel.build_result(HINT)

    beside = {"make_map": make_map, "instructions": instructions, "prompts": prompts}
    changing = controls | beside

    def derive(values: Mapping[str, Any]) -> dict[Component, Any]:
        if "kind" not in values:
            return {}
        looks = looks_of(values["kind"])
        return {
            changing[name]: gr.update(**look, **({"value": values[name]} if name in values else {}))
            for name, look in looks.items()
        }

    def change_kind(kind: str) -> dict[Component, Any]:
        return derive({"kind": kind})

    easel.derive = derive
    easel.derived = list(beside.values())
    easel.listen([easel.start.click, controls["prompt"].submit], request_of)
    easel.serve()
    kind.input(change_kind, kind, [changing[name] for name in looks_of("instruct")], **QUICK)
    for chips in (instructions, prompts):
        chips.input(None, chips, controls["prompt"], js="(chosen) => chosen", **PRIVATE)
    connect_maps(easel, make_map)
    return easel


def looks_of(kind: str) -> dict[str, dict[str, Any]]:
    """What the controls look like for a kind of edit: which are there, and what they are called."""
    prompt, placeholder = PROMPT_HELP.get(kind, PROMPT_HELP["instruct"])
    looks: dict[str, dict[str, Any]] = {name: {"visible": kind in kinds} for name, kinds in KINDS_WITH.items()}
    looks["map"]["info"] = MAP_HELP.get(kind, "")
    return looks | {
        "image": {"label": PICTURE_LABELS.get(kind, "Picture")},
        "prompt": {"visible": kind in Edit.NEEDS_PROMPT, "label": prompt, "placeholder": placeholder},
        "make_map": {"visible": kind == "control"},
        "instructions": {"visible": kind == "instruct"},
        "prompts": {"visible": kind in ("control", "subject")},
    }


def request_of(image: str | None, reference: str | None, kind: str, prompt: str, **values: Any) -> Edit:
    """What a kind does not ask for stays out of its request."""
    return Edit(
        image=opened(image),
        reference=opened(reference) if kind in KINDS_WITH["reference"] else None,
        kind=kind,
        prompt=prompt if kind in Edit.NEEDS_PROMPT else "",
        **settle_seed(values),
    )


def connect_maps(easel: Easel, button: gr.Button) -> None:
    """The button that turns the picture into a map: edges at once, other maps by a run of the model."""
    fields = list(easel.controls)
    image = easel.controls["image"]
    maps = gr.State("")  # ticket of the run whose result is wanted as a map

    def make(last: str, *values: Any) -> tuple:
        given = dict(zip(fields, values, strict=True))
        if given["map"] not in COMPUTED:
            wanted = given | {"kind": "predict", "count": 1}
            ticket, request, message = easel.begin(last, lambda: request_of(**wanted))
            return ticket, request, message, gr.skip() if ticket == last else ticket, gr.skip()
        return (gr.skip(),) * 4 + (computed_map(given["image"], given["map"]),)

    def place(pictures: list[Picture], ticket: str) -> Any:
        made = bool(pictures) and pictures[0].ticket == ticket
        return str(pictures[0].path) if made else gr.skip()

    inputs = [easel.ticket, *easel.controls.values()]
    outputs = [easel.ticket, easel.request, easel.board, maps, image]
    button.click(make, inputs, outputs, concurrency_limit=None, **PRIVATE)
    easel.board.finished(place, [easel.kept, maps], image, **QUICK)


def computed_map(path: str | None, kind: str) -> Any:
    """The path of the edge map of a picture, for its box; a warning and no change if there is none."""
    try:
        picture = opened(path)
        if picture is None:
            raise DimooError("Picture is missing: add the picture to make a map of.")
        return str(write(edge_map(picture, kind), folder() / new_ticket() / f"{kind}.png"))
    except DimooError as error:
        warn(str(error))
        return gr.skip()
