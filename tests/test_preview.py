"""The preview table: exact for a linear decoder, sensible on masks, refused where it does not belong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from dimoo.errors import DimooError
from dimoo.preview import NEUTRAL, RAMP, Budget, Preview, code_features, draw_view, fit, fit_unseen, ramp
from dimoo.vq import VQModel


class LinearTokenizer:
    """Decodes each cell to its code's colour, mixed with the left neighbour's: within reach of the table."""

    def __init__(self, codes: int = 12) -> None:
        self.codebook = torch.rand(codes, 3, generator=torch.Generator().manual_seed(0))

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        cells = F.avg_pool2d(images, 16).permute(0, 2, 3, 1)
        return torch.cdist(cells.flatten(1, 2), self.codebook[None]).argmin(-1).view(cells.shape[:3])

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        colours = self.codebook[codes].permute(0, 3, 1, 2)
        left = F.pad(colours, (1, 0, 0, 0), mode="replicate")[..., :-1]
        return F.interpolate(0.75 * colours + 0.25 * left, scale_factor=16)


@pytest.fixture(scope="module")
def tokenizer():
    return LinearTokenizer()


@pytest.fixture(scope="module")
def table(tokenizer):
    codes = torch.randint(12, (6, 16, 16), generator=torch.Generator().manual_seed(1))
    return fit(tokenizer, codes, ridge=1e-8)


def test_a_linear_decoder_is_matched_exactly(tokenizer, table):
    codes = torch.randint(12, (5, 7), generator=torch.Generator().manual_seed(2))
    expected = F.avg_pool2d(tokenizer.decode(codes[None]), 4)[0].permute(1, 2, 0)
    drawn = table.draw(codes)
    assert drawn.shape == (20, 28, 3)
    assert np.abs(drawn / 255 - expected.numpy()).max() < 0.01


def test_masked_cells_show_the_mean_of_what_may_come(table):
    codes = torch.full((3, 3), 4)
    codes[1, 1] = -1
    certain, even = torch.zeros(1, 12), torch.zeros(1, 12)
    certain[0, 4] = 1
    even[0, 4] = even[0, 9] = 0.5
    filled = codes.clone()
    filled[1, 1] = 4
    assert np.array_equal(table.draw(codes, certain), table.draw(filled))
    filled[1, 1] = 9
    middle = (table.draw(codes, certain).astype(int) + table.draw(filled)) / 2
    assert np.abs(table.draw(codes, even) - middle).max() <= 2


def test_a_tokenizer_without_a_table_gets_one(tokenizer):
    table = fit_unseen(tokenizer, pictures=2, size=128)
    codes = tokenizer.encode(F.interpolate(torch.rand(1, 3, 3, 3), (128, 128), mode="bilinear"))
    expected = F.avg_pool2d(tokenizer.decode(codes), 4)[0].permute(1, 2, 0).numpy()
    assert np.abs(table.draw(codes[0]) / 255 - expected).mean() < 0.08


def test_a_real_tokenizer_can_be_fitted():
    torch.manual_seed(0)
    config = {
        "block_out_channels": [4, 4],
        "layers_per_block": 1,
        "latent_channels": 3,
        "num_vq_embeddings": 8,
        "norm_num_groups": 2,
    }
    table = fit(VQModel(config).eval(), torch.randint(8, (2, 12, 12)), cell_pixels=2)
    assert table.draw(torch.randint(8, (6, 4))).shape == (12, 8, 3)


def test_short_codes_get_products_and_constant_features_no_infinities():
    book = torch.cat([torch.rand(10, 2), torch.ones(10, 1)], dim=1)
    features = code_features(book)
    assert features.shape == (10, 3 + 6)
    assert torch.isfinite(features).all()
    assert code_features(torch.rand(10, 64)).shape == (10, 64)


def test_tables_are_kept_in_a_file(table, tmp_path):
    table.save(tmp_path / "preview.safetensors")
    codes = torch.randint(12, (4, 4))
    assert np.array_equal(Preview.load(tmp_path / "preview.safetensors", 12).draw(codes), table.draw(codes))
    with pytest.raises(DimooError, match="fitted for 12 image codes, but the tokenizer has 64"):
        Preview.load(tmp_path / "preview.safetensors", 64)
    (tmp_path / "preview.safetensors").write_bytes(b"not a table")
    with pytest.raises(DimooError, match="is not a preview table"):
        Preview.load(tmp_path / "preview.safetensors", 12)


def test_the_three_views():
    preview = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    masked = np.array([[True, False], [False, False]])
    confidence = np.array([[0.9, 0.0], [1.0, 0.5]], np.float32)
    committed, prediction, heat = (
        np.asarray(draw_view(preview, masked, confidence, view))
        for view in ("committed", "prediction", "confidence")
    )
    assert np.array_equal(prediction, preview)
    assert (committed[:4, :4] == NEUTRAL).all() and np.array_equal(committed[4:], preview[4:])
    assert (heat[:4, :4] == NEUTRAL).all()
    assert tuple(heat[0, 7]) == RAMP[0] and tuple(heat[7, 0]) == RAMP[-1]
    lightness = np.asarray(Image.fromarray(ramp(np.linspace(0, 1, 20)[None])).convert("L"), int)[0]
    assert (np.diff(lightness) > 0).all()


def test_the_budget_holds_its_share():
    now = 0.0
    budget = Budget(0.05, lambda: now)
    drawn = 0
    for _ in range(1000):
        now += 0.01  # a step
        if budget.allows():
            drawn += 1
            with budget.spend():
                now += 0.002
    assert 0.04 < budget.spent / now <= 0.05
    assert drawn > 200


def test_a_dear_first_time_does_not_forbid_the_others():
    now = 0.0
    budget = Budget(0.05, lambda: now)
    with budget.spend():
        now += 5.0  # whatever is loaded, compiled or fitted on the way
    drawn = 0
    for _ in range(10):
        now += 0.1
        if budget.allows():
            drawn += 1
            with budget.spend():
                now += 0.001
    assert drawn == 10
