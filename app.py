"""The web demo: load a checkpoint, build the page, serve it. Also the entry of the Hugging Face Space."""

from __future__ import annotations

import spaces  # isort: skip  # before anything that may touch a graphics card

import argparse
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
# Apart from other programs and other people; a name that Python could take for the package would hide it from scripts beside.
os.environ.setdefault(
    "GRADIO_TEMP_DIR", os.path.join(tempfile.gettempdir(), f"dimoo-files-{os.getuid() if hasattr(os, 'getuid') else 0}")
)

import gradio as gr

from dimoo.checkpoint import VARIABLE, default_checkpoint, load_as_asked
from dimoo.cli import loading_options
from dimoo.errors import DimooError
from dimoo.frames import Answer, Frame
from dimoo.pipeline import Pipeline
from dimoo.tasks import Request
from dimoo.ui.cards import duration, from_the_card, on_the_card
from dimoo.ui.files import sweep_regularly
from dimoo.ui.page import QUEUE_LENGTH, build_page, launch_options
from dimoo.ui.switch import Switch

APART = os.path.basename(os.environ["GRADIO_TEMP_DIR"]).startswith("dimoo-files-")
ON_SPACE = "SPACE_ID" in os.environ
QUEUE_BEFORE_A_CARD = 64  # requests; where a picture takes seconds more people can wait


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="app.py", description="Web demo of Lumina-DiMOO.")
    parser.add_argument(
        "--checkpoint", metavar="NAME", default=default_checkpoint(),
        help=f"folder, hub id or hub id@revision (default: {VARIABLE}, or else the built-in one)",
    )  # fmt: skip
    parser.add_argument(
        "--offer", metavar="NAME,NAME", default=os.environ.get("DIMOO_OFFER", ""),
        help="checkpoints that anyone on the page may put in the place of this one",
    )  # fmt: skip
    loading_options(parser)
    offload = os.environ.get("DIMOO_OFFLOAD", "") not in ("", "0")
    parser.set_defaults(quantize=os.environ.get("DIMOO_QUANTIZE") or None, offload=offload)
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0" if ON_SPACE else "127.0.0.1"))
    parser.add_argument("--port", type=int, default=os.environ.get("GRADIO_SERVER_PORT", "7860"))
    parser.add_argument(
        "--root-path", metavar="PATH", default=os.environ.get("GRADIO_ROOT_PATH", ""),
        help="where a proxy in front of the server shows it, such as /dimoo",
    )  # fmt: skip
    parser.add_argument("--share", action="store_true", help="also make a public link for a week")
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="ask visitors for these")
    return parser


def credentials(text: str | None) -> tuple[str, str] | None:
    """user:password -> the two. Raises DimooError when one of them is missing."""
    if text is None:
        return None
    user, _, password = text.partition(":")
    if not user or not password:
        raise DimooError("--auth wants a user and a password: --auth user:password.")
    return user, password


def check_port(host: str, port: int) -> None:
    """Raises DimooError when the server could not listen there."""
    if not 0 <= port < 65536:
        raise DimooError(f"There is no port {port}: choose one from 1 to 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise DimooError(
            f"Cannot serve on {host}, port {port} ({error}): "
            "choose another with --port, or stop what is using it."
        ) from error


def reserved_runner(pipeline: Pipeline) -> Callable[[Request, str], Iterator[Frame | Answer]]:
    """Runs requests; where graphics cards are shared each run reserves one for as long as it may take."""
    return from_the_card(spaces.GPU(duration=duration(pipeline))(on_the_card(pipeline)), pipeline)


def build(pipeline: Pipeline, switch: Switch | None = None) -> gr.Blocks:
    """The page for a loaded checkpoint, ready to launch."""
    waiting = QUEUE_BEFORE_A_CARD if pipeline.model.device.type == "cuda" else QUEUE_LENGTH
    return build_page(reserved_runner(pipeline), pipeline.check, pipeline.defaults, waiting, switch)


def offered(arguments: argparse.Namespace, load: Callable[[str], Pipeline]) -> Switch | None:
    """What may be switched to, the checkpoint of the start among it. Raises DimooError where nothing can be."""
    names = [name.strip() for name in arguments.offer.split(",") if name.strip()]
    if names and os.environ.get("SPACES_ZERO_GPU"):
        raise DimooError("Where graphics cards are shared the checkpoint is the one of the start: do without --offer.")
    return Switch([arguments.checkpoint, *names], load) if names else None


def serve(page: gr.Blocks, **options: Any) -> str:
    """Launches the page in the background and returns its address. /healthz answers from a moment later on."""
    server, address, _ = page.launch(prevent_thread_lock=True, **launch_options(), **options)
    health = {"status": "ok", "since": time.time()}
    server.add_api_route("/healthz", lambda: health, include_in_schema=False)
    return address


def main(argv: Sequence[str] | None = None) -> int:
    arguments = options().parse_args(argv)

    try:
        auth = credentials(arguments.auth)
        check_port(arguments.host, arguments.port)
        switch = offered(arguments, partial(load_as_asked, arguments))
        pipeline = load_as_asked(arguments, arguments.checkpoint)
    except DimooError as error:
        print(f"app.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # a download may take long
        print("app.py: stopped.", file=sys.stderr)
        return 130
    sweep_regularly(uploads=APART)
    while pipeline:
        page = build(pipeline, switch)
        address = serve(
            page, server_name=arguments.host, server_port=arguments.port, share=arguments.share, auth=auth,
            root_path=arguments.root_path,
        )  # fmt: skip
        print(f"Lumina-DiMOO is ready on {address}", flush=True)
        previous, pipeline = pipeline, following(page, switch)
        previous.release()
    return 0


def following(page: gr.Blocks, switch: Switch | None) -> Pipeline | None:
    """Serves the page until another checkpoint takes its place, or, None, the program is to end."""
    if not switch:
        page.block_thread()
        return None
    try:
        pipeline = switch.wait()
    except KeyboardInterrupt:
        pipeline = None
    page.close(verbose=False)
    return pipeline


if __name__ == "__main__":
    sys.exit(main())
