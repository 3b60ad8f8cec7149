"""What a person has to know about one field of a request, and the check of its value.

A request's fields carry their knobs: the web page, the command line, the API and the metadata of a picture
are all read off them.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from dimoo.errors import DimooError


@dataclass(frozen=True)
class Knob:
    """A label, and a sentence of help."""

    label: str
    help: str

    def check(self, value: Any) -> Any:
        """The value in its proper form. Raises DimooError with a sentence when it is none."""
        return value


@dataclass(frozen=True)
class Text(Knob):
    """One line of text, or several if lines; low and high bound its length."""

    low: int
    high: int
    lines: bool = False

    def check(self, value: object) -> str:
        if not isinstance(value, str):
            raise DimooError(f"{self.label} must be a text.")
        text = self.tidy(value)
        if len(text) < self.low:
            raise DimooError(f"{self.label} is empty: write a few words.")
        if len(text) > self.high:
            raise DimooError(f"{self.label} has {len(text)} characters: shorten it to at most {self.high}.")
        return text

    def tidy(self, text: str) -> str:
        """The text as it is taken: without what cannot be seen, see `one_line`."""
        return "\n".join(map(one_line, text.splitlines())).strip("\n") if self.lines else one_line(text)


@dataclass(frozen=True)
class Real(Knob):
    """A number within inclusive bounds; None passes."""

    low: float
    high: float

    def check(self, value: object) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not finite(value):
            raise DimooError(f"{self.label} must be a number, not {value!r:.40}.")
        if not self.low <= value <= self.high:
            raise DimooError(f"{self.label} must lie between {self.low:g} and {self.high:.0f}, not {value:g}.")
        return float(value)


JOINERS = "\u200c\u200d"
"""Say in Persian, in scripts of India and between emoji whether neighbours join."""


def one_line(text: str) -> str:
    """A text without line breaks, spaces that say nothing, and characters that cannot be seen but for those that shape words."""
    text = text.encode("utf-8", "ignore").decode("utf-8")
    seen = (c for c in text if c in JOINERS or unicodedata.category(c) != "Cf")
    words = "".join(c if c.isprintable() or c in JOINERS else " " for c in seen).split()
    return " ".join(filter(None, (word.strip(JOINERS) for word in words)))


def finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


@dataclass(frozen=True)
class Whole(Knob):
    """A whole number within inclusive bounds and a multiple of `step`; None passes."""

    low: int
    high: int
    step: int = 1

    def check(self, value: object) -> int | None:
        if isinstance(value, int) and not isinstance(value, bool):
            exact = value  # a float cannot hold every large integer
        else:
            exact = Real(self.label, self.help, -math.inf, math.inf).check(value)
            if exact is None:
                return None
            if exact != int(exact):
                raise DimooError(f"{self.label} must be a whole number, not {exact:g}.")
        if not self.low <= exact <= self.high:
            raise DimooError(f"{self.label} must lie between {self.low} and {self.high}, not {int(exact)}.")
        if exact % self.step:
            raise DimooError(f"{self.label} must be a multiple of {self.step}, not {int(exact)}.")
        return int(exact)


@dataclass(frozen=True)
class Flag(Knob):
    """Yes or no."""

    def check(self, value: object) -> bool:
        if not isinstance(value, bool | np.bool_):
            raise DimooError(f"{self.label} is either on or off, not {value!r:.40}.")
        return bool(value)


@dataclass(frozen=True)
class Choice(Knob):
    """One of some words; `options` maps them to what a person reads."""

    options: Mapping[str, str]

    def check(self, value: object) -> str:
        if not isinstance(value, str) or value not in self.options:
            raise DimooError(f"{self.label} is one of {', '.join(self.options)}, not {value!r:.40}.")
        return value


@dataclass(frozen=True)
class Picture(Knob):
    """A picture, brought to 8-bit RGB and upright; None passes where it is optional."""

    optional: bool = False

    def check(self, value: Any) -> Any:
        from dimoo.images import upright  # Pillow is not needed for requests without pictures

        if value is None:
            if self.optional:
                return None
            raise DimooError(f"{self.label} is missing: add a picture first.")
        return upright(value)


@dataclass(frozen=True)
class Pictures(Knob):
    """Up to `high` pictures, or one alone."""

    high: int

    def check(self, value: Any) -> tuple:
        from dimoo.images import upright

        given = () if value is None else value if isinstance(value, list | tuple) else (value,)
        self.check_number(len(given))
        return tuple(upright(picture) for picture in given)

    def check_number(self, count: int) -> None:
        """Raises DimooError for more than there can be."""
        if count > self.high:
            raise DimooError(f"{self.label}: at most {self.high} at a time, not {count}.")


@dataclass(frozen=True)
class Mask(Knob):
    """A mask as a greyscale picture, white where something is to happen."""

    def check(self, value: Any) -> Any:
        from dimoo.images import as_mask

        if value is None:
            raise DimooError(f"{self.label} is empty: paint over what should be redrawn.")
        return as_mask(value)


def knob(knob: Knob, default: Any = ..., **options: Any) -> Any:
    """A dataclass field that carries a knob."""
    if default is not ...:
        options["default"] = default
    return field(metadata={"knob": knob}, **options)


def knobs(request: Any) -> dict[str, Knob]:
    """Field name -> Knob of a request or request type, in order."""
    return {f.name: f.metadata["knob"] for f in fields(request) if "knob" in f.metadata}
