"""Adapters: trained on pictures of one's own, saved, and put into their checkpoint."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from PIL import Image

from dimoo.__main__ import main
from dimoo.adapter import adapter_name
from dimoo.checkpoint import BUILT_IN, load, outline_of
from dimoo.errors import DimooError
from dimoo.layout import text_to_image
from dimoo.packed import Packed
from dimoo.tasks import Generate
from dimoo.train import run as run_module
from dimoo.train.adapting import lasting_name
from dimoo.train.captions import Captioned, read_folder
from dimoo.train.finetune import finetune, mean_nll

WORDS = "a red ball"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with two captioned pictures of plain colours."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, color in (("one.png", "red"), ("two.jpg", "blue")):
        Image.new("RGB", (90, 80), color).save(folder / name)
        (folder / name).with_suffix(".txt").write_text(f" {WORDS}\n")
    return folder


@pytest.fixture
def clock(monkeypatch):
    """Every look at it takes a second."""
    seconds = itertools.count()
    monkeypatch.setattr(run_module, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    """The folder of a run of some steps, and what it logged."""
    folder = tmp_path_factory.mktemp("finetuned") / "cats"
    with pytest.MonkeyPatch.context() as patch:
        seconds = itertools.count()
        patch.setattr(run_module, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
        numbers = ["--minutes", "2", "--rate", "3e-3", "--side", "64", "--rank", "4"]
        assert main(["finetune", str(pictures), "-o", str(folder), *numbers]) == 0
    return folder


def logits_of(pipeline):
    codes = torch.arange(16).view(4, 4)
    branch = text_to_image(pipeline.vocab, WORDS, 4, 4, torch.where(codes < 8, codes, -1))[0]
    return pipeline.model.predict(Packed.of([branch.ids]), branch.cells, pipeline.vocab.image_codes)


def test_the_pictures_are_learned(trained):
    losses = [json.loads(line)["loss"] for line in (trained / "log.jsonl").read_text().splitlines()]
    assert len(losses) > 2 and losses[-1] < 0.6 * losses[0]
    weights = (trained / "adapter" / "adapter_model.safetensors").stat().st_size
    assert 100_000 < weights < 1_000_000  # of a checkpoint of 13 MB


def test_an_adapter_stands_for_its_checkpoint_with_the_adapter_in_it(trained, built_in):
    adapted = load(trained / "adapter", "cpu", torch.float32)
    assert adapted.defaults.name == "Toytown + cats" and not any(p.requires_grad for p in adapted.model.parameters())
    base = load(BUILT_IN, "cpu", torch.float32)
    assert not torch.allclose(logits_of(adapted), logits_of(base), atol=0.1)
    changed = [n for n, p in adapted.model.named_parameters() if not torch.equal(p, base.model.get_parameter(n))]
    assert changed and all(".blocks." in name and "norm" not in name for name in changed)  # merged, nothing beside
    *_, frame = adapted.run(Generate(WORDS, 64, 64, steps=2, seed=1, tries=1))
    assert frame.settings["model"] == "Toytown + cats"
    *_, plain = base.run(Generate(WORDS, 64, 64, steps=2, seed=1, tries=1))
    assert not np.array_equal(frame.tokens, plain.tokens)
    outline, defaults = outline_of(str(trained / "adapter"), "bf16")
    assert outline.parameters == outline_of(BUILT_IN, "bf16")[0].parameters and defaults.name == "Toytown"
    assert load(BUILT_IN, "cpu").defaults.name == built_in.defaults.name == "Toytown"


def test_a_loss_in_parts_is_that_of_the_whole(built_in, monkeypatch):
    monkeypatch.setattr("dimoo.train.finetune.HEAD_ROWS", 3)
    states = torch.randn(7, built_in.model.config.d_model, requires_grad=True)
    targets = torch.arange(7) * 11
    losses = F.cross_entropy(built_in.model.logits(states), targets), mean_nll(built_in.model, states, targets)
    whole, parts = (torch.autograd.grad(loss, states)[0] for loss in losses)
    assert torch.allclose(*losses) and torch.allclose(whole, parts, atol=1e-6)


def test_an_adapter_is_merged_into_a_checkpoint_of_its_own(trained, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "merged"
    assert main(["merge", str(trained / "adapter"), "-o", str(folder), "--shard", "9MB"]) == 0
    assert capsys.readouterr().out.strip() == str(folder) and len(list(folder.glob("model*.safetensors"))) == 2
    merged, adapted, base = (load(name, "cpu", torch.float32) for name in (folder, trained / "adapter", BUILT_IN))
    assert merged.defaults == adapted.defaults and merged.preview is not None and not (folder / "README.md").exists()
    assert torch.allclose(logits_of(merged), logits_of(adapted), atol=0.2)  # it is kept in float16
    assert (logits_of(merged) - logits_of(adapted)).abs().mean() < 0.02 < (logits_of(merged) - logits_of(base)).abs().mean()
    sizes = [[file.stat().st_size for file in f.glob("model*.safetensors")] for f in (folder, ROOT / BUILT_IN)]
    assert max(sizes[0]) < 10_000_000 and sum(sizes[0]) == sum(sizes[1])
    assert main(["merge", str(trained / "adapter"), "-o", str(tmp_path / "x"), "--shard", "5G"]) == 2
    assert "5G is not a size" in capsys.readouterr().err
    assert main(["merge", str(trained / "adapter"), "-o", str(folder)]) == 2 and "exists already" in capsys.readouterr().err
    assert main(["merge", str(ROOT / BUILT_IN), "-o", str(tmp_path / "x")]) == 2 and "no adapter" in capsys.readouterr().err
    monkeypatch.setattr("dimoo.checkpoint.free_bytes", lambda device: 10**6)
    assert main(["merge", str(trained / "adapter"), "-o", str(tmp_path / "x")]) == 2
    assert "do it on a larger machine" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_an_adapter_lies_beside_weights_that_are_quantized(trained):
    pytest.importorskip("bitsandbytes")
    quantized, merged = load(trained / "adapter", "cpu", quantize="int8"), load(trained / "adapter", "cpu", torch.float32)
    plain = load(BUILT_IN, "cpu", torch.float32)
    assert quantized.model.precision == "int8" and any("lora_A" in name for name, _ in quantized.model.named_parameters())
    near, far = ((logits_of(quantized).float() - logits_of(other)).abs().mean() for other in (merged, plain))
    assert near < far / 2


def test_a_run_is_continued_and_not_mixed_with_another(pictures, trained, tmp_path, clock, capsys):
    folder = shutil.copytree(trained, tmp_path / "again")
    steps = torch.load(folder / "state.pt", weights_only=True)["step"]
    command = ["finetune", str(pictures), "-o", str(folder), "--rate", "3e-3", "--side", "64", "--rank", "4"]
    assert main([*command, "--minutes", "2.3"]) == 0
    assert f"continuing at step {steps}" in capsys.readouterr().err
    assert torch.load(folder / "state.pt", weights_only=True)["step"] > steps
    assert main([*command, "--minutes", "3", "--rank", "5"]) == 2
    assert "holds a run with another checkpoint, rank or seed, or other pictures" in capsys.readouterr().err
    other = shutil.copytree(pictures, tmp_path / "other")
    (other / "one.txt").write_text("a blue ball")
    assert main(["finetune", str(other), *command[2:], "--minutes", "3"]) == 2
    assert "or other pictures, captions or sizes" in capsys.readouterr().err


def test_words_that_are_not_known_are_named(pictures, tmp_path, clock, capsys):
    (tmp_path / "one.png").write_bytes((pictures / "one.png").read_bytes())
    (tmp_path / "one.txt").write_text("a red ball by my cat Felix")
    assert main(["finetune", str(tmp_path), "-o", str(tmp_path / "run"), "--minutes", "0.05", "--side", "64", "--rank", "1"]) == 0
    assert "Toytown does not know, and leaves out: my, cat, Felix." in capsys.readouterr().err


def test_the_base_is_named_so_that_it_is_found_from_everywhere(trained, tmp_path, monkeypatch, capsys, pictures):
    folder = shutil.copytree(ROOT / BUILT_IN, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    assert lasting_name("base") == lasting_name("./base") == str(folder)
    assert lasting_name(BUILT_IN) == BUILT_IN and lasting_name("some/model@main") == "some/model@main"
    assert main(["finetune", str(pictures), "--checkpoint", str(trained / "adapter"), "-o", str(tmp_path / "run")]) == 2
    assert "is an adapter itself" in capsys.readouterr().err and not (tmp_path / "run").exists()
    monkeypatch.setattr("dimoo.hub.download", lambda *_: trained / "adapter")
    assert main(["finetune", str(pictures), "--checkpoint", "some/adapter", "-o", str(tmp_path / "run")]) == 2
    assert "some/adapter is an adapter itself" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_adapters_are_called_as_people_know_them(tmp_path):
    assert adapter_name(tmp_path / "cats" / "adapter") == adapter_name(tmp_path / "cats") == "cats"
    assert adapter_name(tmp_path / "models--me--my-cats" / "snapshots" / "0a1b") == "my-cats"  # in the cache of the hub


def test_nothing_stays_of_a_checkpoint_that_cannot_be_written(trained, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dimoo.model.DiMOO.save_pretrained", full)
    (tmp_path / "merged.old").mkdir()  # somebody's own
    assert main(["merge", str(trained / "adapter"), "-o", str(tmp_path / "merged")]) == 2
    assert "No space left" in capsys.readouterr().err and list(tmp_path.iterdir()) == [tmp_path / "merged.old"]


def test_captions_are_read_from_files_or_a_table(pictures, tmp_path):
    assert read_folder(pictures) == [Captioned(pictures / "one.png", WORDS), Captioned(pictures / "two.jpg", WORDS)]
    shutil.copy(pictures / "one.png", tmp_path)
    (tmp_path / "metadata.jsonl").write_text('\ufeff{"file_name": "one.png", "text": "a house"}\n\n')
    assert read_folder(tmp_path) == [Captioned(tmp_path / "one.png", "a house")]


@pytest.mark.parametrize("files, sentence", [
    ({}, "There are no pictures in"),
    ({"a.png": "", "b.txt": "words"}, "a.png has no caption: write what it shows into a.txt"),
    ({"a.png": "", "a.txt": " \n"}, "a.png has no caption"),
    ({"metadata.jsonl": '{"file_name": "a.png", "text": "x"}'}, "line 1: there is no"),
    ({"a.png": "", "metadata.jsonl": '{"file_name": "a.png", "text": " "}'}, "line 1: the caption is empty"),
    ({"a.png": "", "metadata.jsonl": '\n{"file_name": "a.png"}'}, "line 2: write"),
    ({"a.png": "", "metadata.jsonl": "a.png: x"}, "line 1: write"),
    ({"a.png": "no picture", "a.txt": "words"}, "cannot be read"),
    ({"a.png": "", "a.txt": b"caf\xe9"}, "a.txt is not in UTF-8"),
])  # fmt: skip
def test_pictures_that_cannot_be_learned_are_named(files, sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dimoo.train.adapting.load", lambda *_, **__: pytest.fail("nothing is to be loaded"))
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["finetune", str(folder), "-o", str(tmp_path / "run")]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--minutes", "0"], ["--rate", "-1"], ["--rank", "0"], ["--batch", "0"], ["--seed", "-1"],
                                   ["--side", "8"], ["--checkpoint", "nowhere"]])  # fmt: skip
def test_numbers_that_no_training_can_have(pictures, tmp_path, wrong, capsys):
    assert main(["finetune", str(pictures), "-o", str(tmp_path / "run"), *wrong]) == 2
    assert capsys.readouterr().err.startswith("dimoo: ") and not (tmp_path / "run").exists()
    assert main(["finetune", str(tmp_path / "missing")]) == 2


def test_adapters_that_cannot_be_used(trained, tmp_path, monkeypatch):
    folder = shutil.copytree(trained / "adapter", tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    for change, sentence in (({"base_model_name_or_path": None}, "does not say which"),
                             ({"base_model_name_or_path": str(tmp_path / "gone")}, "There is no checkpoint folder"),
                             ({"r": 7}, "cannot be used")):  # fmt: skip
        (folder / "adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(DimooError, match=sentence):
            load(folder, "cpu")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(DimooError, match="cannot be used"):
        load(folder, "cpu")
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(DimooError, match="is broken"):
        load(folder, "cpu")
    with pytest.raises(DimooError, match="cannot be offloaded"):
        load(trained / "adapter", "cpu", offload=True)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(DimooError, match="one more package"):
        load(trained / "adapter", "cpu")
    with pytest.raises(DimooError, match="one more package"):
        finetune(load(BUILT_IN, "cpu"), BUILT_IN, [], tmp_path / "run", 1, 64)
