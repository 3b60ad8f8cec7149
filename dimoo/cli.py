"""The commands that make pictures: options read off the requests, a progress bar, files with settings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from dimoo.errors import DimooError
from dimoo.frames import Frame
from dimoo.knobs import knobs
from dimoo.tasks import REQUESTS, Request

OPTIONS = {"steps": int, "guidance": float, "temperature": float, "seed": int}


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    kind = REQUESTS[command]
    help_of = {
        name: f"{k.help} ({k.low:g} to {k.high:.0f})".replace("%", "%%") for name, k in knobs(kind).items()
    }
    parser.set_defaults(kind=kind)
    parser.add_argument("prompt", help=knobs(kind)["prompt"].help)
    parser.add_argument(
        "-o", "--output", default=".", metavar="PATH", help="PNG file, or a folder for named files"
    )
    parser.add_argument("-n", "--count", type=int, default=1, metavar="N", help=help_of["count"])
    parser.add_argument("--size", type=size, metavar="WxH", help="pixels, multiples of 16, such as 256x256")
    for name, kind_of in OPTIONS.items():
        parser.add_argument(f"--{name}", type=kind_of, metavar="N", help=help_of[name])
    parser.add_argument("--checkpoint", metavar="NAME", help="folder or hub id (default: the built-in one)")
    parser.add_argument("--device", help="cpu or cuda (default: what there is)")
    parser.add_argument("--json", metavar="FILE", help="also write files and settings as JSON")


def size(text: str) -> tuple[int, int]:
    """256x384 -> (256, 384): width, height."""
    try:
        width, height = text.lower().replace("×", "x").split("x")
        return int(width), int(height)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text} is not a size: write width x height, such as 256x256"
        ) from None


def main(options: argparse.Namespace) -> int:
    request = request_of(options)
    places = [output_path(options.output, index, request.count) for index in range(request.count)]
    from dimoo.checkpoint import BUILT_IN, load  # a wrong option should not wait for torch

    pipeline = load(options.checkpoint or BUILT_IN, options.device)
    for note in pipeline.notes(request):
        print(f"dimoo: {note}", file=sys.stderr)
    written = write_pictures(pipeline.run(request), places)
    if options.json:
        from dimoo.metadata import save_json

        save_json({"images": written}, options.json)
    return 0


def request_of(options: argparse.Namespace) -> Request:
    width, height = options.size or (None, None)
    values = {name: getattr(options, name) for name in OPTIONS}
    return options.kind(prompt=options.prompt, width=width, height=height, count=options.count, **values)


def output_path(output: str, index: int, count: int) -> Path:
    """Where picture `index` goes: the file itself, numbered when there are several, or a folder."""
    path = Path(output)
    if path.is_dir() or output.endswith("/"):
        return path
    if path.suffix.lower() != ".png":
        raise DimooError(
            f"Pictures are written as PNG, because that keeps their settings: name the file {path.stem}.png."
        )
    return path if count == 1 else path.with_name(f"{path.stem}-{index + 1}{path.suffix}")


def write_pictures(frames: Iterator[Frame], places: list[Path]) -> list[dict[str, Any]]:
    """Follows a run and writes each picture as soon as it is done; returns files and settings."""
    from dimoo.metadata import file_name, save_png

    bar = ProgressBar(sys.stderr)
    written = []
    for frame in frames:
        bar.show(frame)
        if frame.image is not None:
            place = places[frame.index]
            path = place if place.suffix.lower() == ".png" else place / file_name(frame.settings)
            save_png(frame.image, frame.settings, path)
            written.append({"file": str(path), **frame.settings})
            bar.finish(f"{path}  seed {frame.seed}, {frame.settings['seconds']:.1f} s")
    return written


class ProgressBar:
    """One line that is drawn over while a terminal is looking; elsewhere only the finished lines appear."""

    width = 28

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def show(self, frame: Frame) -> None:
        if self.stream.isatty():
            self.stream.write("\r" + self.line(frame) + "\x1b[K")
            self.stream.flush()

    def finish(self, text: str) -> None:
        start, end = ("\r", "\x1b[K\n") if self.stream.isatty() else ("", "\n")
        self.stream.write(start + text + end)
        self.stream.flush()

    def line(self, frame: Frame) -> str:
        filled = self.width * frame.step // frame.steps
        left = "" if frame.seconds_left is None else f", {frame.seconds_left:.1f} s left"
        which = f"picture {frame.index + 1} of {frame.count}  " if frame.count > 1 else ""
        bar = "█" * filled + "░" * (self.width - filled)
        return f"{which}{bar} step {frame.step} of {frame.steps}, {frame.seconds:.1f} s{left}"
