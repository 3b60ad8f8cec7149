"""Pictures of one's own with their captions, as fine-tuning reads them from a folder."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dimoo.errors import DimooError
from dimoo.images import upright

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
TABLE = "metadata.jsonl"


@dataclass(frozen=True)
class Captioned:
    """A picture file and what it shows, in words."""

    path: Path
    text: str


def read_folder(folder: str | Path) -> list[Captioned]:
    """Pictures of a folder with their captions: from a text file of the same name beside each, or from metadata.jsonl with lines
    {"file_name": …, "text": …}.

    Raises DimooError when there are none, or when one is missing, empty or unreadable.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DimooError(f"There is no folder {folder} with pictures.")
    table = folder / TABLE
    if table.is_file():
        lines = enumerate(_text(table).split("\n"), 1)
        found = [_row(folder, number, line) for number, line in lines if line.strip()]
    else:
        pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        found = [Captioned(path, _caption(path)) for path in pictures]
    if not found:
        raise DimooError(f"There are no pictures in {folder}: put PNG, JPEG or WebP files there, and a .txt file beside each.")
    for picture in found:
        upright(str(picture.path))  # one that cannot be read is told of before anything is loaded
    return found


def fingerprint(pictures: Sequence[Captioned]) -> str:
    """Of what the files and captions hold, wherever they lie."""
    digest = hashlib.sha1()
    for picture in pictures:
        digest.update(hashlib.sha1(picture.path.read_bytes()).digest() + hashlib.sha1(picture.text.encode()).digest())
    return digest.hexdigest()[:12]


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DimooError(f"{path} is not in UTF-8: save it anew.") from error


def _row(folder: Path, number: int, line: str) -> Captioned:
    try:
        values = json.loads(line)
        path, text = folder / values["file_name"], values["text"].strip()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DimooError(f'{folder / TABLE}, line {number}: write {{"file_name": "…", "text": "…"}}.') from error
    if not path.is_file():
        raise DimooError(f"{folder / TABLE}, line {number}: there is no {path}.")
    if not text:
        raise DimooError(f"{folder / TABLE}, line {number}: the caption is empty.")
    return Captioned(path, text)


def _caption(path: Path) -> str:
    beside = path.with_suffix(".txt")
    text = _text(beside).strip() if beside.is_file() else ""
    if not text:
        raise DimooError(f"{path.name} has no caption: write what it shows into {beside.name} beside it.")
    return text
