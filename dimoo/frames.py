"""What a run yields: the state of a picture, or of an answer, after each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

VIEWS = ("committed", "prediction", "confidence")


@dataclass
class Frame:
    """The state of a picture after one step: small CPU data, safe to send to another process.

    step of steps (0: before the first pass), seconds since the run began, seconds_left for all that is left
    of it (None: not known yet). index of count: which picture, from 0. tokens (h, w) int32 codes, -1 where
    masked; masked (h, w) bool; confidence (h, w) float32, the probability of each committed code when it was
    chosen, and of the likeliest code where masked.
    preview: (H, W, 3) uint8, committed codes drawn as they are and masked ones as the model expects them; that of an
    earlier step where another would take too much of the time of the run.
    image and settings are set on the last frame of each picture only; stopped tells that it was cut short. attempt of
    tries: number, from 1, of the try at the picture, of which there are at most so many, of equally many steps; the last frame
    shows the best of those that were made, and its steps are those.
    """

    step: int
    steps: int
    seconds: float
    seconds_left: float | None
    index: int
    count: int
    seed: int
    tokens: np.ndarray
    masked: np.ndarray
    confidence: np.ndarray
    preview: np.ndarray
    image: Image | None = None
    settings: dict[str, Any] | None = None
    stopped: bool = False
    tries: int = 1
    attempt: int = 1

    @property
    def cut_short(self) -> bool:
        """Whether something is missing: a run that is stopped during a later try leaves an earlier one, which is whole."""
        return self.stopped and bool(self.masked.any())

    def picture(self, view: str = "committed") -> Image:
        """A small picture of the state: a few pixels per cell.

        committed: masked cells are neutral; prediction: they show what the model expects there; confidence:
        a colour per committed cell, from unsure to sure.
        """
        from dimoo.preview import draw_view  # Pillow is not needed for requests

        return draw_view(self.preview, self.masked, self.confidence, view)


@dataclass
class Answer:
    """The state of an answer after one step of at most `steps`.

    pieces: the answer in order, (text, probability): probability is None for a token that is still masked,
    whose text is then empty. Masked tokens after the current block are left out, and so is everything after
    the first end. text: what is decided, masked tokens left out. done: nothing follows; only then there are
    settings. stopped tells that it was cut short.
    """

    step: int
    steps: int
    seconds: float
    seconds_left: float | None
    pieces: list[tuple[str, float | None]]
    text: str
    done: bool = False
    stopped: bool = False
    settings: dict[str, Any] | None = None

    @property
    def cut_short(self) -> bool:
        return self.stopped
