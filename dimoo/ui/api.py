"""The public endpoint /generate, for gradio_client and plain HTTP."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from dimoo.errors import DimooError
from dimoo.tasks import Generate
from dimoo.ui.files import keep
from dimoo.ui.line import StopSign, new_ticket
from dimoo.ui.workbench import Shop


def generate_endpoint(shop: Shop) -> Callable[..., Iterator[tuple]]:
    """The function behind /generate."""

    def generate(
        prompt: str,
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        count: int = 1,
    ) -> tuple[list[FileData], list[dict[str, Any]]]:  # of one item: that is what Gradio reads of a generator
        """Makes pictures from a text with Lumina-DiMOO.

        Parameters:
            prompt: what to draw, in words
            width: pixels, a multiple of 16; the checkpoint's default if left out
            height: pixels, a multiple of 16; the checkpoint's default if left out
            steps: passes of the model per picture
            guidance: how strongly the picture follows the prompt, 0 for not at all
            temperature: chance in the choice of tokens, 0 for none
            seed: the same seed and settings give the same picture; a random one if left out
            count: how many pictures, with consecutive seeds
        Returns:
            PNG files that carry their settings, and the settings of each; both grow picture by picture
        """
        ticket = new_ticket()
        files: list[dict[str, Any]] = []
        settings: list[dict[str, Any]] = []
        shop.line.start(ticket)
        try:
            request = Generate(prompt, width, height, steps, guidance, temperature, seed, count)
            shop.notes(request)
            yield files, settings
            with closing(shop.run(request, str(StopSign.of(ticket).path))) as frames:
                for frame in frames:
                    if frame.image is not None:
                        files = [*files, FileData(path=str(keep(frame, ticket).path)).model_dump()]
                        settings = [*settings, frame.settings]
                    yield files, settings  # every step, so that a client that hangs up ends the run
        except DimooError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from error
        finally:
            shop.line.leave(ticket)

    return generate
