"""Training of the image tokenizer on every kind of picture that the world makes.

The codes are finite-scalar (Mentzer et al., arXiv 2309.15505): each latent number is rounded to one of four levels with a
straight-through gradient. The product grid of the levels is stored as an ordinary codebook, in which the nearest-neighbour
look-up of any VQModel is that rounding.
"""
from __future__ import annotations

import copy
import itertools
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from dimoo.train.families import SCENES_OF_A_SEED
from dimoo.train.linear import start_linear
from dimoo.train.muon import Muon
from dimoo.train.run import Run, cosine, denormals_as_zeros, pool, replacing
from dimoo.vq import WEIGHTS, VQModel
from dimoo.world import scene as world
from dimoo.world.render import render
from dimoo.world.styles import MAPS, control_map, stylize

CONFIG = {
    "_class_name": "VQModel", "block_out_channels": [16, 24, 64, 128, 192], "layers_per_block": 1, "latent_channels": 6,
    "num_vq_embeddings": 4096, "norm_num_groups": 1, "norm_scope": "none", "in_channels": 3, "out_channels": 3,
    "act_fn": "silu", "mid_block_add_attention": False, "lookup_from_codebook": True, "sample_size": 256,
    "down_block_types": ["DownEncoderBlock2D"] * 5, "up_block_types": ["UpDecoderBlock2D"] * 5,
}  # fmt: skip
LEVELS = (-1.5, -0.5, 0.5, 1.5)


def grid_codebook(width: int) -> Tensor:
    """(4 ** width, width): every combination of levels."""
    return torch.tensor(list(itertools.product(LEVELS, repeat=width)), dtype=torch.float32)


def levels_of(codes: Tensor, width: int) -> Tensor:
    """Codes (n,) of `grid_codebook` -> (n, width): which of LEVELS each number of a code has, the last number first."""
    return codes[:, None] // len(LEVELS) ** torch.arange(width) % len(LEVELS)


def round_to_levels(z: Tensor) -> Tensor:
    return (torch.floor(z) + 0.5).clamp(LEVELS[0], LEVELS[-1])


def local(model: VQModel) -> list[nn.Conv2d]:
    """The encoder's convolutions that look at their own place alone: those below half resolution.

    A code then says what is in its cell and just around it, so that a thing has the same codes beside any other and before any
    sky. (Looking as far as the layers could, one thing changed the codes of another nine cells away.)
    """
    levels = [*model.encoder.down_blocks[2:], model.encoder.mid_block]
    inner = [conv for level in levels for resnet in level.resnets for conv in (resnet.conv1, resnet.conv2)]
    return [*inner, model.encoder.conv_out]


def keep_local(model: VQModel) -> None:
    """Clear all but the centres of the local convolutions, now and in their gradients."""
    centre = torch.zeros(3, 3)
    centre[1, 1] = 1
    for conv in local(model):
        conv.weight.data.mul_(centre)
        conv.weight.register_hook(centre.mul)


LETTERED, METAL = 0.2, 0.2
"""Shares of pictures of cubes with letters, and of metal things alone: of other scenes one thing in sixty has a letter, and what
tells metal from paint is a streak of light.
"""


def training_picture(seed: int) -> np.ndarray:
    """One of the world's pictures, (256, 256, 3) uint8: half of them plain, the rest other views, styles and maps."""
    rng = np.random.default_rng(seed)
    count, kind, chance = int(rng.integers(1, 5)), rng.random(), rng.random()
    wanted: tuple[dict, ...] = ()
    if chance < LETTERED:
        wanted = world.lettered_cubes(rng, count)
    elif chance < LETTERED + METAL:
        wanted = ({"material": "metal"},) * count
    scene = world.random_scene(rng, count=count, wanted=wanted)
    if 0.50 < kind < 0.62:
        scene = scene.with_(view=str(rng.choice(list(world.VIEWS)[1:])))
    picture = render(scene)
    if kind < 0.62:
        return picture.rgb
    if kind < 0.85:
        return stylize(picture.rgb, str(rng.choice(world.STYLES[1:])))
    return control_map(str(rng.choice(MAPS)), scene, picture)


