"""python -m dimoo train tokenizer|model: resumable runs that end by the clock."""
from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from dimoo.cli import check_writable
from dimoo.errors import DimooError

LEAST_SCENES = 16
OWN = {
    "tokenizer": {"batch": 16, "codes_of": None},
    "model": {"start": None, "grow": False, "own": 0, "rate": 4e-3, "tokenizer": None, "tasks": "all"},
}
"""Options of one of the two alone, with their defaults."""
TOKENIZER = "runs/tokenizer/vqvae"


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    parser.add_argument("what", choices=("tokenizer", "model"), help="the image tokenizer, or the transformer on its codes")
    parser.add_argument("-o", "--output", metavar="DIR", help="folder of the run, continued if it holds one (default: runs/WHAT)")
    parser.add_argument("--minutes", type=float, default=60, metavar="N", help="training time without pauses (default: 60)")
    parser.add_argument("--pictures", type=int, default=4000, metavar="N", help="pictures or scenes to draw (default: 4000)")
    parser.add_argument("--seed", type=int, default=0, help="another one draws other pictures too (default: 0)")
    own = partial(parser.add_argument, default=argparse.SUPPRESS)
    own("--batch", type=int, metavar="N", help="tokenizer: pictures a step (default: 16)")
    own("--codes-of", metavar="DIR", help="tokenizer: train the decoder of this one further, and keep its codes")
    own("--from", dest="start", metavar="DIR", help="model: a checkpoint to train further")
    own("--grow", action="store_true", help="model: with --from, make it as large as a new one first; it computes the same then")
    own("--own", type=int, metavar="N",
        help="model: with --from, let it draw N pictures first, and learn whether they show their prompts (default: 0)")
    own("--rate", type=float, metavar="N", help="model: the highest learning rate (default: 0.004)")
    own("--tokenizer", metavar="DIR", help=f"model: folder of the image tokenizer (default: that of --from, or {TOKENIZER})")
    own("--tasks", choices=("generate", "all"), help="model: text to image alone, or every task (default: all)")


def main(options: argparse.Namespace) -> int:
    options.output = options.output or f"runs/{options.what}"
    complete(options)
    check(options)
    folder = Path(options.output)
    if options.what == "tokenizer":
        from dimoo.train.decoder import train_decoder
        from dimoo.train.tokenizer import train_tokenizer

        numbers = options.minutes, options.pictures, options.batch
        if options.codes_of:
            train_decoder(folder, options.codes_of, *numbers, seed=options.seed)
        else:
            train_tokenizer(folder, *numbers, seed=options.seed)
        print(folder / "vqvae")
    else:
        from dimoo.train.transformer import SIZE, train_transformer

        tokenizer = options.tokenizer or (None if options.start else TOKENIZER)
        train_transformer(folder, tokenizer, options.minutes, options.tasks, options.pictures, rate=options.rate,
                          seed=options.seed, start=options.start, size=SIZE if options.grow else None, own=options.own)
        print(folder / "checkpoint")
    return 0


def complete(options: argparse.Namespace) -> None:
    """Puts in the defaults of options that were not given. Raises DimooError for some that belong to the other training."""
    for what, values in OWN.items():
        for name, value in values.items():
            if what == options.what:
                setattr(options, name, getattr(options, name, value))
            elif hasattr(options, name):
                flag = "from" if name == "start" else name.replace("_", "-")
                raise DimooError(f"--{flag} is of train {what} only.")
    if options.what == "model" and options.grow and not options.start:
        raise DimooError("New weights are as large as that: give --grow together with --from.")
    if options.what == "model" and options.own and (not options.start or options.tasks == "generate"):
        raise DimooError("Only who draws and answers learns from own pictures: give --own together with --from and all tasks.")


def check(options: argparse.Namespace) -> None:
    """Raises DimooError for numbers that no training can have, or where nothing can be written."""
    if not options.minutes > 0:
        raise DimooError("Training takes time: give --minutes more than 0.")
    for name in ("pictures", "batch"):
        if getattr(options, name, 1) < 1:
            raise DimooError(f"Training needs pictures: give --{name} 1 or more.")
    if options.what == "model" and options.pictures < LEAST_SCENES:
        raise DimooError(f"Some scenes of every kind are needed: give --pictures {LEAST_SCENES} or more.")
    if options.what == "model" and options.own < 0:
        raise DimooError("A number of pictures is not negative: give --own 0 or more.")
    if options.what == "model" and not options.rate > 0:
        raise DimooError("Nothing is learned at that rate: give --rate more than 0.")
    if options.seed < 0:
        raise DimooError("A seed is not negative: give --seed 0 or more.")
    check_writable(Path(options.output))
