"""Sizes of the transformer and names of the special tokens: the only place with fixed ids.

Source: the LLaDA-8B configuration that Lumina-DiMOO keeps (technical report, arXiv 2510.06308, section 3).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from transformers import PretrainedConfig

from dimoo.errors import DimooError


@dataclass(frozen=True)
class SpecialToken:
    """How a special token is written, and its id in the published vocabulary (None: look it up by name)."""

    text: str
    published_id: int | None = None


SPECIAL_TOKENS: dict[str, SpecialToken] = {
    "end_of_text": SpecialToken("<|endoftext|>", 126081),
    "newline": SpecialToken("<end-of-line>", 126084),
    "mask": SpecialToken("<|mdm_mask|>", 126336),
    "pad": SpecialToken("<|pad|>", 126339),
    "boi": SpecialToken("<IMAGE>", 126349),
    "eoi": SpecialToken("</IMAGE>", 126350),
    "uncondition": SpecialToken("<uncondition>", 126351),
    "answer": SpecialToken("<answer>", 126354),
    "answer_end": SpecialToken("</answer>", 126355),
    "system": SpecialToken("<system>"),
    "system_end": SpecialToken("</system>"),
    "user": SpecialToken("<user>"),
    "user_end": SpecialToken("</user>"),
}

UNSUPPORTED = (
    "weight_tying", "tie_word_embeddings", "include_bias", "include_qkv_bias", "attention_layer_norm", "scale_logits",
    "input_emb_norm", "alibi", "clip_qkv", "multi_query_attention",
)  # fmt: skip
ONLY = {"rope": True, "layer_norm_type": "rms", "activation_type": "silu", "block_type": "llama"}

PUBLISHED_CODEBOOK_SIZE = 8192
PUBLISHED_IMAGE_OFFSET = 126356
PUBLISHED_TABLE_SIZE = PUBLISHED_IMAGE_OFFSET + PUBLISHED_CODEBOOK_SIZE


class LLaDAConfig(PretrainedConfig):
    """config.json of a checkpoint, with the published field names; unknown fields are kept as they are.

    demo: what differs from one checkpoint to another in the application (name, sizes, default steps, tasks,
    example prompts). It is an addition of this package; a checkpoint without it gets the fallbacks.
    """

    model_type = "llada"

    d_model: int = 4096
    n_heads: int = 32
    n_kv_heads: int | None = None
    n_layers: int = 32
    mlp_hidden_size: int = 12288
    vocab_size: int = PUBLISHED_TABLE_SIZE
    embedding_size: int | None = None
    rope_theta: float = 500000.0
    rms_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    codebook_size: int = PUBLISHED_CODEBOOK_SIZE
    tie_word_embeddings: bool = False
    demo: dict = field(default_factory=dict)

    @property
    def table_size(self) -> int:
        """Rows of the embedding and of the head."""
        return self.embedding_size or self.vocab_size

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_heads

    @property
    def image_offset(self) -> int:
        """Id of image code 0: the image codes are the last ids of the table."""
        return self.table_size - self.codebook_size

    def check(self) -> None:
        """Raises DimooError when the configuration asks for something the transformer here does not have."""
        for name in ("d_model", "n_heads", "n_layers", "mlp_hidden_size"):
            if getattr(self, name) < 1:
                raise DimooError(f"config.json: {name} is {getattr(self, name)}, but must be 1 or more.")
        if self.d_model % self.n_heads or self.head_dim % 2:
            raise DimooError(
                f"config.json: d_model {self.d_model} does not split into {self.n_heads} heads of even size."
            )
        if self.n_kv_heads not in (None, self.n_heads):
            raise DimooError("config.json: fewer key heads than heads (n_kv_heads) are not supported.")
        if not 0 < self.codebook_size < self.table_size:
            raise DimooError(
                f"config.json: {self.codebook_size} image codes do not fit in {self.table_size} ids."
            )
        for name in UNSUPPORTED:
            if getattr(self, name, False):
                raise DimooError(f"config.json: {name} is on, but this transformer has no such thing.")
        for name, value in ONLY.items():
            if getattr(self, name, value) != value:
                given, known = json.dumps(getattr(self, name), default=str), json.dumps(value)
                raise DimooError(f"config.json: {name} is {given}, but this transformer knows only {known}.")
