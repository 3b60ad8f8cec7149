"""Which words name what, which cells show it, and attention that is taught to go there."""

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_config

from dimoo import layout
from dimoo.model import DiMOO, rotary_tables
from dimoo.packed import Packed
from dimoo.tasks import DIRECTIONS
from dimoo.train.data import Teacher
from dimoo.train.families import Family, name_of
from dimoo.train.grounding import (
    CELLS,
    LETTER,
    ZONES,
    Pointers,
    depths,
    grounds,
    meanings,
    phrases,
    zones,
)
from dimoo.train.losses import WEIGHTS, Losses, Reader, losses_of, sameness
from dimoo.train.pointing import COPYING, copying_loss, pointing_loss
from dimoo.train.words import TEXT_IDS
from dimoo.vocab import Vocabulary
from dimoo.world.lessons import Shot
from dimoo.world.parts import LABELS
from dimoo.world.scene import COLORS, KINDS, LETTERS

CODES = 64


@pytest.fixture(scope="module")
def config():
    return tiny_config(CODES, n_layers=4, rope_theta=1e6)


@pytest.fixture(scope="module")
def vocab(config, words):
    return Vocabulary.load(words, config)


@pytest.fixture(scope="module")
def meaning(vocab):
    return meanings(vocab)


def label(kind, color):
    row = torch.zeros(len(LABELS), dtype=torch.long)
    row[0], row[1], row[2], row[3] = 1 + KINDS.index(kind), 1 + COLORS.index(color), 1, 1
    return row


def test_phrases_demand_what_they_say(vocab, meaning):
    def read(text):
        ids = vocab.encode(text)
        words = [vocab.decode([i]).strip() for i in ids]
        found = phrases(ids, meaning)
        return [([words[place] for place in places.values()], sorted(demands.items())) for places, demands in found]

    ball, cube = 1 + KINDS.index("ball"), 1 + KINDS.index("cube")
    red, blue = 1 + COLORS.index("red"), 1 + COLORS.index("blue")
    found = [(["red", "ball"], [(0, ball), (1, red), (3, 2)]), (["cubes"], [(0, cube)])]
    assert read("a small red ball and two cubes in the snow") == found
    assert read("make the ball blue") == [(["ball"], [(0, ball)]), (["blue"], [(1, blue)])]
    assert read("which object is blue?") == [(["blue"], [(1, blue)])]
    assert read("a shiny object at night") == []


def test_words_point_at_their_cells_and_masked_cells_at_their_words(vocab, meaning):
    text = vocab.encode("a red ball and a blue cube and a white house")
    red, ball, blue, cube, house = (text.index(vocab.encode(word)[0]) for word in ("red", "ball", "blue", "cube", "house"))
    shown = [("ball", "red"), ("ball", "red"), ("ball", "green"), ("cube", "blue"), None]
    labels = torch.stack([label(*thing) if thing else torch.zeros(len(LABELS), dtype=torch.long) for thing in shown])
    ids = torch.tensor([*text, *[TEXT_IDS] * 5])
    cells = torch.arange(len(text), len(text) + 5)
    ids[cells[[1, 3]]] = vocab.ids.mask

    def places(pointers):
        rows = zip(pointers.rows.tolist(), pointers.allowed, strict=True)
        return {row: allowed.nonzero()[:, 0].tolist() for row, allowed in rows}

    where = F.one_hot(torch.tensor([[3, 1], [3, 2], [0, 0], [7, 6], [5, 5]]), ZONES).flatten(1).float()
    generator = torch.Generator().manual_seed(0)
    taught = grounds(ids, cells, labels, where, vocab.ids.mask, meaning, generator)
    seen, spots = places(taught.found), taught.placed
    assert seen[red] == seen[ball] == [cells[0]]  # not the masked one, not the green one
    assert seen[cube] == [cube]  # nothing of it is to be seen
    assert seen[house] == [house]  # there is none
    assert places(taught.named) == {cells[1].item(): [ball], cells[3].item(): [cube]}
    assert places(taught.colored) == {cells[1].item(): [red], cells[3].item(): [blue]}
    of_cells = {cells[0].item(): [ball], cells[2].item(): [cells[2]], cells[4].item(): [cells[4]]}
    assert places(taught.seen) == of_cells  # the green ball is not named, and nothing is no thing
    standing = {row: shares.nonzero()[:, 0].tolist() for row, shares in zip(spots.rows.tolist(), spots.shares, strict=True)}
    both = [3, ZONES + 1, ZONES + 2]  # of the red ball, masked or not: one row, two columns
    assert standing == {red: both, ball: both, blue: [7, ZONES + 6], cube: [7, ZONES + 6]}  # and no house
    assert spots.shares[0, both].tolist() == [1, 0.5, 0.5]


