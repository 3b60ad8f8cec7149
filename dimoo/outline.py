"""What a checkpoint's weights and a run take of memory, known before it is loaded, or downloaded.

Nothing here is a formula for the model: the code that will run is followed once on tensors without contents (tracing.py).
Only what bitsandbytes does inside its quantized layers is written down a second time.
"""
from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dimoo.cache import KeyValueCache
from dimoo.config import LLaDAConfig
from dimoo.errors import DimooError
from dimoo.layout import Branch
from dimoo.model import Block, DiMOO
from dimoo.noise import CounterNoise
from dimoo.packed import Packed
from dimoo.passes import Forward, PartialCache
from dimoo.sampler import ImageSampling, TextSampling, unmask_image, unmask_text
from dimoo.tracing import peak_of
from dimoo.vq import VQModel

MODES = {"bf16": torch.bfloat16, "float32": torch.float32, "int8": torch.bfloat16, "nf4": torch.bfloat16}
MASK = 0  # any id does for tokens without contents
STEPS = 8  # of which a cache's first three compute all rows, each beside what the one before has left, and the fourth some
LAYERS = 2  # that are followed: layers are alike, only their keys and values add up


@dataclass(frozen=True)
class Work:
    """The size of a run.

    lengths: tokens of the sequences that go through the model together; masked: cells, or tokens of the answer, to fill
    in; grid: (h, w) cells of the picture decoded in the end, None for an answer; given: (h, w) cells of pictures that are
    encoded first; block: tokens of an answer that are unmasked together; cache: whether keys and values are kept; top_k,
    plausible: see ImageSampling.
    """

    lengths: tuple[int, ...]
    masked: int
    grid: tuple[int, int] | None = None
    given: tuple[tuple[int, int], ...] = ()
    block: int = 32
    cache: bool = False
    top_k: int | None = None
    plausible: float = 0.0

    @classmethod
    def picture(cls, height: int, width: int, prompt: int = 60, guided: bool = True, **others: Any) -> Work:
        """Text to image, for height x width cells; prompt: tokens around the picture, of both branches; others: fields."""
        length = height * (width + 1) + prompt
        return cls((length,) * (1 + guided), height * width, (height, width), **others)


@dataclass(frozen=True)
class Need:
    """Bytes. activations: the most that a step holds beside weights and cache; decoder: the same for image tokenizer."""

    weights: int
    activations: int
    cache: int
    decoder: int

    @property
    def run(self) -> int:
        """What a run takes beside the weights: the cache, and the larger of what steps and decoder hold."""
        return self.cache + max(self.activations, self.decoder)

    @property
    def total(self) -> int:
        return self.weights + self.run


class Outline:
    """A checkpoint without its weights: enough to say what they and any run with them take.

    mode: one of MODES. vq_config: config.json of the image tokenizer, of which aMUSEd's values fill the gaps.
    """

    def __init__(self, config: LLaDAConfig, vq_config: Mapping, mode: str = "bf16") -> None:
        if mode not in MODES:
            raise DimooError(f"{mode} is no mode of loading weights: choose one of {', '.join(MODES)}.")
        self.config, self.mode = config, mode
        with torch.device("meta"):
            self.model = DiMOO(config).to(MODES[mode]).eval()
        self.vq = VQModel.without_contents(dict(vq_config)).precise(MODES[mode]).eval()
        self.parameters = sum(p.numel() for p in self.model.parameters())
        if mode in ("int8", "nf4"):
            quantize(self.model, mode)
        self.weights = sum(p.nbytes for part in (self.model, self.vq) for p in part.state_dict().values())
        body = self.model.model["transformer"]
        self.block_bytes = sum(p.nbytes for p in body["blocks"][0].state_dict().values())
        body["blocks"] = body["blocks"][:LAYERS]
        self._needs: dict[Work, Need] = {}

    def need(self, work: Work) -> Need:
        """What a run takes. Worked out once for each size."""
        if work not in self._needs:
            self._needs[work] = self._follow(work)
        return self._needs[work]

    def _follow(self, work: Work) -> Need:
        caches: list[KeyValueCache] = []

        def forward(
            packed: Packed, rows: Tensor, vocab: slice, cache: KeyValueCache | None = None, queries: Tensor | None = None
        ) -> Tensor:
            if cache is not None and cache not in caches:
                caches.append(cache)
            if queries is not None:  # a part of what a full pass goes through; what differs is what the sampler holds beside it
                return torch.empty(len(rows), vocab.stop - vocab.start, device="meta")
            return self.model(packed.to("meta"), rows.to("meta"), vocab, cache)

        peak = peak_of(lambda: start_run(self.config, work, forward))
        cache = sum(cache.nbytes for cache in caches)
        tokenizer = [peak_of(lambda cells=cells: self._encode(*cells)) for cells in work.given]
        if work.grid:
            held = 4 * work.masked * self.config.codebook_size  # the logits of the last step
            tokenizer.append(held + peak_of(lambda: self._decode(*work.grid)))
        layers = self.config.n_layers / min(LAYERS, self.config.n_layers)
        return Need(self.weights, peak - cache, round(cache * layers), max(tokenizer, default=0))

    def _encode(self, height: int, width: int) -> None:
        self.vq.encode(torch.empty(1, 3, height * self.vq.cell, width * self.vq.cell, device="meta"))

    def _decode(self, height: int, width: int) -> None:
        self.vq.decode(torch.empty(1, height, width, dtype=torch.long, device="meta"))


