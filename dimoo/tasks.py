"""One request type per task: the single source of its fields, bounds, defaults and help."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, ClassVar

from dimoo.defaults import Defaults
from dimoo.errors import DimooError
from dimoo.knobs import Choice, Flag, Knob, Mask, Picture, Pictures, Real, Text, Whole, knob, knobs

SEEDS = 2**32
MAPS = {"canny": "Canny edges", "hed": "Soft edges", "depth": "Depth", "openpose": "Pose"}
DIRECTIONS = {"left": "Left", "right": "Right", "back": "Back"}
ALIGNMENTS = {"start": "Left or top", "center": "Centre", "end": "Right or bottom"}
"""Where a picture that grows to an aspect comes to lie."""


@dataclass(frozen=True)
class Request:
    """What all requests share: values are checked when one is made, and can be written down; None means left out.

    Raises DimooError with a sentence when a value is out of its bounds.
    """

    task: ClassVar[str]

    def __post_init__(self) -> None:
        usual = {f.name: f.default for f in fields(self) if f.default is not MISSING}
        for name, limits in knobs(self).items():
            value = getattr(self, name)
            object.__setattr__(self, name, limits.check(usual.get(name) if value is None else value))

    def settings(self) -> dict[str, Any]:
        """Task and fields, ready for JSON; pictures and masks are left out. `request_from` reads them back."""
        written = {n: getattr(self, n) for n, k in knobs(self).items() if not isinstance(k, Picture | Pictures | Mask)}
        return {"task": self.task, **written}


@dataclass(frozen=True)
class Draw(Request):
    """What all requests for a picture share. None stands for the checkpoint's default, and for a random seed."""

    steps: int | None = knob(
        Whole("Steps", "Passes of the model per picture; fewer are faster, more are finer.", 1, 128), None, kw_only=True
    )
    guidance: float | None = knob(
        Real("Guidance", "How strongly the picture follows the words; 0 switches guidance off.", 0, 20), None, kw_only=True
    )
    temperature: float | None = knob(
        Real("Temperature", "Chance in tokens and their order; 0 always takes the likeliest.", 0, 2), None, kw_only=True
    )
    seed: int | None = knob(
        Whole("Seed", "The same seed and settings give the same picture.", 0, SEEDS - 1), None, kw_only=True
    )
    count: int = knob(Whole("Pictures", "Made one after the other, with consecutive seeds.", 1, 8), 1, kw_only=True)
    cache: bool = knob(
        Flag("Max-Logit cache", "Settled tokens reuse their keys and values: faster, slightly different."), False, kw_only=True
    )

    def resolve(self, defaults: Defaults) -> Draw:
        """The same request with every None filled in."""
        values = defaults.for_task(self.task)
        missing = {n: values[n] for n in knobs(self) if n in values and getattr(self, n) is None}
        if self.seed is None:
            missing["seed"] = secrets.randbelow(1_000_000)  # short enough to note down
        return replace(self, **missing)

    def nth(self, index: int) -> Draw:
        """The request for the picture `index` of this one alone: its seed, and a count of one."""
        return replace(self, seed=(self.seed + index) % SEEDS, count=1)


@dataclass(frozen=True)
class Generate(Draw):
    """Text to image."""

    task: ClassVar[str] = "generate"

    prompt: str = knob(Text("Prompt", "What to draw, in words.", 1, 2000))
    width: int | None = knob(Whole("Width", "Pixels, a multiple of 16.", 64, 2048, 16), None)
    height: int | None = knob(Whole("Height", "Pixels, a multiple of 16.", 64, 2048, 16), None)
    tries: int | None = knob(
        Whole("Tries", "Each picture is drawn so often at most; the one in which the model finds the prompt best is kept.", 1, 4),
        None, kw_only=True,
    )  # fmt: skip

    def resolve(self, defaults: Defaults) -> Generate:
        """Also raises DimooError if the picture would be too large."""
        full = super().resolve(defaults)
        defaults.check_area(full.width, full.height)
        return full


