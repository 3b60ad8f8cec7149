"""Pixels: files of every kind, sizes in whole cells, masks, and results that leave the rest alone."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from dimoo.defaults import Defaults
from dimoo.errors import DimooError
from dimoo.images import (
    as_mask,
    bring,
    cells_of,
    continue_from,
    cover,
    edge_map,
    fade,
    fit_bucket,
    fit_mask,
    paste_back,
    prepare_mask,
    sides_for_aspect,
    upright,
    whole_cells,
    working,
    working_size,
)
from dimoo.layout import size_buckets

settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def saved(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def test_a_plain_picture_comes_back_from_anywhere(tmp_path):
    picture = noise(40, 24)
    path = tmp_path / "a.png"
    picture.save(path)
    for form in (picture, path, str(path), path.read_bytes(), Image.open(path)):
        assert np.array_equal(upright(form), picture)
    assert upright(picture) is picture
    once = upright(path)
    assert upright(once) is once and type(once) is Image.Image and not once.info


def swapped_profile() -> bytes:
    """The profile of colours like sRGB's in which red means blue, and blue red."""
    names = (name.encode("utf-16-be") for name in ("sRGB", "tRGB"))
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes().replace(*names))
    tags = {bytes(data[i : i + 4]): slice(i + 4, i + 12) for i in range(132, 132 + 12 * int.from_bytes(data[128:132]), 12)}
    red, blue = tags[b"rXYZ"], tags[b"bXYZ"]
    data[red], data[blue] = data[blue], data[red]
    return bytes(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_colours_are_those_that_their_profile_means(kind):
    picture = Image.new("RGB", (32, 32), (200, 30, 30))
    read = upright(saved(picture, kind, icc_profile=swapped_profile()))
    assert np.abs(np.asarray(read, int) - (30, 30, 200)).max() <= 4 and not read.info
    clear = Image.new("RGBA", (32, 32), (200, 30, 30, 255))
    clear.paste((0, 0, 0, 0), (0, 0, 8, 8))
    read = np.asarray(upright(saved(clear, icc_profile=swapped_profile())), int)
    assert (read[0, 0] == 255).all() and np.abs(read[20, 20] - (30, 30, 200)).max() <= 4
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (plain, b"no profile at all"):
        assert np.array_equal(upright(saved(picture, "PNG", icc_profile=profile)), picture)
    assert upright(saved(Image.new("L", (32, 32), 90), "PNG", icc_profile=swapped_profile())).getpixel((5, 5)) == (90, 90, 90)


def test_pictures_are_turned_as_their_camera_was_held():
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is on the right
    picture = noise(48, 32)
    turned = upright(saved(picture, exif=exif))
    assert np.array_equal(turned, picture.rotate(-90, expand=True))
    assert np.array_equal(upright(turned), turned)  # not turned twice
    assert upright(saved(picture, "JPEG", exif=b"Exif\0\0broken")).size == (48, 32)


def test_transparency_lies_on_white():
    picture = Image.new("RGBA", (32, 32), (200, 0, 0, 0))
    picture.putpixel((3, 4), (200, 0, 0, 255))
    picture.putpixel((5, 6), (0, 0, 0, 128))
    for form in (saved(picture), saved(picture, "WEBP", lossless=True, exact=True)):
        rgb = upright(form)
        assert rgb.getpixel((0, 0)) == (255, 255, 255)
        assert rgb.getpixel((3, 4)) == (200, 0, 0)
        assert rgb.getpixel((5, 6))[0] in (126, 127, 128)
    grey = Image.new("LA", (32, 32), (10, 0))
    assert upright(grey).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_become_eight(kind):
    levels = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    grey = np.asarray(upright(saved(Image.fromarray(levels), kind)))
    assert grey.shape == (32, 32, 3)
    assert np.abs(grey[..., 0] - levels / 257).max() <= 0.5


def test_deep_pictures_are_scaled_by_their_range():
    ramp = np.linspace(0, 1, 256).reshape(16, 16).astype(np.float32)
    assert np.asarray(upright(Image.fromarray(ramp)))[-1, -1, 0] == 255
    assert np.asarray(upright(Image.fromarray((ramp * 65535).astype(np.int32)))).max() == 255
    assert np.asarray(upright(Image.new("I", (16, 16), 0))).max() == 0


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(mode):
    assert upright(noise(32, 32).convert(mode)).mode == "RGB"


def test_of_an_animation_the_first_picture_counts():
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        assert np.abs(np.array(upright(data).getpixel((9, 9))) - (255, 0, 0)).max() < 6


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_a_sentence(tmp_path, kind, share):
    data = saved(noise(64, 64), kind)
    path = tmp_path / "half.bin"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DimooError, match="half.bin cannot be read as a picture"):
        upright(path)