def start_run(config: LLaDAConfig, work: Work, forward: Forward) -> None:
    """The first steps of a run of this size, without a request: its ids say nothing but which are masked."""
    branches = [branch(length, work.masked) for length in work.lengths]
    if work.grid is None:
        sampling = TextSampling(steps=work.masked, block=work.block, reuse=work.cache, never=(MASK + 1,))
        states = unmask_text(forward, branches[0], sampling, slice(0, config.image_offset), MASK)
    else:
        sampling = ImageSampling(
            STEPS, guidance=len(branches) > 1, guidance_image=len(branches) > 2, top_k=work.top_k, plausible=work.plausible,
            reuse=PartialCache() if work.cache else None,
        )  # fmt: skip
        codes = slice(config.image_offset, config.table_size)
        states = unmask_image(forward, branches, sampling, CounterNoise(0), codes, MASK)
    with closing(states):
        for _ in zip(range(5 if work.grid else 2), states, strict=False):
            pass


def branch(length: int, masked: int) -> Branch:
    ids = torch.full((length,), MASK + 1)
    ids[:masked] = MASK
    return Branch(ids, torch.arange(masked))


class Int8Linear(nn.Module):
    """What bitsandbytes' Linear8bitLt holds (LLM.int8(), arXiv 2208.07339), without contents."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features = linear.out_features
        self.register_buffer("weight", torch.empty(linear.weight.shape, dtype=torch.int8, device="meta"))
        self.register_buffer("scales", torch.empty(linear.out_features, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        half = x.to(torch.float16)
        codes = half.to(torch.int8)
        del half
        products = torch.empty(len(x), self.out_features, dtype=torch.int32, device="meta")
        result = products.to(x.dtype)
        del codes, products
        return result


class FourBitLinear(nn.Module):
    """What bitsandbytes' Linear4bit holds (nf4 with doubly quantized scales, arXiv 2305.14314), without contents."""

    BLOCK, SECOND_BLOCK = 64, 256  # numbers that share a scale, and scales that share theirs

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.shape, count = linear.weight.shape, linear.weight.numel()
        self.out_features = linear.out_features
        scales = -(-count // self.BLOCK)
        self.register_buffer("weight", torch.empty(-(-count // 2), dtype=torch.uint8, device="meta"))
        self.register_buffer("scales", torch.empty(scales, dtype=torch.uint8, device="meta"))
        self.register_buffer("second", torch.empty(-(-scales // self.SECOND_BLOCK), device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.empty(self.shape, dtype=x.dtype, device="meta").t()  # unpacked for many rows at once


def quantize(model: DiMOO, mode: str) -> None:
    """Puts quantized layers in the place of the linear ones of the blocks; embedding and head stay as they are."""
    kind = Int8Linear if mode == "int8" else FourBitLinear
    for block in model.modules():
        if isinstance(block, Block):
            for name, layer in list(block.named_children()):
                if isinstance(layer, nn.Linear):
                    setattr(block, name, kind(layer))
