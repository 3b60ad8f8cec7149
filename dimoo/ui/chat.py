"""The tab Chat: questions about pictures, answered word by word as the model decides them."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
from gradio.components import Component
from PIL import Image

from dimoo.defaults import Defaults
from dimoo.frames import Answer
from dimoo.knobs import knobs
from dimoo.tasks import Chat
from dimoo.ui.controls import control, prompt_chips
from dimoo.ui.examples import build_examples
from dimoo.ui.files import folder, opened, write
from dimoo.ui.stage import Message, Pace, build_status
from dimoo.ui.workbench import LATEST, QUICK, Shop, Workbench

MOST_MESSAGES = 60
HINT = "Add a picture, then ask about it. Each question is answered on its own."
SHOWN_SIDE = 384  # pixels of the longer side of a picture in the talk
NO_ANSWER = '<em class="cut">(no answer)</em>'
MASKED = '<span class="masked">░░</span>'
# characters that would mean something to Markdown, kept as they are by writing them as HTML
PLAIN = {ord(c): f"&#{ord(c)};" for c in "\\`*_{}[]()#+-.!|~>$:@^="} | {ord("\n"): "<br>"}


@dataclass(frozen=True)
class Talk:
    """What was said so far: messages for gr.Chatbot, and what the pictures were that it is about, as a hash."""

    messages: tuple[dict[str, Any], ...] = ()
    pictures: str = ""

    def say(self, role: str, *contents: Any) -> Talk:
        """The talk with further messages; the oldest are let go."""
        new = [{"role": role, "content": content} for content in contents]
        return replace(self, messages=(*self.messages, *new)[-MOST_MESSAGES:])

    def ask(self, request: Chat, ticket: str) -> Talk:
        """The talk with a question, and its pictures if it is the first about them."""
        about = hashlib.sha256(b"".join(picture.tobytes() for picture in request.images)).hexdigest()
        files = [] if about == self.pictures else [shown(p, ticket, i) for i, p in enumerate(request.images)]
        return replace(self.say("user", *files, plain(request.prompt)), pictures=about)


class Table(Workbench):
    """The workbench of a talk: answers in, messages out."""

    def __init__(self, shop: Shop) -> None:
        super().__init__(shop, Chat.task)
        self.kept = gr.State(Talk())
        self.asked = gr.State(("", ""))  # ticket and question of the newest answer

    def follow(
        self, states: Iterator[Answer], ticket: str, request: Chat, notes: list[str], kept: Talk
    ) -> Iterator[tuple]:
        pace = Pace()
        talk = kept.ask(request, ticket)
        asked = False
        try:
            for answer in states:
                self.shop.line.expect(ticket, answer.seconds_left)
                if not (pace.due() or answer.done):
                    continue
                done = min(1.0, answer.step / answer.steps)
                message = Message(ticket, "running", words_of(answer), notes=notes, progress=done)
                if answer.done:
                    message.phase = "stopped" if answer.stopped else "done"
                said = talk.say("assistant", bubble(answer))
                # what was said is kept from the first state on: a talk that is cut short goes on from there
                yield message.for_page(), said, list(said.messages), gr.skip() if asked else (ticket, request.prompt)
                asked = True
        except Exception:
            if asked:
                said = talk.say("assistant", NO_ANSWER)
                yield gr.skip(), said, list(said.messages), gr.skip()
            raise

    def start_anew(self, ticket: str) -> tuple:
        """An empty talk; what is being answered, or waits, is given up with the old one."""
        self.shop.line.leave(ticket)
        return Talk(), [], Message(ticket, "idle", "").for_page()


def build(shop: Shop) -> Table:
    """Lays out the tab inside the current gr.Tab and connects it."""
    defaults = shop.defaults
    table = Table(shop)
    controls = table.controls
    most = knobs(Chat)["images"].high
    with gr.Row(elem_classes=["task-tab"], equal_height=False):
        with gr.Column(scale=4, min_width=320, elem_classes=["controls"]):
            controls["images"] = gr.Gallery(
                label=f"Pictures (up to {most})",
                type="filepath",
                file_types=["image"],
                columns=4,
                height=150,
                interactive=True,
                buttons=[],
                elem_id="chat-images",
                elem_classes=["picture-box"],
            )
            build_examples(table)
            controls["short"] = control(Chat, "short", defaults)
            with gr.Accordion("Settings", open=False, elem_classes=["settings"]):
                for name in ("length", "block", "steps"):
                    controls[name] = length_slider(name, defaults)
                controls["cache"] = control(Chat, "cache", defaults)
        with gr.Column(scale=7, min_width=320, elem_classes=["result"]):
            chatbot = gr.Chatbot(
                label="Talk",
                show_label=False,
                height=440,
                layout="bubble",
                placeholder=HINT,
                buttons=[],
                allow_file_downloads=False,
                feedback_options=None,
                latex_delimiters=[],
                group_consecutive_messages=False,
                elem_id="chat-talk",
            )
            table.board = build_status("chat-stage", shop.line.describe)
            question = control(
                Chat, "prompt", defaults, placeholder="Ask about the picture", lines=1, max_lines=4, scale=6, render=False
            )
            prompt_chips(defaults.questions, question, "chat-questions", "Example questions")
            with gr.Row(elem_classes=["ask-row"], equal_height=True):
                question.render()
                with gr.Column(scale=2, min_width=120):
                    table.build_buttons("Ask")
            clear = gr.Button("New talk", size="sm", elem_id="chat-clear", elem_classes=["plain"])
    controls["prompt"] = question
    table.shown = [chatbot, table.asked]

    def derive(values: Mapping[str, Any]) -> dict[Component, Any]:
        """An answer's length goes with its form, where it is not said."""
        usual = zip(LENGTHS, lengths(values["short"], defaults), strict=True) if "short" in values else ()
        return {controls[name]: value for name, value in usual if name not in values}

    table.derive = derive
    table.listen([table.start.click, question.submit], request_of)
    table.serve()
    controls["short"].input(lambda short: lengths(short, defaults), controls["short"], [controls[n] for n in LENGTHS], **LATEST)
    table.asked.change(emptied, [table.asked, question], question, **LATEST)
    anew = [table.kept, chatbot, table.board]
    gr.on([clear.click, chatbot.clear], table.start_anew, table.ticket, anew, cancels=[table.running], **QUICK)
    return table