def test_what_is_no_picture(tmp_path):
    with pytest.raises(DimooError, match="There is no file none.png"):
        upright(tmp_path / "none.png")
    with pytest.raises(DimooError, match="cannot be read"):
        upright(tmp_path)
    with pytest.raises(DimooError, match="cannot be read"):
        upright(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n")
    with pytest.raises(DimooError, match="not int"):
        upright(3)


def huge_png(width, height):
    """The head of a PNG that claims a size; there are no pixels to decode."""
    data = bytearray(saved(Image.new("L", (16, 16))))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("side", [8001, 12_000, 60_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_huge_pictures_are_refused_before_they_are_decoded(side):
    with pytest.raises(DimooError, match="too large: at most 64 megapixels"):
        upright(huge_png(side, side))


def test_tiny_pictures_are_refused():
    with pytest.raises(DimooError, match="15 × 90 is too small: both sides need at least 16"):
        upright(Image.new("RGB", (15, 90)))


def test_masks_of_every_kind():
    grey = Image.new("L", (32, 32), 20)
    grey.paste(200, (0, 0, 8, 8))
    mask = as_mask(grey)
    assert mask.mode == "L" and np.asarray(mask).sum() == 64 * 255
    assert as_mask(mask) is mask
    assert np.array_equal(as_mask(grey.convert("RGB")), mask)
    assert np.array_equal(as_mask(saved(grey.convert("RGBA"))), mask)  # not transparent anywhere: the greys count
    assert np.array_equal(as_mask(mask.convert("1")), mask)
    layer = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    layer.paste((200, 0, 0, 60), (0, 0, 8, 8))  # a stroke in a brush's colour, half transparent
    assert np.array_equal(as_mask(layer), mask)
    layer.paste((0, 0, 0, 255), (20, 20, 32, 32))
    assert np.array_equal(as_mask(layer), mask)


sides = st.integers(16, 900)


@given(width=sides, height=sides, area=st.integers(8, 40).map(lambda n: (16 * n) ** 2), cell=st.sampled_from([16, 32]))
def test_working_sizes_are_whole_cells_of_about_the_same_aspect(width, height, area, cell):
    size = working_size((width, height), area, cell)
    assert size[0] % cell == size[1] % cell == 0 and min(size) >= 64
    assert size[0] * size[1] <= area
    if cell == 16 and max(width, height) <= 2 * min(width, height):  # in coarser cells there is less to choose from
        assert 0.75 < size[0] * height / (size[1] * width) < 1.34
    if min(width, height) // cell * cell >= 64 and width * height <= area:  # nothing is enlarged, and little is lost
        assert all(0 <= before - after < cell for before, after in zip((width, height), size, strict=True))
    assert working_size(size, area, cell) == size


def test_a_picture_on_the_grid_stays_as_it_is():
    picture = noise(96, 64)
    assert working_size((96, 64), 96 * 64) == working_size((96, 64), 64 * 64, keep=96 * 64) == (96, 64)
    assert working_size((96, 64), 64 * 64) == (64, 64) and working_size((2000, 16), 256 * 256) == (1024, 64)
    assert bring(picture, (96, 64)) is picture and bring(picture, (64, 64)).size == (64, 64)
    defaults = Defaults(width=64, height=64, max_area=128 * 128)
    assert working(noise(128, 128), defaults).size == (128, 128)
    assert working(noise(256, 128), defaults).size == (64, 64)
    odd = noise(129, 127)
    assert np.array_equal(working(odd, defaults), np.asarray(odd)[7:119, :128])  # cropped, not scaled


def test_scaling_keeps_the_middle():
    left, right = Image.new("RGB", (300, 100), "red"), Image.new("RGB", (100, 100), "lime")
    left.paste(right, (100, 0))
    middle = np.asarray(cover(left, (64, 64)))
    assert np.abs(middle[:, 4:-4].astype(int) - (0, 255, 0)).max() <= 3
    assert np.array_equal(cover(left, (64, 64), Image.Resampling.NEAREST), np.full((64, 64, 3), (0, 255, 0)))
    picture = noise(37, 50)
    assert np.array_equal(whole_cells(picture), np.asarray(picture)[1:49, 2:34])
    assert whole_cells(whole_cells(picture)).size == (32, 48)


@pytest.mark.parametrize(
    ("size", "bucket"), [((512, 512), (512, 512)), ((4000, 3000), (576, 448)), ((90, 400), (256, 1024)), ((640, 360), (672, 384))]
)
def test_pictures_get_the_bucket_that_loses_least(size, bucket):
    assert bucket in size_buckets(512)
    fitted = fit_bucket(Image.new("RGB", size), 512)
    ratio = [min(w / size[0], h / size[1]) / max(w / size[0], h / size[1]) for w, h in size_buckets(512)]
    w, h = fitted.size
    assert min(w / size[0], h / size[1]) / max(w / size[0], h / size[1]) == max(ratio)
    assert fitted.size == bucket


def test_a_picture_that_is_a_bucket_stays_as_it_is():
    picture = noise(256, 256)
    assert fit_bucket(picture, 256) is picture


def test_masks_follow_their_picture():
    mask = Image.new("L", (200, 100), 0)
    mask.paste(255, (100, 0, 200, 100))
    assert np.array_equal(np.asarray(fit_mask(mask, (200, 100), (64, 32)))[0] > 0, np.arange(64) >= 32)
    assert np.array_equal(np.asarray(fit_mask(mask, (400, 200), (64, 32)))[0] > 0, np.arange(64) >= 32)
    assert np.array_equal(np.asarray(fit_mask(mask, (200, 100), (64, 64)))[0] > 0, np.arange(64) >= 32)  # cropped alike
    assert fit_mask(mask, (999, 777), (200, 100)) is mask
    assert fit_mask(mask, (404, 200), (64, 32)).size == (64, 32)
    line = Image.new("L", (4000, 2000), 0)
    line.paste(255, (2003, 0, 2004, 2000))
    for size in ((4000, 2000), (2000, 1000)):  # too thin for either step, and kept
        fitted = np.asarray(fit_mask(line, size, (128, 64)))
        assert (fitted[:, 64] == 255).all() and not fitted[:, :64].any() and not fitted[:, 65:].any()
    assert np.array_equal(fit_mask(mask, (200, 100), (192, 96)), whole_cells(mask))  # cropped as its picture is
    with pytest.raises(DimooError, match=r"The mask \(200 × 100\) does not fit the picture \(200 × 120\)"):
        fit_mask(mask, (200, 120), (64, 32))


@given(st.integers(0, 40), st.booleans(), st.lists(st.tuples(st.integers(0, 39), st.integers(0, 29)), max_size=3))
def test_masks_grow_by_as_many_pixels_on_every_side(grow, invert, points):
    painted = np.zeros((30, 40), bool)
    for x, y in points:
        painted[y, x] = True
    mask = Image.fromarray(painted.astype(np.uint8) * 255)
    wanted = painted ^ invert
    y, x = np.indices(painted.shape)
    for row, column in np.argwhere(wanted):
        if grow and not invert:
            wanted = wanted | (np.maximum(abs(y - row), abs(x - column)) <= grow)
    if invert and grow:
        wanted = np.array([[(~painted[max(0, r - grow) : r + grow + 1, max(0, c - grow) : c + grow + 1]).any()
                            for c in range(40)] for r in range(30)])  # fmt: skip
    grown = np.asarray(prepare_mask(mask, invert, grow))
    assert set(np.unique(grown)) <= {0, 255}
    assert np.array_equal(grown > 0, wanted)


def test_cells_that_a_mask_touches():
    mask = Image.new("L", (48, 40), 0)
    mask.putpixel((16, 15), 255)
    mask.putpixel((47, 39), 1)
    assert cells_of(mask).tolist() == [[False, True, False], [False] * 3, [False, False, True]]


grids = st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(
    lambda shape: st.lists(st.booleans(), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]).map(
        lambda cells: np.array(cells).reshape(shape)
    )
)


@given(cells=grids, feather=st.integers(0, 40), masked=st.booleans())
def test_pixels_outside_the_redrawn_cells_stay_bit_for_bit(cells, feather, masked):
    height, width = 16 * cells.shape[0], 16 * cells.shape[1]
    old, new = noise(width, height, 1), noise(width, height, 2)
    mask = Image.fromarray(np.kron(cells, np.ones((16, 16))).astype(np.uint8) * 255) if masked else None
    result = np.asarray(paste_back(old, new, cells, feather, mask=mask))
    inside = np.kron(cells, np.ones((16, 16), bool))
    assert np.array_equal(result[~inside], np.asarray(old)[~inside])
    if not feather:
        assert np.array_equal(result[inside], np.asarray(new)[inside])


@given(cells=grids, feather=st.integers(0, 40))
def test_fading_goes_by_the_distance_to_what_stays(cells, feather):
    weight = fade(cells, feather)
    outside = np.argwhere(~np.kron(cells, np.ones((16, 16), bool)))
    assert ((weight > 0) == np.kron(cells, np.ones((16, 16), bool))).all()
    rng = np.random.default_rng(0)
    for y, x in rng.integers(0, weight.shape, (12, 2)):
        if weight[y, x]:
            away = np.hypot(*(outside - (y, x)).T).min() if len(outside) else np.inf
            assert weight[y, x] == pytest.approx(min(1, away / (feather + 1)), abs=1e-6)


def test_what_is_painted_is_new_as_far_as_its_cells_reach():
    old, new = Image.new("RGB", (48, 48), "black"), Image.new("RGB", (48, 48), "white")
    cells = np.zeros((3, 3), bool)
    cells[1, 1] = True
    mask = Image.new("L", (48, 48), 0)
    mask.paste(255, (16, 16, 32, 24))  # the upper half of the cell, up to its edge
    plain, painted = (np.asarray(paste_back(old, new, cells, 8, mask=m))[..., 0] for m in (None, mask))
    assert plain[17, 24] < 100 and painted[17, 24] > 220
    assert painted[31, 24] == plain[31, 24] < 100  # nothing painted there: it fades
    assert painted[15].max() == 0


def test_an_original_is_continued_without_a_seam():
    canvas = Image.new("RGB", (96, 64), (100, 100, 100))  # what the decoder makes: a little too dark
    original = Image.new("RGB", (32, 32), (120, 110, 100))
    cells = np.ones((4, 6), bool)
    cells[1:3, 2:4] = False
    result = np.asarray(continue_from(original, canvas, cells, 8)).astype(int)
    assert np.array_equal(result[16:48, 32:64], np.asarray(original))
    assert abs(result[30, 31] - (118, 109, 100)).max() <= 2  # next to the original: nearly its tone
    assert result[30, 27, 0] < result[30, 30, 0]
    assert (result[30, :16] == 100).all()
    assert np.array_equal(np.asarray(continue_from(original, canvas, cells, 0))[30, 31], (100, 100, 100))


@given(
    size=st.tuples(st.integers(4, 40), st.integers(4, 40)).map(lambda s: (16 * s[0], 16 * s[1])),
    aspect=st.floats(0.25, 4),
    align=st.sampled_from(["start", "center", "end"]),
)
def test_sides_reach_an_aspect_with_as_little_as_possible(size, aspect, align):
    try:
        more = sides_for_aspect(size, aspect, align)
    except DimooError:
        assert size[0] / size[1] == pytest.approx(aspect)
        return
    assert all(pixels >= 0 and pixels % 16 == 0 for pixels in more.values())
    (first, second), across = (("left", "right"), 0) if more["left"] + more["right"] else (("top", "bottom"), 1)
    width, height = size[0] + more["left"] + more["right"], size[1] + more["top"] + more["bottom"]
    total = more[first] + more[second]
    assert total
    assert size[0] + more["left"] == width - more["right"]
    assert width == size[0] or height == size[1]
    reached, before = (width / height, (width - 16) / height) if across == 0 else (height / width, (height - 16) / width)
    goal = aspect if across == 0 else 1 / aspect
    assert before < goal <= reached * (1 + 1e-6)
    if align == "start":
        assert not more[first]
    elif align == "end":
        assert not more[second]
    else:
        assert 0 <= more[second] - more[first] <= 16


def test_odd_aspects_are_refused():
    assert sides_for_aspect((256, 256), 16 / 9) == {"left": 96, "right": 112, "top": 0, "bottom": 0}
    assert sides_for_aspect((256, 256), 0.5, "end") == {"left": 0, "right": 0, "top": 256, "bottom": 0}
    for aspect in (0, -1, float("nan"), float("inf")):
        with pytest.raises(DimooError, match="such as 16:9"):
            sides_for_aspect((256, 256), aspect)
    with pytest.raises(DimooError, match="has this aspect already"):
        sides_for_aspect((320, 192), 5 / 3)
    with pytest.raises(DimooError, match="start, center, end"):
        sides_for_aspect((256, 256), 1, "left")


def test_edge_maps():
    picture = Image.new("RGB", (64, 64), "white")
    picture.paste((0, 0, 160), (20, 20, 44, 44))
    thin, soft = (np.asarray(edge_map(picture, kind)) for kind in ("canny", "hed"))
    assert set(np.unique(thin)) == {0, 255} and thin[32].any() and not thin[32, 28:36].any()
    assert 60 < (thin[..., 0] > 0).sum() < 130  # one pixel wide around a square of 24
    assert soft[32, 20].max() > 128 and len(np.unique(soft)) > 3
    with pytest.raises(DimooError, match="kind depth cannot be computed"):
        edge_map(picture, "depth")


def test_a_weak_edge_counts_as_far_as_it_goes_from_a_strong_one():
    """Canny's hysteresis: two grey bars on black, of which one is bright at its left end and fades."""
    pixels = np.zeros((96, 400, 3), np.uint8)
    pixels[16:32] = pixels[64:80] = 32
    pixels[16:32, :80] = np.linspace(200, 32, 80)[:, None]
    thin = np.asarray(edge_map(Image.fromarray(pixels), "canny"))[..., 0] > 0
    assert thin[14:18].any(axis=0).all() and thin[30:34].any(axis=0).all()
    assert not thin[48:].any()
