"""Find, download, check and load the weights of a checkpoint in the hub layout.

Layout: config.json, tokenizer files, model*.safetensors (with an index when there are several), and a folder
vqvae/ with the image tokenizer, beside it preview.safetensors if a preview table was fitted.
"""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dimoo import hub
from dimoo.adapter import adapter_name, add_adapter, base_of, need_peft
from dimoo.config import LLaDAConfig
from dimoo.defaults import Defaults
from dimoo.errors import DimooError
from dimoo.memory import free_bytes, gigabytes, out_of_memory
from dimoo.outline import Outline, Work
from dimoo.pipeline import Pipeline
from dimoo.precision import fastest_dtype
from dimoo.preview import Preview
from dimoo.vocab import Vocabulary
from dimoo.vq import VQModel, read_vq_config
from dimoo.weights import QUANTIZED, Spread, need_packages, read_model, spread_over

ROOT = Path(__file__).resolve().parents[1]
BUILT_IN = "assets/toytown"
PUBLISHED = "Alpha-VLLM/Lumina-DiMOO"
VARIABLE = "DIMOO_CHECKPOINT"
SMALLER = "--quantize int8 or nf4 makes them smaller, --offload also uses other devices."
LIBRARIES = 256 * 10**6  # bytes that those for graphics cards take for themselves while a model runs


def default_checkpoint() -> str:
    """The checkpoint to load when none is named: what DIMOO_CHECKPOINT says, or the built-in one."""
    return os.environ.get(VARIABLE) or BUILT_IN


@out_of_memory()
def load(
    name_or_path: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    quantize: str | None = None,
    offload: bool = False,
) -> Pipeline:
    """Loads a checkpoint: a folder, a folder of this repository (such as the built-in one), or a hub id[@revision].

    A folder with an adapter (see adapter.py) stands for its base with the adapter in it.

    name_or_path: None takes the default one. device, dtype: None picks what the machine is best at. quantize: "int8" or
    "nf4", for the transformer's blocks; offload: spread them over all graphics cards, and what does not fit to the
    processor's memory. Raises DimooError with a sentence when something is missing or does not fit together.
    """
    if quantize not in (None, *QUANTIZED):
        raise DimooError(f"Weights can be quantized to {' or '.join(QUANTIZED)}, not to {quantize}.")
    device, name = pick_device(device), name_or_path or default_checkpoint()
    folder, adapter = with_adapter(find(name, hub.CONFIGS), hub.CONFIGS)  # enough to tell what is in the way of a download
    config, vq_config = read_config(folder), read_vq_config(folder / "vqvae")
    defaults = Defaults.of(config.demo)
    if dtype is None:
        dtype = torch.bfloat16 if quantize or offload else pick_dtype(device)
        if device.type == "cpu" and not fits(Outline(config, vq_config, mode_of(dtype)), device):
            dtype = torch.bfloat16  # slower on some processors, but half as large
    if adapter and offload:
        raise DimooError("A model with an adapter cannot be offloaded: use --quantize instead.")
    if adapter:
        need_peft()
    outline = Outline(config, vq_config, quantize or mode_of(dtype))
    spread = plan_spread(outline, device, defaults) if offload else None
    if not spread:
        check_memory(outline, device)
    if quantize or spread:
        need_packages(quantize)
    folder, adapter = with_adapter(find(name))
    vocab = Vocabulary.load(folder, config)
    vq = VQModel.load(folder / "vqvae", device, dtype)
    if len(vq.codebook) != config.codebook_size:
        raise DimooError(
            f"{name}: the image tokenizer has {len(vq.codebook)} codes, "
            f"but config.json says {config.codebook_size}."
        )
    table = folder / "vqvae" / "preview.safetensors"
    preview = Preview.load(table, len(vq.codebook)) if table.exists() else None
    model = read_model(folder, config, device, dtype, quantize, spread)
    if adapter:
        model, defaults = add_adapter(model, adapter), replace(defaults, name=f"{defaults.name} + {adapter_name(adapter)}")
    return Pipeline(model, vq, vocab, defaults, outline, preview)


def load_as_asked(options: Namespace, name: str | None) -> Pipeline:
    """`load` with the options of a command line."""
    dtype = getattr(torch, options.dtype) if options.dtype else None
    return load(name, options.device, dtype, options.quantize, options.offload)


def with_adapter(folder: Path, files: Sequence[str] = hub.FILES) -> tuple[Path, Path | None]:
    """The folder of a checkpoint, and of an adapter to be put into it if the given folder holds one. Raises DimooError."""
    if (base := base_of(folder)) is None:
        return folder, None
    found = find(base, files)
    if base_of(found) is not None:
        raise DimooError(f"The adapter in {folder} was made for another adapter, {base}: that cannot be loaded.")
    return found, folder


def outline_of(name: str, mode: str) -> tuple[Outline, Defaults]:
    """What a checkpoint takes of memory in one of outline.MODES, without its weights; the published one is known."""
    if name.partition("@")[0] == PUBLISHED:
        return Outline(LLaDAConfig(), {}, mode), Defaults()
    folder, _ = with_adapter(find(name, hub.CONFIGS), hub.CONFIGS)
    config = read_config(folder)
    return Outline(config, read_vq_config(folder / "vqvae"), mode), Defaults.of(config.demo)