def test_masked_cells_point_at_the_words_for_what_the_given_picture_shows_there(vocab, meaning):
    text = vocab.encode("remove the ball")
    nothing = torch.zeros(len(LABELS), dtype=torch.long)
    given, drawn = [label("ball", "red"), label("cube", "blue"), nothing], [nothing, label("cube", "blue"), nothing]
    ids = torch.tensor([*text, *[TEXT_IDS] * 3, vocab.ids.mask, TEXT_IDS, vocab.ids.mask])
    cells, noun = torch.arange(3, 9), text.index(vocab.encode("ball")[0])

    def seen(drawn_cells):
        taught = grounds(ids, cells, torch.stack([*given, *drawn]), torch.zeros(6, 2 * ZONES), vocab.ids.mask, meaning,
                         torch.Generator(), drawn_cells).seen  # fmt: skip
        return {row: allowed.nonzero()[:, 0].tolist() for row, allowed in zip(taught.rows.tolist(), taught.allowed, strict=True)}

    shown = {3: [noun], 4: [4], 5: [5], 7: [7]}
    assert seen(3) == shown | {6: [noun], 8: [8]}  # the first is to become empty ground, which no word names
    assert seen(2) == shown  # pictures of different sizes


def test_masked_cells_look_at_the_same_cell_of_the_given_picture(vocab, meaning):
    ids = torch.tensor([*vocab.encode("remove the ball"), *[TEXT_IDS] * 3, vocab.ids.mask, TEXT_IDS, vocab.ids.mask])
    labels, where = torch.zeros(6, len(LABELS), dtype=torch.long), torch.zeros(6, 2 * ZONES)
    for drawn, looks in ((3, {6: 3, 8: 5}), (2, {})):  # none where the pictures are of different sizes
        given = grounds(ids, torch.arange(3, 9), labels, where, vocab.ids.mask, meaning, torch.Generator(), drawn).given
        assert {row: at.nonzero().item() for row, at in zip(given.rows.tolist(), given.allowed, strict=True)} == looks


def test_masked_cells_look_for_the_same_part_of_the_same_thing_in_given_pictures_or_at_nothing(vocab, meaning):
    nothing, ball, cube = torch.zeros(len(LABELS), dtype=torch.long), label("ball", "red"), label("cube", "blue")
    higher = ball.clone()
    higher[-1] = 2
    given, drawn = [ball, cube, higher, nothing], [higher, nothing, ball, cube]
    ids = torch.tensor([*[TEXT_IDS] * 4, *[vocab.ids.mask] * 3, TEXT_IDS])
    taught = grounds(ids, torch.arange(8), torch.stack([*given, *drawn]), torch.zeros(8, 2 * ZONES), vocab.ids.mask, meaning,
                     torch.Generator(), 4)  # fmt: skip
    for pointers, looks in ((taught.matched, {4: 2, 6: 0}), (taught.spared, {5: 3})):
        assert {row: at.nonzero().item() for row, at in zip(pointers.rows.tolist(), pointers.allowed, strict=True)} == looks


