"""The stage: where a picture appears token by token, with its status line, its views and its replay.

One gr.HTML component. The server sends small messages (see `Message`); assets/stage.js draws them, keeps them
for the replay and switches views without asking the server. The status line alone is a component too
(assets/status.js, which the stage contains), for what is not a picture.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from dimoo.frames import VIEWS, Frame
from dimoo.preview import RAMP

ASSETS = Path(__file__).resolve().parents[2] / "assets"
MESSAGES_PER_SECOND = 12
PREVIEW_QUALITY, FINAL_QUALITY = 80, 92
VIEW_HELP = {
    "committed": "Tokens decided so far",
    "prediction": "Masked tokens too, as the model expects them",
    "confidence": "How sure the model was of each token",
    "compare": "Before and after: move the line",
}


@dataclass
class Message:
    """What the stage shows next.

    run: ticket of the run; index: which of its pictures. phase: idle, waiting, running, done, stopped or
    failed. status: the line under the picture; notes: sentences below it; alt: words for those who cannot see
    it. progress: 0 to 1. columns, rows: cells of the picture. frames: its states since the last message (see
    `pack_frame`); final: the finished picture as a data address; before: the picture it was made from, laid
    out alike; fresh: it is new and not listed yet.
    """

    run: str
    phase: str
    status: str
    index: int = 0
    alt: str = ""
    notes: list[str] = field(default_factory=list)
    progress: float = 0.0
    columns: int = 0
    rows: int = 0
    frames: list[dict[str, Any]] = field(default_factory=list)
    final: str | None = None
    before: str | None = None
    fresh: bool = False

    def for_page(self) -> dict[str, Any]:
        return asdict(self)


class Pace:
    """Says yes at most so many times a second on average, however the questions fall."""

    def __init__(
        self, per_second: float = MESSAGES_PER_SECOND, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.interval, self.clock = 1 / per_second, clock
        self.next = clock()

    def due(self) -> bool:
        now = self.clock()
        if now < self.next:
            return False
        self.next = max(self.next + self.interval, now)  # early again after a late yes, but never in a burst
        return True


def pack_frame(frame: Frame) -> dict[str, Any]:
    """A state for the browser: its step, the preview as JPEG, and a byte per cell.

    The byte is 0 where the cell is masked, else 1 + 254 times its confidence: masks and heat are drawn there.
    """
    sure = 1 + np.rint(254 * np.clip(frame.confidence, 0, 1)).astype(np.uint8)
    cells = np.where(frame.masked, np.uint8(0), sure).astype(np.uint8)
    return {
        "step": frame.step,
        "steps": frame.steps,
        "picture": jpeg(Image.fromarray(frame.preview), PREVIEW_QUALITY),
        "cells": base64.b64encode(cells.tobytes()).decode(),
    }


def jpeg(image: Image.Image, quality: int) -> str:
    """The picture as a data address; no file, no second request, nothing to flicker."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def status_line(frame: Frame) -> str:
    """Step 12 of 32 · 0.7 s · 1.1 s left · seed 42, with the numbers of picture and try when there are several."""
    parts = [f"Picture {frame.index + 1} of {frame.count}"] if frame.count > 1 else []
    if frame.tries > 1:
        parts.append(f"Try {frame.attempt} of {frame.tries}")
    parts += [f"Step {frame.step} of {frame.steps}", f"{frame.seconds:.1f} s"]
    if frame.seconds_left is not None:
        parts.append(f"{frame.seconds_left:.1f} s left")
    return " · ".join([*parts, f"seed {frame.seed}"])


def progress(frame: Frame) -> float:
    return (frame.index + frame.step / frame.steps) / frame.count


Describe = Callable[[str], str | None]


def build_stage(elem_id: str, hint: str, describe: Describe) -> gr.HTML:
    """The component. hint: what the empty stage says; describe: see `message_board`."""
    buttons = "".join(
        f'<button type="button" data-view="{view}" aria-pressed="{str(view == VIEWS[0]).lower()}" '
        f'title="{help}">{view.capitalize()}</button>'
        for view, help in VIEW_HELP.items()
    )
    template = asset("stage.html").replace("@buttons", buttons).replace("@hint", hint).replace("@help", VIEW_HELP[VIEWS[0]])
    ramp = [list(colour) for colour in RAMP]
    return message_board(elem_id, template, asset("status.js") + asset("stage.js"), describe, ramp=ramp)


def build_status(elem_id: str, describe: Describe) -> gr.HTML:
    """The status line alone, as a component."""
    script = asset("status.js") + "watch('value', () => announce(props.value));"
    return message_board(elem_id, asset("status.html"), script, describe)


def message_board(elem_id: str, template: str, script: str, describe: Describe, **props: Any) -> gr.HTML:
    """A component that shows messages. describe: ticket -> a sentence on its place in the line, or None."""

    def place(ticket: str) -> str | None:  # under this name the page asks for it
        return describe(str(ticket))

    return gr.HTML(
        value=Message(run="", phase="idle", status="").for_page(),
        html_template=template,
        js_on_load=script,
        server_functions=[place],
        apply_default_css=False,
        elem_id=elem_id,
        **props,
    )


def asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")
