"""python -m dimoo finetune: low-rank adapters in all blocks, trained on pictures of one's own (LoRA, arXiv 2106.09685).

Everything else stays as it is. The objective is the published one (report, section 4).
"""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dimoo import layout
from dimoo.errors import DimooError
from dimoo.images import fit_bucket, upright
from dimoo.memory import out_of_memory
from dimoo.model import DiMOO
from dimoo.packed import Packed
from dimoo.pipeline import Pipeline
from dimoo.train import adapting
from dimoo.train.adapting import Adapting
from dimoo.train.captions import Captioned, fingerprint, read_folder
from dimoo.train.data import UNCONDITIONAL
from dimoo.train.masks import mask_by_cosine
from dimoo.train.run import Run

LEAST_SIDE = 64
HEAD_ROWS = 256


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    parser.add_argument("folder", metavar="FOLDER",
                        help="pictures, each with its caption in a .txt file beside it, or all of them in a metadata.jsonl")
    adapting.arguments(parser, "runs/finetuned", rate=1e-4)
    parser.add_argument("--batch", type=int, default=4, metavar="N", help="pictures of a step (default: 4)")
    parser.add_argument("--side", type=int, metavar="N",
                        help="pictures are brought to about the area of such a square, in pixels (default: as it draws)")


def main(options: argparse.Namespace) -> int:
    """Raises DimooError for wrong numbers, pictures and captions before anything is loaded."""
    adapting.check(options)
    if options.batch < 1:
        raise DimooError("Training needs pictures: give --batch 1 or more.")
    if options.side is not None and options.side < LEAST_SIDE:
        raise DimooError(f"Pictures of that size show nothing: give --side {LEAST_SIDE} or more.")
    pictures = read_folder(options.folder)
    pipeline, base = adapting.loaded(options)
    unknown = dict.fromkeys(word for picture in pictures for word in pipeline.vocab.unknown_words(picture.text))
    if unknown:
        print(f"dimoo: {pipeline.defaults.name} does not know, and leaves out: {', '.join(unknown)}.", file=sys.stderr)
    side = options.side or round((pipeline.defaults.width * pipeline.defaults.height) ** 0.5)
    with out_of_memory():
        finetune(pipeline, base, pictures, options.output, options.minutes, side, options.rate, options.rank, options.batch,
                 options.seed)
    print(Path(options.output) / "adapter")
    return 0


def finetune(pipeline: Pipeline, base: str, pictures: list[Captioned], folder: str | Path, minutes: float, side: int,
             rate: float = 1e-4, rank: int = 16, batch: int = 4, seed: int = 0) -> None:
    """Train an adapter for `minutes` in `folder` (resumable); leaves it in `folder/adapter`.

    base: the name that the pipeline was loaded by. side: pictures are scaled and cropped to an area of about its square. batch:
    pictures of a step. Raises DimooError when the folder holds a run on something else.
    """
    run = Run(folder, minutes)
    facts = f"adapter of rank {rank} for {base} on {fingerprint(pictures)} at {side}, seed {seed}"
    run.is_for(facts, "checkpoint, rank or seed, or other pictures, captions or sizes")
    model, vocab, device = pipeline.model, pipeline.vocab, pipeline.model.device
    grids = [pipeline.encode(fit_bucket(upright(str(picture.path)), side)) for picture in pictures]
    adapter = Adapting.begin(pipeline, run, base, rate, rank, seed)
    rng, generator = np.random.default_rng((seed, run.step)), torch.Generator().manual_seed(seed + run.step)
    while run.tick():
        losses = []
        for index in rng.integers(len(pictures), size=batch):
            branches = layout.text_to_image(vocab, vocab.known_words(pictures[index].text), *grids[index].shape)
            branch = branches[int(rng.random() < UNCONDITIONAL)]
            mask = mask_by_cosine(grids[index].numel(), generator)
            targets = grids[index].flatten() + vocab.image_offset
            ids = branch.ids.clone()
            ids[branch.cells] = torch.where(mask, ids[branch.cells], targets)
            states = model.hidden(Packed.of([ids]).to(device))[branch.cells[mask].to(device)]
            loss = mean_nll(model, states, targets[mask].to(device))
            (loss / batch).backward()
            losses.append(loss.item())
        adapter.step()
        run.report(loss=float(np.mean(losses)))


def mean_nll(model: DiMOO, states: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-probability of targets (n,) in the whole vocabulary, at hidden states (n, d).

    Some rows at a time, made again on the way back: else all logits of a picture, and float32 copies of the head, would wait.
    """
    def total(states: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(model.logits(states), targets, reduction="sum")

    parts = zip(states.split(HEAD_ROWS), targets.split(HEAD_ROWS), strict=True)
    return sum(checkpoint(total, *part, use_reentrant=False) for part in parts) / len(targets)
