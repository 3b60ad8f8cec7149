"""The workbench of tabs that make pictures: the stage, what is on it, and the pictures of the session."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from dimoo.frames import Frame
from dimoo.tasks import Draw
from dimoo.ui.files import Picture, keep
from dimoo.ui.gallery import added, before, choose, given_pictures, listed, publish, title_of
from dimoo.ui.stage import FINAL_QUALITY, Message, Pace, build_stage, jpeg, pack_frame, progress, status_line
from dimoo.ui.workbench import LATEST, QUICK, Shop, Workbench

AGAIN = ("edit", "extrapolate")  # tabs whose results one goes on with there; in Inpaint that is called Retouch


class Easel(Workbench):
    """Frames in, pictures out. The pictures of the session are those of all easels."""

    def __init__(self, shop: Shop, task: str) -> None:
        super().__init__(shop, task)
        self.kept = shop.pictures
        self.chosen = gr.State(None)

    def build_result(self, hint: str) -> None:
        """The stage, the chosen picture with what can be done with it, and the session. hint: for the empty stage."""
        self.board = build_stage(f"{self.task}-stage", hint, self.shop.line.describe)
        with gr.Column(elem_classes=["details"]):
            self.details = gr.HTML("", elem_id=f"{self.task}-details", apply_default_css=False)
            with gr.Row(elem_classes=["detail-actions"]):
                self.download = gr.DownloadButton("Download PNG", elem_id=f"{self.task}-download", size="sm")
                self.reuse_seed = gr.Button("Reuse seed", elem_id=f"{self.task}-reuse-seed", size="sm")
                self.reuse_all = gr.Button("Reuse settings", elem_id=f"{self.task}-reuse", size="sm")
                self.retouch = gr.Button(
                    "Retouch", elem_id=f"{self.task}-retouch", size="sm", visible="inpaint" in dict(self.shop.tabs)
                )
            with gr.Row(elem_classes=["detail-actions", "send-row"]):
                goals = [(task, label) for task, label in self.shop.tabs if task != self.task or task in AGAIN]
                if goals:
                    gr.HTML('<span class="send-to">Send to</span>', apply_default_css=False)
                self.send = {
                    task: gr.Button(label, elem_id=f"{self.task}-send-{task}", size="sm") for task, label in goals
                }
        self.gallery = gr.Gallery(
            label="This session",
            columns=6,
            object_fit="cover",
            format="png",
            allow_preview=False,
            buttons=[],
            interactive=False,
            elem_id=f"{self.task}-gallery",
            elem_classes=["session-gallery"],
        )

    def serve(self) -> None:
        # Every further output of a run would cost milliseconds per message, skipped or not: a finished picture
        # is listed by an event of its own, which the stage sends when it has arrived.
        super().serve()
        shown = [self.chosen, self.details, self.download]
        # fast runs finish faster than this takes; the last of several must not be the one that is left out
        self.board.finished(publish, self.kept, [*shown, self.gallery], **LATEST)
        self.gallery.select(choose, self.kept, [self.board, *shown], trigger_mode="multiple", **QUICK)
        if "random_seed" in self.controls:
            seeds = [self.controls["seed"], self.controls["random_seed"]]
            self.reuse_seed.click(reused_seed, self.chosen, seeds, **QUICK)

    def show_session(self, tab: gr.Tab) -> None:
        """Lists what other tabs have made when this one is opened."""
        tab.select(listed, self.kept, self.gallery, **QUICK)

    def follow(
        self, states: Iterator[Frame], ticket: str, request: Draw, notes: list[str], kept: list[Picture]
    ) -> Iterator[tuple]:
        pending: list[dict[str, Any]] = []
        pace = Pace()
        words = title_of(request.settings())
        for frame in states:
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
                alt=words,
                notes=notes,
                progress=progress(frame),
                columns=columns,
                rows=rows,
                frames=pending,
            )
            pending = []
            if frame.stopped:
                message.phase, message.status = "stopped", f"Stopped at step {frame.step} of {frame.steps}"
            elif over and frame.index + 1 == frame.count:
                message.phase, message.status = "done", f"Finished in {frame.seconds:.1f} s · seed {frame.seed}"
            if frame.image is None:
                yield self.only(message)
                continue
            compared = before(request, frame.image)
            message.final, message.fresh = jpeg(frame.image, FINAL_QUALITY), True
            message.before = None if compared is None else jpeg(compared, FINAL_QUALITY)
            kept = added(keep(frame, ticket, given_pictures(request), compared), kept)
            yield message.for_page(), kept


def reused_seed(picture: Picture | None) -> tuple[Any, Any]:
    """Values of the seed and of the box for a new one each time."""
    return (gr.skip(), gr.skip()) if picture is None else (picture.settings["seed"], False)
