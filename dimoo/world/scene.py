"""Scenes of Toytown: what stands where, before anything is drawn.

Places are counted on the 16-pixel token grid of the default camera: a thing's foot always lies on a cell corner, and a thing
looks the same wherever it stands. Pictures of it at two places are shifted copies of each other in cells, which is what lets
a small model learn them.
"""
from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np

KINDS = ("ball", "cube", "cylinder", "cone", "tree", "house", "snowman", "mushroom", "rocket", "figure")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
MATERIALS = ("matte", "metal")
SIZES = {"large": 1.0, "small": 0.68}
SETTINGS = ("studio", "beach", "meadow", "night", "sunset", "snow")
VIEWS = {"front": 0.0, "left": 90.0, "back": 180.0, "right": 270.0}
"""Camera positions, as degrees walked around the middle of the scene."""
STYLES = ("render", "pencil", "pixel", "poster")
POSES = ("down", "out", "up")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_THINGS = 4

CELL = 16
"""Pixels of a token cell."""
ROWS = 3
"""Rows in which things stand: the front, middle and back one, a cell apart."""
STAND = 6
"""How many cells below the horizon the middle row stands."""
UNIT = 4
"""Cells that are as wide as a unit: a large thing is about one unit high."""


@dataclass(frozen=True)
class Thing:
    """One object. `column` is its foot's distance in cells from the middle of the picture, `row` 0 (front) to 2 (back)."""

    kind: str
    color: str
    material: str = "matte"
    size: str = "large"
    column: int = 0
    row: int = 1
    pose: str = "down"
    letter: str = ""

    @property
    def half_width(self) -> float:
        """Half of its drawn width in cells, roughly: enough to keep things apart."""
        return 0.5 * WIDTHS[self.kind] * SIZES[self.size] * UNIT


@dataclass(frozen=True)
class Scene:
    """Things on a setting, seen from a view."""

    things: tuple[Thing, ...]
    setting: str = "studio"
    view: str = "front"

    def with_(self, **changes) -> Scene:
        return replace(self, **changes)


WIDTHS = {
    "ball": 0.9, "cube": 1.02, "cylinder": 0.78, "cone": 0.98, "tree": 0.98,
    "house": 1.1, "snowman": 0.7, "mushroom": 0.98, "rocket": 0.84, "figure": 0.95,
}  # fmt: skip
"""Widths in world units of the large size."""


def clear(things: tuple[Thing, ...] | list[Thing], new: Thing, slack: float = 0.85) -> bool:
    """Whether `new` keeps its distance from all `things`: neighbours may overlap a little, never hide each other."""
    return all(abs(t.column - new.column) >= slack * (t.half_width + new.half_width) for t in things)


def random_thing(rng: np.random.Generator, columns: int, **fixed) -> Thing:
    """A thing with every attribute drawn at random except those in `fixed`; `columns` is the picture's width in cells."""
    pick = {
        "kind": str(rng.choice(KINDS)),
        "color": str(rng.choice(COLORS)),
        "material": "metal" if rng.random() < 0.3 else "matte",
        "size": "large" if rng.random() < 0.6 else "small",
        "row": int(rng.integers(ROWS)),
        "pose": str(rng.choice(POSES)),
    } | fixed
    if pick["kind"] == "cube" and "letter" not in pick and rng.random() < 0.15:
        pick["letter"] = str(rng.choice(list(LETTERS)))
    if pick["kind"] != "figure":
        pick["pose"] = "down"
    if "column" not in pick:
        margin = int(np.ceil(Thing(**pick).half_width))
        left = columns // 2 - margin
        pick["column"] = int(rng.integers(-left, columns - columns // 2 - margin + 1)) if left > 0 else 0
    return Thing(**pick)


def random_scene(rng: np.random.Generator, columns: int = 16, count: int | None = None, setting: str | None = None,
                 wanted: tuple[dict, ...] = ()) -> Scene:
    """A scene that fits `columns` cells. `wanted` fixes attributes of the first things; `count` is capped by the room."""
    if count is None:
        count = int(rng.choice([1, 2, 3, 4], p=[0.25, 0.35, 0.25, 0.15]))
        count = max(1, min(count, columns // 4))
    setting = setting or str(rng.choice(SETTINGS))
    for attempt in itertools.count():
        things: list[Thing] = []
        for _ in range(60):
            if len(things) >= max(1, count - attempt // 10):  # so many of these may not fit at all
                return Scene(tuple(things), setting)
            fixed = wanted[len(things)] if len(things) < len(wanted) else {}
            thing = random_thing(rng, columns, **fixed)
            if clear(things, thing):
                things.append(thing)
