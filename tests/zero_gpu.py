"""app.py under the real `spaces` package in its ZeroGPU mode, with a scheduler and a card made up here; prints JSON.

The package believes in a card at import: tensors that are put there are only noted down. A run is scheduled over HTTP,
forked, its arguments and what it yields are pickled, and in the fork the noted tensors get their contents, here on the
processor. Run as a program: python zero_gpu.py CHECKPOINT
"""

from __future__ import annotations

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlparse

import torch

ROOT = Path(__file__).resolve().parents[1]
LEFT = 12  # seconds of quota, once it is exhausted


class Scheduler(BaseHTTPRequestHandler):
    """What the package asks for a card; over `quota` seconds it refuses."""

    calls: list[tuple[str, dict]] = []
    quota = 10_000

    def do_POST(self) -> None:
        url = urlparse(self.path)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.calls.append((url.path, asked))
        status, answer = 200, {}
        if url.path == "/schedule":
            answer = {"idle": False, "nvidiaIndex": 0, "nvidiaUUID": "card", "allowToken": "token"}
            if int(asked["durationSeconds"]) > self.quota:
                status, answer = 429, {"left": LEFT, "wait": 3600}
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def pretend() -> None:
    """Switches the package's ZeroGPU mode on, where torch may have been built without CUDA."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Scheduler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {"SPACES_ZERO_GPU": "true", "SPACES_ZERO_DEVICE_API_URL": f"http://127.0.0.1:{server.server_address[1]}"}
    torch.version.cuda = "12.8"
    torch._C._cuda_init = lambda: None
    torch.cuda._is_in_bad_fork = bool  # false, and can be pickled


def arrive() -> None:
    """Instead of a card's memory the noted tensors get that of the fork."""
    from spaces.zero.torch import patching

    for noted, contents in list(patching.cuda_aliases.items()):
        noted.data = contents


def outcome(run, request, sign, stop_after: int | None = None) -> dict:
    """What a run comes to: its frames, or the sentence that ends it."""
    from dimoo.errors import DimooError
    from dimoo.ui.line import StopSign

    frames = []
    try:
        for frame in run(request, str(sign)):
            frames.append(frame)
            if len(frames) == stop_after:
                StopSign(sign).show()
    except DimooError as error:
        return {"sentence": str(error), "frames": len(frames)}
    last = frames[-1]
    told = {"frames": len(frames), "stopped": last.stopped, "settings": last.settings}
    return told | {"size": getattr(getattr(last, "image", None), "size", None), "done": getattr(last, "done", None)}


def main(folder: str) -> None:
    pretend()
    sys.path.insert(0, str(ROOT))
    from gradio.context import LocalContext
    from PIL import Image
    from spaces.zero import torch as of_spaces

    import app
    from dimoo.checkpoint import load
    from dimoo.tasks import Chat, Generate, Inpaint
    from dimoo.ui import cards

    cards.LONGEST_RESERVATION = 20
    pipeline = load(folder)
    devices = {str(p.device) for part in (pipeline.model, pipeline.vq) for p in part.parameters()}
    of_spaces.init, of_spaces.move = lambda card: None, lambda callback=None: arrive()
    run, sign = app.reserved_runner(pipeline), Path(folder).parent / "stop-sign"
    draw, note = pipeline.run, Path(folder).parent / "process"

    def drawn(*request):
        note.write_text(str(os.getpid()))
        yield from draw(*request)

    pipeline.run = drawn
    picture, mask = Image.new("RGB", (128, 128), "red"), Image.new("L", (128, 128), 255)
    told = {
        "devices": sorted(devices),
        "generate": outcome(run, Generate("a red ball", width=128, height=128, steps=3, seed=1), sign),
        "inpaint": outcome(run, Inpaint(picture, mask, "a red ball", steps=2), sign),
        "chat": outcome(run, Chat((picture,), "are there", length=4, block=4, steps=2), sign),
        "refused": outcome(run, Generate("a dragon"), sign),
        "too long": outcome(run, Generate("a red ball", count=8, steps=128), sign),
        "stopped": outcome(run, Generate("a red ball", width=128, height=128, steps=64), sign, stop_after=3),
    }
    # a visitor whose quota is used up
    Scheduler.quota = LEFT
    headers = SimpleNamespace(get={"x-ip-token": "a.e30.c"}.get)
    LocalContext.request.set(SimpleNamespace(headers=headers))
    told["over quota"] = outcome(run, Generate("a red ball", steps=60, count=3), sign)
    told["allowed"] = [path for path, _ in Scheduler.calls].count("/allow")
    told["own process"] = note.read_text() != str(os.getpid())
    print("TOLD " + json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1])
