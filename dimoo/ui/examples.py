"""What the tabs offer to start from: pictures of this repository, with the settings that go with them."""

from __future__ import annotations

import html
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from dimoo.ui.controls import chips
from dimoo.ui.files import folder
from dimoo.ui.stage import jpeg
from dimoo.ui.workbench import QUICK, Workbench

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
THUMBNAIL = (88, 66)  # pixels


@dataclass(frozen=True)
class Example:
    """A choice to click. values: of the controls, by field; pictures: names of files, by field, the first is shown."""

    label: str
    values: dict[str, Any]
    pictures: dict[str, str] = field(default_factory=dict)


BEACH, SNOW = {"image": "beach.png"}, {"image": "house-in-the-snow.png"}
FOR_TASK: dict[str, tuple[Example, ...]] = {
    "edit": (
        Example("Recolour", {"kind": "instruct", "prompt": "make the ball green"}, BEACH),
        Example("Remove", {"kind": "instruct", "prompt": "remove the snowman"}, SNOW),
        Example(
            "From a depth map",
            {"kind": "control", "map": "depth", "prompt": "an orange mushroom to the left of a pink house in a meadow"},
            {"image": "depth-map.png"},
        ),
        Example("New scene", {"kind": "subject", "prompt": "this rocket on the beach"}, {"image": "rocket.png"}),
        Example("Poster", {"kind": "style"}, SNOW | {"reference": "poster.png"}),
        Example("Edges", {"kind": "predict", "map": "canny"}, SNOW),
        Example("From the left", {"kind": "view", "direction": "left"}, BEACH),
    ),
    "inpaint": (
        Example("Another thing", {"prompt": "a red ball and a yellow cone on the beach"}, BEACH | {"mask": "beach-mask.png"}),
        Example("Paint yourself", {"prompt": "a red house, a green tree and a white snowman in the snow", "mask": None}, SNOW),
    ),
    "extrapolate": (
        Example(
            "To the left",
            {"prompt": "a red ball and a blue cube on the beach", "left": 128, "right": 0, "top": 0, "bottom": 0},
            BEACH,
        ),
        Example("Wide", {"prompt": "a red house in the snow", "aspect": "16:9", "align": "center"}, SNOW),
    ),
    "chat": (
        Example("Beach", {"prompt": "how many objects are there?"}, {"images": "beach.png"}),
        Example("Snow", {"prompt": "what color is the house?"}, {"images": "house-in-the-snow.png"}),
    ),
}


def build_examples(bench: Workbench) -> None:
    """The examples of a tab as a row of small pictures; a click fills the controls."""
    examples = [example for example in FOR_TASK[bench.task] if all(map(path_of, example.pictures.values()))]
    if not examples:
        return
    faces = [(str(i), face(example)) for i, example in enumerate(examples)]
    row = chips(faces, f"{bench.task}-examples", "Examples", "picture-chips")

    def pick(index: str) -> dict:
        return bench.fill(chosen_values(examples, index))

    bench.later.append(lambda: row.input(pick, row, bench.filled, **QUICK))


def chosen_values(examples: Sequence[Example], index: str) -> dict[str, Any]:
    """Values of the controls, by field, for the example of that number."""
    example = examples[int(index) % len(examples)]
    pictures = {name: served(path_of(file)) for name, file in example.pictures.items()}
    if "images" in pictures:
        pictures["images"] = [pictures["images"]]
    return example.values | pictures


def path_of(name: str) -> Path | None:
    """The file of an example, if this installation has it."""
    path = EXAMPLES / name
    return path if path.is_file() else None


def served(path: Path) -> str:
    """A copy of the file where Gradio may serve it from, wherever the program runs."""
    copy = folder() / "examples" / path.name
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return str(copy)


def face(example: Example) -> str:
    """The inside of a chip."""
    with Image.open(path_of(next(iter(example.pictures.values())))) as picture:
        small = ImageOps.fit(picture.convert("RGB"), THUMBNAIL)
    return f'<img src="{jpeg(small, 85)}" alt=""><span>{html.escape(example.label)}</span>'
