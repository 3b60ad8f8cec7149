"""Own pictures: what a checkpoint draws for prompts, and what the judge sees there.

A model that has read renders only finds what it asked for in whatever it drew itself. From its own pictures, some of them
wrong, it learns to tell (self-verification; compare STaR's learning from own attempts that were checked, arXiv 2203.14465).
"""
from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dimoo.evals.generate import shows
from dimoo.pipeline import Pipeline
from dimoo.tasks import SEEDS
from dimoo.train.families import digest_of
from dimoo.train.run import workers
from dimoo.train.self_grpo import Method, draw, seen
from dimoo.world.judge import Reading
from dimoo.world.language import Prompt, random_prompts
from dimoo.world.lessons import Shot
from dimoo.world.scene import Thing

METHOD = Method(256, 256, steps=24, group=4)
"""How they are drawn: in fewer steps than a user's, as more make no more of them right."""


@dataclass(frozen=True)
class Own:
    """A picture: the prompt, its codes (rows, columns) long, and what the judge sees there."""

    prompt: Prompt
    codes: Tensor
    reading: Reading

    @property
    def shot(self) -> Shot:
        """What a render of that would be."""
        return Shot(self.reading.scene, *self.codes.shape)

    @property
    def right(self) -> bool:
        """Whether it shows its prompt."""
        return shows(self.prompt, self.reading)


def own_pictures(pipeline: Pipeline, folder: Path, count: int, seed: int) -> list[Own]:
    """`count` own pictures, some of each prompt; kept in a file of `folder`, which is extended as needed."""
    path, size = folder / f"own-{seed}-{digest_of(pipeline.model.state_dict().values())}.jsonl", METHOD.group
    prompts = list(islice(random_prompts(np.random.default_rng((seed, 7))), -(-count // size)))
    lines = path.read_text().splitlines() if path.exists() else []
    with workers() as executor:
        missing = range(len(lines) // size, len(prompts))
        for done, group in enumerate(executor.map(lambda i: _drawn(pipeline, prompts[i], (seed, i)), missing), missing.start + 1):
            lines += group
            if done % 10 == 0 or done == len(prompts):
                temporary = path.with_suffix(".tmp")
                temporary.write_text("\n".join(lines) + "\n")
                os.replace(temporary, path)
                print(f"drew {len(lines)} of {size * len(prompts)} own pictures", file=sys.stderr, flush=True)
    return [_parsed(prompts[i // size], line) for i, line in enumerate(lines[:count])]


def _drawn(pipeline: Pipeline, prompt: Prompt, seed: tuple[int, ...]) -> list[str]:
    """A line for each picture of a prompt."""
    pictures = draw(pipeline, prompt.text, METHOD, int(np.random.default_rng(seed).integers(SEEDS))).pictures
    return [json.dumps({"codes": codes.tolist()} | asdict(seen(pipeline, codes))) for codes in pictures]


def _parsed(prompt: Prompt, line: str) -> Own:
    values = json.loads(line)
    things = tuple(Thing(**thing) for thing in values["things"])
    return Own(prompt, torch.tensor(values["codes"]), Reading(values["setting"], things))
