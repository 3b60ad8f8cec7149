"""Scenes of Toytown: what stands where, before anything is drawn.

Places are counted on the 16-pixel token grid of the default camera: a thing's foot always lies on a cell corner, and a thing
looks the same wherever it stands. Pictures of it at two places are shifted copies of each other in cells, which is what lets
a small model learn them. Things stand on plots, a large thing apart, and are large, matte and in the middle row unless there is
reason not to be, and often of their kind's usual colour: a sampler that fills many cells at once can only draw what it need not
choose.
"""
from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

KINDS = ("ball", "cube", "cylinder", "cone", "tree", "house", "snowman", "mushroom", "rocket", "figure")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
USUAL_COLORS = {
    "ball": "red", "cube": "blue", "cylinder": "yellow", "cone": "orange", "tree": "green", "house": "pink", "snowman": "white",
    "mushroom": "red", "rocket": "white", "figure": "blue",
}  # fmt: skip
"""The colour of each kind that captions may leave out: a tree is green unless another colour is said."""
MATERIALS = ("matte", "metal")
SIZES = {"large": 1.0, "small": 0.68}
SETTINGS = ("studio", "beach", "meadow", "night", "sunset", "snow")
VIEWS = {"front": 0.0, "left": 90.0, "back": 180.0, "right": 270.0}
"""Camera positions, as degrees walked around the middle of the scene."""
STYLES = ("render", "pencil", "chalk", "poster")
POSES = ("down", "out", "up")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SIGNS = "ACEHLOTX"
"""The letters that stand on cubes: few, and unlike each other."""
MAX_THINGS = 4

CELL = 16
"""Pixels of a token cell."""
SHAPES = {"square": (16, 16), "wide": (12, 20), "landscape": (14, 18), "portrait": (18, 14), "tall": (20, 12)}
"""Rows and columns of pictures: those that are offered, and that pictures to be edited are brought to."""
ROWS = 3
"""Rows in which things stand: the front, middle and back one, a cell apart."""
STAND = 6
"""How many cells below the horizon the middle row stands."""
UNIT = 4
"""Cells that are as wide as a unit: a large thing is about one unit high."""
PLOT = 4
"""Cells from one plot to the next; the middle of a picture lies between two."""


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


HELD_OUT = 16
"""One scene of so many is held out."""


def is_held_out(scene: Scene) -> bool:
    """Whether a scene, seen from wherever, is for evaluation and never for training: what stands where in it decides that."""
    things = sorted(scene.things, key=lambda t: (t.column, t.row))
    return hashlib.sha1(repr((scene.setting, things)).encode()).digest()[0] % HELD_OUT == 0


WIDTHS = {
    "ball": 0.9, "cube": 1.02, "cylinder": 0.78, "cone": 0.98, "tree": 0.98,
    "house": 1.1, "snowman": 0.7, "mushroom": 0.98, "rocket": 0.84, "figure": 0.95,
}  # fmt: skip
"""Widths in world units of the large size."""


def plots(columns: int) -> list[int]:
    """The plots in a picture of so many cells' width: columns of the feet of the things on them."""
    left = columns // 2
    return [c for c in range(PLOT // 2 - left, columns - left - PLOT // 2 + 1) if c % PLOT == PLOT // 2]


def neighbouring(rng: np.random.Generator, columns: int, count: int) -> list[int]:
    """So many plots side by side, as near to the middle as may be, in any order."""
    free = plots(columns)
    spare = len(free) - count
    start = spare // 2 + (int(rng.integers(2)) if spare % 2 else 0)
    return rng.permutation(free[start : start + count]).tolist()


def random_color(rng: np.random.Generator, kind: str) -> str:
    """The usual one of a kind, or any."""
    return USUAL_COLORS[kind] if rng.random() < 0.4 else str(rng.choice(COLORS))


def random_thing(rng: np.random.Generator, columns: int, **fixed) -> Thing:
    """A thing with every attribute drawn at random except those in `fixed`; `columns` is the picture's width in cells."""
    kind = fixed.get("kind") or str(rng.choice(KINDS))
    pick = {
        "kind": kind,
        "color": random_color(rng, kind),
        "material": "metal" if rng.random() < 0.2 else "matte",
        "size": "large" if rng.random() < 0.7 else "small",
        "column": int(rng.choice(plots(columns))),
        "pose": str(rng.choice(POSES, p=[0.5, 0.25, 0.25])),
    } | fixed
    plain = pick["kind"] == "cube" and (pick["material"], pick["size"]) == ("matte", "large")
    if plain and "letter" not in pick and rng.random() < 0.3:
        pick["letter"] = str(rng.choice(list(SIGNS)))
    if pick["kind"] != "figure":
        pick["pose"] = "down"
    return Thing(**pick)


def lettered_cubes(rng: np.random.Generator, count: int) -> tuple[dict, ...]:
    """Attributes of so many cubes with letters, for `random_scene`."""
    cube = {"kind": "cube", "material": "matte", "size": "large"}
    return tuple(cube | {"color": str(rng.choice(COLORS)), "letter": str(rng.choice(list(SIGNS)))} for _ in range(count))


def random_scene(rng: np.random.Generator, columns: int = 16, count: int | None = None, setting: str | None = None,
                 wanted: tuple[dict, ...] = ()) -> Scene:
    """A scene that fits `columns` cells. `wanted` fixes attributes of the first things; `count` is capped by the plots.

    Two or three things often stand one behind the other, in rows of their own and side by side; all others stand in one row.
    """
    free = plots(columns)
    if count is None:
        count = int(rng.choice([1, 2, 3, 4], p=[0.25, 0.35, 0.25, 0.15]))
    count = min(count, len(free))
    rows, together = [1] * count, count == 1 and rng.random() < 0.75
    if count in (2, ROWS) and rng.random() < 0.6:
        rows, together = rng.permutation((0, 2) if count == 2 else ROWS).tolist(), True
    places = neighbouring(rng, columns, count) if together else rng.permutation(free)[:count].tolist()
    things = [random_thing(rng, columns, **{"column": column, "row": row} | (wanted[i] if i < len(wanted) else {}))
              for i, (column, row) in enumerate(zip(places, rows, strict=True))]
    return Scene(tuple(things), setting or str(rng.choice(SETTINGS)))
