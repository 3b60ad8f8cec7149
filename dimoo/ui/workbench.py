"""The workbench that the picture tabs share: run and stop buttons, the stage, the pictures of the session.

A tab brings its own controls and a function from their values to a request; the workbench does the rest.
"""

from __future__ import annotations

import html
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from gradio.components import Component

from dimoo.errors import DimooError
from dimoo.frames import Frame
from dimoo.tasks import Request
from dimoo.ui.files import Picture, keep
from dimoo.ui.gallery import choose, publish
from dimoo.ui.line import Line, StopSign, new_ticket
from dimoo.ui.stage import FINAL_QUALITY, Message, Pace, build_stage, jpeg, pack_frame, progress, status_line

log = logging.getLogger(__name__)

MODEL = {"concurrency_id": "model", "concurrency_limit": 1}
PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
BROKEN = "Something went wrong on the server; the picture could not be finished. Please try again."

FULL = "Too many people are waiting just now. Please try again in a moment."

Runner = Callable[[Request, str], Iterator[Frame]]
Notes = Callable[[Request], list[str]]


@dataclass
class Shop:
    """What all tabs have in common: how to run a request, what to say about it, the line before the model.

    run: (request, path of the stop sign) -> frames. notes: request -> sentences; DimooError if it cannot run.
    """

    run: Runner
    notes: Notes
    line: Line = field(default_factory=Line)


