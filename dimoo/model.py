"""The transformer of Lumina-DiMOO: LLaDA-8B's body, full bidirectional attention, 1-D RoPE, no biases.

Names of modules follow the published checkpoint. The model knows nothing of sampling: it takes packed
sequences, says hidden states, and applies its head to the rows and the slice of the vocabulary asked for.
Source: technical report, arXiv 2510.06308, section 3; LLaDA's public configuration.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from dimoo.cache import KeyValueCache
from dimoo.config import LLaDAConfig
from dimoo.errors import DimooError
from dimoo.packed import Packed

# Rows of a half-precision head lifted to float32 at a time: bounds the copy to a few hundred MB at any width.
HEAD_CHUNK = 16384
# Numbers in one intermediate result of the MLP, which is three times as wide as the model: 64 MB in half precision.
MLP_CHUNK = 2**25

Rotary = tuple[torch.Tensor, torch.Tensor]

# How attention splits a packing: the number of sequences when all are equally long (one batched call, of a
# shape that torch.compile can keep), else (query rows of each sequence, rows of each sequence).
Sequences = int | tuple[tuple[int, ...], tuple[int, ...]]


def split_of(query_lengths: tuple[int, ...], lengths: tuple[int, ...]) -> Sequences:
    equal = len(set(lengths)) == 1 and len(set(query_lengths)) == 1
    return len(lengths) if equal else (query_lengths, lengths)


def rotary_tables(positions: torch.Tensor, head_dim: int, theta: float) -> Rotary:
    """cos and sin, each (N, 1, head_dim / 2) float32, for positions (N,)."""
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = positions.float()[:, None] * theta**-exponents
    return angles.cos()[:, None], angles.sin()[:, None]


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """RoPE, "rotate half" form, on (N, heads, head_dim); float32 tables lift the arithmetic to float32."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def scaled_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """softmax(q kᵀ / √head_dim) v of (..., L, head_dim)."""
    if torch.is_grad_enabled() and q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # written out for the compiler: the library's backward pass in bfloat16 takes two and a half times as long on a CPU
        weights = (q * q.shape[-1] ** -0.5) @ k.mT
        return weights.float().softmax(-1).to(v.dtype) @ v
    if q.is_cuda and q.dtype == torch.bfloat16 and torch.cuda.get_device_capability(q.device) < (8, 0):
        # before Ampere no fused kernel knows bfloat16, and without one all scores are made; that of float32 saves memory
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(v.dtype)
    return F.scaled_dot_product_attention(q, k, v)


def attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, sequences: Sequences
) -> torch.Tensor:
    """Attention of each sequence over itself, never with a mask.

    queries (Q, heads, head_dim); keys and values (N, heads, head_dim). Returns (Q, heads * head_dim).
    """
    heads, head_dim = queries.shape[1:]
    if isinstance(sequences, int):
        q, k, v = (x.reshape(sequences, -1, heads, head_dim).transpose(1, 2) for x in (queries, keys, values))
        return scaled_attention(q, k, v).transpose(1, 2).reshape(-1, heads * head_dim)
    query_lengths, lengths = sequences
    split = zip(queries.split(query_lengths), keys.split(lengths), values.split(lengths), strict=True)
    parts = [
        scaled_attention(*(x.transpose(0, 1)[None] for x in qkv))[0].transpose(0, 1)
        for qkv in split
        if len(qkv[0])
    ]
    return torch.cat(parts).flatten(1)


class Block(nn.Module):
    """Pre-norm attention and a gated MLP, each added to the residual stream."""

    def __init__(self, config: LLaDAConfig, layer: int) -> None:
        super().__init__()
        d, hidden = config.d_model, config.mlp_hidden_size
        self.layer = layer
        self.head_dim = config.head_dim
        self.attn_norm = nn.RMSNorm(d, eps=config.rms_norm_eps)
        self.q_proj = nn.Linear(d, d, bias=False)
        self.k_proj = nn.Linear(d, d, bias=False)
        self.v_proj = nn.Linear(d, d, bias=False)
        self.attn_out = nn.Linear(d, d, bias=False)
        self.ff_norm = nn.RMSNorm(d, eps=config.rms_norm_eps)
        self.ff_proj = nn.Linear(d, hidden, bias=False)
        self.up_proj = nn.Linear(d, hidden, bias=False)
        self.ff_out = nn.Linear(hidden, d, bias=False)

    def forward(
        self,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        sequences: Sequences,
        cache: KeyValueCache | None = None,
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """x (Q, d) -> (Q, d). cos, sin: tables of these rows; rows: where in the packing (None: all)."""
        h = self.attn_norm(x)
        heads = (-1, x.shape[-1] // self.head_dim, self.head_dim)
        q = rotate(self.q_proj(h).view(heads), cos, sin)
        k = rotate(self.k_proj(h).view(heads), cos, sin)
        v = self.v_proj(h).view(heads)
        if cache is not None:
            k, v = cache.update(self.layer, k, v, rows)
        x = x + self.attn_out(attend(q, k, v, sequences))
        if torch.is_grad_enabled():
            return x + self.mlp(x)
        for part in x.split(max(1, MLP_CHUNK // self.ff_proj.out_features)):
            part += self.mlp(part)
        return x

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        h = self.ff_norm(x)
        return self.ff_out(F.silu(self.ff_proj(h)) * self.up_proj(h))


class DiMOO(PreTrainedModel):
    """Masked-token predictor over text and image codes."""

    config_class = LLaDAConfig
    base_model_prefix = ""
    _no_split_modules = ["Block"]
    _supports_sdpa = True
    quantized: str | None = None  # how the blocks' weights were made smaller: int8 or nf4

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__(config)
        config.check()
        body = {
            "wte": nn.Embedding(config.table_size, config.d_model),
            "blocks": nn.ModuleList(Block(config, layer) for layer in range(config.n_layers)),
            "ln_f": nn.RMSNorm(config.d_model, eps=config.rms_norm_eps),
            "ff_out": nn.Linear(config.d_model, config.table_size, bias=False),
        }
        self.model = nn.ModuleDict({"transformer": nn.ModuleDict(body)})
        self.post_init()

    @property
    def precision(self) -> str:
        """Of the weights, as a person reads it."""
        return self.quantized or str(self.dtype).removeprefix("torch.")

    def states(
        self, packed: Packed, cache: KeyValueCache | None = None, queries: torch.Tensor | None = None
    ) -> Iterator[torch.Tensor]:
        """The residual stream after each block in turn, (N, d), or (Q, d) for the rows `queries`.

        queries: (Q,) long rows of the packing in rising order; only these are computed, and the cache, which
        an earlier full pass over the same packing has filled, stands in for the others.
        Differentiable without a cache.
        """
        if queries is not None and (cache is None or cache.empty):
            raise DimooError("A partial pass needs a cache that a full pass has filled.")
        body = self.model["transformer"]
        ids, positions, query_lengths = packed.ids, packed.positions, packed.lengths
        if queries is not None:
            ids, positions, query_lengths = ids[queries], positions[queries], packed.query_counts(queries)
        cos, sin = rotary_tables(positions, self.config.head_dim, self.config.rope_theta)
        sequences = split_of(query_lengths, packed.lengths)
        x = body["wte"](ids)
        for block in body["blocks"]:
            x = block(x, cos, sin, sequences, cache, queries)
            yield x

    def hidden(
        self, packed: Packed, cache: KeyValueCache | None = None, queries: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Hidden states after the last block and the final norm; arguments as of `states`."""
        (last,) = deque(self.states(packed, cache, queries), maxlen=1)
        return self.model["transformer"]["ln_f"](last)

    def logits(self, hidden: torch.Tensor, vocab: slice = slice(None)) -> torch.Tensor:
        """float32 logits (rows, size of the slice) of hidden states (rows, d).

        The product runs in float32: guidance multiplies the rounding of half-precision logits by six or more.
        """
        weight = self.model["transformer"]["ff_out"].weight[vocab]
        hidden = hidden.float()
        if weight.dtype == torch.float32:
            return F.linear(hidden, weight)
        parts = [F.linear(hidden, part.float()) for part in weight.split(HEAD_CHUNK)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def forward(
        self,
        packed: Packed,
        rows: torch.Tensor | None = None,
        vocab: slice = slice(None),
        cache: KeyValueCache | None = None,
        queries: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """float32 logits (len(rows), size of the slice) of rows of the packing (None: all computed).

        With queries, every row must be one of them.
        """
        hidden = self.hidden(packed, cache, queries)
        if rows is not None:
            hidden = hidden[rows if queries is None else torch.searchsorted(queries, rows)]
        return self.logits(hidden, vocab)

    @torch.inference_mode()
    def predict(
        self,
        packed: Packed,
        rows: torch.Tensor,
        vocab: slice = slice(None),
        cache: KeyValueCache | None = None,
        queries: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`forward` for samplers: tensors from any device, no gradients, no context left open."""
        queries = None if queries is None else queries.to(self.device)
        return self(packed.to(self.device), rows.to(self.device), vocab, cache, queries)