def picture_pool(count: int, seed: int = 0, workers: int | None = None) -> np.ndarray:
    """(count, 256, 256, 3) uint8, rendered by all cores."""
    pictures = np.empty((count, 256, 256, 3), np.uint8)
    with pool(workers or os.cpu_count() or 1) as processes:
        seeds = range(seed, seed + count)
        for i, picture in enumerate(processes.imap(training_picture, seeds, chunksize=16)):
            pictures[i] = picture
            if i % 500 == 0:
                print(f"rendered {i} of {count} pictures", file=sys.stderr, flush=True)
    return pictures


def kept_pool(path: Path, count: int, seed: int) -> np.ndarray:
    """The pool in a file, made and written whole if it is not there."""
    if not path.exists():
        unfinished = path.with_suffix(".tmp.npy")
        np.save(unfinished, picture_pool(count, seed * SCENES_OF_A_SEED))
        os.replace(unfinished, path)
    return np.load(path, mmap_mode="r")


def places(rng: np.random.Generator, pictures: int, count: int, cells: int) -> list[tuple[int, slice, slice]]:
    """Random crops on the cell grid, two in three from where things stand: number of a picture, its rows and columns of cells."""
    room = 16 - cells + 1
    found = []
    for _ in range(count):
        top = int(rng.integers(room)) if rng.random() < 0.33 else min(room - 1, int(rng.integers(5, 9)))
        left = int(rng.integers(room))
        found.append((int(rng.integers(pictures)), slice(top, top + cells), slice(left, left + cells)))
    return found


def crops(pictures: np.ndarray, where: list[tuple[int, slice, slice]]) -> Tensor:
    """Crops of pictures (n, 256, 256, 3) uint8, (count, 3, size, size) float32 in [0, 1]."""
    cut = [pictures[i, 16 * y.start : 16 * y.stop, 16 * x.start : 16 * x.stop] for i, y, x in where]
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).float().div_(255).contiguous(memory_format=torch.channels_last)


