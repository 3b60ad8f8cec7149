"""python -m dimoo merge: a checkpoint with its adapter in it, in the layout of the hub."""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError

from dimoo.adapter import adapter_name, add_adapter, base_of
from dimoo.checkpoint import find, read_config
from dimoo.cli import check_writable
from dimoo.defaults import Defaults
from dimoo.errors import DimooError
from dimoo.hub import FILES
from dimoo.train.run import beside
from dimoo.weights import read_model


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    parser.add_argument("adapter", metavar="FOLDER", help="folder of an adapter")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="new folder of the checkpoint")
    parser.add_argument("--shard", metavar="SIZE", default="5GB", help="largest weight file (default: 5GB)")


def main(options: argparse.Namespace) -> int:
    merge(Path(options.adapter), Path(options.output), options.shard)
    print(options.output)
    return 0


def merge(adapter: Path, folder: Path, shard: str = "5GB") -> None:
    """Writes a checkpoint that is the adapter's base with the adapter in its weights, at the precision of the base.

    Raises DimooError when there is no adapter, or something in the way.
    """
    if (base := base_of(adapter)) is None:
        raise DimooError(f"There is no adapter in {adapter}.")
    if not re.fullmatch(r"\d+[KMG]B", shard):
        raise DimooError(f"{shard} is not a size: write a number and KB, MB or GB, such as 5GB.")
    if folder.exists():
        raise DimooError(f"{folder} exists already: name a new folder.")
    check_writable(folder.parent)
    source = find(base)
    config = read_config(source)
    model = add_adapter(read_model(source, config, torch.device("cpu"), config.dtype or torch.bfloat16), adapter)
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
