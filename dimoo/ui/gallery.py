"""Pictures of the session: which is chosen, what is said about it, and the way back to the stage."""

from __future__ import annotations

import html
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from dimoo.images import cover
from dimoo.knobs import Mask, knobs
from dimoo.knobs import Picture as PictureKnob
from dimoo.preview import NEUTRAL
from dimoo.tasks import DIRECTIONS, MAPS, Edit, Extrapolate, Inpaint, Request
from dimoo.ui.files import Picture, found, opened
from dimoo.ui.stage import FINAL_QUALITY, Message, jpeg

MOST_PICTURES = 60
FORGOTTEN = "The server does not know this picture any more. Open the page anew to see what is still there."
WORDLESS = {"inpaint": "A part drawn anew", "extrapolate": "A picture continued"}


def added(picture: Picture, pictures: list[Picture]) -> list[Picture]:
    """The session's pictures with a new one in front; the oldest are let go."""
    return [picture, *pictures][:MOST_PICTURES]


def listed(pictures: list[Picture]) -> list[tuple[str, str]]:
    """The pictures for gr.Gallery."""
    return [(str(picture.small), title_of(picture.settings)) for picture in pictures]


def publish(pictures: list[Picture]) -> tuple:
    """The newest picture of the session with its details, and all of them."""
    if not pictures:
        return (gr.skip(),) * 4
    return (*picture_parts(pictures[0]), listed(pictures))


def restored(tickets: Any, pictures: list[Picture]) -> list[Picture]:
    """The session's pictures when its page was opened anew: those of the tickets that the browser still has, oldest first."""
    if pictures or not isinstance(tickets, list):
        return pictures
    kept = (found(ticket) for ticket in reversed(tickets[-MOST_PICTURES:]) if isinstance(ticket, str))
    return list(chain.from_iterable(kept))[:MOST_PICTURES]


def choose(pictures: list[Picture], event: gr.SelectData) -> tuple:
    """A picture of the session back on the stage.

    It goes by the folder of its file: the session may have got further pictures since the page showed these.
    """
    home = Path(event.value["image"]["path"]).parent
    picture = next((picture for picture in pictures if picture.path.parent == home and picture.path.exists()), None)
    if picture is None:  # a page that slept for long is forgotten on the server
        return (Message("", "failed", FORGOTTEN).for_page(), *[gr.skip()] * 3)
    return (stage_message(picture), *picture_parts(picture))


def stage_message(picture: Picture) -> dict:
    """A picture of the session back on the stage; its steps are still in the browser."""
    settings = picture.settings
    stopped = f" · stopped at {settings['stopped']}" if "stopped" in settings else ""
    compared = picture.before is not None and picture.before.exists()
    message = Message(
        picture.ticket,
        "done",
        f"{settings['seconds']:.1f} s · seed {settings['seed']}{stopped}",
        index=picture.index,
        alt=title_of(settings),
        progress=1.0,
        columns=picture.columns,
        rows=picture.rows,
        final=jpeg(opened(picture.path), FINAL_QUALITY),
        before=jpeg(opened(picture.before), FINAL_QUALITY) if compared else None,
    )
    return message.for_page()


def picture_parts(picture: Picture) -> tuple[Picture, str, str]:
    """What is chosen, its details, and the file behind the download button."""
    return picture, details_html(picture.settings), str(picture.path)


def title_of(settings: Mapping[str, Any]) -> str:
    """A picture in words: its prompt, or what was done."""
    kind = settings.get("kind")
    if kind == "predict":
        return f"{MAPS[settings['map']]} of a picture"
    if kind == "view":
        return f"Another view: {DIRECTIONS[settings['direction']].lower()}"
    if kind == "style":
        return "In the style of another picture"
    return settings["prompt"] or WORDLESS.get(settings["task"], "")


def details_html(settings: Mapping[str, Any]) -> str:
    """The settings of a picture for reading."""
    shown = {
        "seed": settings["seed"],
        "size": f"{settings['width']} × {settings['height']}",
        "steps": settings.get("stopped", settings["steps"]),
        "guidance": f"{settings['guidance']:g}",
        "temperature": f"{settings['temperature']:g}",
        "time": f"{settings['seconds']:.1f} s",
    }
    if settings.get("guidance_image") is not None:
        shown["picture guidance"] = f"{settings['guidance_image']:g}"
    if settings.get("kind") == "instruct" and settings.get("keep"):
        shown["keep"] = f"{settings['keep']:g}"
    if "kept" in settings:
        shown["kept"] = f"try {settings['kept']} of {settings['tries']}"
        if "agreement" in settings:
            shown["kept"] += f", {settings['agreement']:.0%} sure that it fits"
    if settings.get("cache"):
        shown["cache"] = "on"
    pairs = "".join(f"<div><dt>{name}</dt><dd>{html.escape(str(value))}</dd></div>" for name, value in shown.items())
    stopped = '<p class="stopped">Stopped early</p>' if "stopped" in settings else ""
    return f'<p class="details-prompt">{html.escape(title_of(settings))}</p>{stopped}<dl>{pairs}</dl>'


def given_pictures(request: Request) -> dict[str, Image.Image]:
    """The pictures and masks of a request, by field."""
    names = [name for name, knob in knobs(request).items() if isinstance(knob, PictureKnob | Mask)]
    return {name: getattr(request, name) for name in names if getattr(request, name) is not None}


def before(request: Request, result: Image.Image) -> Image.Image | None:
    """What a result is worth comparing with, laid out as it is: the picture it was made from."""
    if isinstance(request, Extrapolate):
        canvas = Image.new("RGB", result.size, NEUTRAL)
        canvas.paste(request.image, (request.left, request.top))
        return canvas
    if isinstance(request, Inpaint) or (isinstance(request, Edit) and request.kind not in ("subject", "view")):
        return cover(request.image, result.size)
    return None
