"""Rows of the head that have become alike, and are told apart again."""
import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_config

from dimoo.train.apart import ENOUGH, head_states, levels_told, tell_apart, telling
from dimoo.train.data import Example
from dimoo.train.initial import new_model
from dimoo.train.losses import Reader
from dimoo.train.tokenizer import LEVELS, grid_codebook, levels_of

CODES = torch.arange(64)
WIDTH = 3


@pytest.fixture
def model():
    """One whose head has learned nothing about its codes but how frequent they are."""
    torch.manual_seed(0)
    model = new_model(tiny_config(64, n_layers=2), grid_codebook(WIDTH), seed=0)
    body, offset = model.model["transformer"], model.config.image_offset
    with torch.no_grad():
        body["ln_f"].weight.uniform_(5, 10)
        body["ff_out"].weight[offset:] = torch.randn(32) + 0.02 * torch.randn(64, 32)
    return model


def states(used=12):
    """Such as lie in few directions, but for a little."""
    found = torch.randn(500, used) @ torch.randn(used, 32) + 0.01 * torch.randn(500, 32)
    return F.rms_norm(found, (32,))


def logits(model, states):
    body = model.model["transformer"]
    return (states * body["ln_f"].weight) @ body["ff_out"].weight.T


def test_levels_are_those_of_the_codebook():
    levels = torch.tensor(LEVELS)[levels_of(CODES, WIDTH).flip(1)]
    torch.testing.assert_close(levels, grid_codebook(WIDTH))


def test_every_code_can_be_said_afterwards_and_what_was_said_is_kept(model):
    given = states()
    with torch.no_grad():
        before = logits(model, given).softmax(1)
        tell_apart(model, given)
        saying = telling(model)
        kept = logits(model, given).softmax(1)
        said = logits(model, F.rms_norm(F.one_hot(levels_of(CODES, WIDTH), 4).flatten(1).float() @ saying.T, (32,)))
        assert (kept - before).abs().sum(1).mean() < 0.1
        assert (said[:, model.config.image_offset :].argmax(1) == CODES).all()


def test_what_says_the_levels_is_found_in_any_head(model):
    body, reader = model.model["transformer"], Reader(model.config)
    levels = F.one_hot(levels_of(CODES, WIDTH), 4).flatten(1).float()
    with torch.no_grad():
        body["ff_out"].weight[model.config.image_offset :] += 0.2 * levels @ torch.randn(12, 32)
        before = reader.saying(model, CODES)
        reader.said.weight.copy_(telling(model))
        assert reader.saying(model, CODES) < 0.1 * before


def test_rows_tell_their_levels_once_they_are_apart(model):
    assert 0 < levels_told(model) < ENOUGH  # 9 of 63 dimensions, by chance
    tell_apart(model, states())
    assert levels_told(model) > 0.8


def test_the_head_learns_to_say_codes(model):
    reader = Reader(model.config)
    adam = torch.optim.Adam([model.model["transformer"]["ff_out"].weight, *reader.said.parameters()], 0.01)
    first = reader.saying(model, CODES).item()
    for _ in range(100):
        adam.zero_grad()
        reader.saying(model, CODES).backward()
        adam.step()
    assert first > 3 and reader.saying(model, CODES) < 0.5


def test_states_are_those_of_masked_targets(model):
    ids = torch.arange(20) + model.config.image_offset
    targets = ids[4:12]
    masked = ids.clone()
    masked[4:12] = 1
    example = Example(masked, torch.arange(4, 12), targets, 8, torch.zeros(8, dtype=torch.bool), torch.zeros(20, 1),
                      torch.zeros(20, 1), torch.zeros(2, 4))
    found = head_states(model, [[example, example], [example]], torch.Generator().manual_seed(0))
    assert 3 <= len(found) <= 24 and found.shape[1] == 32
    torch.testing.assert_close(found.square().mean(1), torch.ones(len(found)), rtol=1e-3, atol=1e-3)
