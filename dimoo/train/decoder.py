"""Training of a tokenizer's decoder alone: sharper pictures of the same codes, so that transformers of these codes still fit."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dimoo.precision import fastest_dtype
from dimoo.train.families import fingerprint
from dimoo.train.run import Run, denormals_as_zeros, workers
from dimoo.train.tokenizer import (
    LEVELS,
    Average,
    Optimizer,
    crops,
    kept_pool,
    picture_pool,
    places,
    psnr,
    reconstruction_loss,
    sample_grid,
    save_tokenizer,
    shown,
)
from dimoo.vq import VQModel

ERRORS = 0.02
"""Share of cells whose code is a little wrong in training. A transformer errs too, and what a thing looks like its other cells
say."""


def decoder_of(folder: str | Path) -> VQModel:
    """A tokenizer of which the decoder alone learns."""
    model = VQModel.load(folder).requires_grad_(False)
    for part in (model.decoder, model.post_quant_conv):
        part.requires_grad_(True)
    return model.to(memory_format=torch.channels_last)


def encode_all(model: VQModel, pictures: np.ndarray) -> np.ndarray:
    """(n, 16, 16) int16 codes of pictures (n, 256, 256, 3) uint8."""

    def encode(picture: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
        return model.encode(x)[0].to(torch.int16).numpy()

    with workers() as executor:
        return np.stack(list(executor.map(encode, pictures)))


def with_errors(z: Tensor, generator: torch.Generator) -> Tensor:
    """Code vectors (B, width, h, w) with one number of some of them a level off."""
    b, width, h, w = z.shape
    wrong = torch.rand(b, 1, h, w, generator=generator) < ERRORS
    number = F.one_hot(torch.randint(width, (b, h, w), generator=generator), width).permute(0, 3, 1, 2)
    step = torch.randint(2, (b, 1, h, w), generator=generator) * 2 - 1
    return (z + wrong * number * step).clamp(LEVELS[0], LEVELS[-1])


@denormals_as_zeros()
def train_decoder(folder: str | Path, codes_of: str | Path, minutes: float, pictures: int = 4000, batch: int = 16,
                  rate: float = 7e-4, seed: int = 0) -> VQModel:
    """Train the decoder of the tokenizer in `codes_of` for `minutes` in `folder` (resumable); leaves it in `folder/vqvae`."""
    run = Run(folder, minutes)
    model = decoder_of(codes_of)
    run.is_for(f"seed {seed}, the codes of {fingerprint(model)}")
    average, optimizer = Average(model), Optimizer(model, rate)
    drawn = kept_pool(run.folder / f"pictures-{pictures}-{seed}.npy", pictures, seed)
    codes = encode_all(model, drawn)
    held_out = picture_pool(8, seed=10_000_000)

    def export() -> None:
        save_tokenizer(average.model, run.folder / "vqvae")
        sample_grid(average.model, held_out, run.folder / "samples.png")

    run.on_save = export
    run.resume(model=model, average=average.model, muon=optimizer.muon, adam=optimizer.adam)
    dtype = fastest_dtype()
    while run.tick():
        where = places(np.random.default_rng((seed, run.step)), len(drawn), *shown(batch, run.progress))
        x = crops(drawn, where)
        cut = torch.from_numpy(np.stack([codes[i, rows, columns] for i, rows, columns in where])).long()
        z = model.codebook[cut].permute(0, 3, 1, 2)
        z = with_errors(z, torch.Generator().manual_seed(seed + run.step)).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            y = model.reconstruct(z)
        loss = reconstruction_loss(x, y.float())
        optimizer.step(loss, run.progress)
        average.follow(model, run.step)
        run.report(loss=loss.item(), psnr=psnr(x, y.float()))
    return average.model
