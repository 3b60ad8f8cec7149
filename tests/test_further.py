"""Training a checkpoint further, and in which numbers."""

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_config
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dimoo import precision
from dimoo.__main__ import main
from dimoo.checkpoint import read_config
from dimoo.config import LLaDAConfig
from dimoo.errors import DimooError
from dimoo.model import scaled_attention
from dimoo.packed import Packed
from dimoo.preview import fit
from dimoo.train import own, transformer
from dimoo.train.data import Teacher
from dimoo.train.families import fingerprint, name_of
from dimoo.train.grounding import depths
from dimoo.train.growing import grown, places
from dimoo.train.initial import new_model, trained_model
from dimoo.train.losses import Reader
from dimoo.train.muon import Muon
from dimoo.train.publish import export
from dimoo.train.run import Run
from dimoo.train.self_grpo import Method
from dimoo.train.tokenizer import grid_codebook, save_tokenizer
from dimoo.train.transformer import FITTING, WARM_UP, optimizers, rate_of, train_transformer
from dimoo.vq import VQModel
from dimoo.weights import read_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Of a tiny model that knows the words of Toytown."""
    folder = tmp_path_factory.mktemp("further")
    torch.manual_seed(0)
    vq = VQModel({"block_out_channels": [8] * 5, "layers_per_block": 1, "latent_channels": 3, "num_vq_embeddings": 64,
                  "norm_num_groups": 4, "norm_scope": "none"}).eval()  # fmt: skip
    vq.quantize.embedding.weight = torch.nn.Parameter(grid_codebook(3), requires_grad=False)
    save_tokenizer(vq, folder / "vqvae")
    preview = fit(vq, torch.randint(0, 64, (2, 16, 16)), cell_pixels=8)
    export(new_model(tiny_config(64, n_layers=2), vq.codebook, seed=0), folder / "vqvae", preview, folder / "checkpoint")
    return folder / "checkpoint"


def weights_of(folder):
    return read_model(folder, read_config(folder), torch.device("cpu"), torch.float32).state_dict()


def test_a_checkpoint_is_trained_further(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(transformer.shutil, "which", lambda name: None)  # no compiler
    monkeypatch.setattr(transformer, "FITTING", 2)
    seen = []

    def encoded(vq, folder, families):
        seen.extend(families)
        return {name_of(s): np.zeros((s.rows, s.columns), np.int16) for f in families for s in f.shots}

    class Watched(Reader):
        """Notes of every gradient whether it is the first of its step."""

        def __init__(self, config):
            super().__init__(config)
            self.head.bias.register_hook(lambda gradient: firsts.append(self.head.bias.grad is None))

    firsts = []
    monkeypatch.setattr(transformer, "Reader", Watched)
    monkeypatch.setattr(transformer, "encode_families", encoded)
    steps = 8
    monkeypatch.setattr(Run, "progress", property(lambda run: min(1.0, run.step / steps)))
    command = ["train", "model", "--from", str(checkpoint), "-o", str(tmp_path / "run"), "--pictures", "16", "--seed", "3"]
    assert main(command) == 0
    assert {family.seed for family in seen} == set(range(300_000, 300_016))  # another seed, other scenes
    before, after = weights_of(checkpoint), weights_of(tmp_path / "run" / "checkpoint")
    assert before.keys() == after.keys() and any(not torch.equal(before[name], after[name]) for name in before)
    assert fingerprint(VQModel.load(tmp_path / "run" / "checkpoint" / "vqvae")) == fingerprint(VQModel.load(checkpoint / "vqvae"))
    assert torch.tensor(1e-39).mul(0.5) > 0  # the processor takes the smallest numbers for what they are again
    assert firsts == [True, False] * steps  # the two halves of a step, and nothing of earlier ones
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == steps
    steps = 12
    seen.clear()
    with pytest.raises(DimooError, match="another tokenizer, size, world, seed or start"):
        train_transformer(tmp_path / "run", None, 1, scenes=16, seed=4, start=checkpoint)
    with pytest.raises(DimooError, match="another tokenizer, size, world, seed or start"):
        train_transformer(tmp_path / "run", None, 1, scenes=16, seed=3, start=tmp_path / "run" / "checkpoint")
    assert not seen  # nothing was drawn for either
    sharper = VQModel.load(checkpoint / "vqvae")
    sharper.decoder.conv_out.bias.data += 1
    save_tokenizer(sharper, tmp_path / "sharper")
    command += ["--tokenizer", str(tmp_path / "sharper")]
    assert main([*command, "--rate", "0.002"]) == 0  # goes on from its own state, with a decoder that was trained meanwhile
    left = VQModel.load(tmp_path / "run" / "checkpoint" / "vqvae").decoder.conv_out.bias
    assert torch.equal(left, VQModel.load(tmp_path / "sharper").decoder.conv_out.bias)
    sharper.encoder.conv_in.bias.data += 1
    save_tokenizer(sharper, tmp_path / "sharper")
    with pytest.raises(DimooError, match="makes other codes"):
        train_transformer(tmp_path / "other", tmp_path / "sharper", 1, scenes=16, seed=3, start=checkpoint)
    noted = [json.loads(line) for line in (tmp_path / "run" / "settings.jsonl").read_text().splitlines()]
    assert [(line["step"], line["rate"], line["seed"]) for line in noted] == [(0, 4e-3, 3), (8, 2e-3, 3)]
    assert all(line["start"] and sum(line["shares"].values()) == pytest.approx(1) for line in noted)
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == steps and len(firsts) == 2 * steps


def test_a_checkpoint_learns_from_what_it_drew(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(transformer.shutil, "which", lambda name: None)
    monkeypatch.setattr(own, "METHOD", Method(128, 128, steps=1, group=2))
    monkeypatch.setattr(transformer, "encode_families", lambda vq, folder, families: {
        name_of(s): np.zeros((s.rows, s.columns), np.int16) for f in families for s in f.shots})  # fmt: skip
    monkeypatch.setattr(Run, "progress", property(lambda run: min(1.0, run.step / 4)))
    given = []
    monkeypatch.setattr(transformer, "Teacher", lambda *rest: given.append(rest[-1]) or Teacher(*rest))
    assert main(["train", "model", "--from", str(checkpoint), "--own", "3", "-o", str(tmp_path), "--pictures", "16"]) == 0
    assert len(given[0]) == 3 and [len(path.read_text().splitlines()) for path in tmp_path.glob("own-*.jsonl")] == [4]
    assert read_config(checkpoint).demo["assess"] == "words"
    assert read_config(tmp_path / "checkpoint").demo["assess"] == "question"
    (noted,) = (json.loads(line) for line in (tmp_path / "settings.jsonl").read_text().splitlines())
    assert noted["own"] == 3 and noted["shares"]["check"] > 0


def logits_of(model, ids):
    body = model.model["transformer"]
    *_, states = model.states(Packed.of([ids]))
    return body["ff_out"](body["ln_f"](states))


@settings(max_examples=20, deadline=None)
@given(heads=st.integers(4, 7), old=st.integers(1, 4), more=st.integers(0, 3), hidden=st.integers(64, 100))
def test_a_grown_model_computes_the_same_and_learns_in_all_of_it(heads, old, more, hidden):
    small = new_model(tiny_config(64, n_layers=old, rms_norm_eps=1e-12), grid_codebook(3), seed=0)
    for parameter in small.parameters():  # as if it were trained: new weights write nothing
        parameter.data += 0.2 * torch.randn_like(parameter)
    size = {"d_model": 8 * heads, "n_heads": heads, "n_kv_heads": heads, "n_layers": old + more, "mlp_hidden_size": hidden}
    assume(any(getattr(small.config, name) != value for name, value in size.items()))
    large = grown(small, LLaDAConfig(**small.config.to_dict() | size), seed=1)
    ids = torch.randint(0, small.config.vocab_size, (40,))
    assert torch.allclose(logits_of(small, ids), logits_of(large, ids), atol=1e-3)
    F.cross_entropy(logits_of(large, ids), ids).backward()
    for block in large.model["transformer"]["blocks"]:  # whatever writes nothing yet is told what to write
        assert (block.attn_out.weight.grad.abs().amax(0) > 0).all() and (block.ff_out.weight.grad.abs().amax(0) > 0).all()


@given(old=st.integers(2, 40), more=st.integers(0, 40))
def test_new_layers_come_in_between(old, more):
    kept = places(old, old + more)
    assert kept[0] == 0 and kept[-1] == old + more - 1 and sorted(set(kept)) == kept


def test_blocks_that_are_taught_where_to_look_stay_those():
    assert [places(10, 12)[i] for i in depths(10)] == list(depths(12))


def test_what_cannot_be_grown_is_refused(checkpoint, tmp_path):
    thinner, coarser = {"d_model": 24, "n_heads": 3, "n_kv_heads": 3}, {"n_heads": 2, "n_kv_heads": 2}
    same = {"n_layers": read_config(checkpoint).n_layers}
    for size, why in ((thinner, "larger than"), (coarser, "channels"), (same, "already")):
        with pytest.raises(DimooError, match=why):
            train_transformer(tmp_path / "run", None, 1, start=checkpoint, size=size)


def test_other_words_are_refused(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "other")
    words = json.loads((folder / "tokenizer.json").read_text())
    words["model"]["vocab"]["dragon"] = words["model"]["vocab"].pop("rocket")
    (folder / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(DimooError, match="knows other words"):
        train_transformer(tmp_path / "run", None, 1, start=folder)


def test_a_run_is_no_checkpoint_but_its_checkpoint_is(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "run" / "checkpoint")
    with pytest.raises(DimooError, match="has no tokenizer.json. Is .*run/checkpoint meant?"):
        trained_model(tmp_path / "run", checkpoint)


def test_a_file_is_no_folder_to_train_in(tmp_path, capsys):
    (tmp_path / "file").touch()
    for command in (["train", "model"], ["improve"], ["finetune", str(tmp_path)]):
        assert main([*command, "-o", str(tmp_path / "file"), "--minutes", "1"]) == 2
        assert "Nothing can be written to" in capsys.readouterr().err


def test_the_rate_rises_stays_and_falls():
    model = new_model(tiny_config(64, n_layers=2), grid_codebook(3), seed=0)
    groups = [group for optimizer in optimizers(model, Reader(model.config), 1.0) for group in optimizer.param_groups]
    reader = [group for group in groups if group.get("reads")]
    assert len(reader) == 1

    def rates(step, progress, fitting):
        return {rate_of(group, 2.0, step, progress, fitting) / group["scale"] for group in groups}

    assert rates(0, 0.0, 0) == {0.0} and rates(WARM_UP, 0.1, 0) == rates(10_000, 0.3, 0) == {2.0}
    (half,) = rates(10_000, 0.65, 0)
    assert half == pytest.approx(1.0, abs=0.05)
    (end,) = rates(10_000, 1.0, 0)
    assert 0 < end < 0.03
    fitted = {group is reader[0]: rate_of(group, 2.0, FITTING, 0.0, FITTING) for group in groups}
    assert fitted == {True: 2.0, False: 0.0}  # a new reader first, then all


def test_attention_in_training_is_that_of_the_library():
    torch.manual_seed(0)
    given = [torch.randn(2, 3, 40, 8, dtype=torch.bfloat16) for _ in range(3)]
    results = []
    for attention in (scaled_attention, F.scaled_dot_product_attention):
        q, k, v = (x.clone().requires_grad_(True) for x in given)
        out = attention(q, k, v)
        out.float().square().sum().backward()
        results.append([out.float(), *(x.grad.float() for x in (q, k, v))])
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_muon_in_bfloat16_steps_alike():
    torch.manual_seed(0)
    start, gradient = torch.randn(24, 60), torch.randn(24, 60)
    steps = []
    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.nn.Parameter(start.clone())
        weight.grad = gradient.clone()
        Muon([weight], 0.1, dtype=dtype).step()
        assert weight.dtype == torch.float32
        steps.append(weight.detach() - start)
    assert (steps[0] - steps[1]).norm() < 0.03 * steps[0].norm()


@pytest.mark.parametrize(("halves", "dtype"), [(0.3, torch.bfloat16), (0.9, torch.float32), (3.0, torch.float32)])
def test_the_faster_numbers_are_taken(monkeypatch, halves, dtype):
    monkeypatch.setattr(precision, "_seconds", lambda kind: halves if kind == torch.bfloat16 else 1.0)
    assert precision.fastest_dtype.__wrapped__() == dtype


def test_products_are_timed():
    assert 0 < precision._seconds(torch.float32, size=64) < 1
