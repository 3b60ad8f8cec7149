"""Weights that training begins with: new ones, or those of a checkpoint."""
from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dimoo.checkpoint import read_config
from dimoo.config import LLaDAConfig
from dimoo.errors import DimooError
from dimoo.model import Block, DiMOO
from dimoo.train.families import SQUARE
from dimoo.train.pointing import COPYING
from dimoo.weights import read_model

_ROW = 17
NEIGHBOURS = (-1, 1, -_ROW, _ROW), (1 - _ROW, _ROW - 1, -1 - _ROW, 1 + _ROW)
"""Which tokens the first heads of every other layer look at to begin with: the cells around, in pictures 16 cells wide."""

GIVEN = -(SQUARE[0] * (SQUARE[1] + 1) + 4)
"""Where COPYING heads look: the same cell of a given picture. Its end, `</user>`, `<answer>` and a beginning lie between."""

CONSTANT = 0.3
"""Channel 0 of every embedding, in parts of the norm of its other channels: what heads read that go by place alone."""


def look_at(block: Block, head: int, offset: int, theta: float, sharpness: float = 7.0) -> None:
    """Initialise a head of a block to attend to the token `offset` places further on, whatever the tokens are.

    It reads nothing but channel 0, which is CONSTANT in every embedding. Its queries and keys are then constants, and rotated
    against each other such that their product is largest at that distance (after ConViT, d'Ascoli et al., arXiv 2103.10697).
    """
    constant = (block.q_proj.in_features * CONSTANT**2 / (1 + CONSTANT**2)) ** 0.5  # channel 0 after the norm
    half = block.head_dim // 2
    frequencies = theta ** -(torch.arange(half) / half)
    length = (sharpness * (block.head_dim * frequencies) ** 0.5).sqrt() / constant
    rows = slice(head * block.head_dim, (head + 1) * block.head_dim)
    block.k_proj.weight[rows, 0] = torch.cat([length, torch.zeros(half)])
    block.q_proj.weight[rows, 0] = torch.cat([length * (frequencies * offset).cos(), length * (frequencies * offset).sin()])


def new_model(config: LLaDAConfig, codebook: Tensor, seed: int) -> DiMOO:
    """Fresh weights: zero output projections; rows of image codes that are alike where their code vectors are; heads that look
    at neighbouring cells and at the same cell of a given picture, which it would otherwise take thousands of steps to find.
    """
    torch.manual_seed(seed)
    model = DiMOO(config)
    body = model.model["transformer"]
    levels = codebook.float().unique()
    features = (codebook.float()[..., None] == levels).float().flatten(1)  # which level each number has
    features = (features - features.mean(0)) / features.std()
    with torch.no_grad():
        for block in body["blocks"]:
            block.attn_out.weight.zero_()
            block.ff_out.weight.zero_()
        for weight in (body["wte"].weight, body["ff_out"].weight):
            projection = torch.randn(features.shape[1], weight.shape[1]) / features.shape[1] ** 0.5
            weight[config.image_offset :] = 0.05 * (features @ projection) + 0.005 * torch.randn(len(features), weight.shape[1])
        embedding = body["wte"].weight
        embedding[:, 0] = CONSTANT * embedding[:, 1:].norm(dim=1)
        copying = [head % config.n_heads for head in COPYING] if config.n_layers > 1 and config.n_heads > 5 else []
        for i, block in enumerate(body["blocks"]):
            taken = {config.n_heads - 1, *(copying if i == 1 else ())}
            free = [head for head in range(config.n_heads) if head not in taken]
            for head, offset in zip(free, NEIGHBOURS[i % len(NEIGHBOURS)], strict=False):
                look_at(block, head, offset, config.rope_theta)
        for head in copying:
            look_at(body["blocks"][1], head, GIVEN, config.rope_theta, sharpness=8.0)
    return model


def trained_model(folder: Path, words: Path) -> DiMOO:
    """The transformer of a checkpoint, to be trained further. Raises DimooError where there is none, or one with other words."""
    if not (folder / "tokenizer.json").is_file():
        hint = f" Is {folder / 'checkpoint'} meant?" if (folder / "checkpoint").is_dir() else ""
        raise DimooError(f"{folder} is not a checkpoint that can be trained further: it has no tokenizer.json.{hint}")
    if (folder / "tokenizer.json").read_bytes() != (words / "tokenizer.json").read_bytes():
        raise DimooError(f"{folder} knows other words than are taught here: it cannot be trained further.")
    model = read_model(folder, read_config(folder), torch.device("cpu"), torch.float32)
    return model.train().requires_grad_(True)