@dataclass(frozen=True)
class Edit(Draw):
    """A picture made from a picture.

    kind: instruct, an instruction in words; control, the prompt drawn along a map of edges, depth or pose (image is
    the map); subject, the object of image in a new scene; style, the content of image in the style of reference;
    predict, a map of image; view, image seen from another side. prompt is the instruction, or the prompt of control
    and subject; the other kinds take none, and only style a reference. map is for control and predict, direction for view,
    keep for instruct.
    """

    task: ClassVar[str] = "edit"
    KINDS: ClassVar[dict[str, str]] = {
        "instruct": "Instruction", "control": "Control map", "subject": "Subject", "style": "Style", "predict": "Make a map",
        "view": "New view",
    }  # fmt: skip
    NEEDS_PROMPT: ClassVar[tuple[str, ...]] = ("instruct", "control", "subject")

    image: Any = knob(Picture("Picture", "The picture to start from."))
    kind: str = knob(Choice("Kind", "What to do with the picture.", KINDS), "instruct")
    prompt: str = knob(Text("Instruction", "What to change, or what to draw, in words.", 0, 2000), "")
    reference: Any = knob(Picture("Style picture", "A picture in the style to take over.", optional=True), None)
    map: str = knob(Choice("Map", "Which kind of map.", MAPS), "canny")
    direction: str = knob(Choice("Direction", "From where to look.", DIRECTIONS), "left")
    guidance_image: float | None = knob(
        Real("Picture guidance", "How strongly the result follows the given picture; 0 switches it off.", 0, 20), None
    )
    keep: float | None = knob(
        Real("Keep", "How sure the model must be of a change that an instruction asks for; 0 leaves it free.", 0, 20), None
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in self.NEEDS_PROMPT:
            object.__setattr__(self, "prompt", "")
        elif not self.prompt:
            raise DimooError(f"{knobs(self)['prompt'].label} is empty: write a few words.")
        if self.kind != "style":
            object.__setattr__(self, "reference", None)
        elif self.reference is None:
            raise DimooError("Style picture is missing: add a picture whose style to take over.")


@dataclass(frozen=True)
class Inpaint(Draw):
    """Part of a picture drawn anew: all cells of 16 × 16 pixels that the mask touches, and no pixel outside of them.

    The picture is cropped to whole cells; one that is too large for the checkpoint is scaled down as a whole before.
    """

    task: ClassVar[str] = "inpaint"

    image: Any = knob(Picture("Picture", "The picture to repair."))
    mask: Any = knob(Mask("Mask", "White where to draw anew; of the picture's size."))
    prompt: str = knob(Text("Prompt", "What the whole picture shows, in words; may be empty.", 0, 2000), "")
    invert: bool = knob(Flag("Invert", "Draw everything but the mask anew."), False)
    grow: int = knob(Whole("Grow", "Pixels by which the mask grows on every side.", 0, 128), 0)
    feather: int = knob(Whole("Feather", "Pixels over which new and old fade into each other.", 0, 64), 8)


@dataclass(frozen=True)
class Extrapolate(Draw):
    """A picture continued beyond its sides; the given pixels stay as they are.

    The picture is cropped to whole cells; one that is too large for the checkpoint is scaled down as a whole before.
    """

    task: ClassVar[str] = "extrapolate"
    SIDES: ClassVar[tuple[str, ...]] = ("left", "right", "top", "bottom")

    image: Any = knob(Picture("Picture", "The picture to continue."))
    prompt: str = knob(Text("Prompt", "What the whole picture shows, in words; may be empty.", 0, 2000), "")
    left: int = knob(Whole("Left", "Pixels to add on the left, a multiple of 16.", 0, 1024, 16), 0)
    right: int = knob(Whole("Right", "Pixels to add on the right, a multiple of 16.", 0, 1024, 16), 0)
    top: int = knob(Whole("Top", "Pixels to add at the top, a multiple of 16.", 0, 1024, 16), 0)
    bottom: int = knob(Whole("Bottom", "Pixels to add at the bottom, a multiple of 16.", 0, 1024, 16), 0)
    feather: int = knob(Whole("Feather", "Pixels over which new and old fade into each other.", 0, 64), 8)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not any(getattr(self, side) for side in self.SIDES):
            raise DimooError("Nothing to add: choose at least one side on which the picture should grow.")


@dataclass(frozen=True)
class Chat(Request):
    """A question about pictures, answered in words. None stands for the checkpoint's default."""

    task: ClassVar[str] = "chat"

    images: tuple = knob(Pictures("Pictures", "What the question is about.", 4))
    prompt: str = knob(Text("Question", "What to ask, in words.", 1, 2000, lines=True))
    short: bool = knob(Flag("Short answer", "A word or phrase instead of sentences."), False)
    length: int | None = knob(Whole("Length", "Tokens that an answer has at most.", 1, 1024), None)
    block: int | None = knob(Whole("Block", "Tokens that are unmasked together, block by block.", 1, 1024), None)
    steps: int | None = knob(Whole("Steps", "Passes of the model for the answer, at least one a block.", 1, 1024), None)
    cache: bool = knob(Flag("Cache", "Keep keys and values of everything outside the current block: faster."), True)

    def resolve(self, defaults: Defaults) -> Chat:
        """The same request with every None filled in."""
        values = defaults.for_task("short answer" if self.short else "chat")
        return replace(self, **{name: value for name, value in values.items() if getattr(self, name) is None})


REQUESTS: dict[str, type[Request]] = {kind.task: kind for kind in (Generate, Edit, Inpaint, Extrapolate, Chat)}


def request_from(settings: Mapping[str, Any], **pictures: Any) -> Request:
    """The request that settings of a picture describe, with the pictures it started from.

    Raises DimooError when they describe none.
    """
    kind = REQUESTS.get(str(settings.get("task")))
    if kind is None or "prompt" not in settings:
        raise DimooError("These settings are not of a picture that can be made again here.")
    limits = knobs(kind).items()
    absent = {n: None for n, k in limits if isinstance(k, Picture | Pictures | Mask)}  # they say so themselves
    values = {n: settings[n] for n, _ in limits if n in settings and n not in absent}  # a name of a file is not to be opened
    return kind(**absent | values | pictures)


def checked(kind: type[Request], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those settings of a picture that belong to a request type, each checked: values for its controls."""
    limits: dict[str, Knob] = {n: k for n, k in knobs(kind).items() if not isinstance(k, Picture | Pictures | Mask)}
    return {name: k.check(settings[name]) for name, k in limits.items() if name in settings}
