"""One request type per task, and the frames that a run of it yields.

A request's fields carry their own label, help text and bounds: the web page, the command line, the API and
the metadata of a picture are all read off them.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dimoo.defaults import Defaults
from dimoo.errors import DimooError

if TYPE_CHECKING:
    from PIL.Image import Image

SEEDS = 2**32
VIEWS = ("committed", "prediction", "confidence")


@dataclass(frozen=True)
class Knob:
    """What a person has to know about one field of a request.

    low, high: inclusive bounds of a number, or of the length of a text; step: the value is a multiple of it.
    """

    label: str
    help: str
    low: float
    high: float
    step: float | None = None


def knob(label: str, help: str, low: float, high: float, step: float | None = None) -> dict[str, Knob]:
    return {"knob": Knob(label, help, low, high, step)}


def knobs(request: Any) -> dict[str, Knob]:
    """Field name -> Knob of a request or request type, in order."""
    return {f.name: f.metadata["knob"] for f in fields(request) if "knob" in f.metadata}


@dataclass(frozen=True)
class Generate:
    """Text to image. None stands for the checkpoint's default, and for a random seed.

    Raises DimooError with a sentence when a value is out of its bounds.
    """

    task: ClassVar[str] = "generate"

    prompt: str = field(metadata=knob("Prompt", "What to draw, in words.", 1, 2000))
    width: int | None = field(default=None, metadata=knob("Width", "Pixels, a multiple of 16.", 64, 2048, 16))
    height: int | None = field(
        default=None, metadata=knob("Height", "Pixels, a multiple of 16.", 64, 2048, 16)
    )
    steps: int | None = field(
        default=None,
        metadata=knob("Steps", "Passes of the model per picture; fewer are faster, more are finer.", 1, 128),
    )
    guidance: float | None = field(
        default=None,
        metadata=knob(
            "Guidance", "How strongly the picture follows the prompt; 0 switches guidance off.", 0, 20
        ),
    )
    temperature: float | None = field(
        default=None,
        metadata=knob("Temperature", "Chance in tokens and their order; 0 always takes the likeliest.", 0, 2),
    )
    seed: int | None = field(
        default=None,
        metadata=knob("Seed", "The same seed and settings give the same picture.", 0, SEEDS - 1),
    )
    count: int = field(
        default=1, metadata=knob("Pictures", "Made one after the other, with consecutive seeds.", 1, 8)
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", clean_text(self.prompt, knobs(self)["prompt"]))
        for name in ("width", "height", "steps", "seed", "count"):
            object.__setattr__(self, name, whole_number(getattr(self, name), knobs(self)[name]))
        for name in ("guidance", "temperature"):
            object.__setattr__(self, name, number(getattr(self, name), knobs(self)[name]))
        if self.count is None:
            object.__setattr__(self, "count", 1)

    def resolve(self, defaults: Defaults) -> Generate:
        """The same request with every None filled in. Raises DimooError if the picture would be too large."""
        names = ("width", "height", "steps", "guidance", "temperature")
        missing = {name: getattr(defaults, name) for name in names if getattr(self, name) is None}
        if self.seed is None:
            missing["seed"] = secrets.randbelow(1_000_000)  # short enough to note down
        full = replace(self, **missing)
        if full.width * full.height > defaults.max_area:
            side = int(defaults.max_area**0.5)
            raise DimooError(
                f"{full.width} × {full.height} is too large for {defaults.name}: "
                f"width times height can be at most {side} × {side}."
            )
        return full

    def nth(self, index: int) -> Generate:
        """The request for the picture `index` of this one alone: its seed, and a count of one."""
        return replace(self, seed=(self.seed + index) % SEEDS, count=1)

    def settings(self) -> dict[str, Any]:
        """Task and fields, ready for JSON; `request_from` reads them back."""
        return {"task": self.task, **asdict(self)}


Request = Generate
REQUESTS: dict[str, type[Request]] = {kind.task: kind for kind in (Generate,)}


def request_from(settings: Mapping[str, Any]) -> Request:
    """The request that settings of a picture describe. Raises DimooError when they describe none."""
    kind = REQUESTS.get(str(settings.get("task")))
    if kind is None or "prompt" not in settings:
        raise DimooError("These settings are not of a picture that can be made again here.")
    return kind(**{f.name: settings[f.name] for f in fields(kind) if f.name in settings})


def clean_text(text: object, limits: Knob) -> str:
    """One line of text without control characters. Raises DimooError when it is empty or too long."""
    if not isinstance(text, str):
        raise DimooError(f"{limits.label} must be a text.")
    text = text.encode("utf-8", "ignore").decode("utf-8")
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(text) < limits.low:
        raise DimooError(f"{limits.label} is empty: write a few words that say what you want to see.")
    if len(text) > limits.high:
        raise DimooError(
            f"{limits.label} has {len(text)} characters: shorten it to at most {limits.high:.0f}."
        )
    return text


def number(value: object, limits: Knob) -> float | None:
    """A float within bounds, or None for None. Raises DimooError otherwise."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not np.isfinite(value):
        raise DimooError(f"{limits.label} must be a number, not {value!r:.40}.")
    if not limits.low <= value <= limits.high:
        raise DimooError(
            f"{limits.label} must lie between {limits.low:g} and {limits.high:.0f}, not {value:g}."
        )
    return float(value)


def whole_number(value: object, limits: Knob) -> int | None:
    """An integer within bounds and a multiple of the knob's step, or None. Raises DimooError otherwise."""
    if isinstance(value, int) and not isinstance(value, bool):
        exact = value  # a float cannot hold every large integer
    else:
        exact = number(value, limits)
        if exact is None:
            return None
        if exact != int(exact):
            raise DimooError(f"{limits.label} must be a whole number, not {exact:g}.")
    if not limits.low <= exact <= limits.high:
        raise DimooError(
            f"{limits.label} must lie between {limits.low:g} and {limits.high:.0f}, not {int(exact)}."
        )
    if limits.step and exact % limits.step:
        raise DimooError(f"{limits.label} must be a multiple of {limits.step:g}, not {int(exact)}.")
    return int(exact)


@dataclass
class Frame:
    """The state of a run after one step: small CPU data, safe to send to another process.

    step of steps (0: before the first pass), seconds since the run began, seconds_left for all that is left
    of it (None: not known yet). index of count: which picture, from 0. tokens (h, w) int32 codes, -1 where
    masked; masked (h, w) bool; confidence (h, w) float32, the probability of each committed code when it was
    chosen, and of the likeliest code where masked.
    preview: (H, W, 3) uint8, committed codes drawn as they are and masked ones as the model expects them.
    image and settings are set on the last frame of each picture only; stopped tells that it was cut short.
    """

    step: int
    steps: int
    seconds: float
    seconds_left: float | None
    index: int
    count: int
    seed: int
    tokens: np.ndarray
    masked: np.ndarray
    confidence: np.ndarray
    preview: np.ndarray
    image: Image | None = None
    settings: dict[str, Any] | None = None
    stopped: bool = False

    def picture(self, view: str = "committed") -> Image:
        """A small picture of the state: a few pixels per cell.

        committed: masked cells are neutral; prediction: they show what the model expects there; confidence:
        a colour per committed cell, from unsure to sure.
        """
        from dimoo.preview import draw_view  # Pillow is not needed for requests

        return draw_view(self.preview, self.masked, self.confidence, view)
