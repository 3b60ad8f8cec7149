"""The commands that make pictures and answer questions: options read off the requests, progress, files with settings."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from dimoo.errors import DimooError
from dimoo.frames import Answer, Frame
from dimoo.knobs import Choice, Flag, Knob, Mask, Picture, Pictures, Real, Text, Whole, knobs
from dimoo.tasks import ALIGNMENTS, REQUESTS, Chat, Extrapolate, Generate, Request

if TYPE_CHECKING:
    from dimoo.pipeline import Pipeline

SHORT = {"count": ("-n",)}
ELSEWHERE = {"width", "height"}  # given as --size


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    kind = REQUESTS[command]
    parser.set_defaults(request_kind=kind)
    limits = knobs(kind)
    for name in sorted(limits, key=lambda name: not positional(limits[name])):  # files first, as one writes them
        if name not in ELSEWHERE:
            add_knob(parser, name, limits[name], kind)
    if kind is Generate:
        parser.add_argument("--size", type=size, metavar="WxH", help="pixels, multiples of 16, such as 256x256")
    if kind is Extrapolate:
        parser.add_argument("--aspect", type=aspect, metavar="W:H", help="grow until this aspect is reached, such as 16:9")
        parser.add_argument(
            "--align", choices=list(ALIGNMENTS), default="center",
            help="with --aspect, where the picture comes to lie: start is left or top",
        )  # fmt: skip
    if kind is not Chat:
        parser.add_argument("-o", "--output", default=".", metavar="PATH", help="PNG file, or a folder for named files")
    checkpoint_options(parser)
    parser.add_argument("--json", metavar="FILE", help="also write the settings as JSON")


def checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """Which checkpoint to load and how; `loaded` reads them."""
    parser.add_argument(
        "--checkpoint", metavar="NAME",
        help="folder, hub id or hub id@revision (default: DIMOO_CHECKPOINT, or else the built-in one)",
    )  # fmt: skip
    loading_options(parser)


def loading_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu or cuda (default: what there is)")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float32"),
        help="numbers to calculate with, on which it depends what a seed draws (default: the faster ones)",
    )  # fmt: skip
    parser.add_argument("--quantize", metavar="int8|nf4", help="keep the transformer's weights in 8 or 4 bits")
    parser.add_argument("--offload", action="store_true", help="spread the weights over all cards, the rest to the processor")


def positional(limits: Knob) -> bool:
    return isinstance(limits, Mask | Pictures) or isinstance(limits, Picture) and not limits.optional


def add_knob(parser: argparse.ArgumentParser, name: str, limits: Knob, kind: type[Request]) -> None:
    """The option, or the argument, for one field of a request; it is left out of the result when not given."""
    bounds = f" ({limits.low:g} to {limits.high:.0f})" if isinstance(limits, Real | Whole) else ""
    shared: dict[str, Any] = {"help": (limits.help + bounds).replace("%", "%%"), "default": argparse.SUPPRESS}
    flags = *SHORT.get(name, ()), f"--{name.replace('_', '-')}"
    if isinstance(limits, Pictures):
        parser.add_argument(name, nargs="*", metavar="IMAGE", help=shared["help"])
    elif positional(limits):
        parser.add_argument(name, metavar=name.upper(), help=shared["help"])
    elif isinstance(limits, Text) and kind is Chat:
        parser.add_argument("-q", "--question", dest=name, required=True, metavar="TEXT", **shared)
    elif isinstance(limits, Text):
        parser.add_argument(name, nargs=None if limits.low else "?", metavar=name.upper(), **shared)
    elif isinstance(limits, Flag):
        parser.add_argument(*flags, action=argparse.BooleanOptionalAction, **shared)
    elif isinstance(limits, Choice):
        parser.add_argument(*flags, choices=list(limits.options), **shared)
    elif isinstance(limits, Picture):
        parser.add_argument(*flags, metavar="IMAGE", **shared)
    else:
        parser.add_argument(*flags, type=int if isinstance(limits, Whole) else float, metavar="N", **shared)


def size(text: str) -> tuple[int, int]:
    """256x384 -> (256, 384): width, height."""
    try:
        width, height = text.lower().replace("×", "x").split("x")
        return int(width), int(height)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text} is not a size: write width x height, such as 256x256"
        ) from None


def aspect(text: str) -> float:
    """16:9 -> 1.78: width over height."""
    from dimoo.images import read_aspect

    try:
        return read_aspect(text)
    except DimooError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(options: argparse.Namespace) -> int:
    pipeline = None
    if options.json:
        check_file(options.json)
    if options.request_kind is not Chat:
        check_output(options.output)
    if getattr(options, "aspect", None):  # how much to add depends on the size that the checkpoint works with
        pipeline = loaded(options)
        grow_to_aspect(options, pipeline)
    request = request_of(options)
    if isinstance(request, Chat):
        pipeline = pipeline or loaded(options)
        report: dict[str, Any] = {"answers": [tell(follow(pipeline, request))]}
    else:
        pipeline = pipeline or loaded(options)
        report = {"images": write_pictures(follow(pipeline, request), options.output)}
    if options.json:
        from dimoo.metadata import save_json

        save_json(report, options.json)
    return 0


def loaded(options: argparse.Namespace) -> Pipeline:
    from dimoo.checkpoint import load_as_asked  # a wrong option should not wait for torch

    return load_as_asked(options, options.checkpoint)


def follow(pipeline: Pipeline, request: Request) -> Iterator[Frame | Answer]:
    """The run of a request, after what is to be said about it."""
    request, notes = pipeline.check(request)
    for note in notes:
        print(f"dimoo: {note}", file=sys.stderr)
    yield from pipeline.run(request)


def request_of(options: argparse.Namespace) -> Request:
    values = {name: getattr(options, name) for name in knobs(options.request_kind) if hasattr(options, name)}
    if getattr(options, "size", None):
        values["width"], values["height"] = options.size
    return options.request_kind(**values)


def grow_to_aspect(options: argparse.Namespace, pipeline: Pipeline) -> None:
    """Puts the sides that --aspect asks for among the options. Raises DimooError if some are given as well."""
    from dimoo.images import sides_for_aspect, size_for, upright

    if any(hasattr(options, side) for side in Extrapolate.SIDES):
        raise DimooError("Give either --aspect or the sides on which to grow, not both.")
    cell = pipeline.vq.cell
    size = size_for(upright(options.image).size, pipeline.defaults, cell)
    for side, pixels in sides_for_aspect(size, options.aspect, options.align, cell).items():
        setattr(options, side, pixels)


def is_folder(output: str) -> bool:
    return output.endswith(("/", os.sep)) or Path(output).is_dir()


def check_output(output: str) -> None:
    """Raises DimooError for a file that is no PNG, or that cannot be written."""
    path = Path(output)
    if not is_folder(output) and path.suffix.lower() != ".png":
        raise DimooError(
            f"Pictures are written as PNG, because that keeps their settings: name the file {path.stem}.png."
        )
    check_writable(path if is_folder(output) else path.parent)


def check_file(name: str) -> None:
    """Raises DimooError for a file that cannot be made."""
    if is_folder(name):
        raise DimooError(f"{name} is a folder: name a file in it.")
    check_writable(Path(name).parent)


def check_writable(folder: Path) -> None:
    """Raises DimooError where no files can be made: that is to be known before the work, not after it."""
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        reason = f"{there} is a file" if not there.is_dir() else "" if os.access(there, os.W_OK) else "that is not allowed"
    except OSError as error:
        reason = error.strerror
    if reason:
        raise DimooError(f"Nothing can be written to {folder}: {reason}.")


def output_path(output: str, frame: Frame) -> Path:
    """Where a finished picture goes: the file itself, numbered when there are several, or a new one in a folder."""
    from dimoo.metadata import file_name, unused

    path = Path(output)
    if is_folder(output):
        return unused(path / file_name(frame.settings))
    return path if frame.count == 1 else path.with_name(f"{path.stem}-{frame.index + 1}{path.suffix}")


def write_pictures(frames: Iterator[Frame], output: str) -> list[dict[str, Any]]:
    """Follows a run and writes each picture as soon as it is done; returns files and settings."""
    from dimoo.metadata import save_png

    line = Line(sys.stderr)
    written = []
    for frame in frames:
        line.show(progress(frame))
        if frame.image is not None:
            path = save_png(frame.image, frame.settings, output_path(output, frame))
            written.append({"file": str(path), **frame.settings})
            line.finish(f"{path}  seed {frame.seed}, {frame.settings['seconds']:.1f} s")
    return written


def tell(answers: Iterator[Answer]) -> dict[str, Any]:
    """Follows an answer, word by word where a terminal is looking, and prints it; returns its settings."""
    line = Line(sys.stderr)
    for answer in answers:
        line.show("".join("▁" if probability is None else text for text, probability in answer.pieces).strip())
    line.clear()
    print(answer.text)
    return answer.settings


def progress(frame: Frame, width: int = 28) -> str:
    """A bar of some characters, and how far a picture is."""
    filled = width * frame.step // max(1, frame.steps)
    left = "" if frame.seconds_left is None else f", {frame.seconds_left:.1f} s left"
    which = f"picture {frame.index + 1} of {frame.count}  " if frame.count > 1 else ""
    bar = "█" * filled + "░" * (width - filled)
    return f"{which}{bar} step {frame.step} of {frame.steps}, {frame.seconds:.1f} s{left}"


class Line:
    """One line that is drawn over while a terminal is looking; elsewhere only finished lines appear."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def show(self, text: str) -> None:
        """Shows the text, without its line breaks, or as much of its end as fits."""
        if self.stream.isatty():
            text = " ".join(line.strip() for line in text.splitlines() if line.strip())
            room = max(20, shutil.get_terminal_size().columns - 1)
            self._write("\r" + (text if len(text) <= room else "…" + text[1 - room :]) + "\x1b[K")

    def clear(self) -> None:
        if self.stream.isatty():
            self._write("\r\x1b[K")

    def finish(self, text: str) -> None:
        self.clear()
        self._write(text + "\n")

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()
