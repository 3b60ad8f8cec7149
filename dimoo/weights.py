"""The transformer's weights: checked against config.json before any is read, then put where they belong, once.

Weights of the right precision stay mapped from their file on the processor; others are brought over one tensor at a time, so
nothing needs the size of the model twice. Quantized weights, and those of a model that is spread over several devices, are
read by transformers.
"""
from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from dimoo.config import LLaDAConfig
from dimoo.errors import DimooError
from dimoo.model import DiMOO

WEIGHTS = "model"
BODY = "model.transformer"
QUANTIZED = ("int8", "nf4")
KEPT = [f"{BODY}.wte", f"{BODY}.ln_f", f"{BODY}.ff_out"]  # never quantized, never away from the first device
NEED_PACKAGES = 'Quantized weights, and weights on several devices, need more packages: pip install -e ".[quantize]".'
Spread = dict[str, int | str]  # name of a module -> number of a graphics card, or "cpu"


def read_model(
    folder: Path, config: LLaDAConfig, device: torch.device, dtype: torch.dtype,
    quantize: str | None = None, spread: Spread | None = None,
) -> DiMOO:  # fmt: skip
    """The transformer with its weights, in evaluation mode.

    quantize: "int8" or "nf4"; spread: where its parts go instead of `device`. Raises DimooError when weights are missing,
    cut off, or do not fit config.json.
    """
    paths = shards(folder)
    with torch.device("meta"):
        model = DiMOO(config)
    check(paths, model, folder)
    if quantize or spread:
        model = read_by_transformers(folder, config, dtype, quantize, spread or {"": str(device)})
    else:
        model.load_state_dict(dict(tensors(paths, device, dtype)), strict=False, assign=True)
    return model.eval().requires_grad_(False)


def need_packages(quantize: str | None) -> None:
    """Raises DimooError without the packages for quantized weights, or else for several devices."""
    if not all(map(find_spec, ("accelerate", "bitsandbytes") if quantize else ("accelerate",))):
        raise DimooError(NEED_PACKAGES)


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


def check(paths: Sequence[Path], model: DiMOO, folder: Path) -> None:
    """Raises DimooError unless the files are whole and hold every weight of the model in its shape."""
    found: dict[str, list[int]] = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                found |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise DimooError(f"{path} cannot be read: the download is incomplete, fetch it again.") from error
    wanted = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DimooError(f"The weights in {folder} are incomplete: {missing[0]} and {len(missing) - 1} more are missing.")
    for name, shape in wanted.items():
        if found[name] != shape:
            if name in (f"{BODY}.wte.weight", f"{BODY}.ff_out.weight") and found[name][1:] == shape[1:]:
                raise DimooError(
                    f"The weights in {folder} do not fit its config.json: the vocabulary is {found[name][0]} ids wide "
                    f"in {name}, but {shape[0]} in config.json (embedding_size, or else vocab_size)."
                )
            raise DimooError(f"The weights in {folder} do not fit its config.json: {name} is {found[name]}, not {shape}.")


def tensors(paths: Sequence[Path], device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name).to(device, dtype)


def read_by_transformers(
    folder: Path, config: LLaDAConfig, dtype: torch.dtype, quantize: str | None, spread: Spread
) -> DiMOO:
    """Raises DimooError when a package is missing, or the device cannot do it."""
    try:
        settings = quantization(quantize, dtype) if quantize else None
        model = DiMOO.from_pretrained(
            folder, config=config, dtype=dtype, device_map=spread, quantization_config=settings, local_files_only=True
        )
    except ImportError as error:
        raise DimooError(NEED_PACKAGES) from error
    except (RuntimeError, ValueError) as error:
        raise DimooError(f"The weights cannot be loaded in this way ({str(error).splitlines()[0]}).") from error
    model.quantized = quantize
    # it would say at every layer of every pass that it casts its input
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return model


def quantization(mode: str, dtype: torch.dtype) -> Any:
    """transformers' settings for bitsandbytes: all linear layers of the blocks; embedding, norm and head stay as they are."""
    from transformers import BitsAndBytesConfig

    if mode == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=KEPT)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=KEPT,
    )


def spread_over(layers: int, block: int, kept: int, free: Sequence[int]) -> Spread:
    """Where the parts of a model go: as many blocks as fit on each card in turn, the rest on the processor.

    block: bytes of a block; kept: bytes that the first card needs beside blocks (embedding, head, image tokenizer, a run);
    free: bytes that are free on each card. Blocks on the processor come to the first card whenever they are needed.
    """
    places: list[int | str] = []
    for card, room in enumerate(free):
        room -= kept if card == 0 else kept // 2  # a run's activations pass through every card
        places += [card] * max(0, room // block)
    places = places[:layers] + ["cpu"] * (layers - len(places))
    return dict.fromkeys(KEPT, 0) | {f"{BODY}.blocks.{layer}": place for layer, place in enumerate(places)}
