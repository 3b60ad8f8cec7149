"""A trained transformer made wider and deeper such that it computes what it computed (after Net2Net, arXiv 1511.05641)."""
from __future__ import annotations

import torch

from dimoo.config import LLaDAConfig
from dimoo.errors import DimooError
from dimoo.model import Block, DiMOO
from dimoo.train.initial import NEIGHBOURS, look_at

SIZES = "d_model", "n_heads", "n_kv_heads", "n_layers", "mlp_hidden_size"
READING = "q_proj", "k_proj", "v_proj", "ff_proj", "up_proj"
"""Matrices that read the residual stream. Those that write to it are the other two of a block."""
WRITING = "attn_out", "ff_out"
NORMS = "attn_norm", "ff_norm"


def check_growth(old: LLaDAConfig, new: LLaDAConfig) -> None:
    """Raises DimooError when weights of one size cannot be grown to the other."""
    if old.head_dim != new.head_dim:
        raise DimooError(f"Its heads have {old.head_dim} channels, others have {new.head_dim}: it cannot be grown.")
    if any(getattr(old, name) > getattr(new, name) for name in SIZES):
        raise DimooError("It is larger than the size that it is to grow to.")
    if all(getattr(old, name) == getattr(new, name) for name in SIZES):
        raise DimooError("It is as large as a new one already: train it further without growing it.")


def places(old: int, new: int) -> list[int]:
    """Which of `new` layers each of `old` ones becomes; first and last stay so."""
    return [i * (new - 1) // max(1, old - 1) for i in range(old)]


@torch.no_grad()
def grown(old: DiMOO, config: LLaDAConfig, seed: int) -> DiMOO:
    """The same function in more numbers, all of which can be learned.

    It differs by the epsilon of the norms alone. New channels are read everywhere and written nowhere yet; new heads, parts of an
    MLP and layers read, and write nothing yet. Heads of new layers lean towards the cells around: channel 0, by which those of a
    new model look there, is not as constant in a trained one. Raises DimooError, see `check_growth`.
    """
    check_growth(old.config, config)
    torch.manual_seed(seed)
    new = DiMOO(config)
    a, b = old.model["transformer"], new.model["transformer"]
    narrower = (old.config.d_model / config.d_model) ** 0.5  # a norm takes the mean of squares, of which many are zero now
    origin = dict(zip(places(len(a["blocks"]), len(b["blocks"])), a["blocks"], strict=True))

    def corner(weight: torch.Tensor, given: torch.Tensor, spread: float) -> None:
        weight.normal_(0, spread) if spread else weight.zero_()
        weight[: given.shape[0], : given.shape[1]] = given

    def norm(weight: torch.Tensor, given: torch.Tensor) -> None:
        weight.fill_(narrower * float(given.abs().mean()))
        weight[: len(given)] = narrower * given

    corner(b["wte"].weight, a["wte"].weight, 0)
    corner(b["ff_out"].weight, a["ff_out"].weight, 0.3 * float(a["ff_out"].weight.std()))
    norm(b["ln_f"].weight, a["ln_f"].weight)
    source: Block = a["blocks"][0]
    for i, block in enumerate(b["blocks"]):
        comes_in = i not in origin
        source = source if comes_in else origin[i]
        for name in READING:
            given = getattr(source, name).weight
            corner(getattr(block, name).weight, given[:0] if comes_in else given, float(given.std()))
        for name in WRITING:
            given = getattr(source, name).weight
            corner(getattr(block, name).weight, given[:0] if comes_in else given, 0)
        if comes_in:
            for head, offset in enumerate(NEIGHBOURS[i % len(NEIGHBOURS)][: config.n_heads - 1]):
                look_at(block, head, offset, config.rope_theta)
        else:
            for name in NORMS:
                norm(getattr(block, name).weight, getattr(source, name).weight)
    return new
