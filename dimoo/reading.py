"""Picture files and PIL images of every kind, brought to something that can be worked on, or a sentence why not."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

from dimoo.errors import DimooError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")  # no formats that run other programs
SMALLEST, LARGEST = 16, 64_000_000  # pixels: of a side, of the whole picture


def read(picture: Any) -> Image.Image:
    """A PIL image, a path or the bytes of a file: decoded, upright, in sRGB colours, with at most 8 bits a channel, in any mode.

    Raises DimooError for what cannot be read, and for pictures that are too small or too large.
    """
    name = "The picture"
    try:
        if isinstance(picture, str | Path):
            name = Path(picture).name
            picture = Image.open(picture, formats=_formats())
        elif isinstance(picture, bytes):
            picture = Image.open(io.BytesIO(picture), formats=_formats())
        elif not isinstance(picture, Image.Image):
            raise DimooError(f"A picture is an image or a file, not {type(picture).__name__}.")
        check_size(picture)
        picture.load()
    except DimooError:
        raise
    except FileNotFoundError:
        raise DimooError(f"There is no file {name}.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DimooError(_too_large(name)) from None
    except Exception as error:  # decoders of broken files raise all sorts
        raise DimooError(f"{name} cannot be read as a picture: it is incomplete or of an unknown format.") from error
    try:
        picture = ImageOps.exif_transpose(picture)
    except Exception:  # of a broken EXIF block; the pixels are fine
        pass
    return _in_srgb(_eight_bits(picture))


def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def check_size(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    if width * height > LARGEST:
        raise DimooError(_too_large(f"A picture of {width} × {height}"))
    if min(width, height) < SMALLEST:
        raise DimooError(f"A picture of {width} × {height} is too small: both sides need at least {SMALLEST} pixels.")
    return picture


def _too_large(what: str) -> str:
    return f"{what} is too large: at most {LARGEST // 1_000_000} megapixels."


def _in_srgb(picture: Image.Image) -> Image.Image:
    """A picture with a colour profile of its own, such as a phone's, in sRGB colours; others as they are."""
    profile = picture.info.get("icc_profile")
    if not profile:
        return picture
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if ImageCms.getProfileDescription(profile).startswith("sRGB"):
            return picture
        if picture.has_transparency_data:
            return ImageCms.profileToProfile(picture.convert("RGBA"), profile, ImageCms.createProfile("sRGB"))
        picture = picture.convert("RGB") if picture.mode == "P" else picture
        return ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):  # a broken profile, or one of another mode; the pixels are fine
        return picture


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Pictures of more than eight bits a channel, which are grey, in mode L; others as they are."""
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))
    if picture.mode in ("I", "F"):
        values = np.nan_to_num(np.asarray(picture, np.float64)).clip(0)
        top = next((top for top in (1, 255, 65535) if values.max() <= top), values.max())
        return Image.fromarray((values / top * 255).round().astype(np.uint8))
    return picture
