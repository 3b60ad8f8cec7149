"""python -m dimoo train tokenizer|model: resumable runs that end by the clock."""
from __future__ import annotations

import argparse
from pathlib import Path

from dimoo.errors import DimooError

LEAST_SCENES = 16


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    parser.add_argument("what", choices=("tokenizer", "model"), help="the image tokenizer, or the transformer on its codes")
    parser.add_argument("-o", "--output", metavar="DIR", help="folder of the run, continued if it holds one (default: runs/WHAT)")
    parser.add_argument("--minutes", type=float, default=60, metavar="N", help="training time without pauses (default: 60)")
    parser.add_argument("--from", dest="start", metavar="DIR", help="model: a checkpoint to train further, and its tokenizer")
    parser.add_argument("--rate", type=float, default=4e-3, metavar="N", help="model: the highest learning rate (default: 0.004)")
    parser.add_argument("--tokenizer", default="runs/tokenizer/vqvae", metavar="DIR", help="model: folder of the image tokenizer")
    parser.add_argument("--codes-of", metavar="DIR", help="tokenizer: train the decoder of this one further, and keep its codes")
    parser.add_argument("--tasks", choices=("generate", "all"), default="all", help="model: text to image alone, or every task")
    parser.add_argument("--pictures", type=int, default=4000, metavar="N", help="pictures or scenes to draw (default: 4000)")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="tokenizer: pictures a step (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="another one draws other pictures too (default: 0)")


def main(options: argparse.Namespace) -> int:
    check(options)
    folder = Path(options.output or f"runs/{options.what}")
    if options.what == "tokenizer":
        from dimoo.train.tokenizer import train_tokenizer

        train_tokenizer(folder, options.minutes, options.pictures, options.batch, seed=options.seed, codes_of=options.codes_of)
        print(folder / "vqvae")
    else:
        from dimoo.train.transformer import train_transformer

        train_transformer(folder, options.tokenizer, options.minutes, options.tasks, options.pictures, rate=options.rate,
                          seed=options.seed, start=options.start)
        print(folder / "checkpoint")
    return 0


def check(options: argparse.Namespace) -> None:
    """Raises DimooError for numbers that no training can have."""
    if not options.minutes > 0:
        raise DimooError("Training takes time: give --minutes more than 0.")
    for name in ("pictures", "batch"):
        if getattr(options, name) < 1:
            raise DimooError(f"Training needs pictures: give --{name} 1 or more.")
    if options.what == "model" and options.pictures < LEAST_SCENES:
        raise DimooError(f"Some scenes of every kind are needed: give --pictures {LEAST_SCENES} or more.")
    if not options.rate > 0:
        raise DimooError("Nothing is learned at that rate: give --rate more than 0.")
    if options.seed < 0:
        raise DimooError("A seed is not negative: give --seed 0 or more.")
