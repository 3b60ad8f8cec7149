"""A small checkpoint with random weights in the hub layout, loaded as any other: what most tests run on."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dimoo.config import SPECIAL_TOKENS, LLaDAConfig
from dimoo.model import DiMOO
from dimoo.vq import VQModel

ROOT = Path(__file__).resolve().parents[1]
BUILT_IN = ROOT / "assets" / "toytown"
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
sys.path.insert(0, str(ROOT))  # app.py is no part of the package
WORDS = (
    "a an the and of to in on at left right above below next behind front with small large red green blue "
    "yellow ball cube cone cylinder tree house snowman beach snow meadow night is are there generate image "
    "according text prompt"
).split()
CODES = 64
# what write_checkpoint needs for one that knows every task, with small pictures and short answers
EVERY_TASK = {
    "tasks": ["generate", "edit", "inpaint", "extrapolate", "chat"],
    "max_area": 512 * 512,
    "edit_side": 256,
    "chat_sides": [64, 256],
    "answer_length": 16,
    "answer_block": 8,
    "answer_steps": 16,
    "text_only": False,
    "instructions": ["a green ball", "a tree at night"],
    "questions": ["is the ball red", "is the cube on the left"],
}


def write_tokenizer(folder: Path) -> int:
    """A word-level tokenizer of the kind the built-in checkpoint has; returns the number of its ids."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = list(dict.fromkeys(["<unk>", ".", ",", *WORDS]))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    fast.add_special_tokens({"additional_special_tokens": [token.text for token in SPECIAL_TOKENS.values()]})
    fast.save_pretrained(str(folder))
    return len(fast)


def write_checkpoint(folder: Path, width: int = 32, layers: int = 2, **demo: object) -> Path:
    """A checkpoint with random weights. width and layers decide how long a step takes."""
    torch.manual_seed(0)
    text_ids = write_tokenizer(folder)
    config = LLaDAConfig(
        d_model=width,
        n_heads=4,
        n_layers=layers,
        mlp_hidden_size=2 * width,
        vocab_size=text_ids + CODES,
        embedding_size=text_ids + CODES,
        codebook_size=CODES,
        demo={
            "name": "Testville",
            "default_size": [256, 256],
            "presets": [[256, 256, "Square"], [320, 192, "Wide"], [192, 320, "Tall"]],
            "steps": 12,
            "tasks": ["generate"],
            "prompts": ["a red ball on the beach", "a blue cube in the snow", "a green tree at night"],
            "words_help": "It knows: ball, cube, cone; red, green, blue; beach, snow, night.",
            **demo,
        },
    )
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    model = DiMOO(config)
    torch.nn.init.normal_(model.model["transformer"]["ff_out"].weight, std=0.5)
    save_file(model.state_dict(), folder / "model.safetensors")
    vq_config = {
        "block_out_channels": [8, 8, 8, 8, 8],
        "layers_per_block": 1,
        "latent_channels": 4,
        "num_vq_embeddings": CODES,
        "norm_num_groups": 4,
    }
    vq = VQModel(vq_config)
    torch.nn.init.normal_(vq.codebook, std=2.0)
    torch.nn.init.normal_(vq.decoder.conv_out.weight, std=0.1)
    vq.decoder.conv_out.bias.data.fill_(0.5)
    (folder / "vqvae").mkdir()
    (folder / "vqvae" / "config.json").write_text(json.dumps(vq_config))
    save_file(vq.state_dict(), folder / "vqvae" / "diffusion_pytorch_model.safetensors")
    return folder


@pytest.fixture(scope="session", autouse=True)
def served_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Gradio keeps files during the tests."""
    folder = tmp_path_factory.mktemp("gradio")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a checkpoint whose steps take a few milliseconds."""
    return write_checkpoint(tmp_path_factory.mktemp("testville"))


def tiny_config(codes: int, **size):
    """Of a transformer with the built-in vocabulary that learns in a second."""
    from dimoo.config import LLaDAConfig
    from dimoo.train.words import TEXT_IDS

    body = {"d_model": 32, "n_heads": 4, "n_kv_heads": 4, "mlp_hidden_size": 64}
    return LLaDAConfig(**body, **size, vocab_size=TEXT_IDS + codes, embedding_size=TEXT_IDS + codes, codebook_size=codes)


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the built-in tokenizer."""
    from dimoo.train.words import write_tokenizer

    folder = tmp_path_factory.mktemp("words")
    write_tokenizer(folder)
    return folder


@pytest.fixture
def broken(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint for a test to damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "broken"))


@pytest.fixture(scope="session")
def pipeline(checkpoint: Path):
    from dimoo.checkpoint import load

    return load(checkpoint, "cpu", torch.float32)


@pytest.fixture(scope="session")
def built_in():
    """The trained checkpoint of this repository."""
    if not BUILT_IN.is_dir():
        pytest.skip("assets/toytown is not there: this checkout has no trained checkpoint")
    from dimoo.checkpoint import load

    return load()
