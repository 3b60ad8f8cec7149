"""What differs from one checkpoint to another, read from the `demo` section of its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from dimoo.errors import DimooError


@dataclass(frozen=True)
class Preset:
    """A picture size to offer: pixels and the words for it."""

    width: int
    height: int
    label: str


@dataclass(frozen=True)
class Defaults:
    """Defaults of one checkpoint. What a config.json leaves out falls back to the published 8B checkpoint.

    steps, guidance, temperature: the published sampling settings (technical report, arXiv 2510.06308,
    section 5). max_area: pixels of the largest picture. words_help: a sentence on what the checkpoint knows,
    for prompts with unknown words; empty when it knows every word.
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
    steps: int = 64
    guidance: float = 4.0
    temperature: float = 1.0
    max_area: int = 2048 * 2048
    tasks: tuple[str, ...] = ("generate", "edit", "inpaint", "extrapolate", "chat")
    prompts: tuple[str, ...] = (
        "A red fox asleep on a mossy stone, soft morning light, shallow depth of field",
        "A ceramic teapot shaped like a small house, studio photograph",
        "An isometric cutaway of a cosy bookshop on a rainy street",
        "A hot-air balloon over terraced rice fields at sunrise, watercolour",
        "A portrait of an astronaut tending a greenhouse of sunflowers",
        "A paper-cut landscape of mountains and a winding river, layered blues",
    )
    words_help: str = ""

    @classmethod
    def of(cls, demo: Mapping[str, Any]) -> Defaults:
        """Reads the `demo` section; sections of config.json that this class does not know are left alone."""
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in demo.items() if name in known}
        try:
            if "default_size" in demo:
                values["width"], values["height"] = (int(n) for n in demo["default_size"])
            if "presets" in demo:
                values["presets"] = tuple(
                    Preset(int(w), int(h), str(label)) for w, h, label in demo["presets"]
                )
            for name in ("tasks", "prompts"):
                if name in values:
                    values[name] = tuple(map(str, values[name]))
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise DimooError(f"config.json: the demo section cannot be read ({error}).") from error
