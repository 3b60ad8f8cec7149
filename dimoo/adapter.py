"""Adapters: what fine-tuning leaves behind, a small part beside the checkpoint that it was made from (LoRA, arXiv 2106.09685).

A folder with an adapter stands for its base checkpoint with the adapter in it. The format is that of the package peft, which
reads and writes it.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from dimoo.errors import DimooError

if TYPE_CHECKING:
    from peft import PeftModel

    from dimoo.model import DiMOO

CONFIG = "adapter_config.json"
LAYERS = ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out")


def need_peft() -> None:
    """Raises DimooError without the package."""
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise DimooError('Adapters need one more package: pip install -e ".[finetune]".') from error


def base_of(folder: Path) -> str | None:
    """The checkpoint that an adapter in a folder was made from; None where there is no adapter.

    Raises DimooError when its adapter_config.json does not say.
    """
    if not (folder / CONFIG).is_file():
        return None
    try:
        base = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DimooError(f"{folder / CONFIG} is broken: it does not say which checkpoint the adapter belongs to.") from error
    if not base:
        raise DimooError(f"{folder / CONFIG} does not say which checkpoint the adapter belongs to (base_model_name_or_path).")
    return base


def adapter_name(folder: Path) -> str:
    """What an adapter is called: its folder, or, in that of a run, the run's; one of the hub as there, without its owner."""
    folder = folder.resolve()
    if folder.parent.name == "snapshots":  # of the hub's cache: models--owner--name/snapshots/commit
        return folder.parents[1].name.rpartition("--")[2]
    return folder.parent.name if folder.name == "adapter" else folder.name


def new_adapter(model: DiMOO, base: str, rank: int) -> PeftModel:
    """The model with new adapters of a rank in all linear layers of its blocks, which alone are trained; they begin as zero.

    base: what base_of is to return. Raises DimooError without the package.
    """
    need_peft()
    from peft import LoraConfig, get_peft_model

    layers = rf".*\.blocks\.\d+\.({'|'.join(LAYERS)})"
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # between its package and transformers
        adapted = get_peft_model(model, LoraConfig(r=rank, lora_alpha=rank, target_modules=layers))
    adapted.peft_config["default"].base_model_name_or_path = base
    return adapted


def add_adapter(model: DiMOO, folder: Path) -> DiMOO:
    """The model with a saved adapter: merged into its weights, or, where those are quantized, beside them.

    Raises DimooError without the package, or when the adapter is broken or made for other sizes.
    """
    need_peft()
    from peft import PeftModel

    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            adapted = PeftModel.from_pretrained(model, str(folder), torch_device=str(model.device))
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DimooError(f"The adapter in {folder} cannot be used ({reason}).") from error
    if model.quantized:
        return model.eval().requires_grad_(False)
    return adapted.merge_and_unload().eval().requires_grad_(False)
