"""Families of scenes as grids of codes: what the transformer learns from.

A family is known by its seed alone: a scene, and some lessons that start from it. Its pictures are drawn and encoded once.
"""
from __future__ import annotations

import copy
import hashlib
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dimoo.train.run import workers
from dimoo.vq import VQModel
from dimoo.world.language import captioned_scene
from dimoo.world.lessons import LESSONS, Lesson, Shot
from dimoo.world.render import render
from dimoo.world.scene import SHAPES, Scene, is_held_out, lettered_cubes, random_scene

SQUARE, USUALLY = SHAPES["square"], 0.75
"""The shape of most lessons, and how many have it for certain: there a cell is always equally far from the same one of the new
picture."""
OFTEN = {"add": 2.5, "remove": 0.8, "replace": 3, "recolor": 1.5, "background": 0.8, "text": 3, "control": 0.7, "predict": 0.7,
         "subject": 2, "style": 1.5, "view": 4}  # fmt: skip
"""How much more often lessons of some kinds are given than of the others: by what they take to learn."""
CROWDED = (10, 16)
"""Rows and columns of crowded pictures: many things on little ground, the cheapest way to learn what things look like."""
LETTERED = 0.35
"""Share of crowds that are cubes with letters, which are too rare otherwise for all of them to be learned in all colours."""


SCENES_OF_A_SEED = 100_000
"""How far apart the scenes, or pictures, of two seeds of a training run begin."""


def name_of(shot: Shot) -> str:
    return hashlib.sha1(repr(shot).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Family:
    """A scene and lessons that start from it; all of it follows from the seed."""

    seed: int
    lessons_wanted: int = 0
    crowded: bool = False

    @cached_property
    def base(self) -> Shot:
        if self.crowded:
            rng = np.random.default_rng((self.seed, 3))
            count, lettered = 3 + self.seed % 2, rng.random() < LETTERED
            wanted = partial(lettered_cubes, rng, count * lettered)
            return Shot(_free(lambda: random_scene(rng, CROWDED[1], count, wanted=wanted())), *CROWDED)
        rng = np.random.default_rng((self.seed, 1))
        rows, columns = list(SHAPES.values())[int(rng.integers(len(SHAPES)))]
        if self.lessons_wanted and rng.random() < USUALLY:
            rows, columns = SQUARE
        scenes = np.random.default_rng(self.seed)
        return Shot(_free(lambda: captioned_scene(scenes, columns)[0]), rows, columns)

    @cached_property
    def lessons(self) -> tuple[Lesson, ...]:
        rng = np.random.default_rng((self.seed, 2))
        weights = np.array([OFTEN.get(kind, 1.0) for kind in LESSONS])
        kinds = rng.choice(list(LESSONS), len(LESSONS), replace=False, p=weights / weights.sum()).tolist()
        found = (lesson for kind in kinds if (lesson := LESSONS[kind](rng, self.base)))
        free = (lesson for lesson in found if not any(is_held_out(shot.scene) for shot in lesson.shots))
        return tuple(islice(free, self.lessons_wanted))

    @property
    def shots(self) -> list[Shot]:
        """Every picture of the family, the base first."""
        return list(dict.fromkeys([self.base, *(s for lesson in self.lessons for s in lesson.shots)]))


def _free(draw: Callable[[], Scene]) -> Scene:
    """The first scene drawn that is not held out."""
    return next(scene for scene in iter(draw, None) if not is_held_out(scene))


def _draw(shots: list[Shot]) -> list[np.ndarray]:
    """Pictures of some shots; looks of the same scene share its render."""
    renders: dict = {}
    for shot in shots:
        if shot.scene not in renders:
            renders[shot.scene] = render(shot.scene, 16 * shot.columns, 16 * shot.rows)
    return [shot.draw(renders[shot.scene]) for shot in shots]


def fingerprint(vq: VQModel) -> str:
    """Of the weights that make the codes, which are those of one encoder only."""
    return digest_of((*vq.encoder.state_dict().values(), *vq.quant_conv.state_dict().values(), vq.codebook))


def digest_of(tensors: Iterable[torch.Tensor]) -> str:
    """Twelve characters that tell weights from others."""
    digest = hashlib.sha1()
    for tensor in tensors:
        digest.update(tensor.detach().float().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def encode_families(vq: VQModel, folder: Path, families: list[Family]) -> dict[str, np.ndarray]:
    """Codes (rows, columns) int16 of every shot by its name; kept in a file of `folder`, which is extended as needed."""
    path = folder / f"codes-{fingerprint(vq)}.npz"
    known: dict[str, np.ndarray] = {}
    if path.exists():
        with np.load(path) as file:
            known = {name: file[name] for name in file.files}
    missing = [[s for s in family.shots if name_of(s) not in known] for family in families]
    missing = [shots for shots in missing if shots]

    def save() -> None:
        temporary = path.with_suffix(".tmp.npz")
        np.savez_compressed(temporary, **known)
        os.replace(temporary, path)

    if missing:
        encoder = narrowed(vq)
        with workers() as executor:
            for i, codes in enumerate(executor.map(partial(_codes, encoder), missing)):
                known |= codes
                if i % 1000 == 0:
                    print(f"encoded {i} of {len(missing)} families", file=sys.stderr, flush=True)
                    save()
        save()
    return known


def narrowed(vq: VQModel) -> VQModel:
    """The same tokenizer, encoding twice as fast: convolutions of which only the centre is not zero are 1 × 1."""
    model = copy.deepcopy(vq)
    for conv in model.encoder.modules():
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3) and conv.stride == (1, 1):
            centre = conv.weight[:, :, 1:2, 1:2].clone()
            if centre.abs().sum() == conv.weight.abs().sum():
                conv.weight, conv.kernel_size, conv.padding = nn.Parameter(centre, requires_grad=False), (1, 1), (0, 0)
    return model


def _codes(vq: VQModel, shots: list[Shot]) -> dict[str, np.ndarray]:
    images = [torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None].float().div_(255) for rgb in _draw(shots)]
    return {name_of(shot): vq.encode(image)[0].to(torch.int16).numpy() for shot, image in zip(shots, images, strict=True)}
