"""Large pictures strip by strip: the same picture as in one piece, for less memory."""

from __future__ import annotations

import pytest
import torch

from dimoo import strips
from dimoo.tracing import peak_of
from dimoo.vq import VQModel

SMALL = {"layers_per_block": 1, "latent_channels": 4, "num_vq_embeddings": 64, "norm_num_groups": 4}


@pytest.fixture(params=["image", "none"])
def vq(request):
    torch.manual_seed(0)
    vq = VQModel(SMALL | {"block_out_channels": [8, 8, 16, 16], "norm_scope": request.param}).eval()
    for parameter in vq.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.5, 0.5)  # scales and shifts that would show
    torch.nn.init.normal_(vq.codebook, std=2.0)
    return vq


@pytest.fixture
def codes():
    return torch.randint(64, (2, 7, 5), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("elements", [1, 700, 2000])
@torch.inference_mode()
def test_strips_meet_without_seams(vq, codes, elements, monkeypatch):
    whole = vq.reconstruct(vq.quantize.vectors(codes))
    latents = vq.latents(whole)
    monkeypatch.setattr(strips, "ELEMENTS", elements)
    torch.testing.assert_close(vq.reconstruct(vq.quantize.vectors(codes)), whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(vq.latents(whole), latents, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_half_precision_stays_within_a_grey_level(vq, codes, monkeypatch):
    whole = vq.decode(codes)
    monkeypatch.setattr(strips, "ELEMENTS", 700)
    half = vq.to(torch.bfloat16).decode(codes)
    monkeypatch.undo()
    direct = vq.decode(codes)
    assert (half - whole).abs().mean() <= 1.1 * (direct - whole).abs().mean() + 1 / 255


@torch.inference_mode()
def test_statistics_of_strips_are_those_of_the_whole():
    x = 100 + torch.randn(2, 8, 13, 6)  # far from 0, where sums of squares would lose everything
    norm = torch.nn.GroupNorm(4, 8)
    torch.nn.init.normal_(norm.weight)
    scale, shift = strips.scale_and_shift(norm, x, rows=3)
    torch.testing.assert_close(x * scale + shift, norm(x), atol=1e-3, rtol=0)


@pytest.mark.parametrize("scope", ["image", "none"])
def test_strips_take_less_memory(scope, monkeypatch):
    with torch.device("meta"):
        vq = VQModel({"norm_scope": scope}).to(torch.bfloat16)
        codes = torch.empty(1, 64, 64, dtype=torch.long)
    in_strips = peak_of(lambda: vq.decode(codes))
    monkeypatch.setattr(strips, "ELEMENTS", 10**12)
    whole = peak_of(lambda: vq.decode(codes))
    assert in_strips < 1.25e9 < 1.6e9 < whole


def test_training_goes_the_direct_way(vq, codes, monkeypatch):
    monkeypatch.setattr(strips, "ELEMENTS", 1)
    monkeypatch.setattr(strips, "scale_and_shift", None)
    vq.reconstruct(vq.quantize.vectors(codes)).mean().backward()
    assert vq.decoder.conv_in.weight.grad.abs().sum() > 0
