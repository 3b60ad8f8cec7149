"""What differs from one checkpoint to another, read from the `demo` section of its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from dimoo.errors import DimooError

NOISES = ("counter", "published")  # kinds of random numbers, see noise.py
WAYS = ("question", "words", "none")  # in which tries are compared, see best_of.py
SMALLEST_SIDE = 64  # pixels


@dataclass(frozen=True)
class Preset:
    """A picture size to offer: pixels and the words for it."""

    width: int
    height: int
    label: str


@dataclass(frozen=True)
class Defaults:
    """Defaults of one checkpoint. What a config.json leaves out falls back to the published 8B checkpoint.

    steps, guidance: the published sampling settings (technical report, arXiv 2510.06308, section 5). The published
    sampler's noise is rounded to bfloat16, which cuts its largest values off: at a temperature of 1 it draws as if at
    0.43 to 0.9. Here numbers are exact, so temperature, with codes from the top_k likeliest only (None: all), stands for
    that; order_temperature, of the noise on the order of cells, is 1 as published. noise: one of NOISES; "published" draws
    its numbers in the published order, for comparisons (with temperature 1 and no top_k, as published). max_area: pixels
    of the largest picture. edit_*: the same for picture to picture, whose pictures have an area of about edit_side².
    plausible and edit_keep, which the published sampler does not have, are explained at ImageSampling.
    Pictures that are asked about keep their size while their area lies between the squares of the two chat_sides.
    answer_*, short_*: tokens, tokens in a block and passes of an answer in sentences, and of one in a word or phrase.
    tries: see tasks.Generate. assess: how it tells which try is best, one of WAYS: by asking itself, by reading the words of the
    prompt, or not at all; enough: how sure it must be of a try, when it asks, for no other to be made.
    other_shapes: it draws pictures of other shapes than the presets as well as those.
    text_only: it can answer without a picture. instructions, questions: examples to click. words_help: a sentence on what
    the checkpoint knows, for prompts with unknown words; empty when it knows every word.
    """

    name: str = "Lumina-DiMOO"
    width: int = 1024
    height: int = 1024
    presets: tuple[Preset, ...] = (
        Preset(1024, 1024, "Square"),
        Preset(1280, 768, "Wide"),
        Preset(1152, 896, "Landscape"),
        Preset(896, 1152, "Portrait"),
        Preset(768, 1280, "Tall"),
    )
    other_shapes: bool = True
    steps: int = 64
    guidance: float = 4.0
    temperature: float = 0.7
    top_k: int | None = 256
    plausible: float = 0.0
    order_temperature: float = 1.0
    tries: int = 1
    assess: str = "question"
    enough: float = 0.9
    noise: str = "counter"
    max_area: int = 2048 * 2048
    edit_guidance: float = 2.5
    edit_guidance_image: float = 4.0
    edit_temperature: float = 0.7
    edit_keep: float = 0.0
    edit_side: int = 512
    chat_sides: tuple[int, int] = (512, 1024)
    answer_length: int = 128
    answer_block: int = 32
    answer_steps: int = 128
    short_length: int = 16
    short_block: int = 16
    short_steps: int = 16
    text_only: bool = True
    tasks: tuple[str, ...] = ("generate", "edit", "inpaint", "extrapolate", "chat")
    prompts: tuple[str, ...] = (
        "A red fox asleep on a mossy stone, soft morning light, shallow depth of field",
        "A ceramic teapot shaped like a small house, studio photograph",
        "An isometric cutaway of a cosy bookshop on a rainy street",
        "A hot-air balloon over terraced rice fields at sunrise, watercolour",
        "A portrait of an astronaut tending a greenhouse of sunflowers",
        "A paper-cut landscape of mountains and a winding river, layered blues",
    )
    instructions: tuple[str, ...] = (
        "Add a small hot-air balloon to the sky",
        "Remove the person in the foreground",
        "Replace the car with a bicycle",
        "Change the background to a snowy mountain",
        "Change the text on the sign to OPEN",
    )
    questions: tuple[str, ...] = (
        "Describe the picture.",
        "How many objects are there?",
        "What is in the background?",
    )
    words_help: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            value, usual = getattr(self, field.name), field.default
            if type(usual) is int and not (type(value) is int and value > 0 or value is None and field.name == "top_k"):
                raise ValueError(f"{field.name} must be a whole number, 1 or more")
            if type(usual) is float and type(value) not in (int, float):
                raise TypeError(f"{field.name} must be a number")
            if type(usual) in (str, bool) and type(value) is not type(usual):
                raise TypeError(f"{field.name} must be {'true or false' if type(usual) is bool else 'text'}")
        if min(self.width, self.height, self.edit_side, *self.chat_sides) < SMALLEST_SIDE:
            raise ValueError(f"pictures have sides of {SMALLEST_SIDE} pixels or more")
        if not 0 <= self.plausible <= 1:
            raise ValueError("plausible must be a share from 0 to 1")
        if self.assess not in WAYS:
            raise ValueError(f"assess must be one of {', '.join(WAYS)}")
        if not 0 < self.enough <= 1:
            raise ValueError("enough must be a probability above 0")
        if self.noise not in NOISES:
            raise ValueError(f"noise must be one of {', '.join(NOISES)}")

    def for_task(self, task: str) -> dict[str, Any]:
        """Default values of the fields of a request, by the task's name; "short answer" is a chat's short form."""
        if task in ("chat", "short answer"):
            form = "answer" if task == "chat" else "short"
            return {name: getattr(self, f"{form}_{name}") for name in ("length", "block", "steps")}
        values = {"steps": self.steps, "guidance": self.guidance, "temperature": self.temperature}
        if task == "generate":
            values |= {"width": self.width, "height": self.height, "tries": self.tries}
        if task == "edit":
            names = ("guidance", "guidance_image", "temperature", "keep")
            values |= {name: getattr(self, f"edit_{name}") for name in names}
        return values

    def check_area(self, width: int, height: int) -> None:
        """Raises DimooError if a picture of this size would be too large."""
        if width * height > self.max_area:
            side = int(self.max_area**0.5)
            raise DimooError(
                f"{width} × {height} is too large for {self.name}: "
                f"width times height can be at most {side} × {side}."
            )

    @classmethod
    def of(cls, demo: Mapping[str, Any]) -> Defaults:
        """Reads the `demo` section; sections of config.json that this class does not know are left alone."""
        known = {field.name for field in fields(cls)}
        try:
            values = {name: value for name, value in demo.items() if name in known}
            if "default_size" in demo:
                values["width"], values["height"] = (int(n) for n in demo["default_size"])
            if "presets" in demo:
                values["presets"] = tuple(
                    Preset(int(w), int(h), str(label)) for w, h, label in demo["presets"]
                )
            if "chat_sides" in demo:
                values["chat_sides"] = tuple(int(side) for side in demo["chat_sides"])
            for name in {"tasks", "prompts", "instructions", "questions"} & values.keys():
                if not isinstance(values[name], list):
                    raise TypeError(f"{name} is not a list")
                values[name] = tuple(map(str, values[name]))
            return cls(**values)
        except (AttributeError, TypeError, ValueError) as error:
            raise DimooError(f"config.json: the demo section cannot be read ({error}).") from error
