"""Whether things stand where the truth has them, for pictures that the judge cannot read: other views and other styles.

Pictures are (h, w, 3) uint8, ids (h, w) is the index of the thing that the truth shows at each pixel, or -1.
"""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dimoo.world.scene import CELL

OFF = 0.75
"""Error where a thing should be, relative to that of the empty setting, up to which it counts as being there: around .3 after an
image tokenizer of 27 dB, 1 without the thing."""
COLOUR = 0.10
"""Distance of mean colours, of 1, up to which a thing has its colour: around .05 after that tokenizer, .25 in another colour."""
STRANGE = 0.12
"""Distance of a bare cell's mean colour, of 1, from which on something is there that should not be: that tokenizer stays below
.08, a thing that is too much makes .3."""
_SMALLEST = 60  # pixels of a thing that must be seen for it to count
_POOL = 4  # pixels a side whose means are compared


def _regions(ids: np.ndarray) -> Iterator[np.ndarray]:
    """(h, w) bool for each thing that is seen well enough."""
    regions = (ids == i for i in range(int(ids.max()) + 1))
    return (region for region in regions if region.sum() >= _SMALLEST)


def _pooled(a: np.ndarray, pixels: int) -> np.ndarray:
    """(h / pixels, w / pixels, …) float32 means."""
    height, width = (side // pixels for side in a.shape[:2])
    return a.reshape(height, pixels, width, pixels, -1).astype(np.float32).mean(axis=(1, 3))


def things_off(rgb: np.ndarray, truth: np.ndarray, bare: np.ndarray, ids: np.ndarray) -> list[float]:
    """For each thing the error of a result where it should be, relative to that of the empty setting: 0 is perfect."""
    found, wanted, without = (_pooled(picture, _POOL) for picture in (rgb, truth, bare))
    error, blank = np.abs(found - wanted).mean(axis=-1), np.abs(without - wanted).mean(axis=-1)
    covers = (_pooled(region, _POOL)[..., 0] > 0.5 for region in _regions(ids))
    return [float(error[cover].sum() / max(1e-6, blank[cover].sum())) for cover in covers]


def colours_off(rgb: np.ndarray, truth: np.ndarray, ids: np.ndarray) -> list[float]:
    """For each thing how far the mean colour of a result is from the true one where it should be, of 1."""
    return [_rms(rgb[region].mean(axis=0), truth[region].mean(axis=0)) / 255 for region in _regions(ids)]


def strangest(rgb: np.ndarray, truth: np.ndarray, bare: np.ndarray) -> float:
    """The largest difference, of 1, of a cell's mean colour where the truth shows the empty setting in all of it; 0 without."""
    empty = _pooled((truth == bare).all(axis=-1), CELL)[..., 0] == 1
    off = _rms(_pooled(rgb, CELL), _pooled(truth, CELL)) / 255
    return float(off[empty].max(initial=0))


def _rms(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(a - b).mean(axis=-1))
