"""A loaded checkpoint that runs requests: from words and pictures to frames, finished pictures and answers."""

from __future__ import annotations

import gc
import math
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

import dimoo
from dimoo.answers import answers
from dimoo.best_of import SEEDS_APART, BestOf, agreement, can_answer, prompt_scores
from dimoo.defaults import Defaults
from dimoo.errors import DimooError
from dimoo.frames import Answer, Frame
from dimoo.images import cropped_size, left_over
from dimoo.memory import check_fits, out_of_memory, work_of
from dimoo.model import DiMOO
from dimoo.noise import noise_of
from dimoo.outline import Need, Outline
from dimoo.plans import Encode, Plan, Planner, Talk, at_working_size, pictures_of
from dimoo.preview import NEUTRAL, Budget, Preview, fit_unseen
from dimoo.sampler import ImageState
from dimoo.tasks import SEEDS, Chat, Draw, Extrapolate, Generate, Inpaint, Request
from dimoo.timing import Stopwatch
from dimoo.vocab import Vocabulary
from dimoo.vq import VQModel
from dimoo.windows import unmask_windows

PREVIEW_SHARE = 0.04  # of the time of a run
LARGE = 1.25  # times the usual area
NOTICED = 0.05  # the share of a picture that may be cut off without a word
CARD_FLOPS = 2e14  # bfloat16 rate of a data-centre card on this kind of model, for estimates only
SMALL_WORDS = set(
    "a an and at by for from has in into is it its of on or over some the to under with".split()
)
SKILLS = {
    "generate": "draw pictures from words", "edit": "edit pictures", "inpaint": "draw parts of pictures anew",
    "extrapolate": "continue pictures beyond their sides", "chat": "answer questions",
}  # fmt: skip


def never() -> bool:
    return False