def find(name_or_path: str | Path, files: Sequence[str] = hub.FILES) -> Path:
    """The local folder of a checkpoint, its files downloaded first if it is a hub id, or a hub id@revision.

    Raises DimooError when there is none.
    """
    name = str(name_or_path)
    for folder in (Path(name).expanduser(), ROOT / name):
        if folder.is_dir():
            return folder
    if name == BUILT_IN:
        raise DimooError(
            f"The built-in checkpoint is missing: there is no {ROOT / BUILT_IN}. "
            "Get the whole repository, large files too."
        )
    there = hub.split_name(name)
    if there is None:
        raise DimooError(f"There is no checkpoint folder {name}.")
    return hub.download(*there, files)


def read_config(folder: Path) -> LLaDAConfig:
    """config.json of a checkpoint. Raises DimooError when it is missing, broken, or of another model."""
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DimooError(f"{folder} is not a checkpoint: it has no config.json.") from None
    except (OSError, ValueError) as error:
        raise DimooError(f"{folder / 'config.json'} is broken: it is not valid JSON.") from error
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind != LLaDAConfig.model_type:
        raise DimooError(
            f"{folder / 'config.json'} describes a model of type {kind}, not {LLaDAConfig.model_type}."
        )
    return build_config(values, folder)


def build_config(values: dict[str, Any], folder: Path) -> LLaDAConfig:
    from huggingface_hub.errors import StrictDataclassError

    try:
        config = LLaDAConfig.from_dict(values)
        config.check()
    except (TypeError, ValueError, ArithmeticError, StrictDataclassError) as error:
        raise DimooError(f"{folder / 'config.json'} has a value that cannot be used ({error}).") from error
    return config


def pick_device(device: str | torch.device | None) -> torch.device:
    """The asked-for device, or the first graphics card, or the processor."""
    try:
        picked = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        picked = None
    if picked is None or picked.type not in ("cpu", "cuda"):
        raise DimooError(f"There is no kind of device called {device} here: use cpu or cuda.")
    if picked.type == "cuda":
        cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not cards:
            raise DimooError("There is no usable CUDA device on this machine: use cpu.")
        if (picked.index or 0) >= cards:
            raise DimooError(f"There is no device {picked} on this machine: the last one is cuda:{cards - 1}.")
    return picked


def pick_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it; elsewhere emulation is slower than float32."""
    if device.type == "cpu":
        return fastest_dtype()
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if fast else torch.float32


def mode_of(dtype: torch.dtype) -> str:
    """The mode, of outline.MODES, whose weights take as much as those of a dtype."""
    return "float32" if dtype == torch.float32 else "bf16"


def fits(outline: Outline, device: torch.device) -> bool:
    """Whether there is room for the weights alone, as far as that can be told."""
    free = free_bytes(device)
    return free is None or outline.weights <= free


def check_memory(outline: Outline, device: torch.device, advice: str = SMALLER) -> None:
    """Raises DimooError when the weights do not fit: a process that runs out is killed without a word."""
    if not fits(outline, device):
        raise DimooError(
            f"The weights need about {gigabytes(outline.weights)} GB of memory in {outline.mode}, but only "
            f"{gigabytes(free_bytes(device))} GB are free. {advice}"
        )


def plan_spread(outline: Outline, device: torch.device, defaults: Defaults) -> Spread:
    """Where to put the parts of a model that is larger than one card, with room for a run of the default size and its cache.

    Raises DimooError without a graphics card, when weights are quantized, which cannot wait on the processor, and when the parts
    do not fit.
    """
    if device.type != "cuda":
        raise DimooError("--offload spreads a model over graphics cards and the processor: there is no graphics card here.")
    if outline.mode in QUANTIZED:
        raise DimooError("Quantized weights cannot be offloaded: use --quantize or --offload, not both.")
    cell = outline.vq.cell
    need = outline.need(Work.picture(defaults.height // cell, defaults.width // cell, cache=True, top_k=defaults.top_k))
    kept = need.total - outline.block_bytes * outline.config.n_layers + LIBRARIES
    free = [free_bytes(torch.device("cuda", card)) for card in range(torch.cuda.device_count())]
    if kept > free[0]:
        raise DimooError(
            f"{gigabytes(kept)} GB must lie on the first graphics card, and only {gigabytes(free[0])} GB are free there: "
            "--quantize int8 or nf4 makes the weights smaller."
        )
    spread = spread_over(outline.config.n_layers, outline.block_bytes, kept, free)
    waiting, room = list(spread.values()).count("cpu") * outline.block_bytes, free_bytes(torch.device("cpu"))
    if room is not None and waiting > room:
        raise DimooError(
            f"{gigabytes(waiting)} GB of weights do not fit on the graphics cards, and only {gigabytes(room)} GB of the "
            "processor's memory are free: --quantize int8 or nf4 makes them smaller."
        )
    return spread
