"""Training: masks, batches, the word list, resuming, and a model small enough to learn in a second."""

import copy
import itertools
import math
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny_config

import dimoo
from dimoo import layout
from dimoo.__main__ import main
from dimoo.config import LLaDAConfig
from dimoo.errors import DimooError
from dimoo.model import rotary_tables, rotate
from dimoo.preview import fit
from dimoo.train import data, tokenizer
from dimoo.train import families as families_module
from dimoo.train import run as run_module
from dimoo.train.data import LONG, SHORT, Example, Teacher, grained
from dimoo.train.decoder import train_decoder, with_errors
from dimoo.train.families import CROWDED, SQUARE, USUALLY, Family, encode_families, fingerprint, name_of, narrowed
from dimoo.train.grounding import ZONES, meanings
from dimoo.train.initial import GIVEN, NEIGHBOURS, new_model
from dimoo.train.losses import Reader, losses_of
from dimoo.train.masks import BLANK, HIDDEN, MASKED_WORDS, hide_things, mask_cells
from dimoo.train.muon import Muon
from dimoo.train.pointing import COPYING
from dimoo.train.publish import export
from dimoo.train.run import Run, cosine
from dimoo.train.tokenizer import Optimizer, grid_codebook, keep_local, save_tokenizer, train_tokenizer
from dimoo.train.transformer import SIZE, optimizers, shares
from dimoo.train.words import TEXT_IDS, toytown_words
from dimoo.vocab import Vocabulary
from dimoo.vq import VQModel
from dimoo.world.language import benchmark_prompts, captioned_scene, questions
from dimoo.world.parts import LABELS, parts
from dimoo.world.scene import COLORS, HELD_OUT, SHAPES, SIGNS, is_held_out

CODES = 64


@pytest.fixture(scope="module")
def config():
    return tiny_config(CODES, n_layers=2)


@pytest.fixture(scope="module")
def vocab(config, words):
    return Vocabulary.load(words, config)


@pytest.fixture(scope="module")
def vq():
    torch.manual_seed(0)
    shape = {"block_out_channels": [8] * 5, "layers_per_block": 1, "latent_channels": 3, "num_vq_embeddings": CODES}
    model = VQModel(shape | {"norm_num_groups": 4, "norm_scope": "none"}).eval()
    model.quantize.embedding.weight = torch.nn.Parameter(grid_codebook(3), requires_grad=False)
    return model


@pytest.fixture(scope="module")
def families():
    return [Family(seed, 2 if seed < 20 else 0) for seed in range(60)] + [Family(seed, crowded=True) for seed in range(20)]


@pytest.fixture(scope="module")
def codes(families):
    """Made-up codes of every picture."""
    rng = np.random.default_rng(0)
    return {name_of(s): rng.integers(0, CODES, (s.rows, s.columns)).astype(np.int16) for f in families for s in f.shots}


@pytest.fixture(scope="module")
def teacher(vocab, codes, families):
    return Teacher(vocab, codes, families)


def texts_of(vocab, example):
    """System prompt and user text of an example, pictures left out."""
    ids = example.ids.clone()
    ids[example.cells] = example.targets
    ids = ids.tolist()
    words = [[i for i in ids[ids.index(a) + 1 : ids.index(b)] if i < vocab.image_offset] for a, b in (
        (vocab.ids.system, vocab.ids.system_end), (vocab.ids.user, vocab.ids.user_end))]  # fmt: skip
    return [vocab.decode(part) for part in words]


# data


def example_of(cells, answer=None, owners=None):
    blank = torch.zeros(cells, dtype=torch.long)
    things, labels = torch.zeros(cells, dtype=torch.bool), torch.zeros(cells, len(LABELS), dtype=torch.long)
    return Example(blank, torch.arange(cells), blank, answer or cells, things, labels, torch.zeros(cells, 2 * ZONES), owners)


def test_mask_cells_as_published():
    generator = torch.Generator().manual_seed(3)
    masked = torch.stack([mask_cells(example_of(40), generator) for _ in range(8000)])
    assert masked.shape == (8000, 40) and masked.dtype == torch.bool
    number = masked.sum(dim=1)
    assert number.min() == 1 and 39 <= number.max() <= 40
    ratio = number / 40
    # P(cos(rπ/2) >= q) = acos(q) · 2/π; floor makes q a multiple of 1/40 exactly
    for q in (0.25, 0.5, 0.75):
        assert (ratio >= q).float().mean().item() == pytest.approx(math.acos(q) * 2 / math.pi, abs=0.02)
    np.testing.assert_allclose(masked.float().mean(dim=0), ratio.mean(), atol=0.025)  # every cell alike
    again = mask_cells(example_of(40), torch.Generator().manual_seed(3))
    assert torch.equal(masked[0], again)


