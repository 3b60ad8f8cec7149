"""Pictures of the session: which is chosen, what is said about it, and the way back to the stage."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from dimoo.ui.files import Picture
from dimoo.ui.stage import FINAL_QUALITY, Message, jpeg


def publish(pictures: list[Picture]) -> tuple:
    """The newest picture of the session with its details, and all of them."""
    if not pictures:
        return (gr.skip(),) * 4
    gallery = [(str(picture.path), picture.settings["prompt"]) for picture in pictures]
    return (*picture_parts(pictures[0]), gallery)


def choose(pictures: list[Picture], event: gr.SelectData) -> tuple:
    """A picture of the session back on the stage."""
    picture = pictures[event.index]
    return (stage_message(picture), *picture_parts(picture))


def stage_message(picture: Picture) -> dict:
    """A picture of the session back on the stage; its steps are still in the browser."""
    settings = picture.settings
    stopped = f" · stopped at {settings['stopped']}" if "stopped" in settings else ""
    message = Message(
        picture.ticket,
        "done",
        f"{settings['seconds']:.1f} s · seed {settings['seed']}{stopped}",
        index=picture.index,
        alt=settings["prompt"],
        progress=1.0,
        columns=picture.columns,
        rows=picture.rows,
        final=jpeg(picture.open(), FINAL_QUALITY),
    )
    return message.for_page()


def picture_parts(picture: Picture) -> tuple[Picture, str, str]:
    """What is chosen, its details, and the file behind the download button."""
    return picture, details_html(picture.settings), str(picture.path)


def details_html(settings: dict[str, Any]) -> str:
    """The settings of a picture for reading."""
    shown = {
        "seed": settings["seed"],
        "size": f"{settings['width']} × {settings['height']}",
        "steps": settings.get("stopped", settings["steps"]),
        "guidance": f"{settings['guidance']:g}",
        "temperature": f"{settings['temperature']:g}",
        "time": f"{settings['seconds']:.1f} s",
    }
    pairs = "".join(
        f"<div><dt>{name}</dt><dd>{html.escape(str(value))}</dd></div>" for name, value in shown.items()
    )
    stopped = '<p class="stopped">Stopped early</p>' if "stopped" in settings else ""
    return f'<p class="details-prompt">{html.escape(settings["prompt"])}</p>{stopped}<dl>{pairs}</dl>'
