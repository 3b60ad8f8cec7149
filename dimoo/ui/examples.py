"""What the tabs offer to start from: pictures of this repository, with the settings that go with them."""

from __future__ import annotations

import filecmp
import html
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image, ImageOps

from dimoo.ui.controls import chips
from dimoo.ui.files import KEEP_SECONDS, example_folder
from dimoo.ui.line import new_ticket
from dimoo.ui.stage import jpeg
from dimoo.ui.workbench import PRIVATE, QUICK, Workbench

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
THUMBNAIL = (88, 66)  # pixels


@dataclass(frozen=True)
class Example:
    """A choice to click.

    values: of the controls, by field; pictures: names of files, by field, the first is shown; runs: whether it can
    be run as it is.
    """

    label: str
    values: dict[str, Any]
    pictures: dict[str, str] = field(default_factory=dict)
    runs: bool = True


MASK_AS_IT_IS = {"invert": False, "grow": 0}
BEACH, SNOW = {"image": "beach.png"}, {"image": "house-in-the-snow.png"}
FOR_TASK: dict[str, tuple[Example, ...]] = {
    "edit": (
        Example("Setting", {"kind": "instruct", "prompt": "change the background to a meadow"}, BEACH),
        Example("Recolour", {"kind": "instruct", "prompt": "make the ball green"}, BEACH),
        Example("Remove", {"kind": "instruct", "prompt": "remove the snowman"}, SNOW),
        Example(
            "From a depth map",
            {"kind": "control", "map": "depth", "prompt": "an orange mushroom to the left of a pink house in a meadow"},
            {"image": "depth-map.png"},
        ),
        Example("New scene", {"kind": "subject", "prompt": "this rocket and a green tree in the snow"}, {"image": "rocket.png"}),
        Example("Poster", {"kind": "style"}, SNOW | {"reference": "poster.png"}),
        Example("Depth", {"kind": "predict", "map": "depth"}, SNOW),
    ),
    "inpaint": (
        Example(
            "Another thing",
            {"prompt": "a red ball and a yellow cone on the beach"} | MASK_AS_IT_IS,
            BEACH | {"mask": "beach-mask.png"},
        ),
        Example(
            "Paint yourself",
            {"prompt": "a red house, a small white snowman and a green tree in the snow", "mask": None} | MASK_AS_IT_IS,
            SNOW,
            runs=False,
        ),
    ),
    "extrapolate": (
        Example(
            "To the left",
            {"prompt": "a red ball on the beach", "left": 128, "right": 0, "top": 0, "bottom": 0},
            BEACH,
        ),
        Example("Wide", {"prompt": "a red house in the snow", "aspect": "16:9", "align": "center"}, SNOW),
    ),
    "chat": (
        Example("Beach", {"prompt": "describe the picture.", "short": False}, {"images": "beach.png"}),
        Example("Snow", {"prompt": "how many objects are there?", "short": True}, {"images": "house-in-the-snow.png"}),
    ),
}


def build_examples(bench: Workbench) -> None:
    """The examples of a tab as a row of small pictures; a click fills the controls, and starts the run."""
    examples = [example for example in FOR_TASK[bench.task] if all(map(path_of, example.pictures.values()))]
    if not examples:
        return
    faces = [(str(i), face(example)) for i, example in enumerate(examples)]
    row = chips(faces, f"{bench.task}-examples", "Examples", "picture-chips")

    def pick(index: str) -> dict:
        return bench.fill(chosen_values(examples, index))

    def connect() -> None:
        begin, inputs, outputs = bench.beginning

        def start(visit: gr.Request, index: str, *values: Any) -> tuple:
            return begin(visit, *values) if example_of(examples, index).runs else (gr.skip(),) * len(outputs)

        picked = row.input(pick, row, bench.filled, **QUICK)
        picked.success(start, [row, *inputs], outputs, concurrency_limit=None, **PRIVATE)

    bench.later.append(connect)


def example_of(examples: Sequence[Example], index: str) -> Example:
    return examples[int(index) % len(examples)]


def chosen_values(examples: Sequence[Example], index: str) -> dict[str, Any]:
    """Values of the controls, by field, for the example of that number."""
    example = example_of(examples, index)
    pictures = {name: served(path_of(file)) for name, file in example.pictures.items()}
    if "images" in pictures:
        pictures["images"] = [pictures["images"]]
    return example.values | pictures


def path_of(name: str) -> Path | None:
    """The file of an example, if this installation has it."""
    path = EXAMPLES / name
    return path if path.is_file() else None


def served(path: Path) -> str:
    """A copy of the file where Gradio may serve it from, wherever the program runs.

    Gradio removes what it served after KEEP_SECONDS, from under pages that show it: the copy is made anew in time.
    """
    copy = example_folder() / path.name
    fresh = copy.exists() and time.time() - copy.stat().st_ctime < KEEP_SECONDS / 2
    if not (fresh and filecmp.cmp(path, copy, shallow=False)):  # an older version may have left another
        copy.parent.mkdir(parents=True, exist_ok=True)
        part = copy.with_name(f"{new_ticket()}.part")
        shutil.copyfile(path, part)
        part.replace(copy)  # so that nobody else finds half a file
    return str(copy)


def face(example: Example) -> str:
    """The inside of a chip."""
    with Image.open(path_of(next(iter(example.pictures.values())))) as picture:
        small = ImageOps.fit(picture.convert("RGB"), THUMBNAIL)
    return f'<img src="{jpeg(small, 85)}" alt=""><span>{html.escape(example.label)}</span>'