class Workbench:
    """Builds the shared parts of a tab and connects them."""

    def __init__(self, shop: Shop, name: str) -> None:
        self.shop, self.name = shop, name
        self.ticket = gr.State("")
        self.pictures = gr.State([])  # of this session only: list[Picture]
        self.chosen = gr.State(None)

    def build_buttons(self, label: str) -> None:
        with gr.Row(elem_classes=["run-row"]):
            self.start = gr.Button(
                label, variant="primary", elem_id=f"{self.name}-run", elem_classes=["run-button"]
            )
            self.stop = gr.Button(
                "Stop", variant="stop", elem_id=f"{self.name}-stop", elem_classes=["stop-button"]
            )
            self.leave = gr.Button(
                "Leave the line", elem_id=f"{self.name}-leave", elem_classes=["leave-button"]
            )

    def build_stage(self, hint: str) -> None:
        def place(ticket: str) -> str | None:
            return self.shop.line.describe(str(ticket))

        self.stage = build_stage(f"{self.name}-stage", hint, [place])
        with gr.Column(elem_classes=["details"]):
            self.details = gr.HTML("", elem_id=f"{self.name}-details", apply_default_css=False)
            with gr.Row(elem_classes=["detail-actions"]):
                self.download = gr.DownloadButton("Download PNG", elem_id=f"{self.name}-download", size="sm")
                self.reuse_seed = gr.Button("Reuse seed", elem_id=f"{self.name}-reuse-seed", size="sm")
                self.reuse_all = gr.Button("Reuse settings", elem_id=f"{self.name}-reuse", size="sm")

    def build_gallery(self) -> None:
        self.gallery = gr.Gallery(
            label="This session",
            columns=6,
            object_fit="cover",
            format="png",
            allow_preview=False,
            buttons=[],
            interactive=False,
            elem_id=f"{self.name}-gallery",
            elem_classes=["session-gallery"],
        )

    def connect(
        self, triggers: Sequence[Callable], inputs: Sequence[Component], request_of: Callable[..., Request]
    ) -> None:
        """triggers: events such as button.click that start a run; request_of: values of inputs -> request."""

        def begin(last: str, *values: Any) -> tuple[str, dict]:
            return self._begin(last, request_of, values)

        def run(ticket: str, pictures: list[Picture], *values: Any) -> Iterator[tuple]:
            yield from self._run(ticket, pictures, request_of, values)

        for trigger in triggers:
            trigger(
                begin, [self.ticket, *inputs], [self.ticket, self.stage], concurrency_limit=None, **PRIVATE
            )
        # Every further output would cost milliseconds per message, skipped or not: a finished picture is
        # listed by an event of its own, which the stage sends when it has arrived.
        seen = [self.stage, self.pictures]
        running = self.stage.begun(run, [self.ticket, self.pictures, *inputs], seen, **MODEL, **PRIVATE)
        running.failure(self._refused, self.ticket, self.stage, queue=False, **PRIVATE)
        shown = [self.chosen, self.details, self.download]
        self.stage.finished(publish, self.pictures, [*shown, self.gallery], queue=False, **PRIVATE)
        self.stop.click(self._stop, self.ticket, None, queue=False, **PRIVATE)
        self.leave.click(self._leave, self.ticket, self.stage, queue=False, cancels=[running], **PRIVATE)
        self.gallery.select(choose, self.pictures, [self.stage, *shown], queue=False, **PRIVATE)

    def _begin(
        self, last: str, request_of: Callable[..., Request], values: Sequence[Any]
    ) -> tuple[str, dict]:
        """Checks a request and joins the line; the stage then begins the run. What cannot run never waits."""
        if self.shop.line.holds(last):
            gr.Warning("Stop the picture that is being made first.", title="One at a time")
            return last, gr.skip()
        ticket = new_ticket()
        try:
            notes = self.shop.notes(request_of(*values))
        except DimooError as error:
            return ticket, failure(ticket, str(error))
        self.shop.line.join(ticket)
        place = self.shop.line.describe(ticket) or ""
        return ticket, Message(ticket, "waiting", place, notes=notes).for_page()

    def _refused(self, ticket: str) -> Any:
        """The run did not even start: the queue is full. One that was left also ends here, all said."""
        if not self.shop.line.holds(ticket):
            return gr.skip()
        self.shop.line.leave(ticket)
        return Message(ticket, "failed", FULL).for_page()

    def _stop(self, ticket: str) -> None:
        """The run sees the sign after its current step and finishes the picture as it is."""
        if self.shop.line.holds(ticket):
            StopSign.of(ticket).show()

    def _leave(self, ticket: str) -> dict:
        self.shop.line.leave(ticket)
        return Message(ticket, "idle", "You left the line.").for_page()

    def _run(
        self, ticket: str, pictures: list[Picture], request_of: Callable[..., Request], values: Sequence[Any]
    ) -> Iterator[tuple]:
        """What the page shows during a run; ends with a finished, stopped or failed message."""
        if not self.shop.line.holds(ticket):
            return  # it left the line, or never joined
        sign = StopSign.of(ticket)
        self.shop.line.start(ticket)
        try:
            request = request_of(*values)
            notes = self.shop.notes(request)
            # said before the model is asked for anything: a run that has yielded can be cancelled
            yield only(Message(ticket, "running", "Starting …", notes=notes, alt=request.prompt))
            with closing(self.shop.run(request, str(sign.path))) as frames:
                yield from self._follow(frames, ticket, request, notes, pictures)
        except DimooError as error:
            yield failure(ticket, str(error)), gr.skip()
        except Exception:
            log.exception("A run failed.")
            yield failure(ticket, BROKEN), gr.skip()
        finally:
            self.shop.line.leave(ticket)
            sign.remove()

    def _follow(
        self,
        frames: Iterator[Frame],
        ticket: str,
        request: Request,
        notes: list[str],
        pictures: list[Picture],
    ) -> Iterator[tuple]:
        pending: list[dict[str, Any]] = []
        pace = Pace()
        for frame in frames:
            self.shop.line.expect(ticket, frame.seconds_left)
            pending.append(pack_frame(frame))
            over = frame.image is not None or frame.stopped
            if not (pace.due() or over):
                continue
            rows, columns = frame.masked.shape
            message = Message(
                ticket,
                "running",
                status_line(frame),
                index=frame.index,
                alt=request.prompt,
                notes=notes,
                progress=progress(frame),
                columns=columns,
                rows=rows,
                frames=pending,
            )
            pending = []
            if not over:
                yield only(message)
                continue
            if frame.stopped:
                message.phase, message.status = "stopped", f"Stopped at step {frame.step} of {frame.steps}"
            elif frame.index + 1 == frame.count:
                message.phase, message.status = (
                    "done",
                    f"Finished in {frame.seconds:.1f} s · seed {frame.seed}",
                )
            if frame.image is None:
                yield only(message)
                continue
            message.final, message.fresh = jpeg(frame.image, FINAL_QUALITY), True
            pictures = [keep(frame, ticket), *pictures]
            yield message.for_page(), pictures


def only(message: Message) -> tuple[dict, Any]:
    """Outputs of a run when nothing but the stage changes."""
    return message.for_page(), gr.skip()


def failure(ticket: str, sentence: str) -> dict:
    """What the stage shows when nothing comes; the sentence also pops up where the stage is out of sight."""
    gr.Warning(html.escape(sentence), title="No picture")
    return Message(ticket, "failed", sentence).for_page()
