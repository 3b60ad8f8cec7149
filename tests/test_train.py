"""Training: masks, batches, the word list, resuming, and a model small enough to learn in a second."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import dimoo
from dimoo.config import LLaDAConfig
from dimoo.preview import fit
from dimoo.train import data
from dimoo.train import run as run_module
from dimoo.train.data import batches, empty_codes, encode_scenes, mask_cells, scene_of, size_of
from dimoo.train.run import Run, cosine
from dimoo.train.tokenizer import grid_codebook, save_tokenizer
from dimoo.train.transformer import export, loss_of, new_model, optimizers
from dimoo.train.words import TEXT_IDS, toytown_words, write_tokenizer
from dimoo.vocab import Vocabulary
from dimoo.vq import VQModel
from dimoo.world.language import benchmark_prompts, captioned_scene, questions
from dimoo.world.render import render

CODES = 64


@pytest.fixture(scope="module")
def config():
    size = {"d_model": 32, "n_heads": 4, "n_kv_heads": 4, "n_layers": 2, "mlp_hidden_size": 64}
    return LLaDAConfig(**size, vocab_size=TEXT_IDS + CODES, embedding_size=TEXT_IDS + CODES, codebook_size=CODES)


@pytest.fixture(scope="module")
def vocab(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    write_tokenizer(folder)
    return Vocabulary.load(folder, config)


@pytest.fixture(scope="module")
def vq():
    torch.manual_seed(0)
    shape = {"block_out_channels": [8] * 5, "layers_per_block": 1, "latent_channels": 3, "num_vq_embeddings": CODES}
    model = VQModel(shape | {"norm_num_groups": 4, "norm_scope": "none"}).eval()
    model.quantize.embedding.weight = torch.nn.Parameter(grid_codebook(3), requires_grad=False)
    return model


@pytest.fixture(scope="module")
def grids():
    """Made-up codes of the scenes 0 … 59."""
    rng = np.random.default_rng(0)
    return {seed: rng.integers(0, CODES, size_of(seed)).astype(np.int16) for seed in range(60)}


# data


def test_mask_cells_as_published():
    masked = mask_cells(20_000, 40, torch.Generator().manual_seed(3))
    assert masked.shape == (20_000, 40) and masked.dtype == torch.bool
    number = masked.sum(dim=1)
    assert number.min() == 1 and 39 <= number.max() <= 40
    ratio = number / 40
    # P(cos(rπ/2) >= q) = acos(q) · 2/π; floor makes q a multiple of 1/40 exactly
    for q in (0.25, 0.5, 0.75):
        assert (ratio >= q).float().mean().item() == pytest.approx(math.acos(q) * 2 / math.pi, abs=0.012)
    np.testing.assert_allclose(masked.float().mean(dim=0), ratio.mean(), atol=0.015)  # every cell alike
    assert torch.equal(masked, mask_cells(20_000, 40, torch.Generator().manual_seed(3)))
    assert not torch.equal(masked, mask_cells(20_000, 40, torch.Generator().manual_seed(4)))


def test_batches_are_equally_long_and_masked(vocab, grids):
    known = {(grid.size, grid.tobytes()) for grid in grids.values()}
    widths, unconditional, rows = set(), 0, 0
    for ids, cells, codes, things in itertools.islice(batches(vocab, grids, 2, seed=1), 60):
        assert ids.shape[0] == codes.shape[0] == 2 and codes.shape[1] == len(cells)
        assert things.shape == codes.shape and things.dtype == torch.bool
        masked = ids == vocab.ids.mask
        assert (masked.nonzero()[:, 1].view(2, -1) == cells).all()  # there and nowhere else
        assert ids.max() < vocab.image_offset
        assert all((row.numel(), row.to(torch.int16).numpy().tobytes()) in known for row in codes)
        widths.add((ids[0] == vocab.ids.newline).sum().item())
        unconditional += (ids == vocab.ids.uncondition).any(dim=1).sum().item()
        rows += 2
    assert len(widths) > 1  # not only squares
    assert 0.02 < unconditional / rows < 0.25


def test_a_batch_follows_from_its_seed(vocab, grids):
    def third(seed):
        return next(itertools.islice(batches(vocab, grids, 3, seed), 2, None))

    for a, b in zip(third(5), third(5), strict=True):
        assert torch.equal(a, b)
    assert third(5)[2].tolist() != third(6)[2].tolist()


def test_benchmark_prompts_are_never_captions(vocab, grids, monkeypatch):
    held_out = [prompt.text for prompt in benchmark_prompts()]
    texts = itertools.cycle([held_out[0], "a red ball", held_out[-1], held_out[7], "a blue cube"])
    monkeypatch.setattr(data, "caption", lambda rng, scene: next(texts))
    seen = set()
    for ids, *_ in itertools.islice(batches(vocab, grids, 2, seed=1), 30):
        for row in ids.tolist():
            start = row.index(vocab.ids.user)
            seen.add(vocab.decode(row[start + 1 : row.index(vocab.ids.user_end)]))
    assert seen == {"a red ball", "a blue cube", ""}


def test_scenes_are_encoded_once(vq, tmp_path, monkeypatch):
    path = tmp_path / "codes.npz"
    first = encode_scenes(vq, path, 2)
    rgb = torch.from_numpy(render(scene_of(1), 16 * size_of(1)[1], 16 * size_of(1)[0]).rgb)
    expected = vq.encode(rgb.permute(2, 0, 1)[None].float() / 255)[0]
    np.testing.assert_array_equal(first[1], expected)
    assert first[1].shape == size_of(1)
    monkeypatch.setattr(data.multiprocessing, "get_context", lambda kind: pytest.fail("drawn again"))
    again = encode_scenes(vq, path, 1, first=1)
    assert list(again) == [1]
    np.testing.assert_array_equal(again[1], first[1])


def test_sizes_are_those_of_the_page():
    sizes = [size_of(seed) for seed in range(3000)]
    assert set(sizes) == set(data.SIZES)
    assert sizes.count((16, 16)) / 3000 == pytest.approx(0.8, abs=0.03)


# words


def test_every_word_of_the_world_is_known(vocab):
    for seed in range(200):
        rng = np.random.default_rng(seed)
        scene, text = captioned_scene(rng)
        asked = [part for _, *texts in questions(rng, scene) for part in texts]
        assert vocab.unknown_words(" ".join([text, *asked])) == []
    assert [prompt.text for prompt in benchmark_prompts() if vocab.unknown_words(prompt.text)] == []
    assert vocab.unknown_words("a red zeppelin") == ["zeppelin"]
    words = toytown_words()
    assert len(words) == len(set(words)) < TEXT_IDS and words == toytown_words()
    assert vocab.image_offset == TEXT_IDS


# the run


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(run_module, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def train_a_line(run, clock, steps):
    """Steps of ten seconds; returns the weights after them."""
    torch.manual_seed(7)
    line = torch.nn.Linear(3, 1)
    adam = torch.optim.AdamW(line.parameters(), 0.1)
    run.resume(line=line, adam=adam)
    while steps and run.tick():
        steps -= 1
        loss = (line(torch.full((1, 3), float(run.step))) - 1).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        run.report(loss=loss.item())
        clock.seconds += 10
    return line.weight.detach().clone()


def test_a_run_resumes_where_it_stopped(tmp_path, clock):
    whole = Run(tmp_path / "whole", minutes=2)
    expected = train_a_line(whole, clock, steps=100)
    assert whole.step == 12 and whole.elapsed == 120  # it ends by the clock

    first = Run(tmp_path / "parts", minutes=2)
    train_a_line(first, clock, steps=5)
    first.save()
    clock.seconds += 9999  # the pause does not count
    second = Run(tmp_path / "parts", minutes=2)
    saved = []
    second.on_save = lambda: saved.append(second.step)
    weights = train_a_line(second, clock, steps=100)
    assert second.step == 12 and second.elapsed == 120
    assert saved[-1] == 12
    assert torch.equal(weights, expected)  # moments of the optimiser included
    assert (tmp_path / "parts" / "curve.png").exists()
    assert not (tmp_path / "parts" / "state.tmp").exists()
    assert not Run(tmp_path / "new", minutes=2).resume()


def test_a_run_saves_now_and_then(tmp_path, clock):
    run = Run(tmp_path, minutes=10, save_every=1)
    saved = []
    run.on_save = lambda: saved.append(run.elapsed)
    train_a_line(run, clock, steps=20)
    assert saved == [70, 140]


def test_learning_rate():
    rates = [cosine(p / 100, 2.0) for p in range(101)]
    assert rates[0] < 0.01 and max(rates) == pytest.approx(2.0) and rates.index(max(rates)) == 2
    assert rates[-1] == pytest.approx(0.04)
    assert all(a > b for a, b in itertools.pairwise(rates[2:]))


# the model


def test_new_model_starts_even(config):
    model = new_model(config, grid_codebook(3), seed=1)
    rows = model.model["transformer"]["wte"].weight[config.image_offset :]
    alike = torch.nn.functional.cosine_similarity(rows[:1], rows[1:])
    distance = (grid_codebook(3)[:1] != grid_codebook(3)[1:]).sum(dim=1)
    assert alike[distance == 1].mean() > alike[distance == 2].mean() > alike[distance == 3].mean()
    assert not any(block.attn_out.weight.any() or block.ff_out.weight.any() for block in model.model["transformer"]["blocks"])


def test_things_are_what_differs_from_the_empty_setting(vocab):
    seeds = [seed for seed in range(300) if size_of(seed) == (16, 16)]
    snow, night = ([seed for seed in seeds if scene_of(seed).setting == name][:3] for name in ("snow", "night"))
    grids = {seed: np.full((16, 16), 5, np.int16) for seed in snow} | {seed: np.full((16, 16), 7, np.int16) for seed in night}
    for i, seed in enumerate([*snow, *night]):
        grids[seed][i, 3] = 60
    empty = empty_codes(grids)
    assert {key: np.unique(grid).tolist() for key, grid in empty.items()} == {("snow", (16, 16)): [5], ("night", (16, 16)): [7]}
    for _, _, codes, things in itertools.islice(batches(vocab, grids, 2, seed=0), 5):
        assert torch.equal(things, codes == 60) and things.any(dim=1).all()


def test_a_tiny_model_learns_and_is_exported(config, vocab, vq, grids, tmp_path):
    model = new_model(config, vq.codebook, seed=0)
    square = {seed: grid for seed, grid in grids.items() if grid.shape == (16, 16)}
    constant = {seed: np.full((16, 16), seed % 3, np.int16) for seed in square}
    muon, adam = optimizers(model, 0.02)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for ids, cells, codes, _ in itertools.islice(batches(vocab, constant, 4, seed=0), 15):
        masked = mask_cells(*codes.shape, generator)
        loss = loss_of(model, ids, cells, codes, masked)
        assert loss.shape == (masked.sum(),)
        model.zero_grad()
        loss.mean().backward()
        muon.step()
        adam.step()
        losses.append(loss.mean().item())
    assert losses[0] > 5
    assert np.mean(losses[-3:]) < 0.6 * losses[0]

    save_tokenizer(vq, tmp_path / "vqvae")
    preview = fit(vq, torch.from_numpy(np.stack(list(square.values()))).long(), cell_pixels=8)
    export(model, tmp_path / "vqvae", preview, tmp_path / "checkpoint")
    pipeline = dimoo.load(tmp_path / "checkpoint", "cpu", torch.float32)
    assert pipeline.defaults.name == "Toytown"
    ids, cells, codes, _ = next(batches(vocab, constant, 2, seed=3))
    with torch.inference_mode():
        masked = mask_cells(*codes.shape, generator)
        first, second = (loss_of(m, ids, cells, codes, masked).mean().item() for m in (model, pipeline.model))
    assert first == pytest.approx(second, abs=0.02)  # weights went through float16
    *_, frame = pipeline.run(dimoo.Generate("a red ball", seed=0, steps=2))
    assert frame.image.size == (256, 256)


def test_only_masked_cells_count(config, vocab, grids):
    model = new_model(config, grid_codebook(3), seed=0)
    ids, cells, codes, _ = next(batches(vocab, grids, 2, seed=0))
    masked = torch.zeros_like(codes, dtype=torch.bool)
    masked[0, 3] = masked[1, 0] = masked[1, 5] = True
    before = ids.clone()
    with torch.inference_mode():
        loss = loss_of(model, ids, cells, codes, masked)
    assert torch.equal(ids, before) and loss.shape == (3,)
    # with zero output projections a masked cell's logits depend on its own embedding, the mask's, alone
    hidden = model.model["transformer"]["ln_f"](model.model["transformer"]["wte"](torch.tensor(vocab.ids.mask)))
    logits = model.model["transformer"]["ff_out"](hidden)
    target = torch.stack([codes[0, 3], codes[1, 0], codes[1, 5]]) + config.image_offset
    torch.testing.assert_close(loss, torch.logsumexp(logits, 0) - logits[target], atol=1e-4, rtol=1e-4)
