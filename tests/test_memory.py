"""What runs take of memory: followed without weights, compared with the real thing, and refused when there is too little."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path

import pytest
import torch
from PIL import Image

from dimoo import memory
from dimoo.__main__ import main
from dimoo.checkpoint import PUBLISHED
from dimoo.config import LLaDAConfig
from dimoo.defaults import Defaults
from dimoo.errors import DimooError
from dimoo.evals.memory import BODIES, measure
from dimoo.memory import available_bytes, check_fits, container_bytes, free_bytes, out_of_memory, work_of
from dimoo.outline import MODES, Need, Outline, Work
from dimoo.tasks import Chat, Edit, Extrapolate, Generate, Inpaint
from dimoo.tracing import peak_of

CPU = torch.device("cpu")


# Following code without contents


def test_the_peak_is_of_what_lives_at_once():
    def work():
        first = torch.empty(1000, device="meta")  # 4000 bytes
        second = first[:500] * 2  # and 2000 for the product; the slice shares its storage
        del first
        third = second + 1  # 4000
        return third

    assert peak_of(work) == 6000
    weights = torch.empty(10**6, device="meta")
    assert peak_of(lambda: weights[5:10].exp()) == 20
    assert peak_of(lambda: torch.empty(10**6).sum()) == 0  # the processor's are not the device's


def test_following_code_leaves_nothing_behind():
    weights, registered = torch.empty(1000, device="meta"), len(weakref.finalize._registry)
    for _ in range(3):
        peak_of(lambda: weights[5:10].exp())
    assert len(weakref.finalize._registry) == registered


def test_attention_counts_without_its_scores():
    q = torch.empty(1, 2, 10_000, 8, device="meta")
    assert peak_of(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q)) == q.nbytes
    assert peak_of(lambda: q.cpu()) == 0


# Estimates


@pytest.mark.parametrize(
    ("mode", "cache", "most"), [("bf16", False, 18.5), ("bf16", True, 23), ("int8", False, 11), ("nf4", False, 8)]
)
def test_the_published_model_fits_where_it_should(mode, cache, most):
    need = Outline(LLaDAConfig(), {}, mode).need(Work.picture(64, 64, cache=cache))
    assert 0.9 * most < need.total / 1e9 <= most
    assert need.cache == (2 * 32 * 2 * 4220 * 4096 * 2 if cache else 0)
    assert need.total == need.weights + need.cache + max(need.activations, need.decoder)


def test_weights_are_counted_as_they_are_stored(checkpoint, pipeline):
    outline = pipeline.outline
    stored = sum(p.nbytes for part in (pipeline.model, pipeline.vq) for p in part.state_dict().values())
    assert outline.weights == stored and outline.mode == "float32"
    exact = sum(p.nbytes for name, p in pipeline.vq.state_dict().items() if name.startswith(("encoder", "quant")))
    assert Outline(pipeline.model.config, pipeline.vq.config, "bf16").weights == exact + (stored - exact) / 2
    with pytest.raises(DimooError, match="int3 is no mode of loading weights: choose one of bf16"):
        Outline(pipeline.model.config, pipeline.vq.config, "int3")


def test_needs_grow_with_the_run(pipeline):
    small, wide, cached = (pipeline.outline.need(work) for work in (
        Work.picture(8, 8), Work.picture(8, 16), Work.picture(8, 8, cache=True)
    ))  # fmt: skip
    assert small.run < wide.run and small.cache == 0
    assert cached.cache == 2 * pipeline.model.config.n_layers * 2 * (8 * 9 + 60) * 32 * 4
    answer = Work((300,), 16, given=((8, 8),), block=8, cache=True)
    assert pipeline.outline.need(answer).cache == 2 * pipeline.model.config.n_layers * 300 * 32 * 4
    assert pipeline.outline.need(answer).decoder > 0  # its picture has to be encoded


def test_estimates_are_what_is_measured():
    """The command measures three bodies; one of them, with a smaller picture, has to do here."""
    (numbers,) = measure({"small": BODIES["small"] | {"cells": 32}}).values()
    for part in ("step", "decoder"):
        assert numbers[f"{part} estimated"] == pytest.approx(numbers[f"{part} measured"], rel=0.15)


def test_work_is_read_off_plans(pipeline):
    plan = pipeline._plan(Generate("a red ball", width=128, height=64, cache=True).resolve(pipeline.defaults), None)
    assert [len(branch.ids) for branch in plan.branches(plan.grid)] == [56, 54]
    assert work_of(plan) == Work((64, 64), 32, (4, 8), cache=True, top_k=256)
    talk = pipeline._plan(Chat((), "are there balls", length=6, block=3, steps=6), None)
    assert work_of(talk, [(4, 4)]) == Work((64,), 6, None, ((4, 4),), 3, True)


def test_needs_are_of_every_kind_of_request(pipeline):
    picture, mask = Image.new("RGB", (96, 64)), Image.new("L", (96, 64), 255)
    requests = Edit(picture, prompt="red"), Inpaint(picture, mask), Extrapolate(picture, left=16), Chat((picture,), "is red")
    for request in requests:
        need = pipeline.need(request.resolve(pipeline.defaults))
        assert need.activations > 0 and need.decoder > 0


# Too little


def test_runs_that_do_not_fit_are_refused(monkeypatch):
    need = Need(weights=10**12, activations=3 * 10**9, cache=10**9, decoder=2 * 10**9)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 4 * 10**9)
    check_fits(need, CPU)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**8)
    with pytest.raises(DimooError, match=r"needs about 4.0 GB of memory beside the weights, but only 0.10 GB are free. Choose"):
        check_fits(need, CPU)
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)
    check_fits(need, CPU)


def test_a_run_that_does_not_fit_is_refused_and_the_next_one_runs(pipeline, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    with pytest.raises(DimooError, match="but only 0.00 GB are free"):
        next(pipeline.run(Generate("a red ball", steps=1)))
    monkeypatch.undo()
    *_, last = pipeline.run(Generate("a red ball", steps=1))
    assert last.image is not None


def test_a_run_that_runs_out_ends_in_a_sentence_and_the_next_one_runs(pipeline, monkeypatch):
    def predict(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pipeline.model, "predict", predict)
    frames = pipeline.run(Generate("a red ball", steps=1))
    assert next(frames).step == 0
    with pytest.raises(DimooError, match="memory of the device ran out"):
        next(frames)
    monkeypatch.undo()
    *_, last = pipeline.run(Generate("a red ball", steps=1))
    assert last.image is not None


def test_free_memory_of_machine_and_container(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  900 kB\nMemAvailable:   10 kB\n")
    assert available_bytes(meminfo) == 10240
    assert available_bytes(tmp_path / "none") is None
    stat = "anon 1\nactive_file 20\ninactive_file 30\nshmem 9\n"
    for name, text in {"memory.max": "1000\n", "memory.current": "700\n", "memory.stat": stat}.items():
        (tmp_path / name).write_text(text)
    assert container_bytes(tmp_path) == 350
    (tmp_path / "memory.max").write_text("max\n")
    assert container_bytes(tmp_path) is None
    assert free_bytes(CPU) > 10**7


def test_free_memory_of_a_graphics_card_counts_what_torch_keeps(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10)
    assert free_bytes(torch.device("cuda", 0)) == 120
    assert free_bytes(torch.device("meta")) is None


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    MemoryError(),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
])  # fmt: skip
def test_running_out_becomes_a_sentence_and_frees_what_the_run_held(error):
    held = []

    def run():
        tensor = torch.empty(1000)
        held.append(weakref.ref(tensor))
        raise error

    with pytest.raises(DimooError, match="memory of the device ran out. Choose a smaller size") as caught:
        with out_of_memory():
            run()
    gc.collect()
    assert held[0]() is None
    assert caught.value.__suppress_context__


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes differ"), out_of_memory():
        raise RuntimeError("shapes differ")
    with out_of_memory():
        pass


# The command


def test_the_command_knows_the_published_model(tmp_path, capsys):
    place = tmp_path / "memory.json"
    assert main(["memory", "--checkpoint", f"{PUBLISHED}@main", "--size", "512x512", "--mode", "nf4", "--json", str(place)]) == 0
    run, cached = json.loads(place.read_text())["memory"]["runs"]
    assert (run["mode"], run["with cache"], cached["with cache"]) == ("nf4", False, True)
    assert f"{run['total'] / 1e9:.2f}" in capsys.readouterr().out
    assert 6e9 < run["weights"] < run["total"] < 7e9


def test_the_command_shows_all_modes_of_any_checkpoint(checkpoint, capsys):
    assert main(["memory", "--checkpoint", str(checkpoint)]) == 0
    out = capsys.readouterr().out
    assert "256x256" in out and all(out.count(f"\n{mode} ") == 2 for mode in MODES)
    assert main(["memory", "--checkpoint", str(checkpoint), "--size", "100x64"]) == 2
    assert "multiples of 16" in capsys.readouterr().err
    assert main(["memory", "--checkpoint", str(checkpoint), "--size", "0x0"]) == 2
    assert "64 or more" in capsys.readouterr().err


def test_the_readme_says_what_the_command_prints():
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    for mode, name in (("bf16", "bfloat16"), ("int8", "`--quantize int8`"), ("nf4", "`--quantize nf4`")):
        (row,) = (line for line in text.splitlines() if line.startswith(f"| {name} |"))
        said = [float(cell.strip(" *")) for cell in row.split("|")[2:-1]]
        outline, top_k = Outline(LLaDAConfig(), {}, mode), Defaults().top_k
        plain, cached = (outline.need(Work.picture(64, 64, cache=cache, top_k=top_k)) for cache in (False, True))
        printed = (plain.weights, plain.activations, cached.cache, plain.decoder, plain.total, cached.total)
        assert said == pytest.approx([size / 1e9 for size in printed], abs=0.02)
