"""A request with its pictures in codes: what the loops need to run it, and what becomes of the result.

`Planner.draw` makes a Plan of any request for a picture, `Planner.ask` a Talk of a question. How a picture
becomes codes is handed in, so that the work of a request can be reckoned without the image tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from PIL import Image

from dimoo import images, layout
from dimoo.defaults import Defaults
from dimoo.errors import DimooError
from dimoo.layout import Branch
from dimoo.passes import PartialCache
from dimoo.sampler import ImageSampling, TextSampling
from dimoo.schedule import block_counts, mask_counts
from dimoo.tasks import Chat, Draw, Edit, Extrapolate, Generate, Inpaint, Request
from dimoo.vocab import Vocabulary
from dimoo.windows import Window, drawn_by, outwards, whole

REUSE = PartialCache()
LARGEST_CANVAS = 4  # times the largest area that is drawn at once

Encode = Callable[[Image.Image], torch.Tensor]
Finish = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class Plan:
    """A picture to draw.

    grid: (h, w) long codes, -1 where to draw. branches: the sequences for the codes (h, w) of a window.
    windows: parts of the grid in the order in which to draw them. finish: turns the decoded grid, in which
    cells that are still masked are neutral, into the result. tries: how often it is drawn at most, see best_of.py;
    words: what it is to show then.
    """

    grid: torch.Tensor
    branches: Callable[[torch.Tensor], list[Branch]]
    sampling: ImageSampling
    windows: list[Window]
    finish: Finish = lambda drawn: drawn  # noqa: E731
    tries: int = 1
    words: str = ""

    def rows(self) -> int:
        """Rows of sequences that go through the model in the whole run."""
        total = 0
        for window, cells in zip(self.windows, drawn_by(self.windows, (self.grid < 0).numpy()), strict=True):
            used = self.sampling.used_branches(self.branches(self.grid[window.slices]))
            length = sum(len(branch.ids) for branch in used)
            left = [cells, *mask_counts(cells, self.sampling.steps)]
            for step in range(len(left) - 1):
                reuse = self.sampling.reuse
                full = reuse is None or reuse.is_full(step, len(left) - 1)
                # a partial pass computes some of what is masked, and what no longer is since the pass before
                total += length if full else len(used) * (left[step - 1] - left[step] + reuse.computed(left[step]))
        return self.tries * total

    def steps(self) -> int:
        return self.tries * sum(min(self.sampling.steps, cells) for cells in drawn_by(self.windows, (self.grid < 0).numpy()))


@dataclass(frozen=True)
class Talk:
    """An answer to find: the question in full, its sequence, and how to fill it."""

    question: str
    branch: Branch
    sampling: TextSampling

    def rows(self) -> int:
        """Rows of the sequence that go through the model in the whole run."""
        length = len(self.branch.ids)
        if not self.sampling.reuse:
            return length * self.steps()
        return sum(length + (passes - 1) * cells for cells, passes in self._blocks())

    def steps(self) -> int:
        return sum(passes for _, passes in self._blocks())

    def _blocks(self) -> list[tuple[int, int]]:
        """(tokens, passes) of each block, if the answer does not end before."""
        blocks = [len(cells) for cells in self.branch.cells.split(self.sampling.block)]
        return [(tokens, len(counts)) for tokens, counts in zip(blocks, block_counts(blocks, self.sampling.steps), strict=True)]


@dataclass(frozen=True)
class Planner:
    """What a plan takes from a checkpoint. encode: a picture with sides in whole cells -> (h, w) long codes."""

    vocab: Vocabulary
    defaults: Defaults
    encode: Encode
    cell: int = 16

    def draw(self, request: Draw) -> Plan:
        """The plan of a request whose defaults are filled in. Raises DimooError if it cannot be met."""
        kinds = {Generate: self.generate, Edit: self.edit, Inpaint: self.inpaint, Extrapolate: self.extrapolate}
        return kinds[type(request)](request)

    def generate(self, request: Generate) -> Plan:
        if request.width % self.cell or request.height % self.cell:
            raise DimooError(f"Width and height must be multiples of {self.cell} for this checkpoint.")
        grid = torch.full((request.height // self.cell, request.width // self.cell), -1)
        words = self.vocab.known_words(request.prompt)
        how = sampling(request, self.defaults)
        tries = request.tries if request.temperature else 1  # without chance all tries are alike
        return Plan(grid, self._by_prompt(request.prompt), how, whole(grid), tries=tries, words=words)

    def edit(self, request: Edit) -> Plan:
        """Pictures are fitted to the sizes that were trained; the result has that of the first."""
        pictures = [request.image, request.reference] if request.kind == "style" else [request.image]
        given = [self.encode(images.fit_bucket(picture, self.defaults.edit_side)) for picture in pictures]
        system, text = layout.edit_texts(request.kind, request.prompt, request.map, request.direction)
        grid = torch.full_like(given[0], -1)
        text = self.vocab.known_words(text)

        def branches(codes: torch.Tensor) -> list[Branch]:
            return layout.image_to_image(self.vocab, system, text, given, *codes.shape, codes)

        how = sampling(request, self.defaults)
        if request.kind == "instruct" and request.keep:
            how = replace(how, before=given[0].flatten(), keep=request.keep)
        return Plan(grid, branches, how, whole(grid))

    def inpaint(self, request: Inpaint) -> Plan:
        """Cells that the mask touches are drawn anew, the others keep their codes, and their pixels. Of a large picture only
        the parts around them are looked at.
        """
        original, mask, cells = inpainting(request, self.defaults, self.cell)
        if not cells.any():
            raise DimooError("The mask is empty: paint over what should be redrawn.")
        grid = torch.where(torch.from_numpy(cells), -1, self.encode(original))
        finish = partial(images.paste_back, original, cells=cells, feather=request.feather, cell=self.cell, mask=mask)
        windows = outwards(cells, usual_grid(self.defaults, self.cell), inside=True)
        return Plan(grid, self._by_prompt(request.prompt), sampling(request, self.defaults), windows, finish)

    def extrapolate(self, request: Extrapolate) -> Plan:
        """The canvas grows; a large one is drawn in windows, from the picture outwards."""
        original = images.working(request.image, self.defaults, self.cell)
        cells, windows = canvas(request, original.size, self.defaults, self.cell)
        grid = torch.full(cells.shape, -1)
        grid[torch.from_numpy(~cells)] = self.encode(original).flatten()
        finish = partial(images.continue_from, original, cells=cells, feather=request.feather, cell=self.cell)
        return Plan(grid, self._by_prompt(request.prompt), sampling(request, self.defaults), windows, finish)

    def ask(self, request: Chat) -> Talk:
        """The talk of a question. Raises DimooError without a picture if the checkpoint needs one."""
        if not request.images and not self.defaults.text_only:
            raise DimooError(f"{self.defaults.name} answers questions about pictures only: add a picture first.")
        question = layout.short_question(request.prompt) if request.short else request.prompt
        given = [self.encode(picture) for picture in chat_pictures(request.images, self.defaults, self.cell)]
        branch = layout.understanding(self.vocab, self.vocab.known_words(question), given, request.length)
        return Talk(question, branch, TextSampling(
            steps=request.steps, block=request.block, reuse=request.cache,
            never=self.vocab.never_in_answers, ends=self.vocab.answer_ends,
            not_first=self.vocab.not_first_in_answers,
        ))  # fmt: skip

    def _by_prompt(self, prompt: str) -> Callable[[torch.Tensor], list[Branch]]:
        """Branches of pictures drawn from a prompt alone; of no prompt, the unconditional one."""
        words = self.vocab.known_words(prompt)

        def branches(codes: torch.Tensor) -> list[Branch]:
            both = layout.text_to_image(self.vocab, words, *codes.shape, codes)
            return both if words else both[1:]

        return branches


def sampling(request: Draw, defaults: Defaults) -> ImageSampling:
    """How a request is sampled; at a temperature of 0 the order of cells is left to no chance either."""
    return ImageSampling(
        steps=request.steps,
        guidance=request.guidance,
        guidance_image=request.guidance_image if isinstance(request, Edit) else 0.0,
        token_temperature=request.temperature,
        order_temperature=defaults.order_temperature if request.temperature else 0.0,
        top_k=defaults.top_k,
        plausible=defaults.plausible,
        reuse=REUSE if request.cache else None,
    )


def inpainting(request: Inpaint, defaults: Defaults, cell: int = 16) -> tuple[Image.Image, Image.Image, np.ndarray]:
    """The picture at its working size, its mask as it takes effect, and the cells (h, w) bool that are redrawn.

    Raises DimooError if the mask does not fit the picture.
    """
    original = images.working(request.image, defaults, cell)
    mask = images.fit_mask(request.mask, request.image.size, original.size, cell)
    mask = images.prepare_mask(mask, request.invert, request.grow)
    return original, mask, images.cells_of(mask, cell)


def at_working_size(request: Request, defaults: Defaults, cell: int = 16) -> Request:
    """The same request with its pictures, and its mask, at the sizes at which they are worked on; of such a one it is itself.

    Raises DimooError if the mask does not fit the picture.
    """
    if isinstance(request, Chat):
        return replace(request, images=tuple(chat_pictures(request.images, defaults, cell)))
    if isinstance(request, Edit):
        given = {name: getattr(request, name) for name in ("image", "reference")}
        return replace(request, **{
            name: images.fit_bucket(picture, defaults.edit_side) for name, picture in given.items() if picture is not None
        })  # fmt: skip
    if isinstance(request, Generate):
        return request
    picture = images.working(request.image, defaults, cell)
    if isinstance(request, Extrapolate):
        return replace(request, image=picture)
    return replace(request, image=picture, mask=images.fit_mask(request.mask, request.image.size, picture.size, cell))


def pictures_of(request: Request) -> dict[str, Image.Image]:
    """The pictures that a request is given, by what to call them; masks are none."""
    if isinstance(request, Chat):
        return {f"Picture {number}": picture for number, picture in enumerate(request.images, 1)}
    given = {"The picture": getattr(request, "image", None), "The reference": getattr(request, "reference", None)}
    return {name: picture for name, picture in given.items() if picture is not None}


def canvas(
    request: Extrapolate, size: tuple[int, int], defaults: Defaults, cell: int = 16
) -> tuple[np.ndarray, list[Window]]:
    """(h, w) bool, the cells to add to a picture of this working size, and the windows that draw them.

    Raises DimooError if the canvas would be too large.
    """
    sides = {side: getattr(request, side) for side in request.SIDES}
    if any(pixels % cell for pixels in sides.values()):
        raise DimooError(f"Sides can only grow by multiples of {cell} pixels with this checkpoint.")
    width, height = size[0] + sides["left"] + sides["right"], size[1] + sides["top"] + sides["bottom"]
    if width * height > LARGEST_CANVAS * defaults.max_area:
        side = int((LARGEST_CANVAS * defaults.max_area) ** 0.5)
        raise DimooError(
            f"{width} × {height} is too large for {defaults.name}: width times height can be at most "
            f"{side} × {side}. Add less."
        )
    cells = np.ones((height // cell, width // cell), bool)
    top, left = sides["top"] // cell, sides["left"] // cell
    cells[top : top + size[1] // cell, left : left + size[0] // cell] = False
    return cells, outwards(cells, usual_grid(defaults, cell))


def usual_grid(defaults: Defaults, cell: int) -> tuple[int, int]:
    """(h, w) cells of the pictures that the checkpoint draws best."""
    return defaults.height // cell, defaults.width // cell


def chat_pictures(pictures: tuple[Image.Image, ...], defaults: Defaults, cell: int = 16) -> list[Image.Image]:
    """Pictures at the sizes that questions are asked about: one as large as it is, within bounds; several smaller."""
    if len(pictures) != 1:
        return [images.fit_bucket(picture, defaults.edit_side) for picture in pictures]
    area = math.prod(images.cropped_size(pictures[0].size, cell))
    small, large = defaults.chat_sides
    if small**2 <= area <= large**2:
        return [images.whole_cells(pictures[0], cell)]
    return [images.fit_bucket(pictures[0], small if area < small**2 else large)]
