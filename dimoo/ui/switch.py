"""Another checkpoint for the whole server, where its operator offers some.

It is loaded beside the present one, which goes on if that fails; then the page is built anew, for its sizes, limits and tasks
come with the checkpoint.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Lock, Thread

import gradio as gr

from dimoo.errors import DimooError
from dimoo.pipeline import Pipeline
from dimoo.ui.line import Line, new_ticket
from dimoo.ui.stage import asset
from dimoo.ui.workbench import MODEL, PRIVATE

GRACE = 1.5  # seconds from the last words to the page until its server closes


class Switch:
    """names: of the checkpoints on offer; load: name -> pipeline, DimooError if that is not possible."""

    def __init__(self, names: Sequence[str], load: Callable[[str], Pipeline]) -> None:
        self.names, self.load = list(dict.fromkeys(names)), load
        self.current = self.names[0]
        self.loaded: SimpleQueue[Pipeline] = SimpleQueue()
        self.loading = Lock()

    def to(self, name: str, line: Line) -> Iterator[str]:
        """Loads a checkpoint for `wait` to hand out, with words on how it goes; whoever waits in the line meanwhile is told.

        Raises gr.Error with a sentence.
        """
        if name not in self.names:
            raise gr.Error(f"{name} is not on offer here.", print_exception=False)
        if name == self.current:
            raise gr.Error(f"{name} is the checkpoint that is loaded.", print_exception=False)
        began, ticket = time.monotonic(), new_ticket()
        line.occupy(ticket)
        try:
            loading = self.begin(name)
            while not loading.done():
                yield note(f"Loading {name}, for {time.monotonic() - began:.0f} s. Everyone's page opens anew when it is there.")
                time.sleep(0.5)
            try:
                pipeline = loading.result()
            except Exception as error:
                yield ""
                if isinstance(error, DimooError):
                    raise gr.Error(str(error), print_exception=False) from error
                raise
            self.current = name
            self.loaded.put(pipeline)
            yield note(f"{name} is there; the page opens anew.")
            time.sleep(2 * GRACE)  # keeps the model, so that no run begins that would be cut off
        finally:
            line.leave(ticket)

    def begin(self, name: str) -> Future[Pipeline]:
        """Loads in the background. Who closes the page does not end a load: the next one begins after it; the end of the program
        does.
        """
        future: Future[Pipeline] = Future()

        def work() -> None:
            with self.loading:
                try:
                    future.set_result(self.load(name))
                except BaseException as error:
                    future.set_exception(error)

        Thread(target=work, name="load", daemon=True).start()
        return future

    def wait(self) -> Pipeline:
        """The next pipeline that somebody asked for, when their page has been told of it."""
        pipeline = self.loaded.get()
        time.sleep(GRACE)
        return pipeline


def note(text: str) -> str:
    return f'<p>{html.escape(text)}</p>'


def build_switch(switch: Switch, line: Line) -> None:
    gr.HTML(js_on_load=asset("switch.js"), apply_default_css=False)
    with gr.Accordion("Checkpoint", open=False, elem_id="switch"):
        with gr.Row():
            name = gr.Dropdown(
                switch.names, value=switch.current, label="Checkpoint of this server", elem_id="switch-name",
                info="For everyone who is here. What is running is finished first; the session's pictures are lost.",
            )  # fmt: skip
            button = gr.Button("Load", elem_id="switch-load", scale=0)
        words = gr.HTML()

    def load(name: str) -> Iterator[str]:
        yield from switch.to(name, line)

    button.click(load, name, words, **MODEL, **PRIVATE)
