"""Own pictures: what a checkpoint draws for prompts, and what the judge sees there.

A model that has read renders only finds what it asked for in whatever it drew itself. From its own pictures, some of them
wrong, it learns to tell (self-verification; compare STaR's learning from own attempts that were checked, arXiv 2203.14465).
"""
from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dimoo.pipeline import Pipeline
from dimoo.tasks import SEEDS
from dimoo.train.claims import shows
from dimoo.train.self_grpo import Method, draw
from dimoo.world.judge import Reading, read
from dimoo.world.language import Prompt, random_prompts
from dimoo.world.lessons import Shot
from dimoo.world.scene import Scene, Thing

METHOD = Method(256, 256, steps=24, group=4)
"""How they are drawn: in fewer steps than a user's, which makes no better ones."""


@dataclass(frozen=True)
class Own:
    """A picture: the prompt, its codes (rows, columns) long, and the scene that the judge reads there."""

    prompt: Prompt
    codes: Tensor
    scene: Scene

    @property
    def shot(self) -> Shot:
        """What a render of that scene would be."""
        return Shot(self.scene, *self.codes.shape)

    @property
    def right(self) -> bool:
        """Whether it shows its prompt."""
        return shows(self.prompt, Reading(self.scene.setting, self.scene.things))


def own_pictures(pipeline: Pipeline, folder: Path, count: int, seed: int) -> list[Own]:
    """`count` own pictures, some of each prompt; kept in a file of `folder`, which is extended as needed."""
    path, size = folder / "own.jsonl", METHOD.group
    prompts = list(islice(random_prompts(np.random.default_rng((seed, 7))), -(-count // size)))
    lines = path.read_text().splitlines() if path.exists() else []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a prompt to each processor is faster than all processors on one
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        missing = range(len(lines) // size, len(prompts))
        for done, group in enumerate(workers.map(lambda i: _drawn(pipeline, prompts[i], (seed, i)), missing), missing.start + 1):
            lines += group
            if done % 10 == 0 or done == len(prompts):
                temporary = path.with_suffix(".tmp")
                temporary.write_text("\n".join(lines) + "\n")
                os.replace(temporary, path)
                print(f"drew {len(lines)} of {size * len(prompts)} own pictures", file=sys.stderr, flush=True)
    torch.set_num_threads(threads)
    return [_parsed(prompts[i // size], line) for i, line in enumerate(lines[:count])]


def _drawn(pipeline: Pipeline, prompt: Prompt, seed: tuple[int, ...]) -> list[str]:
    """A line for each picture of a prompt."""
    pictures = draw(pipeline, prompt.text, METHOD, int(np.random.default_rng(seed).integers(SEEDS))).pictures
    return [_line(codes, _seen(pipeline, codes)) for codes in pictures]


def _seen(pipeline: Pipeline, codes: Tensor) -> Scene:
    return read(np.asarray(pipeline.decode(codes, torch.zeros_like(codes, dtype=torch.bool)))).scene


def _line(codes: Tensor, scene: Scene) -> str:
    things = [asdict(thing) for thing in scene.things]
    return json.dumps({"codes": codes.tolist(), "setting": scene.setting, "things": things})


def _parsed(prompt: Prompt, line: str) -> Own:
    values = json.loads(line)
    return Own(prompt, torch.tensor(values["codes"]), Scene(tuple(Thing(**t) for t in values["things"]), values["setting"]))
