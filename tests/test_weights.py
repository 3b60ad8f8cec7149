"""Weights from files to devices: mapped, quantized, spread."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import write_checkpoint
from transformers.quantizers.quantizers_utils import should_convert_module

from dimoo import checkpoint as loader
from dimoo import weights
from dimoo.checkpoint import check_memory, load, plan_spread
from dimoo.config import LLaDAConfig
from dimoo.errors import DimooError
from dimoo.model import DiMOO
from dimoo.outline import Outline
from dimoo.tasks import Generate
from dimoo.weights import KEPT, quantization, read_model, spread_over

CPU = torch.device("cpu")


def mapped(path):
    return str(path) in Path("/proc/self/maps").read_text()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux shows what is mapped")
def test_weights_stay_mapped_from_their_file(broken):
    config = loader.read_config(broken)
    model = read_model(broken, config, CPU, torch.float32)
    assert mapped(broken / "model.safetensors")
    as_stored = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    del model
    converted = read_model(broken, config, CPU, torch.bfloat16)
    assert not mapped(broken / "model.safetensors")
    for name, tensor in converted.state_dict().items():
        assert tensor.dtype == torch.bfloat16 and torch.equal(tensor, as_stored[name].bfloat16())


@pytest.fixture
def asked(monkeypatch):
    """What transformers is asked for when weights are quantized or spread; it answers with a model without contents."""
    calls = []

    def from_pretrained(folder, **options):
        calls.append(options)
        with torch.device("meta"):
            return DiMOO(options["config"])

    monkeypatch.setattr(DiMOO, "from_pretrained", from_pretrained)
    return calls


@pytest.mark.parametrize("mode", ["int8", "nf4"])
def test_quantized_weights_are_read_by_transformers(mode, checkpoint, asked):
    pipeline = load(checkpoint, "cpu", quantize=mode)
    (options,) = asked
    settings = options["quantization_config"]
    assert options["device_map"] == {"": "cpu"} and options["dtype"] == torch.bfloat16
    assert (settings.load_in_8bit, settings.load_in_4bit) == (mode == "int8", mode == "nf4")
    if mode == "nf4":
        assert settings.bnb_4bit_quant_type == "nf4" and settings.bnb_4bit_use_double_quant
        assert settings.bnb_4bit_compute_dtype == torch.bfloat16
    assert pipeline.model.precision == pipeline.outline.mode == mode
    assert pipeline.vq.codebook.dtype == pipeline.vq.encoder.conv_in.weight.dtype == torch.float32
    assert pipeline.vq.decoder.conv_in.weight.dtype == torch.bfloat16


def test_embedding_and_head_are_not_quantized_but_all_blocks_are():
    with torch.device("meta"):
        model = DiMOO(LLaDAConfig(n_layers=2, d_model=64, n_heads=2))
    assert quantization("int8", torch.bfloat16).llm_int8_skip_modules == KEPT
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    converted = [name for name in linear if should_convert_module(name, KEPT)]
    assert set(linear) - set(converted) == {"model.transformer.ff_out"} and len(converted) == 14


def test_a_missing_package_is_a_sentence(checkpoint, monkeypatch):
    def from_pretrained(*_, **__):
        raise ImportError("requires bitsandbytes")

    monkeypatch.setattr(DiMOO, "from_pretrained", from_pretrained)
    with pytest.raises(DimooError, match="pip install -e"):
        load(checkpoint, "cpu", quantize="nf4")


def test_missing_packages_are_told_of_before_anything_is_fetched(checkpoint, monkeypatch):
    monkeypatch.setattr(weights, "find_spec", lambda name: None if name == "accelerate" else name)
    monkeypatch.setattr(loader, "read_model", lambda *_: pytest.fail("nothing is to be loaded"))
    with pytest.raises(DimooError, match="pip install -e"):
        load(checkpoint, "cpu", quantize="nf4")


def test_a_device_that_cannot_do_it_is_a_sentence(checkpoint, monkeypatch):
    def from_pretrained(*_, **__):
        raise RuntimeError("None of the available devices are supported\nby bitsandbytes")

    monkeypatch.setattr(DiMOO, "from_pretrained", from_pretrained)
    with pytest.raises(DimooError, match=r"cannot be loaded in this way \(None of the available devices are supported\)"):
        load(checkpoint, "cpu", quantize="int8")


@pytest.mark.parametrize("mode", ["int8", "nf4"])
def test_quantized_models_draw(mode, tmp_path):
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("accelerate")
    folder = write_checkpoint(tmp_path, width=128)
    quantized = load(folder, "cpu", quantize=mode)
    *_, last = quantized.run(Generate("a red ball", steps=2, seed=1))
    assert last.image is not None and last.settings["precision"] == mode
    blocks = [p for p in quantized.model.model["transformer"]["blocks"].parameters() if p.ndim == 2]
    outlined = [b for n, b in quantized.outline.model.model["transformer"]["blocks"].named_buffers() if n.endswith("weight")]
    assert sum(p.nbytes for p in blocks) == sum(b.nbytes for b in outlined)


# Spreading


def test_blocks_fill_the_cards_in_turn_and_the_rest_waits_on_the_processor():
    kept = dict.fromkeys(KEPT, 0)
    places = spread_over(layers=6, block=10, kept=25, free=[50, 35])
    assert [places[f"model.transformer.blocks.{i}"] for i in range(6)] == [0, 0, 1, 1, "cpu", "cpu"]
    assert {name: places[name] for name in KEPT} == kept
    assert set(spread_over(2, 10, 5, [100]).values()) == {0}
    assert list(spread_over(2, 10, 500, [100]).values()).count("cpu") == 2


def test_every_part_of_a_model_has_a_place():
    with torch.device("meta"):
        model = DiMOO(LLaDAConfig(n_layers=3, d_model=64, n_heads=2))
    places = spread_over(3, 10, 0, [20])
    assert all(any(name.startswith(f"{part}.") for part in places) for name in model.state_dict())


def test_a_spread_model_is_read_by_transformers(checkpoint, asked, monkeypatch):
    monkeypatch.setattr(loader, "plan_spread", lambda *_: {"model.transformer.wte": 0})
    load(checkpoint, "cpu", offload=True)
    assert asked[0]["device_map"] == {"model.transformer.wte": 0} and asked[0]["quantization_config"] is None


def test_spreading_leaves_room_for_a_run(pipeline, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    outline, defaults = pipeline.outline, pipeline.defaults
    run = outline.need(loader.Work.picture(16, 16, cache=True))
    kept = run.total - 2 * outline.block_bytes + loader.LIBRARIES
    free = {"cuda": kept + outline.block_bytes, "cpu": outline.block_bytes}
    monkeypatch.setattr(loader, "free_bytes", lambda device: free[device.type])
    places = plan_spread(outline, torch.device("cuda"), defaults)
    assert [places[f"model.transformer.blocks.{i}"] for i in range(2)] == [0, "cpu"]
    free["cpu"] -= 1
    with pytest.raises(DimooError, match="do not fit on the graphics cards, and only .* of the processor's memory are free"):
        plan_spread(outline, torch.device("cuda"), defaults)
    free["cuda"] = kept - 1
    with pytest.raises(DimooError, match="must lie on the first graphics card"):
        plan_spread(outline, torch.device("cuda"), defaults)


def test_spreading_needs_a_card_and_plain_weights(pipeline, checkpoint):
    with pytest.raises(DimooError, match="there is no graphics card here"):
        load(checkpoint, "cpu", offload=True)
    quantized = Outline(pipeline.model.config, pipeline.vq.config, "nf4")
    with pytest.raises(DimooError, match="use --quantize or --offload, not both"):
        plan_spread(quantized, torch.device("cuda"), pipeline.defaults)


def test_weights_that_cannot_fit_in_memory_are_refused(pipeline, monkeypatch):
    monkeypatch.setattr(loader, "free_bytes", lambda device: 10**4)
    with pytest.raises(DimooError, match="GB of memory in float32, but only 0.00 GB are free. --quantize int8 or nf4"):
        check_memory(pipeline.outline, CPU)
