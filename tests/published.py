"""A look-alike of the published repository: its files, configuration fields, vocabulary and ids around a small body.

The ids are the published ones, all 134 548 of them; the transformer is 32 numbers wide, and the image tokenizer has aMUSEd's
configuration at reduced width. Weights are random, in bfloat16, in several shards with an index.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from dimoo.config import PUBLISHED_IMAGE_OFFSET, PUBLISHED_TABLE_SIZE, SPECIAL_TOKENS, LLaDAConfig
from dimoo.model import DiMOO
from dimoo.vq import VQModel

SHARDS = 4
WORDS = 126080  # ids of the byte-level vocabulary; the added tokens follow
# Names of ids that this package does not look up by name, or that its tokenizer calls otherwise.
OTHERS = {
    126080: "<|startoftext|>", 126082: "[CLS]", 126083: "[gMASK]", 126346: "<|start_header_id|>", 126347: "<|end_header_id|>",
    126348: "<|eot_id|>",
}  # fmt: skip
BY_NAME = {126342: "<system>", 126343: "</system>", 126344: "<user>", 126345: "</user>"}
RESERVED = ("newline", "pad")  # reserved tokens of the body, put to use without a new name
TEXT = [
    "Generate an image according to the text prompt. A red fox asleep on a mossy stone.",
    "You are a multimodal model that can process both text and images. What is in the background?",
    "Change the background to a snowy mountain. How many objects are there?",
]
CONFIG = {
    "activation_type": "silu", "alibi": False, "alibi_bias_max": 8.0, "architectures": ["LLaDAModelLM"], "attention_dropout": 0.0,
    "attention_layer_norm": False, "attention_layer_norm_with_affine": True,
    "auto_map": {
        "AutoConfig": "configuration_llada.LLaDAConfig", "AutoModel": "modeling_llada.LLaDAModelLM",
        "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
    },
    "bias_for_layer_norm": False, "block_group_size": 1, "block_type": "llama", "d_model": 32, "embedding_dropout": 0.0,
    "embedding_size": PUBLISHED_TABLE_SIZE, "eos_token_id": 126081, "flash_attention": False, "include_bias": False,
    "include_qkv_bias": False, "init_cutoff_factor": None, "init_device": "meta", "init_fn": "mitchell", "init_std": 0.02,
    "input_emb_norm": False, "layer_norm_type": "rms", "layer_norm_with_affine": True, "mask_token_id": 126336,
    "max_sequence_length": 4096, "mlp_hidden_size": 64, "mlp_ratio": 4, "model_type": "llada", "multi_query_attention": None,
    "n_heads": 4, "n_kv_heads": 4, "n_layers": 2, "pad_token_id": 126081, "precision": "amp_bf16", "residual_dropout": 0.0,
    "rms_norm_eps": 1e-05, "rope": True, "rope_full_precision": True, "rope_theta": 500000.0, "scale_logits": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.46.3", "use_cache": False, "vocab_size": PUBLISHED_TABLE_SIZE,
    "weight_tying": False,
}  # fmt: skip
VQ_CONFIG = {
    "_class_name": "VQModel", "_diffusers_version": "0.30.0", "act_fn": "silu", "block_out_channels": [32] * 5,
    "down_block_types": ["DownEncoderBlock2D"] * 5, "force_upcast": True, "in_channels": 3, "latent_channels": 64,
    "layers_per_block": 2, "lookup_from_codebook": True, "mid_block_add_attention": False, "norm_num_groups": 32,
    "norm_type": "group", "num_vq_embeddings": 8192, "out_channels": 3, "sample_size": 32, "scaling_factor": 0.18215,
    "up_block_types": ["UpDecoderBlock2D"] * 5, "vq_embed_dim": None,
}  # fmt: skip


def write_published(folder: Path) -> Path:
    """Writes the look-alike into a folder and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "generation_config.json", {"_from_model_config": True, "eos_token_id": 126081, "use_cache": False})
    write_tokenizer(folder)
    torch.manual_seed(0)
    model = DiMOO(LLaDAConfig.from_dict(CONFIG)).to(torch.bfloat16)
    torch.nn.init.normal_(model.model["transformer"]["ff_out"].weight, std=0.5)
    write_shards(model.state_dict(), folder)
    write_vq(folder / "vqvae")
    return folder


def write_tokenizer(folder: Path) -> None:
    """A byte-level BPE with a few merges, filled up so that the added tokens lie at the published ids."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    vocabulary = model["vocab"] | {f"Ġ{number}Ġ": number for number in range(len(model["vocab"]), WORDS)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [tuple(pair) for pair in model["merges"]]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = added_names()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {
        str(WORDS + place): {
            "content": name, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True,
        }
        for place, name in enumerate(names)
    }  # fmt: skip
    named = {"bos_token": "<|startoftext|>", "cls_token": "[CLS]", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    write_json(folder / "special_tokens_map.json", named)
    settings = {
        "add_bos_token": False, "add_eos_token": False, "added_tokens_decoder": added, "clean_up_tokenization_spaces": False,
        "fast_tokenizer": True, "gmask_token": "[gMASK]", "merges_file": None, "model_max_length": 10**30,
        "model_input_names": ["input_ids", "attention_mask"], "tokenizer_class": "PreTrainedTokenizerFast",
        "trust_remote_code": True,
    }  # fmt: skip
    write_json(folder / "tokenizer_config.json", settings | named)


def added_names() -> list[str]:
    """What stands at the ids from WORDS to the image codes."""
    known = {token.published_id: token.text for name, token in SPECIAL_TOKENS.items() if name not in RESERVED}
    known |= OTHERS | BY_NAME
    return [known.get(i, f"<|reserved_token_{i - 126084}|>") for i in range(WORDS, PUBLISHED_IMAGE_OFFSET)]


def write_shards(state: dict[str, torch.Tensor], folder: Path) -> None:
    names, where = sorted(state), {}
    for shard in range(SHARDS):
        file = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        part = names[shard::SHARDS]
        save_file({name: state[name] for name in part}, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    size = sum(tensor.nbytes for tensor in state.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": where})


def write_vq(folder: Path) -> None:
    folder.mkdir()
    write_json(folder / "config.json", VQ_CONFIG)
    vq = VQModel(VQ_CONFIG)
    torch.nn.init.normal_(vq.codebook)
    torch.nn.init.normal_(vq.decoder.conv_out.weight, std=0.1)
    vq.decoder.conv_out.bias.data.fill_(0.5)
    save_file(vq.state_dict(), folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})


def copy_published(folder: Path, copy: Path) -> Path:
    """A copy for a test to damage: links, so replace a file instead of writing into it."""
    return Path(shutil.copytree(folder, copy, copy_function=os.link))


def write_json(path: Path, values: dict) -> None:
    """Writes a new file in the place of what was there."""
    path.unlink(missing_ok=True)
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")
