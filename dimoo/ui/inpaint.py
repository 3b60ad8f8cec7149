"""The tab Inpaint: a part of a picture, painted over with a brush or given as a mask, drawn anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr
import numpy as np
from gradio.components import Component
from PIL import Image, ImageChops

from dimoo.defaults import Defaults
from dimoo.errors import DimooError
from dimoo.images import size_for, working
from dimoo.plans import inpainting
from dimoo.tasks import Inpaint
from dimoo.ui.controls import control, hint, picture_box, settings_panel, settle_seed
from dimoo.ui.easel import Easel
from dimoo.ui.examples import build_examples
from dimoo.ui.files import opened, opened_mask
from dimoo.ui.stage import jpeg
from dimoo.ui.workbench import LATEST, PRIVATE, Shop

HINT = "Paint over what should be drawn anew."
MASKING = ("mask", "invert", "grow")  # controls that decide on the cells, beside the strokes
BRUSH = "rgba(200, 70, 29, 0.72)"
# The editor has events of its own for this, but where anything listens to them it uploads every stroke.
FORGET_CELLS = """
const drawing = document.createElement('canvas');
if (!drawing.getContext('webgl2') && !drawing.getContext('webgl')) element.closest('.task-tab').classList.add('no-webgl');
let changes = 0;  // of what the preview of cells shows
let asked = 0;    // how many there had been when it was asked for
const on = (name, place, then) => document.addEventListener(
  name, (event) => { if (event.target.closest(place)) then(); }, true);
