"""The workbench that all tabs share: controls, run and stop buttons, the line, and where messages show.

A tab brings its controls and a function from their values to a request. What becomes of a run is up to the
kind of workbench: an easel for pictures (ui/easel.py), a talk for answers (ui/chat.py).
"""

from __future__ import annotations

import html
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from gradio.components import Component

from dimoo.defaults import Defaults
from dimoo.errors import DimooError
from dimoo.frames import Answer, Frame
from dimoo.tasks import Request
from dimoo.ui.line import Line, StopSign, new_ticket
from dimoo.ui.stage import Message

log = logging.getLogger(__name__)

MODEL = {"concurrency_id": "model", "concurrency_limit": 1}
PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
QUICK = {"queue": False, **PRIVATE}
LATEST = {"trigger_mode": "always_last", **QUICK}  # of several in a row the last one counts, not the first
BROKEN = "Something went wrong on the server; this could not be finished. Please try again."
FULL = "Too many people are waiting just now. Please try again in a moment."

Runner = Callable[[Request, str], Iterator[Frame | Answer]]
Check = Callable[[Request], tuple[Request, list[str]]]
RequestOf = Callable[..., Request]


@dataclass(frozen=True)
class Wanted:
    """What waits in the line: a request at its working size, and what there is to say about it."""

    request: Request
    notes: list[str]


@dataclass
class Shop:
    """What all tabs have in common: how to check and run a request, the line before the model.

    run: (request, path of the stop sign) -> frames or answers. check: see Pipeline.check. pictures: those of the session,
    newest first. tabs: (task, label) of the tabs of the page.
    """

    run: Runner
    check: Check
    defaults: Defaults
    pictures: gr.State
    tabs: Sequence[tuple[str, str]] = ()
    line: Line = field(default_factory=Line)


