"""Edge maps of pictures: thin ones after Canny, and soft ones as HED draws them."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter


def _gradient(rgb: np.ndarray, radius: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """Sobel gradient (x, y) of the channel that changes most, after a Gaussian blur; rgb is (h, w, 3) uint8."""
    smooth = np.asarray(Image.fromarray(rgb).filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255
    p = np.pad(smooth, ((1, 1), (1, 1), (0, 0)), mode="edge")
    column, row = p[:-2] + 2 * p[1:-1] + p[2:], p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
    gx, gy = column[:, 2:] - column[:, :-2], row[2:] - row[:-2]
    best = np.argmax(gx * gx + gy * gy, axis=2)[..., None]
    return np.take_along_axis(gx, best, 2)[..., 0], np.take_along_axis(gy, best, 2)[..., 0]


def soft_edges(rgb: np.ndarray) -> np.ndarray:
    """Edge strength in [0, 1], (h, w) float32: what a HED map looks like."""
    gx, gy = _gradient(rgb, 1.0)
    return np.clip((np.hypot(gx, gy) - 0.08) * 1.3, 0, 1).astype(np.float32)


def thin_edges(rgb: np.ndarray, low: float = 0.25, high: float = 0.6) -> np.ndarray:
    """One-pixel edges, (h, w) bool, after Canny (1986): ridges of the gradient above `low` that touch one above `high`."""
    gx, gy = _gradient(rgb)
    strength = np.hypot(gx, gy)
    p = np.pad(strength, 1)
    h, w = strength.shape
    sector = np.round(np.arctan2(gy, gx) / (np.pi / 4)).astype(int) % 4
    ridge = np.zeros((h, w), bool)
    for i, (dy, dx) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        ahead, behind = p[1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w], p[1 - dy : 1 - dy + h, 1 - dx : 1 - dx + w]
        ridge |= (sector == i) & (strength >= ahead) & (strength > behind)
    weak = ridge & (strength > low)
    kept = ridge & (strength > high)
    while True:
        grown = np.asarray(Image.fromarray(kept).convert("L").filter(ImageFilter.MaxFilter(3))) > 0
        grown &= weak
        if (grown == kept).all():
            return kept
        kept = grown


def edge_pixels(rgb: np.ndarray, kind: str) -> np.ndarray:
    """The map of kind canny (thin edges) or hed (soft edges), white on black, (h, w, 3) uint8."""
    edges = thin_edges(rgb) if kind == "canny" else soft_edges(rgb)
    return np.repeat((edges * 255).astype(np.uint8)[..., None], 3, axis=2)
