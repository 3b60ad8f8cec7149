"""How much of a picture survives the image tokenizer, and how steady its codes are."""
from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch

from dimoo.evals.bare import untouched
from dimoo.vq import VQModel
from dimoo.world.judge import matches, read
from dimoo.world.language import captioned_scene
from dimoo.world.render import render
from dimoo.world.scene import SETTINGS

FIRST_SEED = 30_000_000


def to_tensor(rgb: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None].float().div(255)


def reconstructed(vq: VQModel, rgb: np.ndarray) -> np.ndarray:
    """What the tokenizer makes of a picture, both (h, w, 3) uint8."""
    decoded = vq.decode(vq.encode(to_tensor(rgb).to(vq.codebook.device)))[0]
    return decoded.mul(255).round().byte().permute(1, 2, 0).cpu().numpy()


def agreement(pictures: list[tuple], vq: VQModel | None) -> dict[str, float]:
    """Share of attributes that the judge reads right, on (scene, rgb) pairs or on their reconstructions."""
    right: dict[str, list[bool]] = defaultdict(list)
    for scene, rgb in pictures:
        reading = read(rgb if vq is None else reconstructed(vq, rgb))
        right["setting"].append(reading.setting == scene.setting)
        pairs = matches(reading, scene)
        right["no extra"].append(len(reading.things) == sum(b is not None for _, b in pairs))
        for thing, seen in pairs:
            right["found"].append(seen is not None)
            if seen is not None:
                for name in ("kind", "color", "size"):
                    right[name].append(getattr(thing, name) == getattr(seen, name))
                right["place"].append((thing.column, thing.row) == (seen.column, seen.row))
    return {name: float(np.mean(values)) for name, values in right.items()}


def code_entropy(vq: VQModel, count: int = 96) -> float:
    """Mean entropy in nats of a code given setting and cell, away from things and shadows (design target: at most 0.1)."""
    seen: dict[tuple, list[int]] = defaultdict(list)
    for seed in range(count):
        setting = SETTINGS[seed % len(SETTINGS)]
        scene = captioned_scene(np.random.default_rng(FIRST_SEED + seed))[0].with_(setting=setting)
        picture = render(scene)
        codes = vq.encode(to_tensor(picture.rgb).to(vq.codebook.device))[0].cpu().numpy()
        for y, x in np.argwhere(untouched(picture.rgb, setting)):
            seen[setting, y, x].append(codes[y, x])
    entropies = []
    for values in seen.values():
        if len(values) >= 4:
            share = np.unique(values, return_counts=True)[1] / len(values)
            entropies.append(float(-(share * np.log(share)).sum()))
    return float(np.mean(entropies))


def evaluate(vq: VQModel, count: int, report: Callable[[str], None] = lambda text: print(text, file=sys.stderr)) -> dict:
    """PSNR on scenes of other seeds, entropy of background codes, and the judge on ground truth and on reconstructions."""
    pictures, errors = [], []
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        scene = captioned_scene(np.random.default_rng(seed))[0]
        rgb = render(scene).rgb
        x = to_tensor(rgb).to(vq.codebook.device)
        errors.append((vq.decode(vq.encode(x)) - x).square().mean().item())
        pictures.append((scene, rgb))
    psnr = float(np.mean([-10 * np.log10(e) for e in errors]))
    report(f"PSNR {psnr:.2f} dB; the judge is reading {2 * count} pictures")
    return {"psnr": psnr, "entropy": code_entropy(vq), "truth": agreement(pictures, None),
            "reconstruction": agreement(pictures, vq), "n": count}
