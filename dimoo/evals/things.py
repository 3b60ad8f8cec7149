"""What the judge read against what should be there."""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dimoo.world.judge import Reading, matches
from dimoo.world.scene import Scene, Thing

LOOKS = ("kind", "color", "size", "material", "pose")
"""All that the judge reads of a thing, its place apart. It does not read letters."""


def alike(a: Thing, b: Thing, names: Sequence[str] = LOOKS) -> bool:
    """Whether two things have the same attributes, wherever they stand."""
    return all(getattr(a, name) == getattr(b, name) for name in names)


def near(a: Thing, b: Thing) -> bool:
    """Whether two things stand within a cell of each other."""
    return abs(a.column - b.column) <= 1 and abs(a.row - b.row) <= 1


def missing(reading: Reading, scene: Scene, names: Sequence[str] = ("kind", "color")) -> tuple[Counter, Counter]:
    """Looks of things that a scene has and a reading has not, and the other way round, wherever they stand."""
    wanted, seen = (Counter(tuple(getattr(t, n) for n in names) for t in things) for things in (scene.things, reading.things))
    return wanted - seen, seen - wanted


def compare(
    reading: Reading, things: tuple[Thing, ...], names: Sequence[str] = LOOKS
) -> tuple[list[bool], list[Thing]]:
    """For each thing whether it was read within a cell of its place and looks as it should; and what else was read."""
    extra, right = list(reading.things), []
    for thing, seen in matches(reading, Scene(things)):
        if seen is not None:
            extra.remove(seen)
        right.append(seen is not None and alike(thing, seen, names))
    return right, extra


def as_is(reading: Reading, scene: Scene, names: Sequence[str] = LOOKS) -> bool:
    """Whether exactly the things of a scene were read at their places."""
    right, extra = compare(reading, scene.things, names)
    return all(right) and not extra
