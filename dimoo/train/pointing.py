"""Attention of single heads, taught to go where `grounding` says."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dimoo.model import DiMOO, rotary_tables, rotate
from dimoo.train.grounding import Pointers

COPYING = (0, -1)
"""Heads of the second block by which a cell that is drawn sees the same cell of a given picture. Later blocks would find it mixed
with its surroundings."""


def pointing_loss(model: DiMOO, depth: int, head: int, state: Tensor, pointers: Sequence[Pointers], worst: int | None = None
                  ) -> Tensor | None:
    """Mean of -log of the attention that rows of equally long sequences pay to the right places; None without any rows.

    state: (sum of lengths, d), the residual stream before block `depth`; worst: how many rows of a sequence count, if not all.
    """
    block = model.model["transformer"]["blocks"][depth]
    size, length = block.head_dim, len(state) // len(pointers)
    part = slice(head * size, (head + 1) * size)
    normal = block.attn_norm(state).view(len(pointers), length, -1)
    cos, sin = rotary_tables(torch.arange(length), size, model.config.rope_theta)
    losses = []
    for states, pointer in zip(normal, pointers, strict=True):
        if len(pointer.rows):
            keys = rotate((states @ block.k_proj.weight[part].T)[:, None], cos, sin)[:, 0]
            queries = (states[pointer.rows] @ block.q_proj.weight[part].T)[:, None]
            queries = rotate(queries, cos[pointer.rows], sin[pointer.rows])[:, 0]
            scores = (queries @ keys.T).float() / size**0.5
            right = scores.masked_fill(~pointer.allowed, -torch.inf)
            loss = scores.logsumexp(1) - right.logsumexp(1)
            losses.append(loss if worst is None else loss.topk(min(worst, len(loss))).values)
    return torch.cat(losses).mean() if losses else None


def copying_loss(model: DiMOO, state: Tensor, given: Sequence[Pointers]) -> Tensor | None:
    """`pointing_loss` of the heads that look at the given picture, their mean. state: as the second block gets it."""
    losses = [pointing_loss(model, 1, head % model.config.n_heads, state, given) for head in COPYING]
    return None if losses[0] is None else sum(losses) / len(losses)
