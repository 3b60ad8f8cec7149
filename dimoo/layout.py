"""Requests as token sequences: every prompt format of the model, as pure functions.

Source: technical report, arXiv 2510.06308, sections 3 and 4; the published code for the exact order of ids.
Input images go between the user's text and `</user>`; an image is written row by row, each followed by a
row end, the last row too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dimoo.vocab import Vocabulary

GENERATE = "Generate an image according to the text prompt."
EDIT = "Generate an image applying the following editing instruction based on the original image."
CONTROL = "Generate an image according to the text prompt and the given control image."
SUBJECT = "Generate an image according to the text prompt and the given object image."
PREDICT = "Perform dense prediction on the given images."
STYLE = "Transform the current image into the style of the provided image."
VIEW = "Generate a view-image based on the given image."
PREDICT_MAP = "Generate a {map} according to the image."
PREDICTED_MAPS = {
    "canny": "canny edge map", "hed": "hed edge map", "depth": "depth map", "openpose": "pose estimation map",
}  # fmt: skip
VIEW_FROM = "Generate the {direction} view based on the provided front view."
SHORT_ANSWER = "Answer the question using a single word or phrase."
CHECK = 'Is this image shows {prompt}? Please answer "Yes" or "No" directly without explanation.'
UNDERSTAND = (
    "You are a multimodal model that can process both text and images. Answer the following question based "
    "on the provided images. Analyze each image and combine relevant details to answer."
)


@dataclass(frozen=True)
class Branch:
    """One sequence of a request.

    ids: (L,) long, mask ids where something is to be filled in; cells: (n,) long, the positions in ids of the
    target's cells (image cells row by row, or the answer's tokens), known ones included.
    """

    ids: torch.Tensor
    cells: torch.Tensor


def edit_texts(kind: str, text: str = "", map: str = "canny", direction: str = "left") -> tuple[str, str]:
    """System prompt and user text of a request of a kind of tasks.Edit.KINDS for a picture from a picture.

    text: what the user wrote, of the kinds that ask for it; map: of predict, a key of PREDICTED_MAPS; direction: of view.
    """
    fixed = {
        "style": (STYLE, STYLE),
        "predict": (PREDICT, PREDICT_MAP.format(map=PREDICTED_MAPS[map])),
        "view": (VIEW, VIEW_FROM.format(direction=direction)),
    }
    system = {"instruct": EDIT, "control": CONTROL, "subject": SUBJECT}
    return fixed[kind] if kind in fixed else (system[kind], text)


def short_question(text: str) -> str:
    """A question that asks for an answer in a word or phrase."""
    return f"{text} {SHORT_ANSWER}"


def check_question(prompt: str) -> str:
    """Whether a picture shows what a prompt asks for; as it was put to the published checkpoint (arXiv 2512.19433)."""
    return CHECK.format(prompt=prompt.strip().rstrip(".!"))


def text_to_image(
    vocab: Vocabulary,
    prompt: str,
    height: int,
    width: int,
    codes: torch.Tensor | None = None,
) -> list[Branch]:
    """[conditional, unconditional] branches of a picture of height x width cells.

    codes: (height, width) long, -1 where unknown: known cells are kept (inpainting, extrapolation).
    """
    prompts = [prompt_ids(vocab, GENERATE, words) for words in (vocab.encode(prompt), [vocab.ids.uncondition])]
    return [image_branch(vocab, ids, _target(codes, height, width)) for ids in prompts]


def masked_prompt(vocab: Vocabulary, prompt: str, codes: torch.Tensor) -> tuple[Branch, torch.Tensor]:
    """A picture, codes (h, w) long, with its prompt masked, as a branch whose cells are the words; and the words' ids (n,)."""
    ids = text_to_image(vocab, prompt, *codes.shape, codes)[0].ids
    places = prompt_words(vocab, ids)
    return Branch(ids.index_fill(0, places, vocab.ids.mask), places), ids[places]


def prompt_words(vocab: Vocabulary, ids: torch.Tensor) -> torch.Tensor:
    """(n,) places in a sequence of the words that a person wrote; none in one without them."""
    special = vocab.ids
    start = (ids == special.user).nonzero()[0, 0] + 1
    end = ((ids == special.boi) | (ids == special.user_end)).nonzero()
    words = torch.arange(start, end[end > start][0])
    return words[ids[words] != special.uncondition]


