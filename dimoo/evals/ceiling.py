"""What the image tokenizer alone leaves of the right results: the best that any transformer can do with it."""
from __future__ import annotations

import numpy as np
from PIL import Image

from dimoo.evals.cases import Case
from dimoo.evals.tokenizer import reconstructed
from dimoo.vq import VQModel
from dimoo.world.scene import CELL


def through_tokenizer(vq: VQModel, case: Case) -> Image.Image:
    """The right picture of a case; what of it is not given goes through the tokenizer."""
    truth = case.truth()
    drawn = reconstructed(vq, truth)
    if case.new is not None:
        drawn = np.where(np.kron(case.new, np.ones((CELL, CELL), bool))[..., None], drawn, truth)
    return Image.fromarray(drawn)
