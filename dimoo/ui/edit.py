"""The tab Edit: a picture made from a picture, in the six ways that `Edit.KINDS` lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

from dimoo.defaults import Defaults
from dimoo.errors import DimooError
from dimoo.images import edge_map, fit_bucket
from dimoo.tasks import Edit
from dimoo.ui.controls import control, picture_box, prompt_chips, settings_panel, settle_seed
from dimoo.ui.easel import Easel
from dimoo.ui.examples import build_examples
from dimoo.ui.files import Picture, folder, opened, write
from dimoo.ui.line import new_ticket
from dimoo.ui.workbench import LATEST, PRIVATE, Shop, warn

HINT = "Choose a picture and say what to make of it."
COMPUTED = ("canny", "hed")  # maps that need no model
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
KINDS_WITH = {"map": ("control", "predict"), "style_only": ("style",), "direction": ("view",), "keep": ("instruct",)}


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
            with gr.Column(visible=False) as style_only:
                controls["reference"] = picture_box("Style picture", "edit-reference", height=150)
            controls["map"] = control(Edit, "map", defaults, visible=False)
            make_map = gr.Button("Make a map from the picture", size="sm", elem_id="edit-make-map", visible=False)
            controls["prompt"] = control(Edit, "prompt", defaults, placeholder=PROMPT_HELP["instruct"][1], lines=2)
            prompt = controls["prompt"]
            instructions = prompt_chips(defaults.instructions, prompt, "edit-instructions", "Example instructions")
            prompts = prompt_chips(defaults.prompts, prompt, "edit-prompts", visible=False)
            controls["direction"] = control(Edit, "direction", defaults, visible=False)
            easel.build_buttons("Edit")
            names = ["count", "steps", "guidance", "guidance_image", "keep", "temperature", "cache"]
            settings_panel(easel, Edit, defaults, names)
        with gr.Column(scale=7, min_width=320, elem_classes=["result"]):
            easel.build_result(HINT)

    beside = {"style_only": style_only, "make_map": make_map, "instructions": instructions, "prompts": prompts}
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
    easel.listen([easel.start.click, prompt.submit], request_of)
    easel.serve()
    kind.input(change_kind, kind, [changing[name] for name in looks_of("instruct")], **LATEST)
    connect_maps(easel, make_map)
    return easel


def looks_of(kind: str) -> dict[str, dict[str, Any]]:
    """What the controls look like for a kind of edit: which are there, and what they are called."""
    prompt, placeholder = PROMPT_HELP.get(kind, PROMPT_HELP["instruct"])
    looks: dict[str, dict[str, Any]] = {name: {"visible": kind in kinds} for name, kinds in KINDS_WITH.items()}
    looks["map"]["info"] = MAP_HELP.get(kind, "")
    return looks | {
        "prompt": {"visible": kind in Edit.NEEDS_PROMPT, "label": prompt, "placeholder": placeholder},
        "make_map": {"visible": kind == "control"},
        "instructions": {"visible": kind == "instruct"},
        "prompts": {"visible": kind in ("control", "subject")},
    }


def request_of(image: str | None, reference: str | None, kind: str, prompt: str, **values: Any) -> Edit:
    """A reference that is not asked for is not even opened: what lies hidden in its box may be no picture."""
    return Edit(
        image=opened(image),
        reference=opened(reference) if kind in KINDS_WITH["style_only"] else None,
        kind=kind,
        prompt=prompt,
        **settle_seed(values),
    )


def connect_maps(easel: Easel, button: gr.Button) -> None:
    """The button that turns the picture into a map: edges at once, other maps by a run of the model."""
    fields = list(easel.controls)
    image = easel.controls["image"]
    wanted = gr.State(("", None))  # ticket of the run whose result is wanted as a map, path of what it is a map of
    made = gr.State(("", None))  # path of the last map, path of what it is a map of

    def make(visit: gr.Request, made: tuple[str, str | None], *values: Any) -> tuple:
        given = dict(zip(fields, values, strict=True))
        source = source_of(given["image"], made)
        if given["map"] not in COMPUTED:
            predicting = given | {"image": source, "kind": "predict", "count": 1}
            ticket, message = easel.begin(visit.session_hash, lambda: request_of(**predicting))
            joined = (ticket, source) if isinstance(ticket, str) else gr.skip()  # else something is being made already
            return ticket, message, joined, gr.skip(), gr.skip()
        path = computed_map(source, given["map"], easel.shop.defaults)
        return *(gr.skip(),) * 3, *((gr.skip(),) * 2 if path is None else (path, (path, source)))

    button.click(
        make,
        [made, *easel.controls.values()],
        [easel.ticket, easel.board, wanted, image, made],
        concurrency_limit=None,
        **PRIVATE,
    )
    easel.board.finished(predicted_map, [easel.kept, wanted, easel.controls["kind"], image, made], [image, made], **LATEST)


def source_of(path: str | None, made: tuple[str, str | None]) -> str | None:
    """What to make a map of: the picture in the box, or if that is a map, what this was made of. made: map, source."""
    return made[1] if path == made[0] else path


def predicted_map(
    pictures: list[Picture], wanted: tuple[str, str | None], kind: str, shown: str | None, made: tuple[str, str | None]
) -> tuple:
    """A map that a run was asked for, for the box, and (map, source); no change if the newest picture is none.

    Nor if something else is to be done by now, or to another picture: shown is the one in the box. A run that was stopped
    leaves half a map.
    """
    ticket, source = wanted
    if not pictures or pictures[0].ticket != ticket or "stopped" in pictures[0].settings:
        return gr.skip(), gr.skip()
    if kind != "control" or source_of(shown, made) != source:
        return gr.skip(), gr.skip()
    path = str(pictures[0].path)
    return path, (path, source)


def computed_map(path: str | None, kind: str, defaults: Defaults) -> str | None:
    """The path of the edge map of a picture, made at the size that the model will see: scaled down later, lines a pixel wide are
    lost. A warning and None if there is none.
    """
    try:
        picture = opened(path)
        if picture is None:
            raise DimooError("Picture is missing: add the picture to make a map of.")
        return str(write(edge_map(fit_bucket(picture, defaults.edit_side), kind), folder() / new_ticket() / f"{kind}.png"))
    except DimooError as error:
        warn(str(error))
        return None
