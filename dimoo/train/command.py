"""python -m dimoo train tokenizer|model: resumable runs that end by the clock."""
from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    parser.add_argument("what", choices=("tokenizer", "model"), help="the image tokenizer, or the transformer on its codes")
    parser.add_argument("-o", "--output", metavar="DIR", help="folder of the run, continued if it holds one (default: runs/WHAT)")
    parser.add_argument("--minutes", type=float, default=60, metavar="N", help="training time without pauses (default: 60)")
    parser.add_argument("--tokenizer", default="runs/tokenizer/vqvae", metavar="DIR", help="model: folder of the image tokenizer")
    parser.add_argument("--codes-of", metavar="DIR", help="tokenizer: train the decoder of this one further, and keep its codes")
    parser.add_argument("--tasks", choices=("generate", "all"), default="all", help="model: text to image alone, or every task")
    parser.add_argument("--pictures", type=int, default=None, metavar="N", help="pictures or scenes to draw for training")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="tokenizer: pictures a step (default: 16)")
    parser.add_argument("--seed", type=int, default=0)


def main(options: argparse.Namespace) -> int:
    folder = Path(options.output or f"runs/{options.what}")
    if options.what == "tokenizer":
        from dimoo.train.tokenizer import train_tokenizer

        train_tokenizer(
            folder, options.minutes, options.pictures or 4000, options.batch, seed=options.seed, codes_of=options.codes_of
        )
        print(folder / "vqvae")
    else:
        from dimoo.train.transformer import train_transformer

        train_transformer(folder, options.tokenizer, options.minutes, options.tasks, options.pictures or 4000, seed=options.seed)
        print(folder / "checkpoint")
    return 0