def test_an_answer_and_its_padding_are_masked_apart():
    generator = torch.Generator().manual_seed(0)
    masked = torch.stack([mask_cells(example_of(48, answer=6), generator) for _ in range(400)])
    answer, padding = masked[:, :6].float().mean(1), masked[:, 6:].float().mean(1)
    assert (answer > 0).all() and (padding > 0).all()
    assert abs(np.corrcoef(answer, padding)[0, 1]) < 0.15
    short = torch.stack([mask_cells(example_of(8, answer=2), generator)[:2] for _ in range(400)])
    assert short.any(1).all() and 0.1 < short.all(1).float().mean() < 0.5  # a word and its end: one of them, or both


def test_of_pictures_things_are_hidden_and_words_masked_too():
    owners = torch.full((10, 16), -1)
    owners[3:8, 2:6], owners[4:8, 10:13] = 0, 1
    generator = torch.Generator().manual_seed(0)
    masked = [mask_cells(example_of(170, answer=160, owners=owners), generator) for _ in range(3000)]
    cells, words = (torch.stack(part) for part in zip(*(mask.split([160, 10]) for mask in masked), strict=True))
    assert all(mask.any() for mask in masked) and words.any(1).float().mean().item() == pytest.approx(MASKED_WORDS, abs=0.03)
    assert cells[words.any(1)].float().mean() < 0.4  # what is read is shown
    assert BLANK - 0.03 < cells.all(1).float().mean() < BLANK + 0.1  # some of the others come out so
    left, right = (cells[:, (owners == thing).flatten()].float().mean(1) for thing in (0, 1))
    one_alone = ((left == 1) & (right == 0)) | ((left == 0) & (right == 1))
    assert 0.05 < one_alone.float().mean() < HIDDEN  # which random cells never show
    plain = torch.stack([mask_cells(example_of(160), generator) for _ in range(1000)])
    left, right = (plain[:, (owners == thing).flatten()].float().mean(1) for thing in (0, 1))
    assert not (((left == 1) & (right == 0)) | ((left == 0) & (right == 1))).any()


def test_hidden_things_leave_the_others_alone():
    owners = torch.full((10, 16), -1)
    owners[3:8, 2:6], owners[4:8, 5:9] = 0, 1  # the second in front of the first
    generator = torch.Generator().manual_seed(1)
    masks = torch.stack([hide_things(owners, generator).view(10, 16) for _ in range(2000)])
    first, second = masks[:, owners == 0].float().mean(1), masks[:, owners == 1].float().mean(1)
    for one, other in ((first, second), (second, first)):
        assert 0.05 < ((one == 1) & (other == 0)).float().mean() < 0.3
    ground = masks[:, owners < 0].float().mean(1)
    assert (ground == 0).any() and ground.max() > 0.9
    far = masks[:, :2, 11:].flatten(1).float().mean(1)  # a hole where nothing is near
    assert ((first == 0) & (second == 0) & (far > 0.5) & (ground < 0.5)).any()
    empty = torch.stack([hide_things(torch.full((4, 4), -1), generator) for _ in range(200)])
    assert empty.any() and not empty.all()


def test_words_of_the_prompt_come_after_the_cells(vocab, teacher):
    rng = np.random.default_rng(0)
    for kind in ("generate", "crowd", "lesson"):
        for example in filter(None, (getattr(teacher, kind)(rng) for _ in range(40))):
            assert example.owners.numel() == example.answer == len(example.cells) - len(example.targets[example.answer :])
            ids = example.ids.clone()
            ids[example.cells] = example.targets
            start = ids.tolist().index(vocab.ids.user) + 1
            words = example.cells[example.answer :]
            if (ids == vocab.ids.uncondition).any():
                assert not len(words)
            else:
                assert words.tolist() == list(range(start, start + len(words))) and len(words)
                assert ids[start + len(words)] in (vocab.ids.user_end, vocab.ids.boi)


