"""Pictures that come with a call: how much is fetched, from where, and how many are read at once."""

from __future__ import annotations

import asyncio
import gzip
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import BoundedSemaphore, Thread

import gradio as gr
import pytest
from gradio import processing_utils
from PIL import Image

from dimoo.errors import DimooError
from dimoo.ui import attachments
from dimoo.ui.files import opened, opened_mask


@pytest.fixture(autouse=True)
def as_gradio_has_it(monkeypatch):
    """Gradio's own function and transport, which are put back at the end."""
    download = processing_utils.async_ssrf_protected_download
    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", getattr(download, "__wrapped__", download))
    monkeypatch.setattr(processing_utils, "async_transport", None)


def test_too_many_pictures_are_refused_before_any_is_fetched(monkeypatch):
    monkeypatch.setattr(attachments, "sent", lambda file: pytest.fail("nothing is to be fetched"))
    with pytest.raises(DimooError, match="at most 4 at a time, not 5"):
        attachments.all_of(["http://example.org/a.png"] * 5)


def test_addresses_that_take_too_long_are_given_up(monkeypatch):
    async def drip(address, folder=None, cache_dir=None):
        await asyncio.sleep(30)

    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", drip)
    monkeypatch.setattr(attachments, "FETCHING", 0.05)
    attachments.limit_downloads()
    with pytest.raises(DimooError, match="no picture to be had from http://example.org/a.png"):
        attachments.sent("http://example.org/a.png")
    with pytest.raises(gr.Error, match="no picture to be had from http://example.org/b.png"):  # marked as a file
        asyncio.run(gr.Image(type="filepath").async_move_resource_to_block_cache("http://example.org/b.png"))


class Sender(BaseHTTPRequestHandler):
    """/large sends more than a picture may have, without end; /packed a page that is packed; anything else its name."""

    def do_GET(self):
        self.send_response(200)
        if self.path == "/packed":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        with suppress(ConnectionError):
            while self.path == "/large":
                self.wfile.write(bytes(2**16))
            self.wfile.write(gzip.compress(bytes(2**20)) if self.path == "/packed" else self.path.encode())

    def log_message(self, *values):
        pass


@pytest.fixture
def sender(monkeypatch):
    """The address of a server that counts as one of the public network."""
    async def validated(host):
        return "127.0.0.1"

    monkeypatch.setattr("safehttpx.async_validate_url", validated)
    monkeypatch.setattr(attachments, "LARGEST_FILE", 2**20)
    attachments.limit_downloads()
    with ThreadingHTTPServer(("127.0.0.1", 0), Sender) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://sender.example:{server.server_port}"
        server.shutdown()


def test_addresses_that_send_too_much_are_given_up(sender):
    assert Path(attachments.sent(f"{sender}/small")).read_bytes() == b"/small"
    with pytest.raises(DimooError, match="no picture to be had"):
        attachments.sent(f"{sender}/large")
    packed = Path(attachments.sent(f"{sender}/packed")).read_bytes()
    assert gzip.decompress(packed) == bytes(2**20)  # it was not unpacked on the way
    with pytest.raises(DimooError, match="1 MB at most"):
        attachments.sent("data:image/png;base64," + "A" * 2**21)


def test_addresses_of_this_network_are_not_asked():
    attachments.limit_downloads()
    with pytest.raises(DimooError, match="no picture to be had"):
        attachments.sent("http://127.0.0.1:1/a.png")


def test_large_masks_wait_their_turn_too(tmp_path, monkeypatch):
    monkeypatch.setattr("dimoo.ui.files.DECODING", guard := BoundedSemaphore(1))
    monkeypatch.setattr("dimoo.ui.files.as_mask", lambda path: pytest.fail("not alone") if guard.acquire(blocking=False) else
                        Image.new("L", (64, 64)))  # fmt: skip
    assert opened_mask(tmp_path / "mask.png", (64, 64), (64, 64)).size == (64, 64)


def test_large_pictures_are_read_two_at_a_time(tmp_path, monkeypatch):
    inside, most = [], []

    def slowly(path):
        inside.append(path)
        most.append(len(inside))
        time.sleep(0.05)
        inside.remove(path)
        return Image.new("RGB", (64, 64))

    monkeypatch.setattr("dimoo.ui.files.upright", slowly)
    with ThreadPoolExecutor(6) as pool:
        assert len(list(pool.map(opened, [tmp_path / f"{i}.png" for i in range(6)]))) == 6
    assert max(most) == 2