def test_masked_cells_of_a_cube_look_at_its_letter(vocab, meaning):
    cube = label("cube", "blue")
    cube[LETTER] = 1 + ("", *LETTERS).index("A")
    texts = {"a blue cube with the letter a and a cube": 6, "make the letter on the cube a": 6, "a cube with the letter x": None}
    for text, place in texts.items():
        ids = torch.tensor([*vocab.encode(text), *[vocab.ids.mask] * 3])
        cells, labels = torch.arange(len(ids) - 3, len(ids)), torch.stack([cube, label("ball", "red"), cube])
        lettered = grounds(ids, cells, labels, torch.zeros(3, 2 * ZONES), vocab.ids.mask, meaning, torch.Generator(), 3).lettered
        looks = {row: at.nonzero().item() for row, at in zip(lettered.rows.tolist(), lettered.allowed, strict=True)}
        assert looks == ({} if place is None else {cells[0].item(): place, cells[2].item(): place})


@pytest.mark.parametrize("side", ["left", "right", "back", None])
def test_masked_cells_of_a_new_view_look_at_the_side_that_it_is_from(vocab, meaning, side):
    texts = layout.edit_texts("view", direction=side) if side else layout.edit_texts("instruct", "put it to the left of the cone")
    text = vocab.encode(" ".join(texts))
    ids = torch.tensor([*text, TEXT_IDS, TEXT_IDS, vocab.ids.mask, vocab.ids.mask])
    cells, labels = torch.arange(len(text), len(ids)), torch.zeros(4, len(LABELS), dtype=torch.long)
    turned = grounds(ids, cells, labels, torch.zeros(4, 2 * ZONES), vocab.ids.mask, meaning, torch.Generator(), 2).turned
    looks = {row: at.nonzero().flatten().tolist() for row, at in zip(turned.rows.tolist(), turned.allowed, strict=True)}
    place = [text.index(vocab.encode(side)[0])] if side else []
    assert looks == (dict.fromkeys(cells[2:].tolist(), place) if side else {})


def test_copying_is_taught_to_its_heads_alone(config):
    torch.manual_seed(0)
    model = DiMOO(config)
    given = [Pointers(torch.tensor([4, 5]), torch.eye(6, dtype=torch.bool)[[0, 1]])]
    loss = copying_loss(model, torch.randn(6, config.d_model), given)
    loss.backward()
    gradients = model.model["transformer"]["blocks"][1].q_proj.weight.grad.view(config.n_heads, -1).abs().sum(1)
    taught = [head % config.n_heads for head in COPYING]
    assert all((gradient > 0) == (head in taught) for head, gradient in enumerate(gradients))
    assert copying_loss(model, torch.randn(6, config.d_model), [Pointers(given[0].rows[:0], given[0].allowed[:0])]) is None


def test_a_head_learns_to_look_where_it_is_told(config):
    torch.manual_seed(0)
    model, state = DiMOO(config), torch.randn(6, config.d_model)
    pointers = [Pointers(torch.tensor([4, 5]), torch.eye(6, dtype=torch.bool)[[0, 1]])]
    adam = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(30):
        losses.append(pointing_loss(model, 1, 2, state, pointers))
        adam.zero_grad()
        losses[-1].backward()
        adam.step()
    assert losses[0] > 1 and losses[-1] < 0.1 * losses[0]


def test_no_more_cells_are_asked_than_wanted(vocab, meaning):
    count = 2 * CELLS
    ids = torch.tensor([*vocab.encode("a large ball"), *[vocab.ids.mask] * count])
    labels = label("ball", "red").expand(count, -1)
    cells, where = torch.arange(3, 3 + count), torch.zeros(count, 2 * ZONES)
    taught = grounds(ids, cells, labels, where, vocab.ids.mask, meaning, torch.Generator())
    nouns, words = taught.named, taught.found
    assert len(nouns.rows) == CELLS and len(set(nouns.rows.tolist())) == CELLS and nouns.allowed[:, 2].all()
    assert not len(taught.colored.rows)  # none is said
    assert not len(taught.seen.rows)  # nothing is to be seen
    assert words.rows.tolist() == [2] and words.allowed.sum() == 1  # all of it is masked: the word looks at itself


