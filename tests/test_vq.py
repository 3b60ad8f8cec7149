"""The image tokenizer: parity with the published network, loading, and steadiness of codes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dimoo.errors import DimooError
from dimoo.train.linear import start_linear
from dimoo.train.tokenizer import CONFIG, grid_codebook, round_to_levels, save_tokenizer
from dimoo.vq import WEIGHTS, VQModel

GOLDEN = Path(__file__).parent / "golden"
SMALL = {
    "block_out_channels": [8] * 5, "layers_per_block": 1, "latent_channels": 3, "num_vq_embeddings": 64, "norm_num_groups": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Folder of the published network with small random weights."""
    folder = tmp_path_factory.mktemp("published")
    config = json.loads((GOLDEN / "cases.json").read_text())["cases"]["vq"]["config"]
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(GOLDEN / "vqvae.safetensors", folder / f"{WEIGHTS}.safetensors")
    return folder


@pytest.fixture
def damaged(published, tmp_path):
    return Path(shutil.copytree(published, tmp_path / "damaged"))


def small(scope="none", **changes):
    torch.manual_seed(0)
    model = VQModel(SMALL | {"norm_scope": scope} | changes).eval()
    model.quantize.embedding.weight = torch.nn.Parameter(grid_codebook(3))
    return model


# parity


@torch.inference_mode()
def test_computes_what_the_published_code_computes(published):
    golden = load_file(GOLDEN / "cases.safetensors")
    vq = VQModel.load(published)
    torch.testing.assert_close(vq.latents(golden["vq.image"]), golden["vq.latents"], atol=1e-4, rtol=0)
    codes = vq.encode(golden["vq.image"])
    assert torch.equal(codes[0], golden["vq.codes"].long())
    vectors = vq.quantize.vectors(codes)
    torch.testing.assert_close(vq.reconstruct(vectors), golden["vq.decoded"], atol=1e-4, rtol=0)
    torch.testing.assert_close(vq.decode(codes), golden["vq.decoded"].clamp(0, 1), atol=1e-4, rtol=0)
    assert vq.cell == 4 and codes.dtype == torch.long


@torch.inference_mode()
def test_codes_are_found_in_float32_whatever_draws_the_picture(published):
    golden = load_file(GOLDEN / "cases.safetensors")
    vq = VQModel.load(published, dtype=torch.bfloat16)
    latents = vq.latents(golden["vq.image"])
    torch.testing.assert_close(latents, golden["vq.latents"], atol=1e-4, rtol=0)
    codes = vq.encode(golden["vq.image"])
    assert torch.equal(codes[0], golden["vq.codes"].long())
    decoded = vq.decode(codes)
    assert vq.decoder.conv_in.weight.dtype == torch.bfloat16 and decoded.dtype == torch.float32
    assert 0 < (decoded - golden["vq.decoded"].clamp(0, 1)).abs().max() < 0.1
    assert vq.reconstruct(latents).dtype == torch.bfloat16


# loading


def test_missing_config(damaged):
    (damaged / "config.json").unlink()
    with pytest.raises(DimooError, match="missing.*config.json"):
        VQModel.load(damaged)


@pytest.mark.parametrize("text", ["{", "[]", '{"norm_num_groups": 7}', '{"block_out_channels": "wide"}'])
def test_unusable_config(damaged, text):
    (damaged / "config.json").write_text(text)
    with pytest.raises(DimooError, match="config.json"):
        VQModel.load(damaged)


def test_missing_weights(damaged):
    (damaged / f"{WEIGHTS}.safetensors").unlink()
    with pytest.raises(DimooError, match=f"{WEIGHTS}.safetensors is missing"):
        VQModel.load(damaged)


def test_weights_that_do_not_fit(damaged):
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps(config | {"num_vq_embeddings": 65}))
    with pytest.raises(DimooError, match="do not fit.*quantize.embedding.weight"):
        VQModel.load(damaged)


def test_incomplete_weights(damaged):
    path = damaged / f"{WEIGHTS}.safetensors"
    weights = load_file(path)
    weights.pop("quant_conv.bias")
    save_file(weights, path)
    with pytest.raises(DimooError, match="do not fit.*quant_conv.bias"):
        VQModel.load(damaged)


@pytest.fixture
def sharded(tmp_path):
    folder = tmp_path / "sharded"
    save_tokenizer(small(), folder, torch.float32, limit=20_000)
    return folder


def test_sharded_round_trip(sharded):
    shards = sorted(sharded.glob("*.safetensors"))
    assert len(shards) > 2
    assert all(path.stat().st_size < 25_000 for path in shards)
    model, loaded = small(), VQModel.load(sharded)
    assert loaded.config == json.loads(json.dumps(model.config))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    image = torch.rand(1, 3, 64, 32)
    assert torch.equal(model.encode(image), loaded.encode(image))


def test_truncated_shard(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(DimooError, match=f"{shard.name} cannot be read"):
        VQModel.load(sharded)


def test_missing_shard(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(DimooError, match=f"{shard.name} is missing"):
        VQModel.load(sharded)


@pytest.mark.parametrize("text", ["{", "{}", "[1]"])
def test_broken_index(sharded, text):
    (sharded / f"{WEIGHTS}.safetensors.index.json").write_text(text)
    with pytest.raises(DimooError, match="index.json"):
        VQModel.load(sharded)


# codes


@pytest.mark.parametrize("scope", ["none", "image"])
def test_codes_far_from_a_change(scope):
    model = small(scope)
    before = torch.rand(1, 3, 32, 480)
    after = before.clone()
    after[..., :16] = 1
    with torch.inference_mode():
        moved = (model.latents(before) != model.latents(after)).any(dim=1)[0].any(dim=0)
    assert moved[0]
    assert moved[15:].all() if scope == "image" else not moved[15:].any()
    if scope == "none":
        assert torch.equal(model.encode(before)[..., 15:], model.encode(after)[..., 15:])


def test_look_up_is_rounding_to_levels():
    model = small()
    latents = 1.5 * torch.randn(2, 3, 4, 4)
    vectors = model.quantize.vectors(model.quantize.codes(latents))
    assert torch.equal(vectors, round_to_levels(latents))
    codes = torch.arange(64).view(1, 8, 8)
    assert torch.equal(model.quantize.codes(model.quantize.vectors(codes)), codes)


@torch.inference_mode()
def test_training_starts_from_mean_colours():
    torch.manual_seed(0)
    model = VQModel(CONFIG).eval()
    means = torch.rand(2, 3, 4, 4)
    image = means.repeat_interleave(16, 2).repeat_interleave(16, 3)
    start_linear(model, image)
    there = model.reconstruct(model.latents(image))
    torch.testing.assert_close(there[:, :, 8::16, 8::16], means, atol=0.02, rtol=0)
