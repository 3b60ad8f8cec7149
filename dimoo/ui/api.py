"""The public endpoints, one per task, for gradio_client, plain HTTP and, where it is installed, MCP.

Their docstrings are what API documentation and MCP clients show. Values are checked by the requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Literal

import gradio as gr
from gradio.data_classes import FileData

from dimoo.errors import DimooError
from dimoo.images import read_aspect, sides_for_aspect, size_for
from dimoo.tasks import ALIGNMENTS, DIRECTIONS, MAPS, Chat, Edit, Extrapolate, Generate, Inpaint, Request
from dimoo.ui.attachments import all_of, limit_downloads, sent
from dimoo.ui.files import keep, opened
from dimoo.ui.line import StopSign, new_ticket
from dimoo.ui.workbench import Shop

Pictures = tuple[list[FileData], list[dict[str, Any]]]
Words = tuple[str, dict[str, Any]]
Kind, Map, Direction, Align = (Literal[tuple(words)] for words in (Edit.KINDS, MAPS, DIRECTIONS, ALIGNMENTS))


def endpoints(shop: Shop) -> dict[str, Callable[..., Iterator[tuple]]]:
    """The functions behind the endpoints, by task. Their annotations are of one item: that is what Gradio reads."""
    limit_downloads()

    def generate(
        prompt: str,
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        count: int = 1,
        cache: bool = False,
        tries: int | None = None,
    ) -> Pictures:
        """Makes pictures from a text with Lumina-DiMOO.

        Parameters:
            prompt: what to draw, in words
            width: pixels, a multiple of 16; the checkpoint's default if left out
            height: pixels, a multiple of 16; the checkpoint's default if left out
            steps: passes of the model per picture
            guidance: how strongly the picture follows the prompt, 0 switches guidance off
            temperature: chance in the choice of tokens, 0 for none
            seed: the same seed and settings give the same picture; a random one if left out
            count: how many pictures, with consecutive seeds
            cache: reuse keys and values of settled tokens, which is faster and changes the picture slightly
            tries: each picture is drawn so often at most, and the one kept in which the model finds the prompt best
        Returns:
            PNG files that carry their settings, and the settings of each, with notes on what is not as asked for; both grow
            picture by picture
        """
        yield from draw(shop, lambda: Generate(
            prompt, width, height, steps=steps, guidance=guidance, temperature=temperature, seed=seed, count=count, cache=cache,
            tries=tries,
        ))  # fmt: skip

    def edit(
        image: FileData,
        prompt: str = "",
        kind: Kind = "instruct",
        reference: FileData | None = None,
        map: Map = "canny",
        direction: Direction = "left",
        steps: int | None = None,
        guidance: float | None = None,
        guidance_image: float | None = None,
        keep: float | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        count: int = 1,
        cache: bool = False,
    ) -> Pictures:
        """Makes a picture from a picture with Lumina-DiMOO: edits, control maps, subjects, styles, maps and views.

        Parameters:
            image: the picture to start from; for the kind control, the map
            prompt: the instruction for the kind instruct; what to draw for control and subject; else not used
            kind: instruct, control, subject, style, predict or view
            reference: a picture in the style to take over, for the kind style
            map: canny, hed, depth or openpose: what image is for the kind control, or what to make of it for predict
            direction: left, right or back, from where the kind view looks
            steps: passes of the model per picture
            guidance: how strongly the picture follows the words, 0 switches guidance off
            guidance_image: how strongly the picture follows the given one, 0 switches that off
            keep: how sure the model must be to change a token, for the kind instruct
            temperature: chance in the choice of tokens, 0 for none
            seed: the same seed and settings give the same picture; a random one if left out
            count: how many pictures, with consecutive seeds
            cache: reuse keys and values of settled tokens, which is faster and changes the picture slightly
        Returns:
            PNG files that carry their settings, and the settings of each, with notes on what is not as asked for; both grow
            picture by picture
        """
        yield from draw(shop, lambda: Edit(
            opened(sent(image)), kind, prompt, opened(sent(reference)), map, direction, guidance_image, keep,
            steps=steps, guidance=guidance, temperature=temperature, seed=seed, count=count, cache=cache,
        ))  # fmt: skip

    def inpaint(
        image: FileData,
        mask: FileData,
        prompt: str = "",
        invert: bool = False,
        grow: int = 0,
        feather: int = 8,
        steps: int | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        count: int = 1,
        cache: bool = False,
    ) -> Pictures:
        """Draws a part of a picture anew with Lumina-DiMOO; everything outside the mask's tokens stays bit for bit.

        Parameters:
            image: the picture to repair
            mask: a picture of the same shape, white where to draw anew
            prompt: what the whole picture shows, in words; may be empty
            invert: draw everything but the mask anew
            grow: pixels by which the mask grows on every side
            feather: pixels over which old fades into new, inside of what is redrawn
            steps: passes of the model per picture
            guidance: how strongly the picture follows the prompt, 0 switches guidance off
            temperature: chance in the choice of tokens, 0 for none
            seed: the same seed and settings give the same picture; a random one if left out
            count: how many pictures, with consecutive seeds
            cache: reuse keys and values of settled tokens, which is faster and changes the picture slightly
        Returns:
            PNG files that carry their settings, and the settings of each, with notes on what is not as asked for; both grow
            picture by picture
        """
        yield from draw(shop, lambda: Inpaint(
            opened(sent(image)), sent(mask), prompt, invert, grow, feather,
            steps=steps, guidance=guidance, temperature=temperature, seed=seed, count=count, cache=cache,
        ))  # fmt: skip

    def extrapolate(
        image: FileData,
        prompt: str = "",
        left: int = 0,
        right: int = 0,
        top: int = 0,
        bottom: int = 0,
        feather: int = 8,
        steps: int | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        count: int = 1,
        cache: bool = False,
        aspect: str | None = None,
        align: Align = "center",
    ) -> Pictures:
        """Continues a picture beyond its sides with Lumina-DiMOO; the given pixels stay as they are.

        Parameters:
            image: the picture to continue
            prompt: what the whole picture shows, in words; may be empty
            left: pixels to add on the left, a multiple of 16
            right: pixels to add on the right, a multiple of 16
            top: pixels to add at the top, a multiple of 16
            bottom: pixels to add at the bottom, a multiple of 16
            feather: pixels over which old and new fade into each other, inside of what is new
            steps: passes of the model per picture
            guidance: how strongly the picture follows the prompt, 0 switches guidance off
            temperature: chance in the choice of tokens, 0 for none
            seed: the same seed and settings give the same picture; a random one if left out
            count: how many pictures, with consecutive seeds
            cache: reuse keys and values of settled tokens, which is faster and changes the picture slightly
            aspect: grow until the picture has this width:height, such as 16:9, in place of the sides
            align: with an aspect, where the picture comes to lie: start (left or top), center or end
        Returns:
            PNG files that carry their settings, and the settings of each, with notes on what is not as asked for; both grow
            picture by picture
        """
        def request_of() -> Extrapolate:
            picture, sides = opened(sent(image)), {"left": left, "right": right, "top": top, "bottom": bottom}
            if aspect and picture is not None:
                if any(sides.values()):
                    raise DimooError("Give either an aspect or the sides on which to grow, not both.")
                sides = sides_for_aspect(size_for(picture.size, shop.defaults), read_aspect(aspect), align)
            return Extrapolate(
                picture, prompt, **sides, feather=feather,
                steps=steps, guidance=guidance, temperature=temperature, seed=seed, count=count, cache=cache,
            )  # fmt: skip

        yield from draw(shop, request_of)

    def chat(
        question: str,
        images: list[FileData] | None = None,
        short: bool = False,
        length: int | None = None,
        block: int | None = None,
        steps: int | None = None,
        cache: bool = True,
    ) -> Words:
        """Answers a question about pictures with Lumina-DiMOO.

        Parameters:
            question: what to ask, in words
            images: up to four pictures that the question is about, as files or as data: or http: addresses
            short: a word or phrase instead of sentences
            length: tokens that the answer has at most
            block: tokens that are unmasked together, block by block
            steps: passes of the model for the whole answer
            cache: keep keys and values of everything outside the current block, which is faster
        Returns:
            the answer as far as it is decided, and at the end its settings, with notes on what is not as asked for
        """
        yield from answer(shop, lambda: Chat(
            all_of(images or ()), question, short, length, block, steps, cache
        ))  # fmt: skip

    return {"generate": generate, "edit": edit, "inpaint": inpaint, "extrapolate": extrapolate, "chat": chat}


def draw(shop: Shop, request_of: Callable[[], Request]) -> Iterator[Pictures]:
    """Runs a request for pictures: the files and settings so far, again and again."""
    ticket = new_ticket()
    files: list[dict[str, Any]] = []
    settings: list[dict[str, Any]] = []
    with closing(run(shop, ticket, request_of)) as frames:
        notes = next(frames)
        yield files, settings
        for frame in frames:
            if frame.image is not None:
                files = [*files, FileData(path=str(keep(frame, ticket).path)).model_dump()]
                settings = [*settings, frame.settings | notes]
            yield files, settings  # every step, so that a client that hangs up ends the run


def answer(shop: Shop, request_of: Callable[[], Request]) -> Iterator[Words]:
    """Runs a question: the answer so far, again and again."""
    with closing(run(shop, new_ticket(), request_of)) as states:
        notes = next(states)
        yield "", {}
        for state in states:
            yield state.text, state.settings | notes if state.settings else {}


def run(shop: Shop, ticket: str, request_of: Callable[[], Request]) -> Iterator[Any]:
    """{"notes": what will not be as asked for}, empty if there is nothing, and then the frames or answers of a run.

    Sentences about bad requests become errors of the endpoint.
    """
    shop.line.occupy(ticket)
    try:
        request, notes = shop.check(request_of())
        # before the model is asked for anything: a run that has yielded can be cancelled
        yield {"notes": notes} if notes else {}
        with closing(shop.run(request, str(StopSign.of(ticket).path))) as states:
            for state in states:
                shop.line.expect(ticket, state.seconds_left)
                yield state
    except DimooError as error:
        raise gr.Error(str(error), print_exception=False) from error  # programs read it, no page shows it
    finally:
        shop.line.leave(ticket)