def emptied(asked: tuple[str, str], written: str) -> Any:
    """The box of the question, once it is being answered; the next one may have been begun by then."""
    return "" if knobs(Chat)["prompt"].tidy(written) == asked[1] else gr.skip()


LENGTHS = ("length", "block", "steps")


def length_slider(name: str, defaults: Defaults) -> gr.Slider:
    return control(Chat, name, defaults, maximum=min(knobs(Chat)[name].high, 8 * defaults.answer_length))


def lengths(short: bool, defaults: Defaults) -> tuple:
    """Usual values of LENGTHS for answers in a word, or in sentences."""
    values = defaults.for_task("short answer" if short else "chat")
    return tuple(values[name] for name in LENGTHS)


def request_of(images: Sequence[tuple[str, Any]] | None, **values: Any) -> Chat:
    """Too many pictures are refused before any is opened. Raises DimooError."""
    knobs(Chat)["images"].check_number(len(images or ()))
    return Chat(images=[opened(path) for path, _ in images or ()], **values)


def shown(picture: Image.Image, ticket: str, index: int) -> dict[str, str]:
    """A picture as a message."""
    small = picture.copy()
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return {"path": str(write(small, folder() / ticket / f"asked-{index}.png")), "alt_text": f"Picture {index + 1}"}


def bubble(answer: Answer) -> str:
    """An answer as HTML: what is decided in words, what is not as tiles."""
    if answer.done:
        text = plain(answer.text) or "<em>no words</em>"
        return text + (' <em class="cut">(stopped)</em>' if answer.stopped else "")
    return "".join(MASKED if sure is None else plain(text) for text, sure in answer.pieces) or MASKED


def plain(text: str) -> str:
    """Text as HTML that shows it as it is, in a place where Markdown is read as well."""
    return html.escape(text, quote=False).translate(PLAIN)


def words_of(answer: Answer) -> str:
    """Step 3 of 16 · 0.2 s · 0.9 s left, and at the end what it took."""
    if answer.stopped:
        return f"Stopped at step {answer.step} of {answer.steps}"
    if answer.done:
        return f"Answered in {answer.seconds:.1f} s, {answer.step} steps"
    parts = [f"Step {answer.step} of {answer.steps}", f"{answer.seconds:.1f} s"]
    if answer.seconds_left is not None:
        parts.append(f"{answer.seconds_left:.1f} s left")
    return " · ".join(parts)
