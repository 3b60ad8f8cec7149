"""Loading: the hub layout, and a sentence for everything that can be wrong with it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from dimoo import checkpoint as loader
from dimoo.checkpoint import BUILT_IN, ROOT, find, load, pick_device, pick_dtype
from dimoo.errors import DimooError
from dimoo.tasks import Generate


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_checkpoint_loads_and_says_what_it_is(pipeline):
    assert pipeline.defaults.name == "Testville"
    assert (pipeline.defaults.width, pipeline.defaults.steps, pipeline.defaults.guidance) == (256, 12, 4.0)
    assert len(pipeline.vq.codebook) == pipeline.vocab.codebook_size == 64
    assert pipeline.model.dtype == torch.float32
    assert not any(p.requires_grad for p in pipeline.model.parameters())
    assert not pipeline.model.training


def test_weights_in_several_files_are_the_same(broken, pipeline):
    weights = load_file(broken / "model.safetensors")
    names = sorted(weights)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, broken / file)
    where = {name: file for file, part in parts.items() for name in part}
    (broken / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (broken / "model.safetensors").unlink()
    loaded = load(broken, "cpu", torch.float32)
    for name, tensor in pipeline.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)
    (broken / "model-2.safetensors").unlink()
    with pytest.raises(DimooError, match="model-2.safetensors is missing"):
        load(broken, "cpu")


def test_a_fitted_preview_table_is_used_and_another_made_when_needed(broken):
    loaded = load(broken, "cpu")
    assert loaded.preview is None
    next(loaded.run(Generate("a red ball")))
    loaded.preview.save(broken / "vqvae" / "preview.safetensors")
    assert torch.equal(load(broken, "cpu").preview.weight, loaded.preview.weight)


BREAKS = {
    "no config": (lambda p: (p / "config.json").unlink(), "is not a checkpoint: it has no config.json"),
    "broken config": (lambda p: (p / "config.json").write_text("{"), "config.json is broken"),
    "another list": (lambda p: (p / "config.json").write_text("[]"), "describes a model of type None"),
    "another model": (
        lambda p: edit_json(p / "config.json", model_type="bert"),
        "a model of type bert, not llada",
    ),
    "odd value": (
        lambda p: edit_json(p / "config.json", d_model="wide"),
        "config.json has a value that cannot be used",
    ),
    "odd heads": (lambda p: edit_json(p / "config.json", n_heads=5), "does not split into 5 heads"),
    "no layers": (lambda p: edit_json(p / "config.json", n_layers=0), "n_layers is 0, but must be 1 or more"),
    "odd image tokenizer": (
        lambda p: edit_json(p / "vqvae" / "config.json", norm_num_groups=7),
        "image tokenizer's config.json has a value that cannot be used",
    ),
    "odd demo": (lambda p: edit_json(p / "config.json", demo={"presets": 3}), "demo section cannot be read"),
    "no demo": (lambda p: edit_json(p / "config.json", demo=None), "demo section cannot be read"),
    "tiny pictures": (lambda p: edit_json(p / "config.json", demo={"edit_side": 16}), "sides of 64 pixels or more"),
    "area in words": (lambda p: edit_json(p / "config.json", demo={"max_area": "big"}), "max_area must be a whole number"),
    "one task": (lambda p: edit_json(p / "config.json", demo={"tasks": "generate"}), "tasks is not a list"),
    "words as number": (lambda p: edit_json(p / "config.json", demo={"guidance": "much"}), "guidance must be a number"),
    "number as words": (lambda p: edit_json(p / "config.json", demo={"name": 8}), "name must be text"),
    "no tokenizer": (lambda p: (p / "tokenizer.json").unlink(), "no tokenizer.json"),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), "model.safetensors is missing"),
    "cut weights": (
        lambda p: (p / "model.safetensors").write_bytes((p / "model.safetensors").read_bytes()[:5000]),
        "model.safetensors cannot be read: the download is incomplete",
    ),
    "missing weight": (
        lambda p: save_file(
            dict(list(load_file(p / "model.safetensors").items())[1:]), p / "model.safetensors"
        ),
        "are incomplete: .* missing",
    ),
    "other width": (lambda p: edit_json(p / "config.json", d_model=64), "do not fit its config.json"),
    "no image tokenizer": (lambda p: (p / "vqvae" / "config.json").unlink(), "image tokenizer is missing"),
    "other codebook": (
        lambda p: edit_json(p / "config.json", codebook_size=60),
        "the image tokenizer has 64 codes, but config.json says 60",
    ),
    "broken index": (lambda p: (p / "model.safetensors.index.json").write_text("{}"), "index.json is broken"),
    "broken table": (
        lambda p: (p / "vqvae" / "preview.safetensors").write_text("x"),
        "is not a preview table",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_broken_checkpoints_are_refused_in_a_sentence(name, broken):
    damage, sentence = BREAKS[name]
    damage(broken)
    with pytest.raises(DimooError, match=sentence):
        load(broken, "cpu")


def test_the_built_in_checkpoint_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loader, "ROOT", tmp_path / "repository")
    with pytest.raises(DimooError, match="built-in checkpoint is missing"):
        find(BUILT_IN)
    home = tmp_path / "repository" / BUILT_IN
    home.mkdir(parents=True)
    assert find(BUILT_IN) == home
    assert (ROOT / "dimoo").is_dir()


def test_names_that_lead_nowhere(tmp_path):
    with pytest.raises(DimooError, match="There is no checkpoint folder .*nowhere/at/all"):
        find(tmp_path / "nowhere/at/all")


def test_devices_and_precisions(monkeypatch):
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(DimooError, match="no kind of device called tricorder"):
        pick_device("tricorder")
    with pytest.raises(DimooError, match="called meta here: use cpu or cuda"):
        pick_device("meta")
    if not torch.cuda.is_available():
        with pytest.raises(DimooError, match="no usable CUDA device"):
            pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device(None).type == "cuda" and pick_device("cuda:1").index == 1
    with pytest.raises(DimooError, match="no device cuda:2 on this machine: the last one is cuda:1"):
        pick_device("cuda:2")
    for dtype in (torch.bfloat16, torch.float32):
        monkeypatch.setattr(loader, "fastest_dtype", lambda dtype=dtype: dtype)
        assert pick_dtype(torch.device("cpu")) == dtype


@pytest.mark.parametrize("capable", [True, False])
def test_cards_that_only_emulate_bfloat16_get_float32(monkeypatch, capable):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or capable)
    assert pick_dtype(torch.device("cuda")) == (torch.bfloat16 if capable else torch.float32)


def test_the_built_in_checkpoint_is_whole(built_in):
    assert built_in.defaults.prompts and built_in.defaults.presets
    for prompt in built_in.defaults.prompts:
        assert built_in.vocab.unknown_words(prompt) == []


def test_what_does_not_fit_is_not_downloaded(checkpoint, monkeypatch):
    fetched = []
    monkeypatch.setattr(loader.hub, "download", lambda name, revision, files: fetched.append(tuple(files)) or checkpoint)
    assert load("owner/model", "cpu").defaults.name == "Testville"
    assert fetched == [loader.hub.CONFIGS, loader.hub.FILES]
    fetched.clear()
    monkeypatch.setattr(loader, "free_bytes", lambda device: 10**4)
    with pytest.raises(DimooError, match="The weights need about"):
        load("owner/model", "cpu")
    assert fetched == [loader.hub.CONFIGS]


@pytest.mark.parametrize("room, dtype", [(10**12, torch.float32), (1.2, torch.bfloat16)])
def test_weights_that_fit_in_half_precision_only_are_loaded_in_it(checkpoint, monkeypatch, room, dtype):
    half = loader.outline_of(str(checkpoint), "bf16")[0].weights
    monkeypatch.setattr(loader, "fastest_dtype", lambda: torch.float32)
    monkeypatch.setattr(loader, "free_bytes", lambda device: room * half)
    loaded = load(checkpoint, "cpu")
    assert next(loaded.model.parameters()).dtype == dtype and loaded.outline.mode == loader.mode_of(dtype)
