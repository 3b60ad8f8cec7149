"""Training data for text to image: scenes as grids of codes, and batches of equally long sequences.

A scene is known by its seed alone; it is rendered and encoded once, and gets a new caption each time it is seen.
"""
from __future__ import annotations

import multiprocessing
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dimoo.layout import text_to_image
from dimoo.vocab import Vocabulary
from dimoo.vq import VQModel
from dimoo.world.language import benchmark_prompts, caption, captioned_scene
from dimoo.world.render import render
from dimoo.world.scene import Scene

SIZES = ((16, 16), (12, 20), (20, 12), (14, 18), (18, 14))
"""Rows and columns of the pictures; the first is four fifths of all."""
UNCONDITIONAL = 0.10  # of the prompts are dropped (published training)


def size_of(seed: int) -> tuple[int, int]:
    rng = np.random.default_rng((seed, 1))
    return SIZES[0] if rng.random() < 0.8 else SIZES[int(rng.integers(1, len(SIZES)))]


def scene_of(seed: int) -> Scene:
    return captioned_scene(np.random.default_rng(seed), size_of(seed)[1])[0]


def _picture(seed: int) -> np.ndarray:
    rows, columns = size_of(seed)
    return render(scene_of(seed), 16 * columns, 16 * rows).rgb


def encode_scenes(vq: VQModel, path: Path, count: int, first: int = 0) -> dict[int, np.ndarray]:
    """Codes (rows, columns) int16 of scenes first … first + count - 1 by seed; kept in `path`, which is extended as needed."""
    known: dict[int, np.ndarray] = {}
    if path.exists():
        with np.load(path) as file:
            known = {int(name): file[name] for name in file.files}
    missing = [seed for seed in range(first, first + count) if seed not in known]
    if missing:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        with multiprocessing.get_context("fork").Pool(max(1, (os.cpu_count() or 2) - 1)) as workers:
            for i, (seed, rgb) in enumerate(zip(missing, workers.imap(_picture, missing, chunksize=32), strict=True)):
                image = torch.from_numpy(rgb).permute(2, 0, 1)[None].float().div_(255)
                known[seed] = vq.encode(image)[0].to(torch.int16).numpy()
                if i % 500 == 0:
                    print(f"encoded {i} of {len(missing)} scenes", file=sys.stderr, flush=True)
        torch.set_num_threads(threads)
        temporary = path.with_suffix(".tmp.npz")
        np.savez_compressed(temporary, **{str(seed): codes for seed, codes in known.items()})
        os.replace(temporary, path)
    return {seed: known[seed] for seed in range(first, first + count)}


def empty_codes(codes: dict[int, np.ndarray]) -> dict[tuple, np.ndarray]:
    """(setting, shape) -> the most frequent code of each cell: what it holds when nothing stands there."""
    groups = defaultdict(list)
    for seed, grid in codes.items():
        groups[scene_of(seed).setting, grid.shape].append(torch.from_numpy(grid))
    return {key: torch.stack(grids).mode(0).values.numpy() for key, grids in groups.items()}


def batches(vocab: Vocabulary, codes: dict[int, np.ndarray], batch: int, seed: int | tuple[int, ...]
            ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Endless (ids (B, L), cells (n,), codes (B, n), things (B, n)) of equally long sequences.

    Image cells are masks in ids; things tells the cells that differ from the empty setting, for the log.
    """
    empty = empty_codes(codes)
    rng = np.random.default_rng(seed)
    held_out = {prompt.text for prompt in benchmark_prompts()}
    waiting: dict[tuple, list[tuple[Tensor, Tensor, np.ndarray, np.ndarray]]] = defaultdict(list)
    while True:
        for index in rng.permutation(list(codes)):
            grid = codes[int(index)]
            scene = scene_of(int(index))
            text = caption(rng, scene)
            if text in held_out:
                continue
            branches = text_to_image(vocab, text, *grid.shape)
            branch = branches[1] if rng.random() < UNCONDITIONAL else branches[0]
            group = waiting[(grid.shape, len(branch.ids))]
            group.append((branch.ids, branch.cells, grid.reshape(-1), (grid != empty[scene.setting, grid.shape]).reshape(-1)))
            if len(group) == batch:
                ids, cells, grids, things = zip(*group, strict=True)
                group.clear()
                yield torch.stack(ids), cells[0], torch.from_numpy(np.stack(grids)).long(), torch.from_numpy(np.stack(things))


def mask_cells(count: int, cells: int, generator: torch.Generator) -> Tensor:
    """(count, cells) bool, true where masked: ratio cos(r·π/2), r uniform, at least one cell (published training)."""
    ratio = torch.cos(torch.rand(count, generator=generator) * torch.pi / 2)
    number = (cells * ratio).long().clamp(min=1)
    order = torch.rand(count, cells, generator=generator).argsort(1).argsort(1)
    return order < number[:, None]