const forget = () => { changes += 1; props.value = ''; };
let painting = false;  // a stroke may end outside
on('pointerdown', '#inpaint-editor', () => { painting = true; });
for (const name of ['pointerup', 'pointercancel']) {
  document.addEventListener(name, () => { if (painting) forget(); painting = false; }, true);
}
on('keyup', '#inpaint-editor', forget);
for (const name of ['input', 'change']) on(name, '#inpaint-tab .mask-settings', forget);
on('click', '#inpaint-tab .mask-settings .reset-button', forget);
on('click', '#inpaint-show', () => { asked = changes; });
watch('value', () => { if (props.value.includes('<figure') && asked !== changes) props.value = ''; });  // it came too late
"""
NO_MASK = {"mask": None, "invert": False, "grow": 0}
"""Controls of the mask for a new picture: that of an earlier one, or of an example, lies out of sight."""
PREVIEW_SIDE = 512  # pixels of the longer side of the preview of cells, at least
SHADE, EDGE = (200, 70, 29), (255, 236, 224)


def build(shop: Shop) -> Easel:
    """Lays out the tab inside the current gr.Tab and connects it."""
    defaults = shop.defaults
    easel = Easel(shop, Inpaint.task)
    controls = easel.controls
    with gr.Row(elem_classes=["task-tab"], equal_height=False):
        with gr.Column(scale=5, min_width=320, elem_classes=["controls"]):
            with gr.Row(elem_classes=["picture-row"]):
                controls["image"] = picture_box("Picture", "inpaint-image", height=110, min_width=180)
                build_examples(easel)
            controls["strokes"] = mask_editor()
            show = gr.Button("Show cells", size="sm", elem_id="inpaint-show", elem_classes=["plain"])
            cells = gr.HTML("", elem_id="inpaint-cells", apply_default_css=False, js_on_load=FORGET_CELLS)
            controls["prompt"] = control(
                Inpaint, "prompt", defaults, placeholder="What the whole picture shows, or nothing", lines=2
            )
            easel.build_buttons("Inpaint")
            with gr.Accordion("Mask", open=False, elem_classes=["settings", "mask-settings"]):
                controls["mask"] = picture_box("Mask from a file (strokes are added to it)", "inpaint-mask", height=110)
                for name in ("invert", "grow", "feather"):
                    controls[name] = control(Inpaint, name, defaults)
            settings_panel(easel, Inpaint, defaults, ["count", "steps", "guidance", "temperature", "cache"])
        with gr.Column(scale=7, min_width=320, elem_classes=["result"]):
            easel.build_result(HINT)

    editor = controls["strokes"]

    def derive(values: Mapping[str, Any]) -> dict[Component, Any]:
        if "image" in values:
            return dict(zip(easel.derived, canvas_for(values["image"], defaults), strict=True))
        return {cells: ""} if values.keys() & set(MASKING) else {}

    def request_of(**values: Any) -> Inpaint:
        return inpaint_request(defaults, **settle_seed(values))

    def preview(*values: Any) -> str:
        return cells_preview(defaults, *values)

    easel.derive, easel.derived = derive, [editor, cells]
    easel.listen([easel.start.click, controls["prompt"].submit], request_of)
    easel.serve()

    def lay_out(path: str | None, mask: str | None) -> tuple:
        canvas, why = canvas_for(path, defaults)
        kept = {"mask": gr.skip()} if mask is None or why else {}  # one that changes wipes away what is said
        return (canvas, why, *(NO_MASK | kept).values())

    given = [controls[name] for name in ("image", "mask")]
    controls["image"].input(lay_out, given, [*easel.derived, *(controls[name] for name in NO_MASK)], **LATEST)
    controls["mask"].change(None, None, cells, js="() => ''", **PRIVATE)
    show.click(preview, [controls[name] for name in ("image", "strokes", *MASKING)], cells, **LATEST)
    return easel


def mask_editor() -> gr.ImageEditor:
    """The picture to paint on: brush, eraser, undo. It gets pictures at their working size only."""
    return gr.ImageEditor(
        label="Paint the mask",
        type="pil",
        format="png",
        sources=(),
        layers=False,
        transforms=(),
        brush=gr.Brush(default_size=14, colors=[BRUSH], default_color=BRUSH, color_mode="fixed"),
        eraser=gr.Eraser(default_size=14),
        buttons=[],
        canvas_size=(512, 512),
        placeholder="The picture",
        height=430,
        elem_id="inpaint-editor",
        elem_classes=["mask-editor"],
    )


def canvas_for(path: str | None, defaults: Defaults) -> tuple[dict[str, Any] | None, str]:
    """The value of the editor for a picture, at its working size, without strokes; and, as HTML, why there is none."""
    try:
        picture = opened(path)
    except DimooError as error:
        return None, hint(str(error))
    if picture is None:
        return None, ""
    return {"background": working(picture, defaults), "layers": [], "composite": None}, ""


def inpaint_request(
    defaults: Defaults, image: str | None, strokes: dict[str, Any] | None, mask: str | None, invert: bool, **values: Any
) -> Inpaint:
    """The request of the tab; its mask has the working size of the picture."""
    picture = opened(image)
    if picture is None:
        raise DimooError("Picture is missing: add a picture first.")
    size = size_for(picture.size, defaults)
    given = None if mask is None else opened_mask(mask, picture.size, size)
    painted = joined(painted_mask(strokes, size), given)
    if painted is None and invert:
        painted = Image.new("L", size)
    return Inpaint(image=picture, mask=painted, invert=invert, **values)


def painted_mask(strokes: dict[str, Any] | None, size: tuple[int, int]) -> Image.Image | None:
    """What was painted in the editor, white in mode L at a size; None if nothing was."""
    mask = None
    for layer in (strokes or {}).get("layers", ()):
        mask = joined(mask, layer.getchannel("A").point(lambda alpha: 255 * (alpha > 0)))
    if mask is None or mask.getbbox() is None:
        return None
    return mask if mask.size == size else mask.resize(size, Image.Resampling.NEAREST)


def joined(one: Image.Image | None, other: Image.Image | None) -> Image.Image | None:
    """What is white in either mask."""
    if one is None or other is None:
        return one or other
    return ImageChops.lighter(one, other)


def cells_preview(
    defaults: Defaults, image: str | None, strokes: Any, mask: str | None, invert: bool, grow: float
) -> str:
    """HTML of the picture with the cells marked that will be redrawn, and how many they are; or why there are none."""
    try:
        picture, _, cells = inpainting(inpaint_request(defaults, image, strokes, mask, invert, grow=grow), defaults)
    except DimooError as error:
        return hint(str(error))
    words = f"{cells.sum()} of {cells.size} tokens will be redrawn"
    marked = jpeg(mark_cells(picture, cells), 88)
    return f'<figure class="cells"><img src="{marked}" alt="{words}"><figcaption role="status">{words}</figcaption></figure>'


def mark_cells(picture: Image.Image, cells: np.ndarray) -> Image.Image:
    """The picture, enlarged if it is small, with its marked cells (h, w) bool as tiles in the accent colour."""
    times = max(1, PREVIEW_SIDE // max(picture.size))
    cell = picture.width // cells.shape[1] * times
    pixels = np.asarray(picture.resize((picture.width * times, picture.height * times), Image.Resampling.BICUBIC), np.float32)
    inside = np.pad(np.ones((cell - 1, cell - 1), bool), (0, 1))  # a line at the right and below
    tile = np.where(inside[..., None], np.float32(SHADE), np.float32(EDGE))
    marks = np.tile(tile, (*cells.shape, 1))
    chosen = np.kron(cells, np.ones((cell, cell), bool))[..., None]
    return Image.fromarray(np.where(chosen, 0.35 * pixels + 0.65 * marks, pixels).astype(np.uint8))
