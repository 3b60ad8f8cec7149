"""The published repository's layout, vocabulary and ids, through the loader, the pipeline, the command line and the page."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from PIL import Image
from published import WORDS, copy_published, write_json, write_published
from safetensors.torch import load_file, save_file

import app
from dimoo.__main__ import main
from dimoo.checkpoint import load
from dimoo.config import PUBLISHED_IMAGE_OFFSET, SPECIAL_TOKENS
from dimoo.defaults import Defaults
from dimoo.errors import DimooError
from dimoo.layout import GENERATE, text_to_image
from dimoo.metadata import read_settings
from dimoo.preview import fit_unseen
from dimoo.tasks import Chat, Edit, Extrapolate, Generate, Inpaint
from dimoo.vq import VQModel

PHOTO = Image.fromarray(np.linspace(0, 255, 128 * 128 * 3).reshape(128, 128, 3).astype(np.uint8))
MASK = Image.fromarray(np.pad(np.full((40, 40), 255, np.uint8), ((30, 58), (30, 58))))
FEW = {"steps": 2, "seed": 1}


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    return write_published(tmp_path_factory.mktemp("hub") / "Lumina-DiMOO")


@pytest.fixture(scope="session")
def small(published, tmp_path_factory):
    """The look-alike with smaller pictures as its default, and a preview table: what takes a while on a processor."""
    folder = copy_published(published, tmp_path_factory.mktemp("small") / "Lumina-DiMOO")
    sizes = {"default_size": [128, 128], "edit_side": 128, "chat_sides": [64, 128]}
    edit_json(folder / "config.json", lambda config: config.update(demo=sizes))
    fit_unseen(VQModel.load(folder / "vqvae"), pictures=1, size=64).save(folder / "vqvae" / "preview.safetensors")
    return folder


@pytest.fixture(scope="session")
def pipe(small):
    return load(small, "cpu", torch.float32)


@pytest.fixture
def files(tmp_path):
    """The picture and the mask as files."""
    PHOTO.save(tmp_path / "photo.png")
    MASK.save(tmp_path / "mask.png")
    return {name: str(tmp_path / f"{name}.png") for name in ("photo", "mask")}


@pytest.fixture
def broken(published, tmp_path):
    return copy_published(published, tmp_path / "broken")


def test_ids_are_the_published_ones(pipe):
    for name, token in SPECIAL_TOKENS.items():
        assert token.published_id in (None, getattr(pipe.vocab.ids, name))
    assert pipe.vocab.image_codes == slice(126356, 134548)
    assert pipe.vocab.ids.user_end > WORDS
    text = "A red fox, 猫 & naïve </user>"
    ids = pipe.vocab.encode(text)
    assert max(ids) < WORDS and pipe.vocab.decode(ids) == text
    assert len(pipe.model.model["transformer"]["wte"].weight) == PUBLISHED_IMAGE_OFFSET + 8192


def test_sequences_are_what_the_tokenizer_says_of_the_whole_text(pipe):
    whole = pipe.vocab.tokenizer(f"<system>{GENERATE}</system><user>A red fox</user>")["input_ids"]
    ids = text_to_image(pipe.vocab, "A red fox", 2, 3)[0].ids.tolist()
    mask, row_end = 126336, 126084
    assert ids == [*whole, 126354, 126349, *[mask] * 3, row_end, *[mask] * 3, row_end, 126350, 126355]


def test_defaults_are_the_published_ones(published):
    assert load(published, "cpu").defaults == Defaults()


REQUESTS = {
    "generate": Generate("A red fox", width=128, height=96, **FEW),
    "cached": Generate("A red fox", width=128, height=96, cache=True, **FEW),
    "instruct": Edit(PHOTO, prompt="Add a fox", **FEW),
    "control": Edit(PHOTO, "control", "A red fox", map="depth", **FEW),
    "subject": Edit(PHOTO, "subject", "In the snow", **FEW),
    "style": Edit(PHOTO, "style", reference=PHOTO, **FEW),
    "predict": Edit(PHOTO, "predict", map="canny", **FEW),
    "view": Edit(PHOTO, "view", direction="back", **FEW),
    "inpaint": Inpaint(PHOTO, MASK, "A red fox", **FEW),
    "extrapolate": Extrapolate(PHOTO, "A red fox", right=32, **FEW),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_pictures_of_every_kind(name, pipe):
    request = REQUESTS[name]
    *_, last = pipe.run(request)
    assert last.image.size == {"generate": (128, 96), "cached": (128, 96), "extrapolate": (160, 128)}.get(name, (128, 128))
    assert last.settings["task"] == request.task and last.settings["model"] == "Lumina-DiMOO"
    assert not last.masked.any() and 0 <= last.tokens.min() and last.tokens.max() < 8192


@pytest.mark.parametrize("pictures", [(PHOTO,), (PHOTO, PHOTO), ()])
def test_answers(pictures, pipe):
    *_, last = pipe.run(Chat(pictures, "What is in the background?", length=16, block=8, steps=4))
    assert last.done and last.settings["task"] == "chat"
    assert not any(token.text in last.text for token in SPECIAL_TOKENS.values())


COMMANDS = {
    "generate": ["A red fox"],
    "edit": ["{photo}", "Add a fox"],
    "inpaint": ["{photo}", "{mask}", "A red fox"],
    "extrapolate": ["{photo}", "A red fox", "--left", "16"],
    "chat": ["{photo}", "-q", "What is in the background?", "--length", "8"],
}


@pytest.mark.parametrize("task", COMMANDS)
def test_the_command_line(task, small, files, tmp_path):
    words = [word.format(**files) for word in COMMANDS[task]]
    options = ["--checkpoint", str(small), "--steps", "1", "--device", "cpu", "--json", str(tmp_path / "told.json")]
    if task != "chat":
        options += ["-o", str(tmp_path / "result.png")]
    assert main([task, *words, *options]) == 0
    (told,) = next(iter(json.loads((tmp_path / "told.json").read_text()).values()))
    assert told["model"] == "Lumina-DiMOO" and told["task"] == task
    if task != "chat":
        assert read_settings(tmp_path / "result.png")["task"] == task


def test_the_page(small, files):
    page = app.build(load(str(small), "cpu"))
    photo, mask = (handle_file(files[name]) for name in ("photo", "mask"))
    try:
        client = Client(app.serve(page, server_name="127.0.0.1"), verbose=False)
        for name, values in {
            "/generate": {"prompt": "A red fox"}, "/edit": {"image": photo, "prompt": "Add a fox"},
            "/inpaint": {"image": photo, "mask": mask}, "/extrapolate": {"image": photo, "left": 16},
            "/chat": {"question": "How many?", "images": [photo], "length": 8},
        }.items():  # fmt: skip
            _, settings = client.predict(**values, steps=1, api_name=name)
            settings = settings if isinstance(settings, dict) else settings[0]
            assert settings["model"] == "Lumina-DiMOO" and f"/{settings['task']}" == name
    finally:
        page.close()


def rewrite_shard(folder, change):
    """Replaces the shard with the embedding by one whose tensors `change` has changed."""
    name = "model.transformer.wte.weight"
    where = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    path = folder / where[name]
    weights = {key: tensor.clone() for key, tensor in load_file(path).items()}
    change(weights, name)
    path.unlink()
    save_file(weights, path)


def edit_json(path, change):
    values = json.loads(path.read_text())
    change(values)
    write_json(path, values)


def without_user_end(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text()
        assert "</user>" in text
        write_json(folder / name, json.loads(text.replace("</user>", "<|reserved_token_261|>")))


def appending(values):
    end = {"id": "<|endoftext|>", "ids": [126081], "tokens": ["<|endoftext|>"]}
    pieces = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}]
    values["post_processor"] = {
        "type": "TemplateProcessing", "single": pieces, "pair": pieces, "special_tokens": {"<|endoftext|>": end},
    }  # fmt: skip


def cut(path):
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) - 1000])


def narrower(weights, name):
    weights[name] = weights[name][:-1].clone()


FAULTS = {
    "a padded vocabulary": (
        lambda p: edit_json(p / "config.json", lambda c: c.update(embedding_size=134656)),
        "the vocabulary has 134656 ids.* it must have 134548",
    ),
    "another body's vocabulary": (
        lambda p: edit_json(p / "config.json", lambda c: c.update(embedding_size=126464, vocab_size=126464)),
        "the vocabulary has 126464 ids.* it must have 134548",
    ),
    "an embedding of another width": (
        lambda p: rewrite_shard(p, narrower),
        "the vocabulary is 134547 ids wide in model.transformer.wte.weight, but 134548 in config.json",
    ),
    "no </user>": (without_user_end, "The tokenizer has no special token </user>"),
    "tokens appended": (lambda p: edit_json(p / "tokenizer.json", appending), "adds ids of its own"),
    "a missing shard": (
        lambda p: (p / "model-00003-of-00004.safetensors").unlink(), "model-00003-of-00004.safetensors is missing",
    ),
    "a cut shard": (
        lambda p: cut(p / "model-00002-of-00004.safetensors"),
        "model-00002-of-00004.safetensors cannot be read: the download is incomplete",
    ),
    "a missing weight": (
        lambda p: rewrite_shard(p, lambda weights, name: weights.pop(name)),
        "are incomplete: model.transformer.wte.weight and 0 more are missing",
    ),
    "no image tokenizer": (lambda p: (p / "vqvae" / "config.json").unlink(), "image tokenizer is missing"),
    "a wider image tokenizer": (
        lambda p: edit_json(p / "vqvae" / "config.json", lambda c: c.update(block_out_channels=[64] * 5)),
        "image tokenizer's weights do not fit its config.json",
    ),
    "longer codes": (
        lambda p: edit_json(p / "vqvae" / "config.json", lambda c: c.update(latent_channels=256)),
        "image tokenizer's weights do not fit its config.json",
    ),
    "a cut image tokenizer": (
        lambda p: cut(p / "vqvae" / "diffusion_pytorch_model.safetensors"), "diffusion_pytorch_model.safetensors cannot be read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found_at_load(name, broken):
    damage, sentence = FAULTS[name]
    damage(broken)
    with pytest.raises(DimooError, match=sentence):
        load(broken, "cpu")
