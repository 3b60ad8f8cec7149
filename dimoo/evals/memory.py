"""python -m dimoo memory: what a checkpoint takes of memory, before it is loaded, or downloaded; and how far that can be trusted.

`peaks` measures it: the same first steps and the same decode that the estimate follows, in a process of its own, as the
growth of its resident memory. Only Linux tells the peak between two moments.
"""
from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch

from dimoo.config import LLaDAConfig
from dimoo.defaults import SMALLEST_SIDE
from dimoo.errors import DimooError
from dimoo.model import DiMOO
from dimoo.outline import MODES, Need, Outline, Work, start_run
from dimoo.vq import VQModel

# Small bodies with image tokenizers, and runs, whose memory is told apart from that of the interpreter.
BODIES: dict[str, dict[str, Any]] = {
    "small": {
        "d_model": 256, "n_heads": 4, "n_layers": 4, "mlp_hidden_size": 768,
        "widths": (16, 32, 32, 64, 64), "cells": 40,
    },
    "medium": {
        "d_model": 512, "n_heads": 8, "n_layers": 6, "mlp_hidden_size": 1536,
        "widths": (32, 32, 64, 64, 96), "cells": 64,
    },
    "large": {
        "d_model": 1024, "n_heads": 8, "n_layers": 6, "mlp_hidden_size": 3072,
        "widths": (32, 64, 64, 96, 128), "cells": 48,
    },
}  # fmt: skip
TEXT_IDS = 1000
PARTS = ("weights", "activations", "cache", "decoder", "total")
# Freed memory goes back at once, and one thread keeps one set of work space: what is measured is what was asked for.
STEADY = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144", "MALLOC_ARENA_MAX": "1"}


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    from dimoo.cli import size

    parser.add_argument("--checkpoint", metavar="NAME", help="folder or hub id; the published one is known without a download")
    parser.add_argument("--size", type=size, metavar="WxH", help="pixels, such as 1024x1024 (default: the checkpoint's)")
    parser.add_argument("--mode", choices=MODES, help="how weights are loaded (default: a table of all)")
    parser.add_argument("--cache", action="store_true", help="only with keys and values kept between steps")
    parser.add_argument("--measure", action="store_true", help="compare estimates with measured peaks of three small bodies")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers as JSON, in bytes")


def main(options: argparse.Namespace) -> int:
    if options.measure:
        numbers = {"measured": measure()}
        show_measured(numbers["measured"])
    else:
        numbers = {"memory": estimate(options.checkpoint, options.size, options.mode, options.cache)}
        show(numbers["memory"])
    if options.json:
        from dimoo.metadata import save_json

        save_json(numbers, options.json)
    return 0


def estimate(checkpoint: str | None, size: tuple[int, int] | None, mode: str | None, cache: bool) -> dict[str, Any]:
    """Bytes for a guided text to image run; mode None: in every mode; cache False: without and with the cache."""
    from dimoo.checkpoint import default_checkpoint, outline_of

    ways = product([mode] if mode else MODES, [True] if cache else [False, True])
    name, runs = checkpoint or default_checkpoint(), []
    for mode, cache in ways:
        outline, defaults = outline_of(name, mode)
        width, height = size or (defaults.width, defaults.height)
        cell = outline.vq.cell
        if min(width, height) < SMALLEST_SIDE or width % cell or height % cell:
            raise DimooError(f"Width and height must be multiples of {cell}, {SMALLEST_SIDE} or more, for this checkpoint.")
        work = Work.picture(height // cell, width // cell, cache=cache, top_k=defaults.top_k, plausible=defaults.plausible)
        runs.append({"mode": mode, "with cache": cache, **written(outline.need(work))})
    return {"checkpoint": name, "size": f"{width}x{height}", "runs": runs}


def written(need: Need) -> dict[str, int]:
    return asdict(need) | {"total": need.total}


def show(numbers: dict[str, Any]) -> None:
    print(f"{numbers['checkpoint']}, {numbers['size']}, text to image with guidance; GB = 10⁹ bytes")
    print(f"{'mode':<10}{'cache':<7}" + "".join(f"{name:>13}" for name in PARTS))
    for run in numbers["runs"]:
        values = (run[name] / 1e9 for name in PARTS)
        print(f"{run['mode']:<10}{'on' if run['with cache'] else 'off':<7}" + "".join(f"{value:>13.2f}" for value in values))
    print("Steps and decoder take turns, so the larger of the two counts. Work space of libraries comes on top.")


def measure(bodies: dict[str, dict[str, Any]] = BODIES) -> dict[str, dict[str, float]]:
    """Estimated and measured bytes of steps, cache included, and of the decoder, for each body; float32 on the processor."""
    if not Path("/proc/self/clear_refs").exists():
        raise DimooError("Peaks of memory can only be measured on Linux.")
    results = {}
    for name, body in bodies.items():
        config, vq_config, work = plan(body)
        need = Outline(config, vq_config, "float32").need(work)
        command = [sys.executable, "-c", "from dimoo.evals.memory import peaks; peaks()"]
        environment = os.environ | STEADY | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        child = subprocess.run(command, input=json.dumps(body), env=environment, capture_output=True, text=True)
        if child.returncode:
            reason = (child.stderr.strip().splitlines() or [f"it ended with {child.returncode}, as when memory runs out"])[-1]
            raise DimooError(f"The measurement of the {name} body failed: {reason}")
        measured = json.loads(child.stdout)
        results[name] = {
            "step estimated": need.activations + need.cache, "step measured": measured["step"],
            "decoder estimated": need.decoder, "decoder measured": measured["decoder"],
        }  # fmt: skip
    return results


def show_measured(results: dict[str, dict[str, float]]) -> None:
    for name, numbers in results.items():
        for part in ("step", "decoder"):
            guess, found = numbers[f"{part} estimated"], numbers[f"{part} measured"]
            off = 100 * (guess / found - 1)
            print(f"{name:<8}{part:<9}estimated {guess / 1e6:7.0f} MB, measured {found / 1e6:7.0f} MB, {off:+.0f} %")


def plan(body: dict[str, Any]) -> tuple[LLaDAConfig, dict[str, Any], Work]:
    sizes = {name: value for name, value in body.items() if name not in ("widths", "cells")}
    config = LLaDAConfig(vocab_size=TEXT_IDS + 8192, **sizes)
    vq_config = {"block_out_channels": list(body["widths"]), "norm_num_groups": 8}
    return config, vq_config, Work.picture(body["cells"], body["cells"], cache=True)


def peaks() -> None:
    """Measures the body described on standard input and writes bytes to standard output."""
    config, vq_config, work = plan(json.load(sys.stdin))
    model, vq = DiMOO(config).eval(), VQModel(vq_config).to(memory_format=torch.channels_last).eval()
    codes = torch.zeros(1, *work.grid, dtype=torch.long)
    held = torch.ones(work.masked, config.codebook_size)  # what a decode finds in memory, by the estimate's account

    start_run(config, Work.picture(4, 4, cache=True), model.predict)  # what libraries set up once is no part of a run
    vq.decode(codes[:, :4, :4])
    step = growth(lambda: start_run(config, work, model.predict))
    print(json.dumps({"step": step, "decoder": held.nbytes + growth(lambda: vq.decode(codes))}))


def growth(work: Callable[[], object]) -> int:
    """Bytes by which the process's resident memory grew at most while `work` ran."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def resident(kind: str) -> int:
    return int(re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
