"""Training of the transformer: masked prediction of image codes, as published (report, section 4).

The objective is the published one, mean cross-entropy over the whole vocabulary on the masked positions; row ends and markers are
never masked. What comes on top of it is in `losses`, and what is masked in other ways than published in `masks`.
The optimiser is Muon for the hidden matrices and AdamW for the rest, with output projections that
start at zero and image codes whose embeddings start from their code vectors. Products are in bfloat16 where the machine is faster
at that, weights and sums in float32.
"""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dimoo.checkpoint import find, load, read_config
from dimoo.config import LLaDAConfig
from dimoo.errors import DimooError
from dimoo.model import Block, DiMOO
from dimoo.preview import Preview, fit
from dimoo.tasks import Generate
from dimoo.train.data import LONG, SHORT, Teacher
from dimoo.train.families import TAUGHT, Family, encode_families, fingerprint
from dimoo.train.grounding import depths, meanings
from dimoo.train.losses import Reader, losses_of
from dimoo.train.masks import mask_cells
from dimoo.train.muon import Muon
from dimoo.train.precision import fastest_dtype
from dimoo.train.run import Run, replacing
from dimoo.train.words import TEXT_IDS, write_tokenizer
from dimoo.vocab import Vocabulary
from dimoo.vq import VQModel
from dimoo.weights import read_model
from dimoo.world import scene as world
from dimoo.world.parts import LABELS

SIZE = {"d_model": 192, "n_heads": 6, "n_kv_heads": 6, "n_layers": 10, "mlp_hidden_size": 576, "rope_theta": 1e6}

_ROW = 17
NEIGHBOURS = (-1, 1, -_ROW, _ROW), (1 - _ROW, _ROW - 1, -1 - _ROW, 1 + _ROW)
"""Which tokens the first heads of every other layer look at to begin with: the cells around, in pictures 16 cells wide."""
GIVEN = -(TAUGHT[0] * (TAUGHT[1] + 1) + 4)
"""What the last two heads of the second layer look at: the same cell of a given picture, whose end, `</user>`, `<answer>` and the
new picture's head lie between. Later layers would find it mixed with its surroundings."""

CONSTANT = 0.3
"""Channel 0 of every embedding, in parts of the norm of its other channels: what heads read that go by place alone."""

SCENES_OF_A_SEED = 100_000
"""How far apart the scenes of two seeds begin."""

ROWS_RATE = 0.1
"""Learning rate of embedding and head, in parts of the others'."""

WARM_UP, FITTING = 50, 200
"""Steps in which the rate rises, and steps before that in which a new reader is fitted to a model that is trained already."""

POINTING_RATE = 4.0
"""Learning rate of the two blocks whose heads are taught where to look (`grounding`), in parts of the others'."""

DEMO = {
    "name": "Toytown",
    "default_size": [256, 256],
    "presets": [[256, 256, "Square"], [320, 192, "Wide"], [288, 224, "Landscape"], [224, 288, "Portrait"], [192, 320, "Tall"]],
    "steps": 24,
    "guidance": 5.0,
    "temperature": 0.8,
    "top_k": None,
    "plausible": 0.01,
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
    "short_steps": 4,
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
        "a pink house at sunset",
        "a shiny red ball in front of a blue cone in a studio",
        "two green trees and a red figure in the snow",
        "a rocket on the beach",
        "a big purple cube with the letter a on the grass",
        "four small snowmen under the stars",
    ],
    "words_help": "It knows " + ", ".join(world.KINDS) + "; " + ", ".join(world.COLORS)
    + "; metal and matte, large and small; and the settings " + ", ".join(world.SETTINGS) + ".",
}  # fmt: skip


def look_at(block: Block, head: int, offset: int, theta: float, sharpness: float = 7.0) -> None:
    """Initialise a head of a block to attend to the token `offset` places further on, whatever the tokens are.

    It reads nothing but channel 0, which is CONSTANT in every embedding. Its queries and keys are then constants, and rotated
    against each other such that their product is largest at that distance (after ConViT, d'Ascoli et al., arXiv 2103.10697).
    """
    constant = (block.q_proj.in_features * CONSTANT**2 / (1 + CONSTANT**2)) ** 0.5  # channel 0 after the norm
    half = block.head_dim // 2
    frequencies = theta ** -(torch.arange(half) / half)
    length = (sharpness * (block.head_dim * frequencies) ** 0.5).sqrt() / constant
    rows = slice(head * block.head_dim, (head + 1) * block.head_dim)
    block.k_proj.weight[rows, 0] = torch.cat([length, torch.zeros(half)])
    block.q_proj.weight[rows, 0] = torch.cat([length * (frequencies * offset).cos(), length * (frequencies * offset).sin()])


