"""Pixels: reading pictures and masks, bringing them to sizes that have whole cells, and pasting results back.

Pure functions on PIL images; sizes are (width, height) in pixels, a cell is `cell` pixels a side.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFilter

from dimoo.edges import edge_pixels
from dimoo.errors import DimooError
from dimoo.reading import check_size, read

if TYPE_CHECKING:
    from dimoo.defaults import Defaults

SAME_ASPECT = 0.02  # a mask may differ by this part from its picture's aspect

Size = tuple[int, int]


def upright(picture: Any) -> Image.Image:
    """A PIL image, a path or the bytes of a file as 8-bit RGB.

    Turned as its EXIF says, in sRGB, the first frame of an animation, transparency laid on white, 16 bits scaled to 8.
    A result of this function comes back as it is. Raises DimooError for a file that cannot be read, or a
    picture that is too small or too large.
    """
    if type(picture) is Image.Image and picture.mode == "RGB" and not picture.info:
        return check_size(picture)
    picture = read(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return _bare(picture.convert("RGB"))


def as_mask(picture: Any) -> Image.Image:
    """A mask in mode L, 255 where something is painted and 0 elsewhere; reads what `upright` reads.

    Without transparency the lighter half of the greys counts as painted. In a picture with transparent
    parts, such as a layer of a sketch, everything does that is neither fully transparent nor black.
    """
    if type(picture) is Image.Image and picture.mode == "L" and not any(picture.histogram()[1:255]):
        return check_size(picture)
    picture = read(picture)
    if picture.has_transparency_data:
        colour = np.asarray(picture.convert("RGBA"))
        if (colour[..., 3] < 255).any():
            return _from_bool((colour[..., 3] > 0) & colour[..., :3].any(axis=-1))
        picture = picture.convert("RGB")
    return _from_bool(np.asarray(picture.convert("L")) >= 128)


def working_size(size: Size, area: int, cell: int = 16, smallest: int = 64, keep: int | None = None) -> Size:
    """The size at which a picture of `size` is worked on: sides in whole cells, about the same aspect.

    A picture is cropped to whole cells while their area is at most `keep` (None: `area`); others shrink to an
    area of at most `area`. No side is below `smallest`; to that end very long pictures lose some length.
    """
    width, height = whole = cropped_size(size, cell)
    if min(whole) >= smallest and width * height <= (keep or area):
        return whole
    width, height = size
    scale = max(min(1.0, math.sqrt(area / (width * height))), smallest / min(size))
    sides = [max(smallest, int(side * scale + 1e-6) // cell * cell) for side in size]
    long = 0 if width >= height else 1
    sides[long] = min(sides[long], area // sides[1 - long] // cell * cell)
    return sides[0], sides[1]


def bring(picture: Image.Image, size: Size, cell: int = 16) -> Image.Image:
    """The picture at its working size: cropped if that is all it takes, else scaled."""
    return whole_cells(picture, cell) if size == cropped_size(picture.size, cell) else cover(picture, size)


def working(picture: Image.Image, defaults: Defaults, cell: int = 16) -> Image.Image:
    """The picture as inpainting and extrapolation work on it with this checkpoint."""
    return bring(picture, size_for(picture.size, defaults, cell), cell)


def size_for(size: Size, defaults: Defaults, cell: int = 16) -> Size:
    """The `working_size` of a picture of `size` with this checkpoint."""
    return working_size(size, defaults.width * defaults.height, cell, keep=defaults.max_area)


def fit_bucket(picture: Image.Image, side: int) -> Image.Image:
    """Scaled and centre-cropped to that of layout.size_buckets(side) which loses least (the published choice)."""
    from dimoo.layout import size_buckets  # needs torch, which a request should not wait for

    return cover(picture, max(size_buckets(side), key=lambda size: (left_over(picture.size, size), size)))


def left_over(size: Size, target: Size) -> float:
    """The share of a picture of `size` that is still to be seen when it covers `target`."""
    ratios = target[0] / size[0], target[1] / size[1]
    return min(ratios) / max(ratios)


def cover(picture: Image.Image, size: Size, resample: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
    """The picture scaled until it just covers `size`, and cropped around its centre."""
    if picture.size == size:
        return picture
    scale = max(size[0] / picture.width, size[1] / picture.height)
    crop = size[0] / scale, size[1] / scale
    left, top = (picture.width - crop[0]) / 2, (picture.height - crop[1]) / 2
    box = max(0.0, left), max(0.0, top), min(picture.width, left + crop[0]), min(picture.height, top + crop[1])
    return picture.resize(size, resample, box=box)


def fit_mask(mask: Image.Image, size: Size, target: Size, cell: int = 16) -> Image.Image:
    """The mask of a picture of `size` for the same picture brought to `target`, its working size.

    What is painted stays painted, however thin it becomes. A mask of another size is stretched if it has the
    picture's aspect, and stays if it has the target's size. Raises DimooError otherwise.
    """
    if mask.size == target:
        return mask
    if mask.size != size:
        if abs(mask.width * size[1] / (mask.height * size[0]) - 1) > SAME_ASPECT:
            raise DimooError(
                f"The mask ({mask.width} × {mask.height}) does not fit the picture ({size[0]} × {size[1]}): "
                "it must have the same size or shape."
            )
        mask = _scaled_mask(mask, size)
    return whole_cells(mask, cell) if target == cropped_size(size, cell) else _scaled_mask(mask, target)


def prepare_mask(mask: Image.Image, invert: bool = False, grow: int = 0) -> Image.Image:
    """The mask in mode L, 0 or 255: first turned around if `invert`, then grown by `grow` pixels on every side."""
    painted = np.asarray(mask) > 0
    if invert:
        painted = ~painted
    for axis in (0, 1) if grow else ():
        padding = [(0, 0), (0, 0)]
        padding[axis] = (grow + 1, grow)
        sums = np.pad(painted, padding).cumsum(axis, dtype=np.int32)  # a sum over a window is a difference of two
        first, last = (np.arange(painted.shape[axis]) + shift for shift in (0, 2 * grow + 1))
        painted = sums.take(last, axis) > sums.take(first, axis)
    return _from_bool(painted)


def cells_of(mask: Image.Image, cell: int = 16) -> np.ndarray:
    """(h, w) bool: the cells that a mask in mode L touches at all."""
    painted = np.asarray(mask) > 0
    painted = np.pad(painted, [(0, -side % cell) for side in painted.shape])
    height, width = (side // cell for side in painted.shape)
    return painted.reshape(height, cell, width, cell).any((1, 3))


def paste_back(
    original: Image.Image,
    drawn: Image.Image,
    cells: np.ndarray,
    feather: int,
    cell: int = 16,
    mask: Image.Image | None = None,
) -> Image.Image:
    """The original with the redrawn cells (h, w) bool pasted in; outside of them it stays bit for bit.

    From the edge of the redrawn cells inwards old fades into new over `feather` pixels (0: at once). What is
    painted in `mask` is new as far as its cells reach, so that nothing shimmers through of what had to go.
    """
    weight = fade(cells, feather, cell)
    if mask is not None:
        soft = prepare_mask(mask, grow=feather // 2).filter(ImageFilter.GaussianBlur(feather / 4))
        weight = np.maximum(weight, np.asarray(soft, np.float32) / 255) * (weight > 0)
    old, new = (np.asarray(picture, np.float32) for picture in (original, drawn))
    mixed = old + (new - old) * weight[..., None]
    return Image.fromarray(mixed.round().astype(np.uint8))


def continue_from(
    original: Image.Image, drawn: Image.Image, cells: np.ndarray, feather: int, cell: int = 16
) -> Image.Image:
    """The drawn canvas with the original in the cells (h, w) that are not new.

    Where they meet, what the decoder made differently of the original fades out over `feather` pixels.
    """
    known = np.kron(~cells, np.ones((cell, cell), bool))
    rows, columns = (np.flatnonzero(known.any(axis)) for axis in (1, 0))
    inside = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    new, old = np.asarray(drawn, np.int16), np.asarray(original, np.int16)
    # halved, a difference fits in a byte, and can be smoothed: only the tone is to be carried over
    halved = Image.fromarray(((old - new[inside]) // 2 + 128).astype(np.uint8))
    tone = (np.asarray(halved.filter(ImageFilter.GaussianBlur(cell / 4)), np.int16) - 128) * 2
    around = [(at.start, size - at.stop) for at, size in zip(inside, known.shape, strict=True)]
    matched = new + np.pad(tone, [*around, (0, 0)], mode="edge")
    matched[inside] = old
    return paste_back(Image.fromarray(matched.clip(0, 255).astype(np.uint8)), drawn, cells, feather, cell)


def fade(cells: np.ndarray, feather: int, cell: int = 16) -> np.ndarray:
    """(h cell, w cell) float32: 0 outside the redrawn cells (h, w) bool, inside rising to 1 over `feather` pixels.

    It rises with the distance to the nearest pixel outside; the border of the picture is no edge.
    """
    height, width = cells.shape
    reach = -(-feather // cell)
    outside = np.pad(~cells, reach)
    distance = np.full((height, width, cell, cell), np.float32(feather + 1))
    inner = np.arange(cell)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            rows, columns = np.nonzero(cells & outside[reach + dy :, reach + dx :][:height, :width])
            # from a pixel of this cell to the nearest one of the cell dy down and dx to the right
            y, x = (np.maximum(0, np.maximum(d * cell - inner, inner - (d * cell + cell - 1))) for d in (dy, dx))
            away = np.hypot(y[:, None], x[None]).astype(np.float32)
            distance[rows, columns] = np.minimum(distance[rows, columns], away)
    weight = np.where(cells[..., None, None], distance / (feather + 1), 0)
    return weight.swapaxes(1, 2).reshape(height * cell, width * cell).astype(np.float32)


def read_aspect(text: str) -> float:
    """16:9 -> 1.78: width over height. Raises DimooError."""
    try:
        width, _, height = text.partition(":")
        aspect = float(width) / float(height or 1)
        if not 0 < aspect < math.inf:
            raise ValueError
        return aspect
    except (ValueError, ZeroDivisionError):
        raise DimooError(f"{text:.40} is not an aspect: write width:height, such as 16:9.") from None


def sides_for_aspect(size: Size, aspect: float, align: str = "center", cell: int = 16) -> dict[str, int]:
    """Pixels to add left, right, top and bottom, in whole cells, so that a picture of `size` reaches an aspect.

    aspect: width / height. align: where the picture comes to lie along the side that grows: start (left or
    top), center or end. Raises DimooError where it has that aspect already.
    """
    if align not in ("start", "center", "end"):
        raise DimooError(f"Alignment is one of start, center, end, not {align!r:.40}.")
    if not (math.isfinite(aspect) and aspect > 0):
        raise DimooError("An aspect is a width over a height, such as 16:9.")
    width, height = size
    wide = width < height * aspect
    more = height * aspect - width if wide else width / aspect - height
    cells = math.ceil(more / cell - 1e-6)
    if cells < 1:
        raise DimooError(f"The picture ({width} × {height}) has this aspect already: choose another, or the sides to grow on.")
    before = {"start": 0, "center": cells // 2, "end": cells}[align]
    first, second = ("left", "right") if wide else ("top", "bottom")
    return dict.fromkeys(("left", "right", "top", "bottom"), 0) | {first: before * cell, second: (cells - before) * cell}


def cropped_size(size: Size, cell: int = 16) -> Size:
    return size[0] // cell * cell, size[1] // cell * cell


def whole_cells(picture: Image.Image, cell: int = 16) -> Image.Image:
    """The picture cropped around its centre to sides in whole cells, not scaled."""
    width, height = cropped_size(picture.size, cell)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture if picture.size == (width, height) else picture.crop((left, top, left + width, top + height))


def edge_map(picture: Image.Image, kind: str) -> Image.Image:
    """The control map of kind canny or hed that belongs to a picture."""
    if kind not in ("canny", "hed"):
        raise DimooError(f"A map of kind {kind} cannot be computed from a picture: draw or upload one.")
    return Image.fromarray(edge_pixels(np.asarray(picture), kind))


def _bare(picture: Image.Image) -> Image.Image:
    """The picture without what its file said beside the pixels."""
    picture.info = {}
    return picture


def _scaled_mask(mask: Image.Image, size: Size) -> Image.Image:
    """The mask made to cover `size`; a pixel of the result is painted if any in its place was."""
    weights = cover(mask.convert("F"), size, Image.Resampling.BOX)  # a byte would round a dot of a large mask to nothing
    return _from_bool(np.asarray(weights) > 0)


def _from_bool(painted: np.ndarray) -> Image.Image:
    return Image.fromarray(np.where(painted, np.uint8(255), np.uint8(0)))
