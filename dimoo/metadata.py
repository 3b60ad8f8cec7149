"""Settings of a picture <-> text inside its PNG file, and names for the files."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any

from PIL import Image, PngImagePlugin

from dimoo.errors import DimooError
from dimoo.reading import check_size

KEY = "dimoo"


def png_text(settings: Mapping[str, Any]) -> PngImagePlugin.PngInfo:
    """The text chunks of a picture: everything as JSON, and two lines that other viewers show."""
    text = PngImagePlugin.PngInfo()
    text.add_text(KEY, json.dumps(settings, ensure_ascii=True, sort_keys=True))
    text.add_text("Software", f"dimoo {settings.get('version', '')}".strip())
    text.add_text("Description", describe(settings))
    return text


def describe(settings: Mapping[str, Any]) -> str:
    """The settings as one readable line: the prompt, then name and value pairs."""
    rest = ", ".join(f"{name}: {value}" for name, value in settings.items() if name != "prompt")
    return f"{settings.get('prompt', '')} ({rest})".strip()


def save_png(image: Image.Image, settings: Mapping[str, Any], path: str | Path) -> Path:
    """Writes the picture with its settings; the file appears complete or not at all.

    Raises DimooError when it cannot be written.
    """
    path = Path(path)
    with _replacing(path) as file:
        image.save(file, format="PNG", pnginfo=png_text(settings))
    return path


def save_json(content: Any, path: str | Path) -> Path:
    """Writes JSON; the file appears complete or not at all. Raises DimooError when it cannot be written."""
    path = Path(path)
    with _replacing(path) as file:
        file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    return path


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """An open temporary file beside `path` that takes its name when the block ends well."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                yield file
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DimooError(f"Cannot write {path}: {error.strerror}.") from error


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings in a PNG file. Raises DimooError when it is no PNG, too large, or carries none."""
    name = Path(path).name
    try:
        with Image.open(path, formats=["PNG"]) as image:
            check_size(image)
            text = image.info
            if KEY not in text:
                image.load()  # it may follow the pixels
                text = image.text
    except FileNotFoundError as error:
        raise DimooError(f"There is no file {name}.") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DimooError(f"{name} cannot be read as a PNG picture.") from error
    try:
        settings = json.loads(text[KEY])
    except (KeyError, ValueError, RecursionError) as error:
        raise DimooError(
            f"{name} carries no settings: it was not made here, or another program rewrote it."
        ) from error
    if not isinstance(settings, dict):
        raise DimooError(f"{name} carries settings in a form that is not known here.")
    return settings


def file_name(settings: Mapping[str, Any]) -> str:
    """A name that says what is in the file: a-red-ball-on-the-beach_seed-7.png; portable and short.

    Without a prompt it says what was done: edit-predict-depth_seed-7.png.
    """
    words = _words(settings.get("prompt", ""))
    if not words:
        choice = {"predict": "map", "view": "direction"}.get(settings.get("kind"))
        done = [settings.get(name) for name in ("task", "kind", choice)]
        words = _words(" ".join(str(word) for word in done if word)) or "picture"
    stopped = "_stopped" if settings.get("stopped") else ""
    return f"{words}_seed-{settings.get('seed', 0)}{stopped}.png"


def unused(path: Path) -> Path:
    """The path, or the first one numbered from 2 on that no file has."""
    numbered = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))
    return path if not path.exists() else next(other for other in numbered if not other.exists())


def _words(text: object) -> str:
    return re.sub(r"[^a-z0-9]+", "-", str(text).lower())[:60].strip("-")