def new_model(config: LLaDAConfig, codebook: Tensor, seed: int) -> DiMOO:
    """Fresh weights: zero output projections; rows of image codes that are alike where their code vectors are; heads that look
    at neighbouring cells and at the same cell of a given picture, which it would otherwise take thousands of steps to find.
    """
    torch.manual_seed(seed)
    model = DiMOO(config)
    body = model.model["transformer"]
    levels = codebook.float().unique()
    features = (codebook.float()[..., None] == levels).float().flatten(1)  # which level each number has
    features = (features - features.mean(0)) / features.std()
    with torch.no_grad():
        for block in body["blocks"]:
            block.attn_out.weight.zero_()
            block.ff_out.weight.zero_()
        for weight in (body["wte"].weight, body["ff_out"].weight):
            projection = torch.randn(features.shape[1], weight.shape[1]) / features.shape[1] ** 0.5
            weight[config.image_offset :] = 0.05 * (features @ projection) + 0.005 * torch.randn(len(features), weight.shape[1])
        embedding = body["wte"].weight
        embedding[:, 0] = CONSTANT * embedding[:, 1:].norm(dim=1)
        for i, block in enumerate(body["blocks"]):
            for head, offset in enumerate(NEIGHBOURS[i % len(NEIGHBOURS)][: config.n_heads - 1]):
                look_at(block, head, offset, config.rope_theta)
        if config.n_layers > 1 and config.n_heads > 5:
            for head in (config.n_heads - 2, config.n_heads - 1):
                look_at(body["blocks"][1], head, GIVEN, config.rope_theta, sharpness=8.0)
    return model


def shares(tasks: str, progress: float) -> dict[str, float]:
    """How many of the examples are of which kind; see `Teacher`. Crowded pictures teach what things are, and come first where
    words are to be learned with them; a lesson is twice as long as a picture, and takes twice the time.
    """
    if tasks == "generate":
        crowd = 0.7 if progress < 0.5 else 0.15
        return {"crowd": crowd, "generate": 1 - crowd}
    return {"crowd": 0.1, "generate": 0.45, "chat": 0.15, "lesson": 0.3}


