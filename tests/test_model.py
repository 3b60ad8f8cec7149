"""The transformer: packing, caching, slices, published names."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from dimoo.cache import KeyValueCache
from dimoo.config import LLaDAConfig
from dimoo.errors import DimooError
from dimoo.model import DiMOO
from dimoo.packed import Packed

settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")

SIZES = {
    "d_model": 48,
    "n_heads": 3,
    "n_layers": 2,
    "mlp_hidden_size": 80,
    "vocab_size": 100,
    "codebook_size": 30,
}


def build(**changes):
    torch.manual_seed(0)
    return DiMOO(LLaDAConfig(**SIZES | changes)).eval()


@pytest.fixture(scope="module")
def model():
    """Random weights, large enough for attention and positions to matter."""
    model = build()
    for name, weight in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(weight, std=0.3)
    return model


def sequences(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, SIZES["vocab_size"], (length,), generator=generator) for length in lengths]


def every_row(packed):
    return torch.arange(len(packed.ids))


@pytest.mark.parametrize("lengths", [(40, 40, 40), (64, 33, 48)])
def test_packed_equals_separate_passes(model, lengths):
    """To the last bits: vectorised functions may round an element by where it lies in memory."""
    parts = sequences(*lengths)
    packed = Packed.of(parts)
    together = model.predict(packed, every_row(packed))
    alone = [model.predict(Packed.of([ids]), torch.arange(len(ids))) for ids in parts]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_positions_matter_only_relative_to_each_other(model):
    packed = Packed.of(sequences(30))
    logits = model.predict(packed, every_row(packed))
    moved = model.predict(Packed(packed.ids, packed.positions + 37, packed.lengths), every_row(packed))
    stretched = model.predict(Packed(packed.ids, packed.positions * 2, packed.lengths), every_row(packed))
    torch.testing.assert_close(moved, logits, atol=1e-3, rtol=1e-4)
    assert (stretched - logits).abs().max() > 0.1


def test_attention_reaches_both_ways(model):
    first, second = sequences(20, 20)
    for changed in (0, 19):
        ids = first.clone()
        ids[changed] = (ids[changed] + 1) % SIZES["vocab_size"]
        a = model.predict(Packed.of([first, second]), torch.arange(40))
        b = model.predict(Packed.of([ids, second]), torch.arange(40))
        assert ((a - b).abs().amax(dim=1)[:20] > 0).all()
        assert torch.equal(a[20:], b[20:])


@given(data=st.data())
@settings(max_examples=25)
def test_rows_and_slice_are_a_part_of_everything(model, data):
    packed = Packed.of(sequences(9, 14))
    rows = torch.tensor(sorted(data.draw(st.sets(st.integers(0, 22), min_size=1))))
    low = data.draw(st.integers(0, 99))
    vocab = slice(low, data.draw(st.integers(low + 1, 100)))
    whole = model.predict(packed, every_row(packed))
    torch.testing.assert_close(model.predict(packed, rows, vocab), whole[rows][:, vocab])


@pytest.mark.parametrize("lengths", [(40, 40), (50, 35)])
def test_partial_pass_over_all_rows_equals_a_full_pass(model, lengths):
    old, new = Packed.of(sequences(*lengths)), Packed.of(sequences(*lengths, seed=1))
    rows = every_row(old)
    cache = KeyValueCache()
    assert torch.equal(model.predict(old, rows, cache=cache), model.predict(old, rows))
    assert torch.equal(model.predict(new, rows, cache=cache, queries=rows), model.predict(new, rows))


@given(queries=st.sets(st.integers(0, 24), min_size=1))
@settings(max_examples=25)
def test_partial_pass_over_unchanged_tokens_changes_nothing(model, queries):
    packed = Packed.of(sequences(15, 10))
    cache = KeyValueCache()
    full = model.predict(packed, every_row(packed), cache=cache)
    queries = torch.tensor(sorted(queries))
    partial = model.predict(packed, queries[-1:], cache=cache, queries=queries)
    torch.testing.assert_close(partial, full[queries[-1:]], atol=1e-4, rtol=1e-4)


def test_partial_pass_writes_its_rows_back(model):
    """Other rows see the new keys and values of a computed row, and only those."""
    old = Packed.of(sequences(12))
    ids = old.ids.clone()
    ids[4], ids[9] = (ids[4] + 1) % 100, (ids[9] + 1) % 100
    new = Packed(ids, old.positions, old.lengths)
    cache = KeyValueCache()
    before = model.predict(old, every_row(old), cache=cache)
    model.predict(new, torch.tensor([4]), cache=cache, queries=torch.tensor([4]))
    after = model.predict(new, torch.tensor([7]), cache=cache, queries=torch.tensor([7]))
    assert (after - before[7]).abs().max() > 1e-3
    assert (after - model.predict(new, torch.tensor([7]))).abs().max() > 1e-3


def test_partial_pass_needs_a_filled_cache(model):
    packed = Packed.of(sequences(5))
    for cache in (None, KeyValueCache()):
        with pytest.raises(DimooError, match="full pass"):
            model.predict(packed, torch.tensor([1]), cache=cache, queries=torch.tensor([1]))


def test_cache_says_its_size(model):
    cache = KeyValueCache()
    model.predict(Packed.of(sequences(10)), torch.tensor([0]), cache=cache)
    assert cache.nbytes == 2 * SIZES["n_layers"] * 10 * SIZES["d_model"] * 4
    assert not cache.empty and KeyValueCache().nbytes == 0


def test_training_gets_gradients_and_prediction_none(model):
    packed = Packed.of(sequences(8, 8))
    loss = model.logits(model.hidden(packed), slice(70, 100)).logsumexp(-1).mean()
    loss.backward()
    missing = [name for name, weight in model.named_parameters() if weight.grad is None]
    model.zero_grad()
    assert missing == []
    assert not model.predict(packed, torch.tensor([3])).requires_grad
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_half_precision_stays_close_and_answers_in_float32(model):
    half = build().to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    packed = Packed.of(sequences(30, 30))
    logits, exact = half.predict(packed, every_row(packed)), model.predict(packed, every_row(packed))
    assert logits.dtype == torch.float32
    assert (logits - exact).abs().mean() < 0.05 * exact.abs().mean()
    # A product rounded to half precision would leave the low bits of every logit at zero.
    assert not torch.equal(logits, logits.to(torch.bfloat16).float())


def test_new_weights_have_the_usual_spread():
    for name, weight in build().named_parameters():
        if "norm" in name or "ln_f" in name:
            assert (weight == 1).all(), name
        else:
            assert math.isclose(weight.std().item(), 0.02, rel_tol=0.1), name


def test_saved_in_shards_under_the_published_names(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    again = DiMOO.from_pretrained(tmp_path)
    assert all(torch.equal(a, again.state_dict()[name]) for name, a in model.state_dict().items())
    published = load_file(Path(__file__).parent / "golden" / "transformer.safetensors")
    layers = {name for name in published if "blocks.2." not in name}
    assert set(model.state_dict()) == layers


def test_config_keeps_unknown_fields_and_the_demo_section(tmp_path):
    config = LLaDAConfig(**SIZES, flash_attention=True, demo={"name": "Toytown", "default_size": [256, 256]})
    config.save_pretrained(tmp_path)
    again = LLaDAConfig.from_pretrained(tmp_path)
    assert again.flash_attention is True
    assert again.demo == {"name": "Toytown", "default_size": [256, 256]}
    assert (again.image_offset, again.table_size) == (70, 100)
    assert LLaDAConfig(**SIZES, embedding_size=128).image_offset == 98


@pytest.mark.parametrize(
    "change",
    [{"n_heads": 5}, {"n_heads": 16}, {"n_kv_heads": 1}, {"codebook_size": 100}, {"include_bias": True}, {"scale_logits": True},
     {"input_emb_norm": True}, {"alibi": True}, {"clip_qkv": 8.0}, {"multi_query_attention": True}, {"rope": False},
     {"layer_norm_type": "default"}, {"activation_type": "swiglu"}],
)
def test_config_that_asks_for_another_transformer_is_refused(change):
    with pytest.raises(DimooError, match="config.json"):
        build(**change)