def image_to_image(
    vocab: Vocabulary,
    system: str,
    instruction: str,
    images: Sequence[torch.Tensor],
    height: int,
    width: int,
    codes: torch.Tensor | None = None,
) -> list[Branch]:
    """[conditional, without text, without images] branches.

    system: the task's system prompt; images: grids of codes (h, w) long; codes: as in text_to_image.
    """
    words, given = vocab.encode(instruction), [image_ids(vocab, grid) for grid in images]
    prompts = [
        prompt_ids(vocab, system, words, given),
        prompt_ids(vocab, system, [vocab.ids.uncondition], given),
        prompt_ids(vocab, system, words),
    ]
    return [image_branch(vocab, ids, _target(codes, height, width)) for ids in prompts]


def understanding(vocab: Vocabulary, question: str, images: Sequence[torch.Tensor], length: int) -> Branch:
    """A question on images, grids of codes (h, w) long, with an answer of `length` masked tokens."""
    given = [image_ids(vocab, grid) for grid in images]
    prompt = prompt_ids(vocab, UNDERSTAND, vocab.encode(question), given)
    start = len(prompt) + 1
    ids = torch.cat(
        [
            prompt,
            torch.tensor([vocab.ids.answer]),
            torch.full((length,), vocab.ids.mask),
            torch.tensor([vocab.ids.answer_end]),
        ]
    )
    return Branch(ids, torch.arange(start, start + length))


def prompt_ids(
    vocab: Vocabulary, system: str, user: Sequence[int], images: Sequence[torch.Tensor] = ()
) -> torch.Tensor:
    """(L,) ids of `<system>…</system><user>…[images]</user>`; user: ids of the user's text."""
    special = vocab.ids
    text = [special.system, *vocab.encode(system), special.system_end, special.user, *user]
    return torch.cat([torch.tensor(text), *images, torch.tensor([special.user_end])])


def image_ids(vocab: Vocabulary, codes: torch.Tensor) -> torch.Tensor:
    """(h * (w + 1) + 2,) ids of an image: begin, rows and row ends, end. codes (h, w) long, -1: masked."""
    special = vocab.ids
    cells = torch.where(codes < 0, special.mask, codes + vocab.image_offset)
    row_ends = torch.full((len(codes), 1), special.newline)
    rows = torch.cat([cells, row_ends], dim=1).flatten()
    return torch.cat([torch.tensor([special.boi]), rows, torch.tensor([special.eoi])])


def image_cells(height: int, width: int) -> torch.Tensor:
    """(height * width,) places of the cells, row by row, in the ids of an image."""
    row = torch.arange(width) + 1
    return (row + (width + 1) * torch.arange(height)[:, None]).flatten()


def image_branch(vocab: Vocabulary, prompt: torch.Tensor, codes: torch.Tensor) -> Branch:
    """A prompt followed by `<answer>`, the target image and `</answer>`."""
    special = vocab.ids
    ids = torch.cat(
        [prompt, torch.tensor([special.answer]), image_ids(vocab, codes), torch.tensor([special.answer_end])]
    )
    return Branch(ids, len(prompt) + 1 + image_cells(*codes.shape))


def cut_answer(vocab: Vocabulary, ids: torch.Tensor) -> list[int]:
    """Ids of an answer up to its first end; cut by id, because special tokens vanish when decoded to text."""
    answer = []
    for token in ids.tolist():
        if token in vocab.answer_ends:
            break
        answer.append(token)
    return answer


def size_buckets(side: int) -> list[tuple[int, int]]:
    """(width, height) in pixels of area about side x side, multiples of 32, aspect up to 4 : 1."""
    area = (side // 32) ** 2
    width, height = area, 1
    sizes = []
    while width:
        if max(width, height) <= 4 * min(width, height):
            sizes.append((width * 32, height * 32))
        if width * (height + 1) <= area:
            height += 1
        else:
            width -= 1
    return sizes


def _target(codes: torch.Tensor | None, height: int, width: int) -> torch.Tensor:
    return torch.full((height, width), -1) if codes is None else codes