def optimizers(model: DiMOO, reader: Reader, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for the rest.

    Codes of things are rare, and a step of AdamW on a rare row is as long as on a common one: at the rate of the others it would
    wipe out what `new_model` says about which codes are alike.
    """
    body = model.model["transformer"]
    pointing = depths(len(body["blocks"]))
    matrices: dict[bool, list[Tensor]] = {False: [], True: []}
    for i, block in enumerate(body["blocks"]):
        matrices[i in pointing] += [p for p in block.parameters() if p.ndim == 2]
    norms = [p for p in model.parameters() if p.ndim == 1]
    hidden = [{"params": matrices[False], "scale": 1.0}, {"params": matrices[True], "scale": POINTING_RATE}]
    others = [
        {"params": [body["wte"].weight, body["ff_out"].weight], "scale": ROWS_RATE},
        {"params": norms, "scale": 1.0},
        {"params": list(reader.parameters()), "scale": 1.0, "reads": True},
    ]
    muon = Muon(hidden, rate, weight_decay=0.05, dtype=fastest_dtype())
    return [muon, torch.optim.AdamW(others, rate, betas=(0.9, 0.95), weight_decay=0.0)]


def rate_of(group: dict, rate: float, step: int, progress: float, fitting: int) -> float:
    """Of a group of `optimizers`: a rise, `rate` for three tenths of the time, then a straight line to nothing. In the first
    `fitting` steps only the reader learns.
    """
    since = step if group.get("reads") else step - fitting
    warm = min(1.0, max(0, since) / WARM_UP)
    return group["scale"] * rate * warm * min(1.0, (1 - progress) / 0.7 + 0.01)


def trained_model(folder: Path, words: Path) -> DiMOO:
    """The transformer of a checkpoint, to be trained further. Raises DimooError when it was taught other words."""
    model = read_model(folder, read_config(folder), torch.device("cpu"), torch.float32)
    if (folder / "tokenizer.json").read_text() != (words / "tokenizer.json").read_text():
        raise DimooError(f"{folder} knows other words than are taught here: it cannot be trained further.")
    return model.train().requires_grad_(True)


def export(model: DiMOO, vqvae: Path, preview: Preview, folder: Path) -> None:
    """Write a checkpoint in the hub layout: config, words, sharded weights in float16, image tokenizer with its preview table."""
    half = DiMOO(model.config).to(torch.float16)
    half.load_state_dict(model.state_dict())
    with replacing(folder) as new:
        half.save_pretrained(new, max_shard_size="9MB")
        config = json.loads((new / "config.json").read_text())
        (new / "config.json").write_text(json.dumps(config | {"demo": DEMO}, indent=1) + "\n")
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


def train_transformer(folder: str | Path, tokenizer: str | Path, minutes: float, tasks: str = "all", scenes: int = 4000,
                      taught: int = 3000, tokens: int = 3200, rate: float = 4e-3, seed: int = 0,
                      size: dict | None = None, start: str | Path | None = None) -> DiMOO:
    """Train for `minutes` in `folder` (resumable); leaves a checkpoint in `folder/checkpoint`.

    tasks: "generate", text to image alone, or "all". scenes: how many there are, and as many crowded ones; the first `taught` of
    them come with lessons on the other tasks. tokens: of a step, in equally long sequences. seed: of all that is random; another
    one means other scenes too. start: a checkpoint to train further, with its own image tokenizer, instead of new weights.
    Raises DimooError when that one was taught other words.
    """
    torch.set_flush_denormal(True)
    run = Run(folder, minutes, save_every=5)
    write_tokenizer(run.folder / "words")
    if start:
        start = find(start)
        tokenizer, model = start / "vqvae", trained_model(start, run.folder / "words")
        vq = VQModel.load(tokenizer)
    else:
        vq = VQModel.load(tokenizer)
        table = TEXT_IDS + len(vq.codebook)
        config = LLaDAConfig(**(size or SIZE), vocab_size=table, embedding_size=table, codebook_size=len(vq.codebook),
                             torch_dtype="float16")
        model = new_model(config, vq.codebook, seed)
    config = model.config
    run.made_for = f"{fingerprint(vq)} {[getattr(config, name) for name in SIZE]} {LABELS}"
    if shutil.which("g++"):
        for block in model.model["transformer"]["blocks"]:
            block.compile(dynamic=True)  # fuses what lies between the matrix products: 1.4 times the speed on a CPU
    vocab = Vocabulary.load(run.folder / "words", config)
    first = seed * SCENES_OF_A_SEED
    families = [Family(first + i, 2 if tasks == "all" and i < taught else 0) for i in range(scenes)]
    families += [Family(first + i, crowded=True) for i in range(scenes)]
    teacher = Teacher(vocab, encode_families(vq, run.folder, families), families)
    reader = Reader(config)
    meaning = meanings(vocab)
    muon, adam = optimizers(model, reader, rate)
    squares = [f.base for f in families if (f.base.rows, f.base.columns) == (16, 16)]
    preview = fit(vq, torch.stack([teacher.grid(shot) for shot in squares[:48]]), cell_pixels=8)

    def save() -> None:
        export(model, Path(tokenizer), preview, run.folder / "checkpoint")
        sample_grid(run.folder / "checkpoint", run.folder / "samples.png")

    run.on_save = save
    run.resume(model=model, reader=reader, muon=muon, adam=adam)
    stream = teacher.batches(tokens // 2, (seed, run.step), lambda: shares(tasks, run.progress))
    generator = torch.Generator().manual_seed(seed + run.step)
    dtype = fastest_dtype()
    while run.tick():
        for optimizer in (muon, adam):
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = rate_of(group, rate, run.step, run.progress, FITTING if start else 0)
        numbers: dict[str, float] = {}
        for examples in (next(stream), next(stream)):  # two, so that most steps see two tasks or sizes
            masked = [mask_cells(example, generator) for example in examples]
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                losses = losses_of(model, reader, vocab, meaning, examples, masked, generator)
            (losses.total / 2).backward()
            numbers |= losses.numbers() if examples[0].draws else {f"{name} in talk": v for name, v in losses.numbers().items()}
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step()
        adam.step()
        run.report(**numbers)
    return model
