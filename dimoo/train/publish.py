"""What training leaves behind: a checkpoint in the hub layout, with what the demo shows of it, and samples."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dimoo.checkpoint import load
from dimoo.model import DiMOO
from dimoo.preview import Preview
from dimoo.tasks import Generate
from dimoo.train.data import LONG, SHORT
from dimoo.train.run import replacing
from dimoo.train.words import write_tokenizer
from dimoo.world import scene as world

DEMO = {
    "name": "Toytown",
    "default_size": [256, 256],
    "presets": [[columns * world.CELL, rows * world.CELL, name.capitalize()] for name, (rows, columns) in world.SHAPES.items()],
    "other_shapes": False,
    "steps": 40,
    "tries": 2,
    "assess": "words",
    "guidance": 3.0,
    "temperature": 0.8,
    "top_k": None,
    "plausible": 0.03,
    "max_area": 512 * 512,
    "edit_guidance": 2.0,
    "edit_guidance_image": 1.5,
    "edit_temperature": 0.3,
    "edit_keep": 2.0,
    "edit_side": 256,
    "chat_sides": [256, 256],
    "answer_length": LONG,
    "answer_block": 16,
    "answer_steps": 24,
    "short_length": SHORT,
    "short_block": SHORT,
    "short_steps": SHORT,
    "text_only": False,
    "tasks": ["generate", "edit", "inpaint", "extrapolate", "chat"],
    "instructions": [
        "make the house blue",
        "add a small red ball in the middle",
        "remove the tree",
        "replace the house with a rocket",
        "change the background to the beach",
        "put the letter a on the cube",
    ],
    "questions": ["describe the picture.", "how many objects are there?", "what color is the house?", "where is this?"],
    "prompts": [
        "a red house to the left of a green tree in the snow",
        "a large yellow ball and a small blue cube on the beach",
        "three orange mushrooms in a meadow",
        "a white snowman and a purple rocket at night",
        "a yellow cone at sunset",
        "a shiny red ball in front of a blue cone in a studio",
        "two green trees and a red figure in the snow",
        "a rocket on the beach",
        "a big purple cube with the letter a on the grass",
        "four small snowmen under the stars",
    ],
    "words_help": "It knows " + ", ".join(world.KINDS) + "; " + ", ".join(world.COLORS)
    + "; metal and matte, large and small; and the settings " + ", ".join(world.SETTINGS) + ".",
}  # fmt: skip

FROM_WORDS = ["generate", "inpaint", "extrapolate"]
"""Tasks whose sequences are those of text to image."""


def export(model: DiMOO, vqvae: Path, preview: Preview, folder: Path, **demo: object) -> None:
    """Write a checkpoint in the hub layout: config, words, sharded weights in float16, image tokenizer with its preview table.

    demo: what is other than in DEMO.
    """
    half = DiMOO(model.config).to(torch.float16)
    half.load_state_dict(model.state_dict())
    with replacing(folder) as new:
        half.save_pretrained(new, max_shard_size="9MB")
        config = json.loads((new / "config.json").read_text())
        (new / "config.json").write_text(json.dumps(config | {"demo": DEMO | demo}, indent=1) + "\n")
        write_tokenizer(new)
        shutil.copytree(vqvae, new / "vqvae")
        preview.save(new / "vqvae" / "preview.safetensors")


def sample_grid(checkpoint: Path, path: Path, count: int = 4) -> None:
    """Pictures of the first example prompts, side by side, made as a user of the checkpoint would."""
    pipeline = load(checkpoint, "cpu")
    pictures = []
    for prompt in DEMO["prompts"][:count]:
        *_, frame = pipeline.run(Generate(prompt, seed=0))
        pictures.append(np.asarray(frame.image))
    Image.fromarray(np.concatenate(pictures, axis=1)).save(path)
