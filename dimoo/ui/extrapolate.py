"""The tab Extrapolate: a picture continued beyond its sides, by pixels or to an aspect."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import gradio as gr
from gradio.components import Component
from PIL import Image

from dimoo.defaults import Defaults
from dimoo.errors import DimooError
from dimoo.images import read_aspect, sides_for_aspect, size_for, working
from dimoo.knobs import Whole, knobs
from dimoo.plans import canvas
from dimoo.tasks import ALIGNMENTS, Extrapolate
from dimoo.ui.controls import control, hint, picture_box, settings_panel, settle_seed
from dimoo.ui.easel import Easel
from dimoo.ui.examples import build_examples
from dimoo.ui.files import CELL, opened
from dimoo.ui.stage import jpeg
from dimoo.ui.workbench import LATEST, Shop

HINT = "Your picture grows here."
SIDES = Extrapolate.SIDES
FREE = "free"
ASPECTS = {"Free": FREE, "1 : 1": "1:1", "4 : 3": "4:3", "3 : 2": "3:2", "16 : 9": "16:9", "3 : 4": "3:4", "9 : 16": "9:16"}
PREVIEW_SIDE = 320  # pixels of the picture in the layout preview


def build(shop: Shop) -> Easel:
    """Lays out the tab inside the current gr.Tab and connects it."""
    defaults = shop.defaults
    easel = Easel(shop, Extrapolate.task)
    controls = easel.controls
    with gr.Row(elem_classes=["task-tab"], equal_height=False):
        with gr.Column(scale=4, min_width=320, elem_classes=["controls"]):
            with gr.Row(elem_classes=["picture-row"]):
                controls["image"] = picture_box("Picture", "extrapolate-image", height=130, min_width=180)
                build_examples(easel)
            controls["aspect"] = gr.Radio(
                list(ASPECTS.items()),
                value=FREE,
                label="Aspect",
                elem_id="extrapolate-aspect",
                elem_classes=["segments", "words", "small"],
            )
            controls["align"] = gr.Radio(
                [(words, align) for align, words in ALIGNMENTS.items()],
                value="center",
                label="Where the picture stays",
                elem_id="extrapolate-align",
                elem_classes=["segments", "words", "small"],
                visible=False,
            )
            with gr.Row(elem_classes=["sides"]):
                for side in SIDES:
                    controls[side] = side_slider(side, defaults)
            layout = gr.HTML(layout_html(None, {}, defaults), elem_id="extrapolate-layout", apply_default_css=False)
            controls["prompt"] = control(
                Extrapolate, "prompt", defaults, placeholder="What the whole picture shows, or nothing", lines=2
            )
            easel.build_buttons("Extrapolate")
            names = ["feather", "count", "steps", "guidance", "temperature", "cache"]
            settings_panel(easel, Extrapolate, defaults, names)
        with gr.Column(scale=7, min_width=320, elem_classes=["result"]):
            easel.build_result(HINT)

    sides = [controls[side] for side in SIDES]
    shape = [controls["image"], controls["aspect"], controls["align"], *sides]

    def derive(values: Mapping[str, Any]) -> dict[Component, Any]:
        if not values.keys() & {"image", "aspect", *SIDES}:
            return {}
        # settings name the sides; which aspect they came from is not known any more
        aspect, given = values.get("aspect", FREE), (values.get(side, 0) for side in SIDES)
        align, *decided, _ = layout_of(defaults, values.get("image"), aspect, values.get("align", "center"), *given)
        return dict(zip(sides, decided, strict=True)) | {controls["align"]: align, controls["aspect"]: aspect}

    def by_aspect(image: str | None, aspect: str, *values: Any) -> tuple:
        align, *decided, _ = layout_of(defaults, image, aspect, *values)
        # sides that no aspect decides are left alone: they may have been set while this was on its way
        return (align, *([gr.update()] * len(SIDES) if aspect == FREE else decided))

    def preview(*values: Any) -> str:
        return layout_of(defaults, *values)[-1]

    easel.derive = derive
    easel.listen([easel.start.click, controls["prompt"].submit], partial(extrapolate_request, defaults))
    easel.serve()
    for changed in (controls["image"], controls["aspect"], controls["align"]):
        changed.input(by_aspect, shape, [controls["align"], *sides], **LATEST)
    # one event for all that the preview shows: of several, the answer to an older one could come last
    gr.on([control.change for control in shape], preview, shape, layout, **LATEST)
    for side in sides:
        side.input(lambda: (FREE, gr.update(visible=False)), None, [controls["aspect"], controls["align"]], **LATEST)
    return easel


def side_slider(side: str, defaults: Defaults) -> Component:
    """Pixels to add on a side."""
    return control(Extrapolate, side, defaults, maximum=side_limits(side, defaults).high, info=None)


def side_limits(side: str, defaults: Defaults) -> Whole:
    """The bounds of a side on this page: no more than fits beside a picture of the checkpoint's largest area."""
    knob = knobs(Extrapolate)[side]
    return replace(knob, high=min(knob.high, 2 * int(defaults.max_area**0.5) // CELL * CELL))


def layout_of(defaults: Defaults, image: str | None, aspect: str, align: str, *given: float) -> tuple:
    """New values of the alignment, the four sides and the layout preview; an aspect decides the sides.

    Where it would take more than can be added, or nothing, the sides stay and the preview says so.
    """
    sides = dict(zip(SIDES, map(int, given), strict=True))
    picture = None
    try:
        picture = None if image is None else worked(image, os.path.exists(image) and os.path.getmtime(image), defaults)
        if picture is not None and aspect != FREE:
            sides = sides_of(aspect, align, picture.size, defaults)
        shown = layout_html(picture, sides, defaults)
    except DimooError as error:
        shown = hint(str(error))
    return (gr.update(visible=aspect != FREE, value=align), *sides.values(), shown)


@lru_cache(maxsize=8)
def worked(path: str, changed: float, defaults: Defaults) -> Image.Image:
    """An uploaded picture at its working size. A slider that is dragged asks for it many times a second.

    changed: when its file was, so that another one under the same name is read. Raises DimooError if it cannot be read.
    """
    return working(opened(path), defaults)


def layout_html(picture: Any, sides: Mapping[str, int], defaults: Defaults) -> str:
    """The picture on the canvas that it grows to, the new part hatched, and its size in words; or what is missing."""
    if picture is None:
        return hint("Add a picture to see how it will grow.")
    if not any(sides.values()):
        return hint(f"{picture.width} × {picture.height} pixels. Choose an aspect, or how much to add on each side.")
    try:
        cells, windows = canvas(Extrapolate(picture, **sides), picture.size, defaults)
    except DimooError as error:
        return hint(str(error))
    height, width = (side * CELL for side in cells.shape)
    small = picture.copy()
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    added = ", ".join(f"{pixels} {words_of(side)}" for side, pixels in sides.items() if pixels)
    runs = f", drawn in {len(windows)} parts" if len(windows) > 1 else ""
    words = f"{picture.width} × {picture.height} → {width} × {height} pixels: {added}; {cells.sum()} new tokens{runs}"
    place = f'x="{sides["left"]}" y="{sides["top"]}" width="{picture.width}" height="{picture.height}"'
    return (
        f'<figure class="layout"><svg viewBox="0 0 {width} {height}" role="img" aria-label="{words}">'
        f'<defs><pattern id="hatch" width="{CELL}" height="{CELL}" patternUnits="userSpaceOnUse">'
        f'<path d="M0 {CELL}L{CELL} 0M-4 4L4 -4M12 20L20 12"/></pattern></defs>'
        f'<rect class="new" width="{width}" height="{height}"/>'
        f'<rect width="{width}" height="{height}" fill="url(#hatch)"/>'
        f'<image {place} href="{jpeg(small, 85)}" preserveAspectRatio="none"/></svg>'
        f'<figcaption role="status">{words}</figcaption></figure>'
    )


def words_of(side: str) -> str:
    return {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}[side]


def extrapolate_request(defaults: Defaults, image: str | None, aspect: str, align: str, **values: Any) -> Extrapolate:
    """The request of the tab. Whoever starts at once may be faster than the sides that follow from an aspect."""
    picture = opened(image)
    if picture is not None and aspect != FREE:
        values |= sides_of(aspect, align, size_for(picture.size, defaults), defaults)
    return Extrapolate(image=picture, **settle_seed(values))


def sides_of(aspect: str, align: str, size: tuple[int, int], defaults: Defaults) -> dict[str, int]:
    """Pixels to add on each side of a picture of this working size. Raises DimooError where that is nothing, or too much."""
    wanted = sides_for_aspect(size, read_aspect(aspect), align)
    return {side: side_limits(side, defaults).check(pixels) for side, pixels in wanted.items()}
