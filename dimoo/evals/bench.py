"""python -m dimoo bench: how fast a checkpoint is here. Machines differ and are noisy, so what counts are the ratios."""
from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from dimoo.pipeline import Pipeline
from dimoo.tasks import Generate


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    parser.add_argument("--checkpoint", metavar="NAME", help="folder or hub id (default: the built-in one)")
    parser.add_argument("--device", help="cpu or cuda (default: what there is)")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="runs of each, the median counts (default: 3)")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers as JSON")


def median_seconds(work: Callable[[], object], repeat: int) -> float:
    """Median wall time of `work`, after one run that does not count."""
    work()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def bench(pipeline: Pipeline, repeat: int) -> dict:
    """Seconds and shares of a default run: first frame, a step, previews, the final decode."""
    request = Generate(pipeline.defaults.prompts[0], seed=0)
    firsts, totals, steps = [], [], 0
    for i in range(repeat + 1):
        start = time.perf_counter()
        frames = pipeline.run(request)
        next(frames)
        next(frames)
        first = time.perf_counter() - start
        for frame in frames:
            steps = frame.steps
        if i:
            firsts.append(first)
            totals.append(time.perf_counter() - start)
    full = request.resolve(pipeline.defaults)
    grid = (full.height // pipeline.vq.cell, full.width // pipeline.vq.cell)
    codes = torch.randint(len(pipeline.vq.codebook), grid)
    chances = torch.rand(int(codes.numel()), len(pipeline.vq.codebook))
    run = float(np.median(totals))
    preview = median_seconds(lambda: pipeline.preview.draw(torch.full(grid, -1), chances), repeat)
    decode = median_seconds(lambda: pipeline.vq.decode(codes[None].to(pipeline.vq.codebook.device)), repeat)
    dtype = str(pipeline.model.dtype).removeprefix("torch.")
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {pipeline.model.device}, {dtype}",
        "size": f"{full.width}x{full.height}", "steps": steps, "run seconds": run, "first step seconds": float(np.median(firsts)),
        "pictures a second": steps / run, "preview seconds": preview, "preview share of a step": preview * steps / run,
        "decode seconds": decode, "decode share of a step": decode * steps / run,
    }  # fmt: skip


def main(options: argparse.Namespace) -> int:
    from dimoo.checkpoint import BUILT_IN, load
    from dimoo.evals.command import show

    start = time.perf_counter()
    pipeline = load(options.checkpoint or BUILT_IN, options.device)
    loaded = time.perf_counter() - start
    print("measuring …", file=sys.stderr)
    numbers = {"load seconds": loaded} | bench(pipeline, max(1, options.repeat))
    show(numbers)
    if options.json:
        from dimoo.metadata import save_json

        save_json({"bench": numbers}, options.json)
    return 0
