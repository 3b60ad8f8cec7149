"""Pictures of a session as files that the page can serve: written once, swept up after a day."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder
from PIL import Image

from dimoo.frames import Frame
from dimoo.metadata import file_name, save_png

KEEP_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Picture:
    """A finished picture of a session: where its file is, and what is in it."""

    path: Path
    settings: dict[str, Any]
    ticket: str
    index: int
    columns: int
    rows: int

    def open(self) -> Image.Image:
        with Image.open(self.path) as image:
            return image.convert("RGB")


def folder() -> Path:
    """Inside the folder that Gradio serves from; a file is reached only by those who know its ticket."""
    return Path(get_upload_folder()).resolve() / "pictures"


def keep(frame: Frame, ticket: str) -> Picture:
    """Writes the finished picture of a frame with its settings."""
    sweep()
    name = file_name(frame.settings)
    path = save_png(frame.image, frame.settings, folder() / ticket / f"{frame.index}" / name)
    rows, columns = frame.masked.shape
    return Picture(path, frame.settings, ticket, frame.index, columns, rows)


def sweep(age: float = KEEP_SECONDS) -> None:
    """Removes what is older than `age` seconds."""
    for old in folder().glob("*"):
        try:
            if time.time() - old.stat().st_mtime > age:
                shutil.rmtree(old, ignore_errors=True)
        except FileNotFoundError:
            continue  # another request swept it
