"""Which letter a cube shows: the judge does not read letters."""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from dimoo.evals.regions import likest
from dimoo.world.scene import LETTERS, Scene


def letter_of(rgb: np.ndarray, scene: Scene, index: int) -> str:
    """The letter on the cube that is thing `index` of a scene, "" if it has none; rgb (h, w, 3) uint8, a picture of the scene."""
    return likest(rgb, scene, index, [replace(scene.things[index], letter=letter) for letter in ("", *LETTERS)]).letter