def test_attention_is_taught(config):
    torch.manual_seed(0)
    model = DiMOO(config)
    block = model.model["transformer"]["blocks"][1]
    ids = torch.randint(0, TEXT_IDS, (2, 12))
    allowed = torch.zeros(2, 12, dtype=torch.bool)
    allowed[0, 3] = allowed[1, 8] = allowed[1, 9] = True
    wanted = [Pointers(torch.tensor([1, 2]), allowed), Pointers(torch.zeros(0, dtype=torch.long), allowed[:0])]

    def loss():
        state = next(model.states(Packed.of(list(ids))))
        return pointing_loss(model, 1, 2, state, wanted)

    before = [p.detach().clone() for p in (block.q_proj.weight, block.k_proj.weight)]
    with torch.no_grad():
        block.q_proj.weight[16:24] = 0
        assert loss().item() == pytest.approx((math.log(12) + math.log(6)) / 2, abs=1e-5)  # even attention
        block.q_proj.weight.copy_(before[0])
    adam = torch.optim.Adam([block.q_proj.weight, block.k_proj.weight], 0.03)
    for _ in range(60):
        adam.zero_grad()
        value = loss()
        value.backward()
        adam.step()
    assert value < 0.1
    other = torch.arange(32).div(8, rounding_mode="floor") != 2
    assert torch.equal(block.q_proj.weight[other], before[0][other])  # of one head alone
    assert pointing_loss(model, 1, 2, torch.zeros(24, 32), [wanted[1], wanted[1]]) is None


def test_of_many_rows_the_worst_can_count_alone(config):
    torch.manual_seed(0)
    model, state = DiMOO(config), 3 * torch.randn(8, config.d_model)
    allowed = torch.zeros(6, 8, dtype=torch.bool)
    allowed[:, 2] = True
    rows = Pointers(torch.arange(6), allowed)
    each = torch.stack([pointing_loss(model, 1, 2, state, [Pointers(rows.rows[[i]], allowed[[i]])]) for i in range(6)])
    assert pointing_loss(model, 1, 2, state, [rows], 2).item() == pytest.approx(each.topk(2).values.mean().item(), rel=1e-5)
    assert pointing_loss(model, 1, 2, state, [rows], 9).item() == pytest.approx(each.mean().item(), rel=1e-5)


def test_the_attention_taught_is_the_one_paid(config):
    torch.manual_seed(0)
    model = DiMOO(config)
    block = model.model["transformer"]["blocks"][1]
    state = torch.randn(12, 32)
    target = block.attn_norm(state)[3].detach()
    with torch.no_grad():
        block.ff_out.weight.zero_()
        block.attn_out.weight.copy_(torch.eye(32))
        block.v_proj.weight.zero_()
        basis = torch.linalg.pinv(block.attn_norm(state))  # (32, 12): reads one token alone
        block.v_proj.weight[16] = basis[:, 3]
        cos, sin = rotary_tables(torch.arange(12), config.head_dim, config.rope_theta)
        paid = (block(state, cos, sin, 1) - state)[1, 16]
    assert basis[:, 3] @ target == pytest.approx(1, abs=1e-4)
    allowed = torch.zeros(1, 12, dtype=torch.bool)
    allowed[0, 3] = True
    loss = pointing_loss(model, 1, 2, state, [Pointers(torch.tensor([1]), allowed)])
    assert loss.exp().item() == pytest.approx(1 / paid.item(), rel=1e-3)


def test_the_taught_blocks_lie_in_the_second_half():
    assert depths(10) == (5, 7) and depths(4) == (2, 3) and depths(2) == (1, 1)


def test_sameness_tells_a_constant_from_what_differs():
    torch.manual_seed(0)
    states = torch.randn(60, 16)
    cells = torch.arange(20, 60)
    centred = torch.cat([part - part.mean(0) for part in states.split([20, 40])])
    assert sameness(centred, cells).item() == pytest.approx(0, abs=1e-5)
    assert sameness(states, cells) < sameness(states + 1, cells) < sameness(states + 5, cells)
    assert sameness(states + 5, cells).item() == pytest.approx(sameness(10 * states + 50, cells).item(), abs=1e-4)
    states.requires_grad_()
    sameness(states + 5, cells).backward()
    assert torch.allclose(states.grad[20:], states.grad[20], atol=1e-7)  # it pushes all cells alike: their differences stay


