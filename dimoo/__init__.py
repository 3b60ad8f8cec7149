"""Lumina-DiMOO: one discrete-diffusion transformer that makes pictures by unmasking many tokens at once.

    import dimoo

    pipe = dimoo.load()
    for frame in pipe.run(dimoo.Generate("a red ball to the left of a blue cube", seed=7)):
        print(frame.step, "of", frame.steps)
    frame.image.save("ball.png")

Names are imported when they are first used, so `import dimoo` itself is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Answer": "dimoo.frames",
    "Chat": "dimoo.tasks",
    "DimooError": "dimoo.errors",
    "Edit": "dimoo.tasks",
    "Extrapolate": "dimoo.tasks",
    "Frame": "dimoo.frames",
    "Generate": "dimoo.tasks",
    "Inpaint": "dimoo.tasks",
    "Pipeline": "dimoo.pipeline",
    "load": "dimoo.checkpoint",
    "read_settings": "dimoo.metadata",
    "request_from": "dimoo.tasks",
    "save_png": "dimoo.metadata",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dimoo' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
