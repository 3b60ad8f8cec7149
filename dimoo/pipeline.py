"""A loaded checkpoint that runs requests: from words to frames to finished pictures."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

import dimoo
from dimoo.defaults import Defaults
from dimoo.errors import DimooError
from dimoo.frames import Frame
from dimoo.layout import Branch, text_to_image
from dimoo.model import DiMOO
from dimoo.noise import CounterNoise
from dimoo.preview import NEUTRAL, Budget, Preview, fit_unseen
from dimoo.sampler import ImageSampling, ImageState, unmask_image
from dimoo.tasks import Request
from dimoo.vocab import Vocabulary
from dimoo.vq import VQModel

PREVIEW_SHARE = 0.04  # of the time of a run
CARD_FLOPS = 2e14  # bfloat16 rate of a data-centre card on this kind of model, for estimates only
SMALL_WORDS = set(
    "a an and at by for from has in into is it its of on or over some the to under with".split()
)


def never() -> bool:
    return False


@dataclass
class Pipeline:
    """What belongs to one checkpoint; see `checkpoint.load`.

    preview: None until the first run when the checkpoint brought no table. Fitting one needs the image
    tokenizer on its device, and where graphics cards are shared there is none before a run.
    """

    model: DiMOO
    vq: VQModel
    vocab: Vocabulary
    defaults: Defaults
    preview: Preview | None = None

    def run(self, request: Request, stop: Callable[[], bool] = never) -> Iterator[Frame]:
        """Frames of a request: one before the first step, one after each; the last of each picture has it.

        stop is asked after every step; once it says yes the picture is finished as it is and nothing follows.
        Closing the iterator ends the work at once and keeps nothing. Raises DimooError before the first frame
        for a request that cannot be met.
        """
        request = request.resolve(self.defaults)
        self.notes(request)
        self._check_size(request)
        if self.preview is None:
            self.preview = fit_unseen(self.vq)
        self.preview = self.preview.to(self.model.device)
        watch = Stopwatch(request.count)
        for index in range(request.count):
            for frame in self._picture(request.nth(index), index, watch, stop):
                yield frame
                if frame.stopped:
                    return

    def notes(self, request: Request) -> list[str]:
        """Sentences about words the checkpoint does not know. Raises DimooError when it knows none."""
        unknown = self.vocab.unknown_words(request.prompt)
        if not unknown:
            return []
        help = self.defaults.words_help
        left = {word.lower() for word in re.findall(r"[^\W\d_]+", self.known_words(request.prompt))}
        if not left - SMALL_WORDS:
            raise DimooError(
                f"{self.defaults.name} knows none of these words: {', '.join(unknown)}. {help}".strip()
            )
        return [f"{self.defaults.name} does not know: {', '.join(unknown)}. {help}".strip()]

    def known_words(self, text: str) -> str:
        """The text without the words that would all become the same unknown token, which says nothing."""
        unknown = self.vocab.unknown_words(text)
        if not unknown:
            return text
        pattern = rf"(?<!\w)(?:{'|'.join(map(re.escape, unknown))})(?!\w)"
        return " ".join(re.sub(pattern, " ", text).split())

    def gpu_seconds(self, request: Request) -> float:
        """A generous estimate of the seconds a data-centre card takes, for reserving it."""
        full = request.resolve(self.defaults)
        cells = (full.width // self.vq.cell) * (full.height // self.vq.cell)
        branches = 2 if full.guidance else 1
        operations = 2 * sum(p.numel() for p in self.model.parameters()) * (1.1 * cells + 100) * branches
        return 10 + 1.5 * full.count * full.steps * (operations / CARD_FLOPS + 0.03)

    def branches(self, request: Request) -> list[Branch]:
        height, width = request.height // self.vq.cell, request.width // self.vq.cell
        return text_to_image(self.vocab, self.known_words(request.prompt), height, width)

    def _check_size(self, request: Request) -> None:
        if request.width % self.vq.cell or request.height % self.vq.cell:
            raise DimooError(f"Width and height must be multiples of {self.vq.cell} for this checkpoint.")

    def _picture(
        self, request: Request, index: int, watch: Stopwatch, stop: Callable[[], bool]
    ) -> Iterator[Frame]:
        grid = request.height // self.vq.cell, request.width // self.vq.cell
        sampling = ImageSampling(
            steps=request.steps,
            guidance=request.guidance,
            token_temperature=request.temperature,
            order_temperature=request.temperature,
        )
        noise = CounterNoise(request.seed)
        budget = Budget(PREVIEW_SHARE)
        preview = None
        states = unmask_image(
            self.model.predict,
            self.branches(request),
            sampling,
            noise,
            self.vocab.image_codes,
            self.vocab.ids.mask,
        )
        with closing(states):
            for state in states:
                watch.tick(index, state.step, state.steps)
                if preview is None or budget.allows():
                    with budget.spend():
                        preview = self._preview(state, grid)
                frame = Frame(
                    step=state.step,
                    steps=state.steps,
                    seconds=watch.seconds,
                    seconds_left=watch.seconds_left,
                    index=index,
                    count=watch.count,
                    seed=request.seed,
                    tokens=state.tokens.view(grid).numpy().astype(np.int32),
                    masked=state.masked.view(grid).numpy(),
                    confidence=state.confidence.view(grid).numpy(),
                    preview=preview,
                    stopped=not state.done and stop(),
                )
                if state.done or frame.stopped:
                    frame = self._finish(frame, state, grid, request, watch)
                yield frame
                if frame.stopped:
                    return

    def _preview(self, state: ImageState, grid: tuple[int, int]) -> np.ndarray:
        probabilities = None
        if state.logits is not None:
            still = state.masked[state.logit_cells]
            probabilities = state.logits[still.to(state.logits.device)].softmax(-1)
        return self.preview.draw(state.tokens.view(grid), probabilities)

    def _finish(
        self, frame: Frame, state: ImageState, grid: tuple[int, int], request: Request, watch: Stopwatch
    ) -> Frame:
        """The last frame of a picture: fully decoded, with all that is needed to make it again."""
        frame.preview = self._preview(state, grid)
        if state.step:
            frame.image = self.decode(state, grid)
            watch.tick(frame.index, state.step, state.steps)
            frame.seconds, frame.seconds_left = watch.seconds, watch.seconds_left
            frame.settings = self.settings(request, frame, watch.picture_seconds)
        return frame

    def decode(self, state: ImageState, grid: tuple[int, int]) -> Image.Image:
        """The picture of a state; cells that are still masked are covered: what lies there is a guess."""
        codes = state.prediction.view(1, *grid).to(self.vq.codebook.device)
        pixels = self.vq.decode(codes)[0].mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        tiles = np.kron(state.masked.view(grid).numpy(), np.ones((self.vq.cell, self.vq.cell), dtype=bool))
        return Image.fromarray(np.where(tiles[..., None], np.uint8(NEUTRAL), pixels))

    def settings(self, request: Request, frame: Frame, seconds: float) -> dict[str, Any]:
        """Everything that decides what the picture looks like, and how it came about."""
        settings = request.settings() | {
            "model": self.defaults.name,
            "precision": str(self.model.dtype).removeprefix("torch."),
            "seconds": round(seconds, 2),
            "version": dimoo.__version__,
        }
        if frame.stopped:
            settings["stopped"] = f"{frame.step}/{frame.steps}"
        return settings


class Stopwatch:
    """Time of a run of several pictures: gone by, and left at the mean pace so far."""

    def __init__(self, count: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.count, self.clock = count, clock
        self.began = clock()
        self.index = 0
        self.index_began = 0.0
        self.seconds = 0.0
        self.seconds_left: float | None = None

    @property
    def picture_seconds(self) -> float:
        """Time of the picture at hand alone."""
        return self.seconds - self.index_began

    def tick(self, index: int, step: int, steps: int) -> None:
        """Notes that picture `index` has reached a step."""
        if index != self.index:
            self.index, self.index_began = index, self.seconds
        self.seconds = self.clock() - self.began
        done = index * steps + step
        if done:
            self.seconds_left = self.seconds / done * (self.count * steps - done)
