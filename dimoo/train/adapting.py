"""What every training of an adapter shares: its options, and a resumable run that saves it (see adapter.py)."""
from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.checkpoint import checkpoint

from dimoo.adapter import base_of, need_peft, new_adapter
from dimoo.checkpoint import BUILT_IN, ROOT, default_checkpoint, find, load
from dimoo.cli import check_writable
from dimoo.errors import DimooError
from dimoo.hub import CONFIGS
from dimoo.pipeline import Pipeline
from dimoo.train.run import Run, replacing

if TYPE_CHECKING:
    from peft import PeftModel

WARM_UP = 20
"""Steps in which the rate rises."""


def arguments(parser: argparse.ArgumentParser, output: str, rate: float) -> None:
    parser.add_argument("-o", "--output", metavar="DIR", default=output,
                        help=f"folder of the run, continued if it holds one (default: {output})")
    parser.add_argument("--checkpoint", metavar="NAME",
                        help="what to train it for: folder or hub id (default: DIMOO_CHECKPOINT, or else the built-in one)")
    parser.add_argument("--minutes", type=float, default=30, metavar="N", help="training time without pauses (default: 30)")
    parser.add_argument("--rate", type=float, default=rate, metavar="N", help=f"learning rate (default: {rate:g})")
    parser.add_argument("--rank", type=int, default=16, metavar="N", help="of the adapter's matrices (default: 16)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is random (default: 0)")
    parser.add_argument("--device", help="cpu or cuda (default: what there is)")
    parser.add_argument("--quantize", metavar="int8|nf4", help="keep the frozen weights in 8 or 4 bits")


def check(options: argparse.Namespace) -> None:
    """Raises DimooError for numbers that no training can have, without the package for it, or where nothing can be written."""
    if not (options.minutes > 0 and options.rate > 0):
        raise DimooError("Training takes time and a rate: give --minutes and --rate more than 0.")
    need_peft()
    if options.rank < 1 or options.seed < 0:
        raise DimooError("Give --rank 1 or more, and --seed 0 or more.")
    check_writable(Path(options.output))


def loaded(options: argparse.Namespace) -> tuple[Pipeline, str]:
    """The checkpoint that the options name, and its name for good. Raises DimooError for an adapter."""
    name = options.checkpoint or default_checkpoint()
    folder = find(name, CONFIGS)
    if base_of(folder) is not None:
        raise DimooError(f"{name} is an adapter itself: take its base, or continue its run.")
    base = lasting_name(name)
    return load(base, options.device, quantize=options.quantize), base


def lasting_name(name: str) -> str:
    """The name of a checkpoint, such that it means the same wherever it is loaded from later on."""
    folder = next((f for f in (Path(name).expanduser(), ROOT / name) if f.is_dir()), None)
    return name if name == BUILT_IN or not folder else str(folder.resolve())


@dataclass
class Adapting:
    """A new adapter in training. adapted: the model with it, as peft has it; adam: of its weights, which alone are trained."""

    run: Run
    adapted: PeftModel
    adam: torch.optim.Optimizer
    rate: float

    @classmethod
    def begin(cls, pipeline: Pipeline, run: Run, base: str, rate: float, rank: int, seed: int) -> Adapting:
        """Puts an adapter into the pipeline's model, or takes up that of the run; it is saved in `adapter` of its folder."""
        torch.manual_seed(seed)  # of the new weights
        model = pipeline.model.train()
        adapted = new_adapter(model, base, rank)
        for block in model.model["transformer"]["blocks"]:
            block.forward = partial(_recomputed, block.forward)
        trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
        adam = torch.optim.AdamW(trained, rate, betas=(0.9, 0.95), weight_decay=0.1)

        def save() -> None:
            with replacing(run.folder / "adapter") as new:
                adapted.save_pretrained(new, save_embedding_layers=False)  # or it asks the hub whether those are as they were

        run.on_save = save
        run.resume(adapter=torch.nn.ParameterList(trained), adam=adam)
        return cls(run, adapted, adam, rate)

    def step(self) -> None:
        """One update from the gradients, which are then gone."""
        group = self.adam.param_groups[0]
        group["lr"] = self.rate * min(1.0, self.run.step / WARM_UP)
        torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)


def _recomputed(forward, *args):
    """A block's pass; where gradients are wanted, what it computes on the way is computed again instead of kept."""
    return checkpoint(forward, *args, use_reentrant=False) if torch.is_grad_enabled() else forward(*args)