def test_batches_are_equally_long_and_masked(vocab, teacher):
    kinds, unconditional, pictures = set(), 0, 0
    for examples in itertools.islice(teacher.batches(700, 1, lambda: shares("all", 0.9)), 80):
        (length,) = {len(example.ids) for example in examples}
        assert len(examples) == max(1, 700 // length)
        for example in examples:
            masked = (example.ids == vocab.ids.mask).nonzero().squeeze(-1)
            assert torch.equal(masked, example.cells.sort().values)  # there and nowhere else
            assert len(example.targets) == len(example.things) == len(example.cells) >= example.answer
            system, _ = texts_of(vocab, example)
            kinds.add(system)
            if example.draws:
                pictures += 1
                unconditional += bool((example.ids == vocab.ids.uncondition).any())
                assert example.targets[: example.answer].min() >= vocab.image_offset
                assert (example.targets[example.answer :] < vocab.image_offset).all()
            else:
                assert example.targets.max() < vocab.image_offset
    assert len(kinds) >= 5  # of the eight system prompts
    assert 0.02 < unconditional / pictures < 0.25


def test_crowded_pictures_are_low_and_come_first_in_text_to_image(families, teacher):
    seen = Counter(family.seed for family in teacher.crowds)
    assert len(seen) == 20 and not any(family.crowded for family in teacher.families)
    for family in teacher.crowds:
        assert (family.base.rows, family.base.columns) == CROWDED and len(family.base.scene.things) >= 3
    assert sum(shares("all", 0.5, own=True).values()) == pytest.approx(1)
    for tasks in ("generate", "all"):
        early, late = shares(tasks, 0.1), shares(tasks, 0.9)
        assert sum(early.values()) == pytest.approx(1) == sum(late.values()) and late["crowd"] > 0
    assert shares("generate", 0.1)["crowd"] > shares("generate", 0.9)["crowd"]
    examples = next(teacher.batches(600, 0, lambda: {"crowd": 1.0}))
    assert {example.answer for example in examples} == {160}


def test_some_crowds_are_cubes_with_letters():
    scenes = [Family(seed, crowded=True).base.scene for seed in range(200)]
    signs = [scene.things for scene in scenes if all(thing.letter for thing in scene.things)]
    assert 40 < len(signs) < 80
    assert len({(thing.letter, thing.color) for things in signs for thing in things}) > 0.8 * len(SIGNS) * len(COLORS)


def test_a_batch_follows_from_its_seed(teacher):
    def third(seed):
        return next(itertools.islice(teacher.batches(600, seed, lambda: {"generate": 1.0}), 2, None))

    for a, b in zip(third(5), third(5), strict=True):
        assert torch.equal(a.ids, b.ids) and torch.equal(a.targets, b.targets)
    assert third(5)[0].targets.tolist() != third(6)[0].targets.tolist()


def test_benchmark_prompts_are_never_captions(vocab, teacher, monkeypatch):
    held_out = [prompt.text for prompt in benchmark_prompts()]
    texts = itertools.cycle([held_out[0], "a red ball", held_out[-1], held_out[7], "a blue cube"])
    monkeypatch.setattr("dimoo.train.data.caption", lambda *_: next(texts))
    batches = itertools.islice(teacher.batches(600, 1, lambda: {"generate": 1.0}), 30)
    seen = {texts_of(vocab, example)[1] for examples in batches for example in examples}
    assert seen == {"a red ball", "a blue cube", ""}


def test_answers_are_those_of_the_world(vocab, teacher):
    rng = np.random.default_rng(0)
    lengths = set()
    for _ in range(60):
        example = teacher.chat(rng)
        assert example.targets[example.answer - 1] == vocab.ids.answer_end
        assert (example.targets[example.answer :] == vocab.ids.pad).all()
        question = texts_of(vocab, example)[1]
        short = "single word" in question
        assert len(example.cells) == (SHORT if short else LONG)
        assert not short or example.answer <= 3
        lengths.add(short)
    assert lengths == {True, False}


def test_every_kind_of_lesson_has_its_words(vocab, teacher):
    rng = np.random.default_rng(0)
    systems = {}
    for family in (Family(seed, 2) for seed in range(60)):
        for lesson in family.lessons:
            system, text = teacher.words(rng, lesson)
            assert vocab.unknown_words(f"{system} {text}") == []
            systems[lesson.kind.partition(" ")[0]] = system
    assert len(systems) == 11 and len(set(systems.values())) >= 5
    assert systems["view"] == layout.VIEW and systems["predict"] == layout.PREDICT


def test_what_is_held_out_is_never_taught():
    families = [Family(seed, 3) for seed in range(150)] + [Family(seed, crowded=True) for seed in range(50)]
    taught = {shot.scene for family in families for shot in family.shots}
    assert not any(map(is_held_out, taught)) and len({shot.scene.view for f in families for shot in f.shots}) == 4
    tried = [captioned_scene(np.random.default_rng(seed))[0] for seed in range(3000)]
    assert sum(map(is_held_out, tried)) / 3000 == pytest.approx(1 / HELD_OUT, abs=0.015)
    for scene in tried[:200]:  # whoever names its things in another order, or walks around it
        again = scene.with_(things=scene.things[::-1], view="back")
        assert is_held_out(scene) == is_held_out(again)


def test_pictures_are_encoded_once(vq, tmp_path, monkeypatch):
    family = next(f for f in map(Family, range(50)) if (f.base.rows, f.base.columns) == (12, 20))
    first = encode_families(vq, tmp_path, [family])
    rgb = torch.from_numpy(family.base.draw())
    expected = vq.encode(rgb.permute(2, 0, 1)[None].float() / 255)[0]
    np.testing.assert_array_equal(first[name_of(family.base)], expected)
    monkeypatch.setattr("dimoo.train.families._draw", lambda shots: pytest.fail("drawn again"))
    again = encode_families(vq, tmp_path, [family])
    np.testing.assert_array_equal(again[name_of(family.base)], expected)
    other = copy.deepcopy(vq)
    other.encoder.conv_in.weight.data += 0.1
    with pytest.raises(pytest.fail.Exception, match="drawn again"):
        encode_families(other, tmp_path, [family])  # its codes are others


def test_what_is_encoded_survives_a_break(vq, tmp_path, monkeypatch):
    first, second = [f for f in map(Family, range(90)) if (f.base.rows, f.base.columns) == (12, 20)][:2]
    draw = families_module._draw
    broken = lambda shots: draw(shots) if shots == first.shots else pytest.fail("broken off")  # noqa: E731
    monkeypatch.setattr(families_module, "_draw", broken)
    with pytest.raises(pytest.fail.Exception, match="broken off"):
        encode_families(vq, tmp_path, [first, second])
    assert encode_families(vq, tmp_path, [first]).keys() == {name_of(shot) for shot in first.shots}


def test_most_lessons_are_square_and_other_pictures_of_all_shapes():
    for lessons, squares in ((0, 1 / len(SHAPES)), (1, USUALLY + (1 - USUALLY) / len(SHAPES))):
        shapes = [(f.base.rows, f.base.columns) for f in (Family(seed, lessons) for seed in range(300))]
        assert set(shapes) == set(SHAPES.values())
        assert shapes.count(SQUARE) / 300 == pytest.approx(squares, abs=0.08)


# words


def test_every_word_of_the_world_is_known(vocab):
    for seed in range(200):
        rng = np.random.default_rng(seed)
        scene, text = captioned_scene(rng)
        asked = [part for q in questions(rng, scene) for part in (q.text, q.answer, q.sentence)]
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


def test_a_run_made_for_something_else_is_not_continued(tmp_path, clock):
    run = Run(tmp_path, minutes=2)
    run.is_for("one tokenizer")
    train_a_line(run, clock, steps=2)
    run.save()
    with pytest.raises(dimoo.DimooError, match="another folder"):
        Run(tmp_path, minutes=2).is_for("another")


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "checkpoint"
    for text in ("one", "two"):
        with run_module.replacing(folder) as new:
            (new / "file").write_text(text)
    with pytest.raises(ValueError), run_module.replacing(folder) as new:
        (new / "file").write_text("three")
        raise ValueError
    assert (folder / "file").read_text() == "two"
    folder.rename(tmp_path / "checkpoint.old")  # as if it had been cut off between two steps
    with pytest.raises(ValueError), run_module.replacing(folder):
        raise ValueError
    assert (folder / "file").read_text() == "two"


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
    squares = [f for f in map(Family, range(200)) if (f.base.rows, f.base.columns) == (16, 16)]
    snow, night = ([f for f in squares if f.base.scene.setting == name][:3] for name in ("snow", "night"))
    codes = {name_of(f.base): np.full((16, 16), value, np.int16) for value, group in ((5, snow), (7, night)) for f in group}
    for i, grid in enumerate(codes.values()):
        grid[i, 3] = 60
    teacher = Teacher(vocab, codes, [*snow, *night])
    assert {key: grid.unique().tolist() for key, grid in teacher.empty.items()} == {
        ("snow", (16, 16)): [5], ("night", (16, 16)): [7]}  # fmt: skip
    for examples in itertools.islice(teacher.batches(700, 0, lambda: {"generate": 1.0}), 5):
        for example in examples:
            assert torch.equal(example.things, example.targets == vocab.image_offset + 60) and example.things.any()


def test_a_tiny_model_learns_and_is_exported(config, vocab, vq, codes, families, tmp_path):
    model = new_model(config, vq.codebook, seed=0)
    constant = {name: np.full_like(grid, i % 3) for i, (name, grid) in enumerate(codes.items())}
    batches = Teacher(vocab, constant, families).batches(900, 0, lambda: {"generate": 1.0})
    reader = Reader(config)
    muon, adam = optimizers(model, reader, 0.02)
    generator = torch.Generator().manual_seed(0)
    numbers, meaning = [], meanings(vocab)
    for examples in itertools.islice(batches, 15):
        masked = [mask_cells(example, generator) for example in examples]
        losses = losses_of(model, reader, vocab, meaning, examples, masked, generator)
        for optimizer in (muon, adam):
            optimizer.zero_grad()
        losses.total.backward()
        muon.step()
        adam.step()
        numbers.append(losses.numbers())
    curves = {name: [row[name] for row in numbers if name in row] for name in ("answer", "read", "placed", "located")}
    first, last = numbers[0], {name: np.mean(curve[-3:]) for name, curve in curves.items()}
    assert first["answer"] > 5 and last["answer"] < 0.6 * first["answer"]
    assert first["read"] == pytest.approx(sum(map(math.log, LABELS))) and last["read"] < 0.5 * first["read"]
    assert first["placed"] == pytest.approx(2 * math.log(ZONES)) == pytest.approx(first["located"])

    save_tokenizer(vq, tmp_path / "vqvae")
    preview = fit(vq, torch.from_numpy(np.stack([g for g in codes.values() if g.shape == (16, 16)])).long(), cell_pixels=8)
    for _ in range(2):  # the second takes the place of the first
        export(model, tmp_path / "vqvae", preview, tmp_path / "checkpoint")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint", "vqvae"]
    pipeline = dimoo.load(tmp_path / "checkpoint", "cpu", torch.float32)
    assert pipeline.defaults.name == "Toytown"
    examples = next(batches)
    with torch.inference_mode():
        masked = [mask_cells(example, generator) for example in examples]
        given = reader, vocab, meaning, examples, masked, generator
        first, second = (losses_of(m, *given).answer for m in (model, pipeline.model))
    assert first.item() == pytest.approx(second.item(), abs=0.02)  # weights went through float16
    *_, frame = pipeline.run(dimoo.Generate("a red ball", seed=0, steps=2))
    assert frame.image.size == (256, 256)


def test_only_masked_cells_count(config, vocab, teacher):
    model = new_model(config, grid_codebook(3), seed=0)
    examples = next(teacher.batches(620, 0, lambda: {"generate": 1.0}))[:2]
    masked = [torch.zeros(len(example.cells), dtype=torch.bool) for example in examples]
    masked[0][3] = masked[-1][0] = masked[-1][5] = True
    before = examples[0].ids.clone()
    with torch.inference_mode():
        losses = losses_of(model, Reader(config), vocab, meanings(vocab), examples, masked, torch.Generator())
    assert torch.equal(examples[0].ids, before)
    # with zero output projections a masked cell's logits depend on its own embedding, the mask's, alone
    hidden = model.model["transformer"]["ln_f"](model.model["transformer"]["wte"](torch.tensor(vocab.ids.mask)))
    logits = model.model["transformer"]["ff_out"](hidden)
    target = torch.cat([example.targets[mask] for example, mask in zip(examples, masked, strict=True)])
    torch.testing.assert_close(losses.answer, torch.logsumexp(logits, 0) - logits[target].mean(), atol=1e-4, rtol=1e-4)
    assert losses.rest is None


def test_what_is_copied_are_the_codes_of_the_given_picture(vocab):
    family = next(f for f in (Family(seed, 3) for seed in range(100)) if any(one.kind == "recolor" for one in f.lessons))
    lesson = next(one for one in family.lessons if one.kind == "recolor")
    ids = layout.image_to_image(vocab, "", "make it red", [torch.full(SQUARE, 27)], *SQUARE)[0]  # 27: numbers 3, 2 and 1
    teacher = Teacher(vocab, {name_of(shot): np.full(SQUARE, 5) for shot in (family.base, *lesson.shots)}, [family])
    example = teacher._picture(ids, lesson.inputs, lesson.target, torch.full(SQUARE, 5))
    config = tiny_config(CODES, n_layers=4)
    reader = Reader(config)
    with torch.no_grad():
        reader.given["2"].bias[[3, 6, 9]] = 100.0
        model, masked = new_model(config, grid_codebook(3), 0), [torch.ones(len(example.cells), dtype=torch.bool)]
        losses = losses_of(model, reader, vocab, meanings(vocab), [example], masked, torch.Generator())
    assert losses.copied.item() == pytest.approx(0, abs=1e-4)


def test_what_stays_are_cells_of_things_with_the_code_they_had_and_the_others_change(vocab):
    family = next(f for f in (Family(seed, 3) for seed in range(100)) if any(one.kind == "recolor" for one in f.lessons))
    lesson = next(one for one in family.lessons if one.kind == "recolor")
    shots = family.base, *lesson.shots
    teacher = Teacher(vocab, {name_of(shot): np.full(SQUARE, 5) for shot in shots}, [family])
    thing, ground = ((teacher.parts(lesson.target)[1] >= 0) == shows for shows in (True, False))
    config = tiny_config(CODES, n_layers=4)
    model = new_model(config, grid_codebook(3), 0)

    def losses(same, open=False):
        """Code 9 belongs in these cells and is given there, 7 in the others, where 27 is given."""
        target, given = torch.where(same, 9, 7), torch.where(same, 9, 27)
        ids = layout.image_to_image(vocab, "", "make it red", [given], *SQUARE)[0]
        example = replace(teacher._picture(ids, lesson.inputs, lesson.target, target), open=open)
        masked = [torch.ones(len(example.cells), dtype=torch.bool)]
        with torch.no_grad():
            return losses_of(model, Reader(config), vocab, meanings(vocab), [example], masked, torch.Generator())

    body = model.model["transformer"]  # whose blocks write nothing yet: all masked cells get the same logits
    logits = body["ff_out"](body["ln_f"](body["wte"](torch.tensor(vocab.ids.mask))))
    some = thing & (torch.arange(SQUARE[1]) % 2 == 0)
    costs = -logits.log_softmax(0)
    torch.testing.assert_close(losses(some).stays, costs[9 + config.image_offset], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(losses(some).changes, costs[7 + config.image_offset], atol=1e-4, rtol=1e-4)
    assert losses(ground).stays is None and losses(thing).changes is None
    assert losses(some, open=True).changes is None and losses(some, open=True).stays is not None


def test_where_a_subject_stands_is_open_and_what_no_word_says(vocab, teacher, monkeypatch):
    rng, subject = np.random.default_rng(0), layout.edit_texts("subject", "")[0]
    for dropped in (0, 2):
        monkeypatch.setattr(data, "UNCONDITIONAL", dropped)
        examples = [teacher.lesson(rng) for _ in range(50)]
        subjects = [vocab.encode(texts_of(vocab, example)[0]) == vocab.encode(subject) for example in examples]
        assert {*subjects} == {False, True}
        assert [example.open for example in examples] == [bool(dropped) or of_subject for of_subject in subjects]


def test_nothing_stays_or_changes_where_no_picture_is_given(config, vocab, teacher):
    rng, model = np.random.default_rng(0), new_model(config, grid_codebook(3), 0)
    for example in (teacher.generate(rng), teacher.chat(rng)):
        masked = [torch.ones(len(example.cells), dtype=torch.bool)]
        losses = losses_of(model, Reader(config), vocab, meanings(vocab), [example], masked, torch.Generator())
        assert losses.stays is None and losses.changes is None


def test_labels_belong_to_the_cells_of_all_pictures(vocab, families, monkeypatch):
    """In the order of the sequence: pictures whose codes are their labels."""
    monkeypatch.setattr(data, "GRAINED", 0)
    codes = {name_of(s): parts(s.scene, s.rows, s.columns)[0][..., 0] for f in families for s in f.shots}
    given = set()
    for kind in ("crowd", "generate", "lesson", "chat"):
        batches = Teacher(vocab, codes, families).batches(300, 2, lambda kind=kind: {kind: 1.0})
        for example in itertools.chain.from_iterable(itertools.islice(batches, 40)):
            drawn = example.targets[: example.answer]
            shown = torch.cat([ids[ids >= vocab.image_offset] for ids in (example.ids, drawn)]) - vocab.image_offset
            assert torch.equal(example.labels[:, 0], shown) and example.labels.shape[1] == len(LABELS)
            given.add((kind, len(shown) > example.answer))
    assert given == {("crowd", False), ("generate", False), ("lesson", True), ("lesson", False), ("chat", True)}


def test_grain_is_a_little_on_things_and_anything_elsewhere():
    rng, codebook = np.random.default_rng(0), grid_codebook(3)
    grid, where, shows = torch.randint(0, CODES, (16, 16)), torch.rand(16, 16) < 0.8, torch.rand(16, 16) < 0.5
    far = []
    for _ in range(20):
        new = grained(grid, where, shows, CODES, rng)
        other = new != grid
        off = (codebook[new] - codebook[grid]).abs().sum(2)
        assert not other[~where].any() and (off[other & shows] == 1).all() and other[~shows].float().mean() < 0.5
        far += off[other & ~shows].tolist()
    assert max(far) > 3 and min(far) == 1


def test_what_an_instruction_leaves_alone_is_copied_whatever_its_codes(vocab, monkeypatch):
    monkeypatch.setattr(data, "GRAINED", 1.0)
    taught = ((family, lesson) for family in (Family(seed, 3) for seed in range(100)) for lesson in family.lessons)
    family, lesson = next(pair for pair in taught if pair[1].kind == "recolor")
    family.__dict__["lessons"] = (lesson,)
    before, after = np.full(SQUARE, 21), np.full(SQUARE, 21)
    after[:2] = 42
    teacher = Teacher(vocab, {name_of(lesson.inputs[0]): before, name_of(lesson.target): after}, [family])
    rng, stays, other = np.random.default_rng(0), torch.from_numpy(before == after).flatten(), []
    for _ in range(40):
        example = teacher.lesson(rng)
        given, drawn = (ids - vocab.image_offset for ids in (example.ids, example.targets[: example.answer]))
        given = given[given >= 0]
        if not len(given):  # dropped, for guidance
            assert torch.equal(drawn, torch.from_numpy(after).flatten())
            continue
        assert torch.equal(given[stays], drawn[stays]) and (given[~stays] == 21).all() and (drawn[~stays] == 42).all()
        other.append((given[stays] != 21).float().mean())
    assert len(other) > 30 and 0.15 < sum(other) / len(other) < 0.35


def test_given_pictures_lie_where_heads_look(vocab):
    given, target = torch.randint(0, CODES, SQUARE), torch.full(SQUARE, 7)
    branch = layout.image_to_image(vocab, "Edit.", "make it blue", [given], *SQUARE, target)[0]
    assert (branch.ids[branch.cells] == 7 + vocab.image_offset).all()
    assert torch.equal(branch.ids[branch.cells + GIVEN], given.flatten() + vocab.image_offset)
    assert branch.ids[branch.cells[0] + GIVEN - 1] == vocab.ids.boi


@pytest.mark.parametrize(
    ("tokens", "here", "looks"),
    [
        (200, slice(40, 160), [list(enumerate(offsets, first)) for first, offsets in enumerate(NEIGHBOURS)]),
        (400, slice(300, 380), [[], [(head % SIZE["n_heads"], GIVEN) for head in COPYING]]),
    ],
)
def test_new_heads_look_at_neighbours_and_at_given_pictures(tokens, here, looks):
    config = LLaDAConfig(**SIZE, vocab_size=TEXT_IDS + 64, embedding_size=TEXT_IDS + 64, codebook_size=64)
    model = new_model(config, grid_codebook(3), seed=0)
    ids = torch.randint(0, TEXT_IDS + 64, (tokens,))
    cos, sin = rotary_tables(torch.arange(tokens), config.head_dim, config.rope_theta)
    rows = torch.arange(tokens)[here]
    with torch.inference_mode():
        x = model.model["transformer"]["wte"](ids)
        for layer, heads in enumerate(looks):
            block = model.model["transformer"]["blocks"][layer]
            h = block.attn_norm(x)
            q, k = (rotate(p(h).view(tokens, config.n_heads, -1), cos, sin) for p in (block.q_proj, block.k_proj))
            weights = (torch.einsum("qhd,khd->hqk", q, k) / config.head_dim**0.5).softmax(-1)
            for head, offset in heads:
                assert weights[head, rows, rows + offset].mean() > 0.8


def test_convolutions_are_changed_through_their_matrices(vq):
    model = copy.deepcopy(vq).to(memory_format=torch.channels_last).train()
    keep_local(model)
    optimizer = Optimizer(model, 0.01)
    weight = model.decoder.mid_block.resnets[0].conv1.weight
    before, ends = weight.detach().clone(), model.decoder.conv_out.weight.detach().clone()
    loss = model.reconstruct(model.latents(torch.rand(2, 3, 32, 32))).square().mean()
    optimizer.step(loss, 0.5)
    assert not torch.equal(weight, before) and not torch.equal(model.decoder.conv_out.weight, ends)
    inside = model.encoder.mid_block.resnets[0].conv1.weight.detach()
    assert not torch.equal(inside, vq.encoder.mid_block.resnets[0].conv1.weight)
    assert inside[:, :, 1, 1].all() and inside.count_nonzero() == inside[:, :, 1, 1].numel()  # it stays local


def test_a_far_change_leaves_codes_alone(vq):
    model = copy.deepcopy(vq)
    keep_local(model)
    picture = torch.rand(1, 3, 128, 128)
    other = picture.clone()
    other[..., 64:] = torch.rand(1, 3, 128, 64)
    differing = (model.latents(picture) != model.latents(other)).any(dim=1)[0].any(dim=0)
    assert differing.tolist() == [False] * 2 + [True] * 6  # the layers that halve look a little to the right


def test_a_decoder_is_trained_further_with_the_same_codes(vq, tmp_path):
    save_tokenizer(vq, tmp_path / "first")
    before = VQModel.load(tmp_path / "first")
    for _ in range(2):  # the second time it finds that it is done
        train_decoder(tmp_path / "run", tmp_path / "first", 0.02, pictures=2, batch=4)
    after = VQModel.load(tmp_path / "run" / "vqvae")
    assert fingerprint(after) == fingerprint(before)
    assert not torch.equal(after.decoder.conv_in.weight, before.decoder.conv_in.weight)


def test_errors_of_codes_are_small_and_few():
    z = grid_codebook(6)[torch.randint(4**6, (2, 32, 32))].permute(0, 3, 1, 2)
    off = (with_errors(z, torch.Generator().manual_seed(0)) - z).abs()
    assert set(off.unique().tolist()) == {0, 1} and off.sum(1).max() == 1
    assert 0.005 < off.sum(1).mean() < 0.04


def test_a_narrowed_encoder_makes_the_same_codes(vq):
    model = copy.deepcopy(vq)
    keep_local(model)
    small = narrowed(model)
    picture = torch.rand(1, 3, 64, 96)
    assert torch.equal(small.encode(picture), model.encode(picture))
    assert sum(p.numel() for p in small.encoder.parameters()) < 0.8 * sum(p.numel() for p in model.encoder.parameters())


def test_another_seed_of_the_tokenizer_means_other_pictures_and_another_folder(tmp_path, monkeypatch):
    begins = []
    monkeypatch.setattr(tokenizer, "picture_pool", lambda count, seed: begins.append(seed) or np.zeros((count, 3), np.uint8))
    for seed in (0, 1):
        tokenizer.kept_pool(tmp_path / f"{seed}.npy", 4000, seed)
    assert begins[1] - begins[0] >= 4000
    torch.save({"made_for": "seed 0", "step": 1, "elapsed": 0.0}, tmp_path / "state.pt")
    begins.clear()
    with pytest.raises(DimooError, match="another tokenizer, size, world, seed or start"):
        train_tokenizer(tmp_path, 1, pictures=1, seed=1)
    assert not begins  # nothing was drawn for it


def test_shares_of_the_tokenizers_pictures_show_letters_or_metal_only(monkeypatch):
    scenes = []
    monkeypatch.setattr(tokenizer, "render", lambda scene: scenes.append(scene) or SimpleNamespace(rgb=None))
    monkeypatch.setattr(tokenizer, "stylize", lambda rgb, style: rgb)
    monkeypatch.setattr(tokenizer, "control_map", lambda kind, scene, picture: None)
    for seed in range(1000):
        tokenizer.training_picture(seed)
    lettered = [scene for scene in scenes if all(thing.letter for thing in scene.things)]
    metal = [scene for scene in scenes if all(thing.material == "metal" for thing in scene.things)]
    assert len(lettered) / 1000 == pytest.approx(tokenizer.LETTERED, abs=0.05)
    assert len(metal) / 1000 == pytest.approx(tokenizer.METAL + 0.05, abs=0.05)  # of the others some happen to be
    assert {(t.letter, t.color) for scene in lettered for t in scene.things} == {*itertools.product(SIGNS, COLORS)}
    assert {len(scene.things) for scene in lettered} == {1, 2, 3, 4} and any(scene.view != "front" for scene in lettered)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_last_fifth_sees_pictures_however_small_the_batch(tmp_path, monkeypatch, batch):
    seen = []
    monkeypatch.setattr(tokenizer, "picture_pool", lambda count, seed: np.random.default_rng(seed).integers(
        256, size=(count, 256, 256, 3), dtype=np.uint8))  # fmt: skip
    monkeypatch.setattr(Run, "progress", property(lambda run: 0.9 if run.step < 2 else 1))
    monkeypatch.setattr(Run, "report", lambda run, **values: seen.append(values))
    train_tokenizer(tmp_path, 1, pictures=1, batch=batch)
    assert len(seen) == 2 and all(math.isfinite(value) for values in seen for value in values.values())


@pytest.mark.parametrize("what", ["tokenizer", "model"])
@pytest.mark.parametrize(
    "wrong", ["--minutes 0", "--minutes -3", "--minutes nan", "--batch 0", "--pictures 0", "--seed -1", "--rate 0"]
)
def test_numbers_that_no_training_can_have(tmp_path, capsys, what, wrong):
    name, value = wrong.split()
    assert main(["train", what, "-o", str(tmp_path / "run"), f"{name}={value}"]) == 2
    elsewhere = {"--batch": "tokenizer", "--rate": "model"}.get(name, what) != what
    wanted = f"{name} is of train" if elsewhere else f"give {name}"
    assert wanted in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_options_of_the_other_training_are_refused(tmp_path, capsys):
    for wrong in (["tokenizer", "--from", "here"], ["model", "--codes-of", "here"], ["model", "--from", "a", "--rate", "0"],
                  ["tokenizer", "--grow"], ["model", "--grow"], ["model", "--own", "8"],
                  ["model", "--from", "here", "--own", "8", "--tasks", "generate"]):
        assert main(["train", *wrong, "-o", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert "--from is of train model only" in told and "--codes-of is of train tokenizer only" in told
    assert "--grow is of train model only" in told and "--grow together with --from" in told and "--own together with" in told
    assert not (tmp_path / "run").exists()


def test_a_log_that_was_cut_off_is_read(tmp_path):
    assert run_module.read_log(tmp_path) == []
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert run_module.read_log(tmp_path) == [{"step": 1, "loss": 2.0}]
    run_module.curve(tmp_path)
    assert (tmp_path / "curve.png").exists()


def test_muon_steps_are_orthogonal_and_as_large_as_said():
    torch.manual_seed(0)
    for shape in ((24, 60), (60, 24), (24, 24)):
        weights = [torch.nn.Parameter(torch.zeros(shape)) for _ in range(2)]
        for weight in weights:
            weight.grad = torch.randn(shape)
        Muon(weights, lr=1.0, ns_steps=8).step()
        for weight in weights:
            singular = torch.linalg.svdvals(weight / (0.2 * max(shape) ** 0.5))
            assert singular.min() > 0.6 and singular.max() < 1.3
            assert (weight * weight.grad).sum() < 0  # downhill


def test_muon_is_that_of_torch():
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    torch.manual_seed(0)
    start, gradients = torch.randn(16, 40), [torch.randn(16, 40) for _ in range(3)]
    ends = []
    for kind, options in ((Muon, {}), (torch.optim.Muon, {"adjust_lr_fn": "match_rms_adamw"})):
        weight = torch.nn.Parameter(start.clone())
        optimizer = kind([weight], 0.01, weight_decay=0.05, ns_steps=4, **options)
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()
        ends.append(weight.detach() - start)
    assert (ends[0] - ends[1]).norm() < 0.02 * ends[1].norm()  # torch's works in bfloat16