@dataclass
class Pipeline:
    """What belongs to one checkpoint; see `checkpoint.load`.

    outline: what runs will take of memory. preview: None until the first run when the checkpoint brought no table.
    Fitting one needs the image tokenizer on its device, and where graphics cards are shared there is none before a run.
    """

    model: DiMOO
    vq: VQModel
    vocab: Vocabulary
    defaults: Defaults
    outline: Outline
    preview: Preview | None = None

    def release(self) -> None:
        """Gives the weights back, whoever still knows the pipeline: web servers remember functions of closed pages."""
        del self.model, self.vq, self.preview
        gc.collect()  # the parts of a model that is spread over devices know each other
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def run(self, request: Request, stop: Callable[[], bool] = never) -> Iterator[Frame | Answer]:
        """Frames of a request for pictures, answers of a question: one before the first step, one after each.

        The last frame of each picture has it, the last answer is whole. stop is asked after every step; once
        it says yes the picture or answer is finished as it is and nothing follows. Closing the iterator ends
        the work at once and keeps nothing. Raises DimooError before anything else for a request that cannot
        be met.
        """
        request = at_working_size(request.resolve(self.defaults), self.defaults, self.vq.cell)
        self._word_notes(request)
        check_fits(self.need(request), self.model.device)
        with out_of_memory():
            yield from self._talk(request, stop) if isinstance(request, Chat) else self._pictures(request, stop)

    def check(self, request: Request) -> tuple[Request, list[str]]:
        """The same request with its pictures at their working sizes, and sentences about what will not be as asked for: tasks and
        words that are not known, pictures that are scaled.

        Touches no device. Raises DimooError for a request that cannot be met, or of which no word is known: of a prompt small
        words alone are not enough to go by; a question may consist of them.
        """
        worked = at_working_size(request, self.defaults, self.vq.cell)
        self.need(worked.resolve(self.defaults))
        notes = self._task_notes(request) + self._shape_notes(request) + self._size_notes(request, worked)
        return worked, notes + self._word_notes(request)

    def _task_notes(self, request: Request) -> list[str]:
        unable = [] if request.task in self.defaults.tasks else [SKILLS[request.task]]
        if (getattr(request.resolve(self.defaults), "tries", None) or 1) > 1 and not self._can_assess():
            unable.append("tell which of its tries is best")
        return [f"{self.defaults.name} has not learned to {skill}: do not expect much." for skill in unable]

    def _can_assess(self) -> bool:
        return self.defaults.assess == "words" or self.defaults.assess == "question" and can_answer(self.vocab)

    def _shape_notes(self, request: Request) -> list[str]:
        """Of pictures from words in shapes that the checkpoint was not taught, or larger than it usually draws at once."""
        if not isinstance(request, Generate):
            return []
        full, name, usual = request.resolve(self.defaults), self.defaults.name, (self.defaults.width, self.defaults.height)
        if not (self.defaults.other_shapes or (full.width, full.height) in {(p.width, p.height) for p in self.defaults.presets}):
            return [f"{name} has learned the shapes it offers: in {full.width} × {full.height} pixels things may fall apart."]
        if full.width * full.height > LARGE * math.prod(usual):
            return [f"{name} draws best at about {usual[0]} × {usual[1]} pixels: larger pictures may fall apart."]
        return []

    def _size_notes(self, request: Request, worked: Request) -> list[str]:
        """Of pictures that lose pixels, or more than a little at their edges, and of those whose pixels were to stay."""
        notes, resized = [], pictures_of(worked)
        for name, picture in pictures_of(request).items():
            before, after = picture.size, resized[name].size
            if after == cropped_size(before, self.vq.cell):
                continue  # what it loses is less than a cell
            said, stays, cut = [], isinstance(request, Inpaint | Extrapolate), 1 - left_over(before, after)
            if stays or math.prod(after) < math.prod(before):
                size = f"scaled from {before[0]} × {before[1]} to {after[0]} × {after[1]}"
                change = ", so all of its pixels change" if stays else ""
                said.append(f"{size}, a size that {self.defaults.name} can work on{change}")
            if cut > NOTICED:
                said.append(f"cut by {cut:.0%} at its edges")
            if said:
                notes.append(f"{name} is {', and '.join(said)}.")
        return notes

    def _word_notes(self, request: Request) -> list[str]:
        known = self.vocab.known_words(request.prompt)
        if known == request.prompt:
            return []
        unknown = self.vocab.unknown_words(request.prompt)
        help = self.defaults.words_help
        left = {word.lower() for word in re.findall(r"[^\W\d_]+", known)}
        if not (left if isinstance(request, Chat) else left - SMALL_WORDS):
            words = ", ".join(unknown) or request.prompt.strip()
            raise DimooError(f"{self.defaults.name} knows none of these words: {words}. {help}".strip())
        return [] if not unknown else [f"{self.defaults.name} does not know: {', '.join(unknown)}. {help}".strip()]

    def gpu_seconds(self, request: Request) -> float:
        """A generous estimate of the seconds a data-centre card takes, for reserving it.

        Raises DimooError for a request that cannot be met.
        """
        full = request.resolve(self.defaults)
        work = self._plan(full, self._no_codes)
        operations = 2 * self.outline.parameters * work.rows()
        return 10 + 1.5 * getattr(full, "count", 1) * (operations / CARD_FLOPS + 0.03 * work.steps())

    def need(self, request: Request) -> Need:
        """Memory that a request, its defaults filled in, takes. Raises DimooError if it cannot be met."""
        given: list[tuple[int, int]] = []

        def encode(picture: Image.Image) -> torch.Tensor:
            codes = self._no_codes(picture)
            given.append(tuple(codes.shape))
            return codes

        return self.outline.need(work_of(self._plan(request, encode), given))

    def encode(self, picture: Image.Image) -> torch.Tensor:
        """(h, w) long codes, on the CPU, of a picture whose sides are whole cells."""
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
        return self.vq.encode(pixels.to(self.vq.codebook.device))[0].to("cpu", copy=True)

    def decode(self, codes: torch.Tensor, masked: torch.Tensor) -> Image.Image:
        """The picture of codes (h, w) long; masked cells (h, w) bool are covered: what lies there is a guess."""
        codes = codes.clamp(min=0)[None].to(self.vq.codebook.device)
        pixels = self.vq.decode(codes)[0].mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        tiles = np.kron(masked.numpy(), np.ones((self.vq.cell, self.vq.cell), dtype=bool))
        return Image.fromarray(np.where(tiles[..., None], np.uint8(NEUTRAL), pixels))

    def _plan(self, request: Request, encode: Encode) -> Plan | Talk:
        """The plan of a request whose defaults are filled in; encode: a picture in whole cells -> (h, w) long codes."""
        planner = Planner(self.vocab, self.defaults, encode, self.vq.cell)
        return planner.ask(request) if isinstance(request, Chat) else planner.draw(request)

    def _no_codes(self, picture: Image.Image) -> torch.Tensor:
        return torch.zeros(picture.height // self.vq.cell, picture.width // self.vq.cell, dtype=torch.long)

    def _talk(self, request: Chat, stop: Callable[[], bool]) -> Iterator[Answer]:
        watch = Stopwatch(1)
        talk = self._plan(request, self.encode)
        with closing(answers(self.model.predict, self.vocab, talk, watch, stop)) as states:
            for answer in states:
                if answer.done:
                    facts = {"question": talk.question, "answer": answer.text}
                    answer.settings = self._settings(request, answer, answer.seconds) | facts
                yield answer

    def _pictures(self, request: Draw, stop: Callable[[], bool]) -> Iterator[Frame]:
        watch = Stopwatch(request.count)
        plan = self._plan(request, self.encode)
        if self.preview is None:
            self.preview = fit_unseen(self.vq)
        self.preview = self.preview.to(self.model.device)
        for index in range(request.count):
            for frame in self._picture(request.nth(index), plan, index, watch, stop):
                yield frame
                if frame.stopped:
                    return

    def _picture(
        self, request: Draw, plan: Plan, index: int, watch: Stopwatch, stop: Callable[[], bool]
    ) -> Iterator[Frame]:
        shape = plan.grid.shape
        budget = Budget(PREVIEW_SHARE)
        preview = None
        asks = self.defaults.assess == "question"
        enough = self.defaults.enough if asks else math.inf
        tries = BestOf(plan.tries, partial(self._try, request.seed, plan), partial(self._assess, plan), enough)
        with closing(iter(tries)) as states:
            for state in states:
                stopped = not state.done and stop()
                if stopped and tries.best is not None:
                    state = replace(tries.best, step=state.step, steps=state.steps)
                watch.tick(index, state.step, state.steps)
                if preview is None or budget.allows():
                    with budget.spend():
                        preview = self._preview(state, shape)
                frame = Frame(
                    step=state.step,
                    steps=state.steps,
                    seconds=watch.seconds,
                    seconds_left=watch.seconds_left,
                    index=index,
                    count=watch.count,
                    seed=request.seed,
                    tokens=state.tokens.view(shape).numpy().astype(np.int32),
                    masked=state.masked.view(shape).numpy(),
                    confidence=state.confidence.view(shape).numpy(),
                    preview=preview,
                    stopped=stopped,
                    tries=plan.tries,
                    attempt=tries.attempt,
                )
                if state.done or frame.stopped:
                    if stopped and tries.best is not None:  # the picture of a run that would have ended with these tries
                        request = replace(request, tries=len(tries.complete))
                    frame = self._finish(frame, state, plan, request, watch)
                    if frame.settings and tries.best is not None and plan.tries > 1:
                        frame.settings["kept"] = tries.kept + 1
                        if asks:
                            frame.settings["agreement"] = round(float(tries.scores[tries.kept]), 3)
                yield frame

    def _try(self, seed: int, plan: Plan, number: int) -> Iterator[ImageState]:
        noise = noise_of(self.defaults.noise, (seed + number * SEEDS_APART) % SEEDS)
        codes, mask = self.vocab.image_codes, self.vocab.ids.mask
        return unmask_windows(self.model.predict, plan.grid, plan.windows, plan.branches, plan.sampling, noise, codes, mask)

    def _assess(self, plan: Plan, tokens: torch.Tensor) -> torch.Tensor:
        codes = tokens.view(plan.grid.shape)
        if self.defaults.assess == "words":
            return prompt_scores(self.model.predict, self.vocab, plan.words, codes)
        return agreement(self.model.predict, self.vocab, plan.words, codes, self.defaults.short_length)

    def _preview(self, state: ImageState, shape: torch.Size) -> np.ndarray:
        if state.logits is None:
            return self.preview.draw(state.tokens.view(shape))
        still = state.masked[state.logit_cells]
        probabilities = state.logits[still.to(state.logits.device)].softmax(-1)
        return self.preview.draw(state.tokens.view(shape), probabilities, state.logit_cells[still])

    def _finish(self, frame: Frame, state: ImageState, plan: Plan, request: Draw, watch: Stopwatch) -> Frame:
        """The last frame of a picture: fully decoded, with all that is needed to make it again."""
        shape = plan.grid.shape
        frame.preview = self._preview(state, shape)
        if state.step:
            frame.image = plan.finish(self.decode(state.prediction.view(shape), state.masked.view(shape)))
            watch.tick(frame.index, state.step, state.steps)
            frame.seconds, frame.seconds_left = watch.seconds, watch.seconds_left
            size = {"width": frame.image.width, "height": frame.image.height}
            frame.settings = self._settings(request, frame, watch.picture_seconds) | size
        return frame

    def _settings(self, request: Request, last: Frame | Answer, seconds: float) -> dict[str, Any]:
        """The request with all that was left open, the model by its name, and how the result came about."""
        settings = request.settings() | {
            "model": self.defaults.name,
            "precision": self.model.precision,
            "seconds": round(seconds, 2),
            "version": dimoo.__version__,
        }
        if last.cut_short:
            settings["stopped"] = f"{last.step}/{last.steps}"
        return settings
