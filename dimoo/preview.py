"""A cheap picture of a half-done grid of codes: a linear table instead of the decoder.

Each cell becomes a few pixels, a linear function of the features of its 3×3 neighbourhood, fitted once per
image tokenizer by ridge regression on what the decoder makes of some codes. Because it is linear, a masked
cell can be drawn as the model expects it: the mean of the codes' features under the model's probabilities.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dimoo.errors import DimooError
from dimoo.frames import VIEWS

NEUTRAL = (214, 211, 205)
# unsure -> sure: dark violet, magenta, orange, pale yellow; rising lightness reads without colour too
RAMP = ((43, 16, 85), (150, 34, 118), (233, 108, 71), (252, 232, 164))


class ImageTokenizer(Protocol):
    """What fitting needs of the image tokenizer."""

    codebook: torch.Tensor

    def encode(self, images: torch.Tensor) -> torch.Tensor: ...
    def decode(self, codes: torch.Tensor) -> torch.Tensor: ...


class Preview:
    """Draws grids of codes with one small matrix product.

    features: (codes, f) one row per code; weight: (9 f, 3 p²) from the neighbourhood, row by row, to p × p
    pixels of a cell; bias: (3 p²,) the pixels of a cell with all features at their mean, 0.
    """

    def __init__(self, features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> None:
        if weight.shape != (9 * features.shape[1], len(bias)) or len(bias) % 3:
            raise DimooError(
                "The preview table does not fit together: fit it again for this image tokenizer."
            )
        self.features, self.weight, self.bias = features, weight, bias
        self.cell_pixels = int((len(bias) // 3) ** 0.5)

    def to(self, device: torch.device | str) -> Preview:
        return Preview(self.features.to(device), self.weight.to(device), self.bias.to(device))

    @torch.inference_mode()
    def draw(
        self, tokens: torch.Tensor, probabilities: torch.Tensor | None = None, where: torch.Tensor | None = None
    ) -> np.ndarray:
        """(h p, w p, 3) uint8 picture of a grid.

        tokens: (h, w) long codes, -1 where masked. probabilities: (m, codes) of what may come in the masked
        cells numbered `where` (m,), row by row (None: in all of them); other masked cells get the mean colour.
        """
        tokens = tokens.to(self.features.device)
        cells = self.features[tokens.clamp(min=0)]
        masked = tokens < 0
        cells[masked] = 0
        if probabilities is not None:
            places = masked.flatten() if where is None else where.to(self.features.device)
            cells.flatten(0, 1)[places] = probabilities.to(self.features) @ self.features
        pixels = neighbourhoods(cells[None]) @ self.weight + self.bias
        return to_bytes(unfold_cells(pixels, *tokens.shape))

    def save(self, path: str | Path) -> None:
        tensors = {"features": self.features, "weight": self.weight, "bias": self.bias}
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, path)

    @classmethod
    def load(cls, path: str | Path, codes: int) -> Preview:
        """Reads a table fitted for a tokenizer with this many codes. Raises DimooError if it was not."""
        try:
            table = cls(**{name: tensor.float() for name, tensor in load_file(path).items()})
        except (OSError, SafetensorError, TypeError, ValueError, IndexError) as error:
            raise DimooError(f"{path} is not a preview table: delete it, or fit it again.") from error
        if len(table.features) != codes:
            raise DimooError(
                f"{path} was fitted for {len(table.features)} image codes, but the tokenizer has {codes}."
            )
        return table


@torch.inference_mode()
def fit(tokenizer: ImageTokenizer, codes: torch.Tensor, cell_pixels: int = 4, ridge: float = 1e-3) -> Preview:
    """Fits a table on what the decoder makes of codes (B, h, w) long; plausible codes give a better table.

    cell_pixels: pixels a side that a cell gets; ridge: weight of the penalty, relative to the mean square of
    the (standardised) features.
    """
    features = code_features(tokenizer.codebook.float().cpu())
    pictures = torch.cat(
        [tokenizer.decode(grid[None]).float().cpu() for grid in codes.to(tokenizer.codebook.device)]
    )
    size = codes.shape[1] * cell_pixels, codes.shape[2] * cell_pixels
    pixels = fold_cells(F.adaptive_avg_pool2d(pictures, size), cell_pixels)
    rows = neighbourhoods(features[codes.cpu()]).double()
    usual, mean = rows.mean(0), pixels.double().mean(0)
    rows = rows - usual
    gram = rows.T @ rows
    gram.diagonal().add_(ridge * len(rows))
    weight = torch.linalg.solve(gram, rows.T @ (pixels - mean))
    return Preview(features, weight.float(), (mean - usual @ weight).float())


def fit_unseen(tokenizer: ImageTokenizer, pictures: int = 4, size: int = 256) -> Preview:
    """A table for a tokenizer that brought none, fitted on made-up pictures: soft colours at several scales.

    Codes drawn at random would not do: no picture looks like that, and the decoder mixes them to grey.
    """
    noise = torch.Generator().manual_seed(0)
    fields = [
        F.interpolate(
            torch.rand(pictures, 3, n, n, generator=noise), (size, size), mode="bilinear", align_corners=False
        )
        for n in (2, 6, 24)
    ]
    images = (0.5 * fields[0] + 0.35 * fields[1] + 0.15 * fields[2] - 0.5) * 2 + 0.5
    with torch.inference_mode():
        device = tokenizer.codebook.device
        codes = torch.cat([tokenizer.encode(image[None].clamp(0, 1).to(device)) for image in images])
    return fit(tokenizer, codes)


def code_features(codebook: torch.Tensor) -> torch.Tensor:
    """(codes, d) codebook -> (codes, f) standardised features: the vectors, of short ones also the products.

    A codebook of few numbers per code (a grid of levels) is far from linear in colour; its products help.
    """
    features = codebook
    if codebook.shape[1] <= 8:
        first, second = torch.triu_indices(codebook.shape[1], codebook.shape[1])
        features = torch.cat((codebook, codebook[:, first] * codebook[:, second]), dim=1)
    return (features - features.mean(0)) / features.std(0).clamp(min=1e-6)


def neighbourhoods(cells: torch.Tensor) -> torch.Tensor:
    """(B, h, w, f) features -> (B h w, 9 f) of each cell and its neighbours; edges repeat."""
    padded = F.pad(cells.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate")
    windows = padded.unfold(2, 3, 1).unfold(3, 3, 1)  # B f h w 3 3
    return windows.permute(0, 2, 3, 4, 5, 1).flatten(0, 2).flatten(1)


def fold_cells(pictures: torch.Tensor, cell_pixels: int) -> torch.Tensor:
    """(B, 3, h p, w p) pixels -> (B h w, 3 p²), row-major cells."""
    return F.pixel_unshuffle(pictures, cell_pixels).permute(0, 2, 3, 1).flatten(0, 2)


def unfold_cells(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(h w, 3 p²) -> (3, h p, w p)."""
    cells = pixels.view(height, width, -1).permute(2, 0, 1)
    return F.pixel_shuffle(cells, int((pixels.shape[1] // 3) ** 0.5))


def to_bytes(picture: torch.Tensor) -> np.ndarray:
    """(3, H, W) float in [0, 1] -> (H, W, 3) uint8 on the CPU."""
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def draw_view(preview: np.ndarray, masked: np.ndarray, confidence: np.ndarray, view: str) -> Image.Image:
    """The picture of a view (see Frame.picture): preview (H, W, 3) uint8, masked and confidence (h, w)."""
    if view not in VIEWS:
        raise DimooError(f"There is no view {view!r}: choose one of {', '.join(VIEWS)}.")
    cell = preview.shape[0] // masked.shape[0]
    tiles = masked.repeat(cell, 0).repeat(cell, 1)
    pixels = preview
    if view == "confidence":
        pixels = ramp(confidence).repeat(cell, 0).repeat(cell, 1)
    if view != "prediction":
        pixels = np.where(tiles[..., None], np.array(NEUTRAL, np.uint8), pixels)
    return Image.fromarray(pixels)


def ramp(values: np.ndarray) -> np.ndarray:
    """(…) numbers in [0, 1] -> (…, 3) uint8 colours, piecewise linear between the colours of RAMP."""
    stops = np.linspace(0, 1, len(RAMP))
    channels = [np.interp(values, stops, [colour[c] for colour in RAMP]) for c in range(3)]
    return np.stack(channels, -1).round().astype(np.uint8)


class Budget:
    """Keeps the cost of something to a share of all the time that goes by."""

    def __init__(self, share: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.share, self.clock = share, clock
        self.began = clock()
        self.spent = self.last = 0.0
        self.warm = False

    def allows(self) -> bool:
        """Whether once more, at the last cost, would stay within the share.

        The first time is free and not counted: it may be a hundred times as dear as the others, whatever it
        warms up, and would forbid all others in a short run. The second tells what one costs.
        """
        return self.spent + self.last <= self.share * (self.clock() - self.began)

    @contextmanager
    def spend(self) -> Iterator[None]:
        """Counts the time that its block takes."""
        start = self.clock()
        yield
        if self.warm:
            self.last = self.clock() - start
            self.spent += self.last
        self.warm = True