class Workbench(ABC):
    """Builds the shared parts of a tab and connects them.

    controls: the tab's inputs, by the field of the request that they stand for; pictures are given as paths.
    board: the component that shows messages. kept: what the session keeps of its runs, a gr.State; shown:
    further components that a run changes. derive: values of the controls -> values of components that follow
    from them, which are in derived; it is asked when something else than a person fills the controls. later:
    what is to be connected once all controls are there. beginning: function, inputs and outputs of the event that starts
    a run, from `listen` on; running: the event of the run itself, from `serve` on.
    """

    board: gr.HTML
    kept: gr.State
    shown: Sequence[Component] = ()

    def __init__(self, shop: Shop, task: str) -> None:
        self.shop, self.task = shop, task
        self.controls: dict[str, Component] = {}
        self.derived: list[Component] = []
        self.later: list[Callable[[], Any]] = []
        self.derive: Callable[[Mapping[str, Any]], dict[Component, Any]] = lambda values: {}
        self.ticket = gr.State("")

    def build_buttons(self, label: str) -> None:
        with gr.Row(elem_classes=["run-row"]):
            self.start = self._button(label, "run", variant="primary")
            self.stop = self._button("Stop", "stop", variant="stop")
            self.leave = self._button("Leave the line", "leave")

    def _button(self, label: str, name: str, **options: Any) -> gr.Button:
        return gr.Button(label, elem_id=f"{self.task}-{name}", elem_classes=[f"{name}-button"], **options)

    def fill(self, values: Mapping[str, Any]) -> dict[Component, Any]:
        """New values of the controls, by field, and of all that follows from them; other fields are left out."""
        given = {name: value for name, value in values.items() if name in self.controls}
        return {self.controls[name]: value for name, value in given.items()} | self.derive(given)

    @property
    def filled(self) -> list[Component]:
        """All that `fill` may change."""
        return list(dict.fromkeys([*self.controls.values(), *self.derived]))

    def listen(self, triggers: Sequence[Callable], request_of: RequestOf) -> None:
        """triggers: events such as button.click that start a run; request_of: called with all controls by field."""
        fields = list(self.controls)

        def begin(visit: gr.Request, *values: Any) -> tuple:
            return self.begin(visit.session_hash, lambda: request_of(**dict(zip(fields, values, strict=True))))

        self.beginning = begin, list(self.controls.values()), [self.ticket, self.board]
        gr.on(triggers, *self.beginning, concurrency_limit=None, **PRIVATE)

    def serve(self) -> None:
        """Connects the run itself, which the board begins, the ways to end it, and what was left for later."""
        outputs = [self.board, self.kept, *self.shown]
        running = self.running = self.board.begun(
            self.run, [self.ticket, self.kept], outputs, trigger_mode="multiple", **MODEL, **PRIVATE
        )
        running.failure(self.refused, self.ticket, self.board, **QUICK)
        self.stop.click(self.halt, self.ticket, None, **QUICK)
        self.leave.click(self.quit_line, self.ticket, self.board, cancels=[running], **QUICK)
        for connect in self.later:
            connect()

    def begin(self, session: str | None, request_of: Callable[[], Request]) -> tuple[Any, Any]:
        """Checks a request and joins the line; the board then begins the run. What cannot run never waits.

        session: whose tab this is, in which one run goes on at a time: presses of a button may overtake each other.
        """
        owner, ticket = (session, self.task) if session else None, new_ticket()
        if self.shop.line.serves(owner):
            return self._busy()
        try:
            wanted = Wanted(*self.shop.check(request_of()))
        except DimooError as error:
            return ticket, failure(ticket, str(error))
        if not self.shop.line.join(ticket, wanted, owner):
            return self._busy()
        place = self.shop.line.describe(ticket) or ""
        return ticket, Message(ticket, "waiting", place, notes=wanted.notes).for_page()

    def _busy(self) -> tuple[Any, Any]:
        gr.Warning("Stop what is being made first.", title="One at a time")
        return gr.skip(), gr.skip()

    def refused(self, ticket: str) -> Any:
        """The run did not even start: the queue is full. One that was left also ends here, all said."""
        if not self.shop.line.holds(ticket):
            return gr.skip()
        self.shop.line.leave(ticket)
        return Message(ticket, "failed", FULL).for_page()

    def halt(self, ticket: str) -> None:
        """The run sees the sign after its current step and finishes as it is."""
        if self.shop.line.holds(ticket):
            StopSign.of(ticket).show()

    def quit_line(self, ticket: str) -> dict:
        self.shop.line.leave(ticket)
        return Message(ticket, "idle", "You left the line.").for_page()

    def run(self, ticket: str, kept: Any) -> Iterator[tuple]:
        """What the page shows during a run; ends with a finished, stopped or failed message."""
        wanted = self.shop.line.start(ticket)
        if wanted is None:
            yield (gr.skip(),) * (2 + len(self.shown))  # a run that yields nothing would clear them all
            return
        sign = StopSign.of(ticket)
        try:
            # said before the model is asked for anything: a run that has yielded can be cancelled
            yield self.only(Message(ticket, "running", "Starting …", notes=wanted.notes))
            with closing(self.shop.run(wanted.request, str(sign.path))) as states:
                for outputs in self.follow(states, ticket, wanted.request, wanted.notes, kept):
                    if not self.shop.line.holds(ticket):  # given up, and what came of that is not to be laid over
                        yield self.only(Message(ticket, "idle", ""))
                        return
                    yield outputs
        except DimooError as error:
            yield self.only(failure(ticket, str(error)))
        except Exception:
            log.exception("A run failed.")
            yield self.only(failure(ticket, BROKEN))
        finally:
            self.shop.line.leave(ticket)
            sign.remove()

    def only(self, message: Message | dict) -> tuple:
        """Outputs of a run when nothing but the board changes."""
        shown = message.for_page() if isinstance(message, Message) else message
        return (shown, *[gr.skip()] * (1 + len(self.shown)))

    @abstractmethod
    def follow(
        self, states: Iterator[Any], ticket: str, request: Request, notes: list[str], kept: Any
    ) -> Iterator[tuple]:
        """Outputs of a run for what it yields."""


def failure(ticket: str, sentence: str) -> dict:
    """What the board shows when nothing comes; the sentence also pops up where the board is out of sight."""
    warn(sentence)
    return Message(ticket, "failed", sentence).for_page()


def warn(sentence: str) -> None:
    gr.Warning(html.escape(sentence), title="That did not work")
