"""Training of the transformer: masked prediction of image codes, as published (report, section 4).

The objective is the published one: plain mean cross-entropy over the whole vocabulary on the masked positions; row ends and
markers are never masked. The optimiser is Muon for the hidden matrices and AdamW for the rest, with output projections that
start at zero and image codes whose embeddings start from their code vectors.
"""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dimoo.checkpoint import load
from dimoo.config import LLaDAConfig
from dimoo.model import DiMOO
from dimoo.packed import Packed
from dimoo.preview import Preview, fit
from dimoo.tasks import Generate
from dimoo.train.data import SIZES, batches, encode_scenes, mask_cells
from dimoo.train.run import Run
from dimoo.train.words import TEXT_IDS, write_tokenizer
from dimoo.vocab import Vocabulary
from dimoo.vq import VQModel
from dimoo.world import scene as world

SIZE = {"d_model": 256, "n_heads": 4, "n_kv_heads": 4, "n_layers": 8, "mlp_hidden_size": 768}

DEMO = {
    "name": "Toytown",
    "default_size": [256, 256],
    "presets": [[256, 256, "Square"], [320, 192, "Wide"], [288, 224, "Landscape"], [224, 288, "Portrait"], [192, 320, "Tall"]],
    "steps": 24,
    "guidance": 3.0,
    "temperature": 1.0,
    "max_area": 512 * 512,
    "tasks": ["generate"],
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


def new_model(config: LLaDAConfig, codebook: Tensor, seed: int) -> DiMOO:
    """Fresh weights: zero output projections; rows of image codes that are alike where their code vectors are."""
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
            weight[config.image_offset :] = 0.02 * (features @ projection) + 0.005 * torch.randn(len(features), weight.shape[1])
    return model


def optimizers(model: DiMOO, rate: float) -> list[torch.optim.Optimizer]:
    hidden = [p for name, p in model.named_parameters() if "blocks" in name and p.ndim == 2]
    names = {id(p) for p in hidden}
    rest = [p for p in model.parameters() if id(p) not in names]
    muon = torch.optim.Muon(hidden, rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw", ns_steps=4)
    return [muon, torch.optim.AdamW(rest, rate, betas=(0.9, 0.95), weight_decay=0.0)]


def loss_of(model: DiMOO, ids: Tensor, cells: Tensor, codes: Tensor, masked: Tensor) -> Tensor:
    """Cross-entropy of each masked cell, in the order of `masked.nonzero()`. ids (B, L) with masks in all cells."""
    offset = model.config.image_offset
    batch, length = ids.shape
    ids = ids.clone()
    ids[:, cells] = torch.where(masked, ids[:, cells], codes + offset)
    positions = torch.arange(length).repeat(batch)
    hidden = model.hidden(Packed(ids.flatten(), positions, (length,) * batch))
    rows = (torch.arange(batch)[:, None] * length + cells)[masked]
    logits = F.linear(hidden[rows], model.model["transformer"]["ff_out"].weight)
    return F.cross_entropy(logits.float(), codes[masked] + offset, reduction="none")


def export(model: DiMOO, vqvae: Path, preview: Preview, folder: Path) -> None:
    """Write a checkpoint in the hub layout: config, words, sharded weights in float16, image tokenizer with its preview table."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("model*.safetensors*"):
        old.unlink()
    half = DiMOO(model.config).to(torch.float16)
    half.load_state_dict(model.state_dict())
    half.save_pretrained(folder, max_shard_size="9MB")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"demo": DEMO}, indent=1) + "\n")
    write_tokenizer(folder)
    shutil.copytree(vqvae, folder / "vqvae", dirs_exist_ok=True)
    preview.save(folder / "vqvae" / "preview.safetensors")


def sample_grid(checkpoint: Path, path: Path, count: int = 4) -> None:
    """Pictures of the first example prompts, side by side, made as a user of the checkpoint would."""
    pipeline = load(checkpoint, "cpu")
    pictures = []
    for prompt in DEMO["prompts"][:count]:
        *_, frame = pipeline.run(Generate(prompt, seed=0))
        pictures.append(np.asarray(frame.image))
    Image.fromarray(np.concatenate(pictures, axis=1)).save(path)


def train_transformer(folder: str | Path, tokenizer: str | Path, minutes: float, scenes: int = 7000, batch: int = 16,
                      rate: float = 4e-3, seed: int = 0, size: dict | None = None) -> DiMOO:
    """Train on text to image for `minutes` in `folder` (resumable); leaves a checkpoint in `folder/checkpoint`."""
    torch.set_flush_denormal(True)
    run = Run(folder, minutes, save_every=5)
    vq = VQModel.load(tokenizer)
    codebook_size = len(vq.codebook)
    config = LLaDAConfig(**(size or SIZE), vocab_size=TEXT_IDS + codebook_size, embedding_size=TEXT_IDS + codebook_size,
                         codebook_size=codebook_size, torch_dtype="float16")
    model = new_model(config, vq.codebook, seed)
    write_tokenizer(run.folder / "words")
    vocab = Vocabulary.load(run.folder / "words", config)
    codes = encode_scenes(vq, run.folder / "codes.npz", scenes)
    muon, adam = optimizers(model, rate)
    squares = [torch.from_numpy(grid).long() for grid in codes.values() if grid.shape == SIZES[0]]
    preview = fit(vq, torch.stack(squares[:48]), cell_pixels=8)

    def save() -> None:
        export(model, Path(tokenizer), preview, run.folder / "checkpoint")
        sample_grid(run.folder / "checkpoint", run.folder / "samples.png")

    run.on_save = save
    run.resume(model=model, muon=muon, adam=adam)
    stream = batches(vocab, codes, batch, (seed, run.step))
    generator = torch.Generator().manual_seed(seed + run.step)
    while run.tick():
        ids, cells, grid, things = next(stream)
        masked = mask_cells(*grid.shape, generator)
        warm, left = min(1.0, (run.step + 1) / 50), 1 - run.progress
        for optimizer in (muon, adam):
            for group in optimizer.param_groups:
                group["lr"] = rate * warm * min(1.0, left / 0.7 + 0.01)
        losses = loss_of(model, ids, cells, grid, masked)
        model.zero_grad(set_to_none=True)
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step()
        adam.step()
        seen = losses.detach()[things[masked]]
        run.report(loss=losses.mean().item(), **({"things": seen.mean().item()} if len(seen) else {}))
    return model