def test_zones_divide_a_picture_of_any_shape():
    shares = zones([Shot(None, 16, 20), Shot(None, 10, 16)])
    assert (shares.view(-1, 2, ZONES).sum(2) == 1).all()
    where = shares.view(-1, 2, ZONES).argmax(2)
    assert where.shape == (16 * 20 + 10 * 16, 2) and where.amin() == 0 and where.amax() == ZONES - 1
    first, second = where[: 16 * 20].view(16, 20, 2), where[16 * 20 :].view(10, 16, 2)
    assert first[:, 3, 0].tolist() == [row // 2 for row in range(16)] and (first[..., 0] == first[:, :1, 0]).all()
    assert second[4, :, 1].tolist() == [column // 2 for column in range(16)] and (second[..., 1] == second[:1, :, 1]).all()


def test_a_reader_learns_where_things_stand(config):
    torch.manual_seed(0)
    reader, states = Reader(config), torch.randn(6, 32)
    shares = F.one_hot(torch.stack([torch.arange(6), torch.arange(6) + 2], 1), ZONES).flatten(1).float()
    assert reader.place(states, shares).item() == pytest.approx(2 * math.log(ZONES))  # knows nothing
    adam = torch.optim.Adam(reader.parameters(), 0.05)
    for _ in range(100):
        adam.zero_grad()
        reader.place(states, shares).backward()
        adam.step()
    assert reader.place(states, shares) < 0.1
    assert reader.place(states[:0], shares[:0]) is None


def test_codes_that_are_copied_are_read_number_by_number(config):
    torch.manual_seed(0)
    reader, states, codes = Reader(config), torch.randn(6, 32), torch.tensor([0, 1, 21, 42, 63, 5])
    assert reader.copied(2, states, codes).item() == pytest.approx(3 * math.log(4))  # knows nothing
    adam = torch.optim.Adam(reader.parameters(), 0.05)
    for _ in range(100):
        adam.zero_grad()
        reader.copied(2, states, codes).backward()
        adam.step()
    assert reader.copied(2, states, codes) < 0.1 and reader.copied(2, states, codes.flip(0)) > 2
    assert reader.copied(1, states, codes) is None and reader.copied(2, states[:0], codes[:0]) is None


def test_a_reader_learns_from_which_side_a_view_is(config):
    torch.manual_seed(0)
    reader, states, sides = Reader(config), torch.randn(6, 32), torch.tensor([0, 1, 2, 0, 1, 2])
    assert reader.sided(states, sides).item() == pytest.approx(math.log(3))  # knows nothing
    adam = torch.optim.Adam(reader.parameters(), 0.01)
    for _ in range(30):
        adam.zero_grad()
        reader.sided(states, sides).backward()
        adam.step()
    assert reader.sided(states, sides) < 0.1
    assert reader.sided(states[:0], sides[:0]) is None


def test_cells_are_asked_for_the_side_that_their_prompt_says(config, vocab, meaning):
    model, reader = DiMOO(config), Reader(config)
    shot = Family(0).base
    teacher = Teacher(vocab, {name_of(shot): np.zeros((shot.rows, shot.columns), np.int16)}, [Family(0)])
    grid, asked = teacher.grid(shot), {}
    reader.side.weight.register_hook(lambda gradient: asked.update(most=int(gradient.square().sum(1).argmax())))
    for number, side in enumerate(DIRECTIONS):
        branch = layout.image_to_image(vocab, *layout.edit_texts("view", direction=side), [grid], *grid.shape)[0]
        example = teacher._picture(branch, [shot], shot, grid)
        masked = [torch.arange(len(example.cells)) < example.answer]  # all but the words
        losses_of(model, reader, vocab, meaning, [example], masked, torch.Generator().manual_seed(0)).sided.backward()
        assert asked["most"] == number
        reader.zero_grad()


def test_losses_that_are_missing_count_nothing():
    one, none = torch.tensor(1.0), None
    there = dict.fromkeys(("answer", "things", "read", "said", "named", "located"), 1) | {"common": 2}
    losses = Losses(**{f.name: one * there[f.name] if f.name in there else none for f in fields(Losses)})
    assert losses.total.item() == pytest.approx(sum(WEIGHTS.get(name, 0) * loss for name, loss in there.items()))
    assert losses.numbers() == there
