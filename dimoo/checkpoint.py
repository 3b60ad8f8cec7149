"""Find, download, check and load the weights of a checkpoint in the hub layout.

Layout: config.json, tokenizer files, model*.safetensors (with an index when there are several), and a folder
vqvae/ with the image tokenizer, beside it preview.safetensors if a preview table was fitted.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from dimoo.config import LLaDAConfig
from dimoo.defaults import Defaults
from dimoo.errors import DimooError
from dimoo.model import DiMOO
from dimoo.pipeline import Pipeline
from dimoo.preview import Preview
from dimoo.vocab import Vocabulary
from dimoo.vq import VQModel

ROOT = Path(__file__).resolve().parents[1]
BUILT_IN = "assets/toytown"
PUBLISHED = "Alpha-VLLM/Lumina-DiMOO"
WEIGHTS = "model"
HUB_FILES = ["*.json", "*.txt", "*.safetensors", "vqvae/*"]


def load(
    name_or_path: str | Path = BUILT_IN,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Pipeline:
    """Loads a checkpoint: a folder, a folder of this repository (such as the built-in one), or a hub id.

    device, dtype: None picks what the machine is best at. Raises DimooError with a sentence when something is
    missing or does not fit together.
    """
    device = pick_device(device)
    dtype = dtype or pick_dtype(device)
    folder = find(name_or_path)
    config = read_config(folder)
    check_memory(folder, device, dtype)
    vocab = Vocabulary.load(folder, config)
    vq = VQModel.load(folder / "vqvae", device, dtype)
    if len(vq.codebook) != config.codebook_size:
        raise DimooError(
            f"{folder.name}: the image tokenizer has {len(vq.codebook)} codes, "
            f"but config.json says {config.codebook_size}."
        )
    table = folder / "vqvae" / "preview.safetensors"
    preview = Preview.load(table, len(vq.codebook)) if table.exists() else None
    model = read_model(folder, config, device, dtype)
    return Pipeline(model, vq, vocab, Defaults.of(config.demo), preview)


def find(name_or_path: str | Path) -> Path:
    """The local folder of a checkpoint, downloaded first if it is a hub id.

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
    if not re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", name):
        raise DimooError(f"There is no checkpoint folder {name}.")
    return download(name)


def download(hub_id: str) -> Path:
    """Fetches a checkpoint from the Hugging Face hub (or finds it in the cache)."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise DimooError(
            f"There is no folder {hub_id}, and it cannot be downloaded from the Hugging Face hub: "
            f"check the name and the connection."
        ) from error


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


def read_model(folder: Path, config: LLaDAConfig, device: torch.device, dtype: torch.dtype) -> DiMOO:
    """The transformer with its weights, in evaluation mode. Raises DimooError when weights are missing."""
    state: dict[str, torch.Tensor] = {}
    for path in shards(folder):
        try:
            # one file at a time, so that at most one of them is held in two precisions
            state |= {name: tensor.to(dtype) for name, tensor in load_file(path, device=str(device)).items()}
        except (SafetensorError, OSError) as error:
            raise DimooError(f"{path} cannot be read: the download is incomplete, fetch it again.") from error
    with torch.device("meta"):
        model = DiMOO(config)
    try:
        missing = model.load_state_dict(state, strict=False, assign=True).missing_keys
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise DimooError(f"The weights in {folder} do not fit its config.json: {detail}") from error
    if missing:
        raise DimooError(
            f"The weights in {folder} are incomplete: {missing[0]} and {len(missing) - 1} more are missing."
        )
    return model.eval().requires_grad_(False)


def shards(folder: Path) -> list[Path]:
    """The weight files of the transformer. Raises DimooError when one is missing."""
    index = folder / f"{WEIGHTS}.safetensors.index.json"
    names = [f"{WEIGHTS}.safetensors"]
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise DimooError(f"{index} is broken: fetch it again.") from error
    for name in names:
        if not (folder / name).is_file():
            raise DimooError(f"The checkpoint is incomplete: {name} is missing from {folder}.")
    return [folder / name for name in names]


def pick_device(device: str | torch.device | None) -> torch.device:
    """The asked-for device, or the first graphics card, or the processor."""
    try:
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise DimooError(f"There is no kind of device called {device}: use cpu or cuda.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DimooError("There is no usable CUDA device on this machine: use cpu.")
    return device


def pick_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it; elsewhere emulation is slower than float32."""
    if device.type == "cpu":
        fast = torch.cpu._is_amx_tile_supported()  # AVX-512's bfloat16 alone is half as fast as float32
    else:
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def check_memory(folder: Path, device: torch.device, dtype: torch.dtype) -> None:
    """Raises DimooError when the weights alone exceed the memory that is free on the processor's side.

    A process that runs out there is killed without a word; a graphics card raises an error of its own.
    """
    meminfo = Path("/proc/meminfo")
    if device.type != "cpu" or not meminfo.exists():
        return
    available = int(re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())[1]) * 1024
    needed = sum(path.stat().st_size for path in shards(folder))  # published in bfloat16: two bytes a number
    needed *= dtype.itemsize / torch.bfloat16.itemsize
    if needed > available:
        raise DimooError(
            f"The weights need about {needed / 1e9:.0f} GB of memory in {str(dtype).removeprefix('torch.')}, "
            f"but only {available / 1e9:.0f} GB are free."
        )
