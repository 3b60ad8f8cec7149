"""Pictures of a session as files that the page can serve: written once, swept up after a day."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import BoundedSemaphore, Thread
from typing import Any

from gradio.utils import get_upload_folder
from PIL import Image

from dimoo.errors import DimooError
from dimoo.frames import Frame
from dimoo.images import as_mask, fit_mask, upright
from dimoo.knobs import knobs
from dimoo.metadata import file_name, read_settings, save_png
from dimoo.tasks import Extrapolate
from dimoo.ui.line import is_ticket

CELL = knobs(Extrapolate)["left"].step
KEEP_SECONDS = 24 * 3600
SWEEP_SECONDS = 600
DECODING = BoundedSemaphore(2)  # the largest pictures and masks take a gigabyte meanwhile, however many are uploaded at once
SMALL = "small.jpg"
SMALL_SIDE = 320  # pixels of the longer side of a picture among those of the session
LARGEST_FILE = 20 * 2**20  # bytes of an uploaded picture


@dataclass(frozen=True)
class Picture:
    """A finished picture of a session: where its file is, what is in it, and what it was made from.

    given: files of the pictures of its request, by field. before: the file of what to compare it with, if
    anything.
    """

    path: Path
    settings: dict[str, Any]
    ticket: str
    index: int
    columns: int
    rows: int
    given: dict[str, Path] = field(default_factory=dict)
    before: Path | None = None

    @property
    def small(self) -> Path:
        """A file to show it with among others: its own where it is small itself."""
        small = self.path.with_name(SMALL)
        return small if small.exists() else self.path


def folder() -> Path:
    """Inside the folder that Gradio serves from; a file is reached only by those who know its ticket."""
    return Path(get_upload_folder()).resolve() / "pictures"


def example_folder() -> Path:
    """Where the pictures of examples are served from."""
    return folder().with_name("example-pictures")


def keep(
    frame: Frame, ticket: str, given: dict[str, Image.Image] | None = None, before: Image.Image | None = None
) -> Picture:
    """Writes the finished picture of a frame with its settings, and the pictures that belong to it."""
    home = folder() / ticket
    path = save_png(frame.image, frame.settings, home / f"{frame.index}" / file_name(frame.settings))
    if max(frame.image.size) > SMALL_SIDE:
        small = frame.image.copy()
        small.thumbnail((SMALL_SIDE, SMALL_SIDE))
        write(small, path.with_name(SMALL))
    files = {name: write(picture, home / f"{name}.png") for name, picture in (given or {}).items()}
    rows, columns = frame.masked.shape
    compared = None if before is None else write(before, home / "before.png")
    return Picture(path, frame.settings, ticket, frame.index, columns, rows, files, compared)


def found(ticket: str) -> list[Picture]:
    """The pictures that were kept under a ticket, newest first, from their files alone; none where there are no such files."""
    home = folder() / ticket
    if not is_ticket(ticket) or not home.is_dir():
        return []
    beside = {path.stem: path for path in home.glob("*.png")}
    compared, pictures = beside.pop("before", None), []
    for path in sorted(home.glob("*/*.png"), key=lambda path: int(path.parent.name), reverse=True):
        with suppress(DimooError):
            settings = read_settings(path)
            columns, rows = settings["width"] // CELL, settings["height"] // CELL
            pictures.append(Picture(path, settings, ticket, int(path.parent.name), columns, rows, beside, compared))
    return pictures


def write(picture: Image.Image, path: Path) -> Path:
    """Writes a picture once; later pictures of a run share it."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    return path


def opened(path: str | Path | bytes | None) -> Image.Image | None:
    """An uploaded picture, or the bytes of one, see `upright`. Raises DimooError if it cannot be read."""
    if path is None:
        return None
    with DECODING:
        return upright(path)


def opened_mask(path: str | Path, size: tuple[int, int], target: tuple[int, int]) -> Image.Image:
    """An uploaded mask of a picture of `size` at its working size `target`, see `fit_mask`. Raises DimooError."""
    with DECODING:
        return fit_mask(as_mask(path), size, target)


def sweep_regularly(every: float = SWEEP_SECONDS, uploads: bool = False) -> None:
    """Removes what is too old from now on until the program ends, whether anybody visits or not; uploads: see `sweep`."""

    def sweep_on() -> None:
        while True:
            sweep(uploads=uploads)
            time.sleep(every)

    Thread(target=sweep_on, name="sweep", daemon=True).start()


def sweep(age: float = KEEP_SECONDS, uploads: bool = False) -> None:
    """Removes what is older than `age` seconds.

    uploads: not only pictures of sessions but everything in Gradio's folder, which is no other program's. Gradio sweeps uploads
    too, but knows only those of its own process.
    """
    swept = [*folder().glob("*")]
    if uploads:
        swept += [path for path in folder().parent.glob("*") if path not in (folder(), example_folder())]
    for old in swept:
        try:
            if time.time() - old.stat().st_mtime > age:
                old.unlink() if old.is_file() else shutil.rmtree(old, ignore_errors=True)
        except FileNotFoundError:
            continue  # another request swept it
