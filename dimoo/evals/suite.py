"""Every task that is scored: where its cases come from, and what a checkpoint of the built-in world should reach."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from dimoo.evals import control, edit, fill, generate, maps, references, talk, views
from dimoo.evals.cases import Case


@dataclass(frozen=True)
class Task:
    """cases: number -> so many cases of held-out scenes. targets: category (or `overall`) -> least score."""

    title: str
    cases: Callable[[int], Iterator[Case]]
    targets: Mapping[str, float]


SUITE: dict[str, Task] = {
    "generate": Task("Text to image", generate.cases, {"overall": 0.88}),
    "shapes": Task("Text to image, not square", generate.shape_cases, {"overall": 0.88}),
    "edit": Task("Instructions", edit.cases, dict.fromkeys(edit.CATEGORIES, 0.85)),
    "edit-shapes": Task("Instructions, not square", edit.shape_cases, {}),
    "inpaint": Task("Inpainting", fill.inpaint_cases, {"overall": 0.85}),
    "extrapolate": Task("Extrapolation", fill.extrapolate_cases, {"overall": 0.85}),
    "chat": Task("Short answers", talk.chat_cases, {"overall": 0.95}),
    "describe": Task("Descriptions", talk.describe_cases, {"overall": 0.95}),
    # a relative error of depths of at most .08; edges and skeletons as F1
    "predict": Task("Maps", maps.cases, {"canny": 0.85, "hed": 0.85, "depth": 0.92}),
    "control": Task("Along a map", control.cases, {"overall": 0.80}),
    "subject": Task("Subject", references.subject_cases, {"overall": 0.80}),
    "style": Task("Style", references.style_cases, {"overall": 0.80}),
    "view": Task("New view", views.cases, {"overall": 0.80}),
}
CEILINGS = tuple(name for name in SUITE if name not in ("generate", "shapes", "chat", "describe"))
"""Tasks with one right picture."""