def shown(batch: int, progress: float) -> tuple[int, int]:
    """How many crops a step sees, and their cells a side: in the last fifth of a run whole pictures, borders included."""
    return (max(1, batch // 4), 16) if progress > 0.8 else (batch, 8)


def edge_weight(x: Tensor) -> Tensor:
    """(B, 1, H, W): 1 on flat ground, up to 5 near edges."""
    g = F.pad((x[..., 1:] - x[..., :-1]).abs(), (0, 1)) + F.pad((x[..., 1:, :] - x[..., :-1, :]).abs(), (0, 0, 0, 1))
    return 1 + 4 * F.max_pool2d(g.amax(1, keepdim=True), 5, 1, 2).clamp(0, 0.5) * 2


def reconstruction_loss(x: Tensor, y: Tensor) -> Tensor:
    d, w = y - x, edge_weight(x)
    slopes = sum((d.roll(1, axis) - d)[..., 1:, 1:].abs().mean() for axis in (2, 3))
    return (w * (d.abs() + 4 * d * d)).mean() + 0.5 * slopes


def save_tokenizer(model: VQModel, folder: Path, dtype: torch.dtype = torch.float16, limit: int = 9_000_000) -> None:
    """Write config.json and the weights, in shards of at most `limit` bytes with an index."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().to(dtype).contiguous()
        if size + tensor.nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    where = {}
    with replacing(folder) as new:
        (new / "config.json").write_text(json.dumps(model.config, indent=1) + "\n")
        for i, shard in enumerate(shards):
            file = f"{WEIGHTS}-{i + 1:05}-of-{len(shards):05}.safetensors"
            save_file(shard, new / file)
            where |= dict.fromkeys(shard, file)
        index = {"metadata": {}, "weight_map": where}
        (new / f"{WEIGHTS}.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def sample_grid(model: VQModel, pictures: np.ndarray, path: Path) -> None:
    """Pictures above their reconstructions."""
    x = torch.from_numpy(pictures[:8]).permute(0, 3, 1, 2).float().div(255)
    y = model.decode(model.encode(x))
    rows = [torch.cat(list(t), dim=2) for t in (x, y)]
    Image.fromarray((torch.cat(rows, dim=1).permute(1, 2, 0) * 255).round().byte().numpy()).save(path)


class Optimizer:
    """Muon for the 3×3 convolutions, as matrices of (out, 9 · in) or, if local, (out, in), and AdamW for the rest.

    Without normalisation this learns in 100 steps what AdamW alone needs several hundred for. The model must be in
    channels_last: only then are its convolutions matrices in memory, which Muon can change in place.
    """

    def __init__(self, model: VQModel, rate: float):
        ends = (model.encoder.conv_in, model.encoder.conv_out, model.decoder.conv_in, model.decoder.conv_out)
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) and m not in ends]
        inner = [m.weight for m in convolutions if m.weight.requires_grad]
        known = {id(w) for w in inner}
        self.centred = {id(conv.weight) for conv in local(model)}
        self.pairs = [(w, nn.Parameter(self.as_matrix(w, w.data))) for w in inner]
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        rest = [p for p in self.parameters if id(p) not in known]
        self.rate = rate
        self.muon = Muon([matrix for _, matrix in self.pairs], rate)
        self.adam = torch.optim.AdamW(rest, rate / 2, betas=(0.9, 0.98), weight_decay=0.01)

    def step(self, loss: Tensor, progress: float) -> None:
        """One step down the gradient of a loss; progress in [0, 1] sets the rate."""
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for weight, matrix in self.pairs:
            matrix.grad = self.as_matrix(weight, weight.grad)
        self.muon.param_groups[0]["lr"] = cosine(progress, self.rate)
        self.adam.param_groups[0]["lr"] = cosine(progress, self.rate / 2)
        self.muon.step()
        self.adam.step()

    def as_matrix(self, weight: Tensor, values: Tensor) -> Tensor:
        """Values of a weight, its own or its gradient's, as the matrix that Muon changes; no copy of what is channels_last."""
        return values[:, :, 1, 1] if id(weight) in self.centred else values.permute(0, 2, 3, 1).flatten(1)


def new_tokenizer() -> VQModel:
    model = VQModel(CONFIG)
    model.quantize.embedding.weight = nn.Parameter(grid_codebook(CONFIG["latent_channels"]), requires_grad=False)
    keep_local(model)
    return model.to(memory_format=torch.channels_last)


class Average:
    """The running mean of a model's weights, which is what a run leaves."""

    def __init__(self, model: VQModel):
        self.model = copy.deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def follow(self, model: VQModel, step: int) -> None:
        decay = min(0.998, step / (step + 20))
        for mean, now in zip(self.model.parameters(), model.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)


def psnr(x: Tensor, y: Tensor) -> float:
    """Of reconstructions y of pictures x in [0, 1], in dB, mean of the pictures."""
    return -10 * torch.log10((y.detach().clamp(0, 1) - x).square().mean(dim=(1, 2, 3)) + 1e-10).mean().item()


@denormals_as_zeros()
def train_tokenizer(folder: str | Path, minutes: float, pictures: int = 4000, batch: int = 16, rate: float = 7e-4,
                    seed: int = 0) -> VQModel:
    """Train for `minutes` in `folder` (resumable) and leave the averaged weights in `folder/vqvae`."""
    run = Run(folder, minutes)
    torch.manual_seed(seed)
    model = new_tokenizer()
    run.is_for(f"seed {seed}")
    average = Average(model)
    optimizer = Optimizer(model, rate)
    drawn = kept_pool(run.folder / f"pictures-{pictures}-{seed}.npy", pictures, seed)
    held_out = picture_pool(8, seed=10_000_000)

    def export() -> None:
        save_tokenizer(average.model, run.folder / "vqvae")
        sample_grid(average.model, held_out, run.folder / "samples.png")

    run.on_save = export
    if not run.resume(model=model, average=average.model, muon=optimizer.muon, adam=optimizer.adam):
        start_linear(model, crops(drawn, places(np.random.default_rng(seed), len(drawn), batch, 8)))
    while run.tick():
        rng = np.random.default_rng((seed, run.step))
        x = crops(drawn, places(rng, len(drawn), *shown(batch, run.progress)))
        z = model.latents(x).float()
        q = round_to_levels(z.detach())
        y = model.reconstruct(z + (q - z).detach()).float()
        pull = (z - q).square().mean()
        outside = F.relu(z.abs() - 2).square().mean()
        loss = reconstruction_loss(x, y) + outside + 0.1 * run.progress * pull
        optimizer.step(loss, run.progress)
        average.follow(model, run.step)
        used = torch.unique(q.permute(0, 2, 3, 1).flatten(0, 2), dim=0)
        run.report(loss=loss.item(), psnr=psnr(x, y), pull=pull.item(), codes=len(used))
    return average.model
