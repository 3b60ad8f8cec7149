"""python -m dimoo merge: a checkpoint with its adapter in it, in the layout of the hub."""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError

from dimoo.adapter import adapter_name, add_adapter
from dimoo.checkpoint import check_memory, find, mode_of, read_config, with_adapter
from dimoo.cli import check_writable
from dimoo.defaults import Defaults
from dimoo.errors import DimooError
from dimoo.hub import FILES
from dimoo.memory import out_of_memory
from dimoo.outline import Outline
from dimoo.train.run import beside
from dimoo.vq import read_vq_config
from dimoo.weights import read_model


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    parser.add_argument("adapter", metavar="NAME", help="folder of an adapter, or its name on the hub")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="new folder of the checkpoint")
    parser.add_argument("--shard", metavar="SIZE", default="5GB", help="largest weight file (default: 5GB)")


def main(options: argparse.Namespace) -> int:
    merge(options.adapter, Path(options.output), options.shard)
    print(options.output)
    return 0


@out_of_memory()
def merge(name: str | Path, folder: Path, shard: str = "5GB") -> None:
    """Writes a checkpoint that is an adapter's base with the adapter in its weights, at the precision of the base.

    name: of the adapter, as for `checkpoint.find`. Raises DimooError when there is none, or something in the way.
    """
    if not re.fullmatch(r"\d+[KMG]B", shard):
        raise DimooError(f"{shard} is not a size: write a number and KB, MB or GB, such as 5GB.")
    if folder.exists():
        raise DimooError(f"{folder} exists already: name a new folder.")
    check_writable(folder.parent)
    source, adapter = with_adapter(find(name))
    if adapter is None:
        raise DimooError(f"There is no adapter in {name}.")
    config, device = read_config(source), torch.device("cpu")
    dtype = config.dtype or torch.bfloat16
    outline = Outline(config, read_vq_config(source / "vqvae"), mode_of(dtype))
    check_memory(outline, device, "To be merged they must be there as they are: do it on a larger machine.")
    model = add_adapter(read_model(source, config, device, dtype), adapter)
    model.config.demo["name"] = f"{Defaults.of(config.demo).name} + {adapter_name(adapter)}"
    files = [path for pattern in FILES for path in source.glob(pattern) if not path.match("model*.safetensors*")]
    try:
        with beside(folder) as new:
            for path in files:
                copy = new / path.relative_to(source)
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, copy)
            model.save_pretrained(new, max_shard_size=shard)
            new.rename(folder)
    except (OSError, SafetensorError) as error:
        raise DimooError(f"{folder} cannot be written ({str(error).splitlines()[0]}).") from error
