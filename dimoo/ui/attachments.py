"""Pictures that come with a call of an endpoint: uploaded files, data, and what lies at addresses."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import Any

import gradio as gr
import httpx
import safehttpx  # like httpx it comes with Gradio, which downloads with it
from gradio import processing_utils
from gradio_client.utils import is_file_obj_with_meta, synchronize_async
from PIL import Image

from dimoo.errors import DimooError
from dimoo.knobs import knobs
from dimoo.tasks import Chat
from dimoo.ui.files import LARGEST_FILE, folder, opened
from dimoo.ui.line import new_ticket

FETCHING = 15.0  # seconds for a picture at an address


def sent(file: Any) -> str | bytes | None:
    """A picture that came with a call: the path of an uploaded file, or what is at a data:, http: or https: address.

    Gradio has checked the path of what is marked as a file, and of nothing else. MCP clients send addresses: where a picture is
    one of several, or may be left out, Gradio makes no files of them. Raises DimooError for what is neither.
    """
    if file is None:
        return None
    if is_file_obj_with_meta(file):
        return file["path"]
    if isinstance(file, str) and file.startswith("data:"):
        if len(file) > LARGEST_FILE * 4 / 3 + 200:
            raise DimooError(f"A picture may have {LARGEST_FILE // 2**20} MB at most.")
        try:
            return base64.b64decode(file.partition(",")[2], validate=True)
        except ValueError as error:
            raise DimooError("A picture in a data: address must be written in base64.") from error
    if isinstance(file, str) and file.startswith(("http://", "https://")):
        try:
            return synchronize_async(_fetched, file)
        except gr.Error as error:
            raise DimooError(error.message) from error
    raise DimooError("A picture must be sent as a file (with gradio_client, handle_file(path)) or as an address.")


async def _fetched(address: str) -> str:
    """The path of a downloaded file. Raises gr.Error, see `limit_downloads`."""
    return await processing_utils.async_ssrf_protected_download(address, str(folder() / new_ticket()))


class Body(httpx.AsyncByteStream):
    """What an address sends, which ends with an error where it is more than LARGEST_FILE bytes."""

    def __init__(self, stream: httpx.AsyncByteStream, transport: httpx.AsyncBaseTransport) -> None:
        self.stream, self.transport = stream, transport

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self.stream:
            size += len(chunk)
            if size > LARGEST_FILE:
                raise httpx.ReadError("That is larger than a picture may be.")
            yield chunk

    async def aclose(self) -> None:
        await self.stream.aclose()
        await self.transport.aclose()


class Transport(httpx.AsyncBaseTransport):
    """Requests as Gradio makes them, to hosts of the public network only, with a limit to what comes back.

    Gradio reads all of it, unpacked, before it looks at it: what is packed stays so, and is no picture then.
    """

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["Accept-Encoding"] = "identity"
        host = request.url.host
        if safehttpx.matches_domain_whitelist(host, processing_utils.PUBLIC_HOSTNAME_WHITELIST):
            transport = httpx.AsyncHTTPTransport()
        else:
            transport = safehttpx.AsyncSecureTransport(await safehttpx.async_validate_url(host))
        response = await transport.handle_async_request(request)
        response.headers.pop("Content-Encoding", None)
        response.stream = Body(response.stream, transport)
        return response


def limit_downloads() -> None:
    """Limits downloads, those of Gradio's own too, of files that are sent as addresses: others wait meanwhile."""
    processing_utils.async_transport = Transport()
    download = processing_utils.async_ssrf_protected_download
    if getattr(download, "limited", False):
        return

    @wraps(download)
    async def limited(address: str, *values: Any, **options: Any) -> str:
        try:
            return await asyncio.wait_for(download(address, *values, **options), FETCHING)
        except Exception as error:  # addresses fail in all sorts of ways; those of this network are refused
            raise gr.Error(f"There is no picture to be had from {address[:200]}.", print_exception=False) from error

    limited.limited = True
    processing_utils.async_ssrf_protected_download = limited


def all_of(files: Any) -> tuple[Image.Image, ...]:
    """Several pictures that came with a call, or one; too many are refused before any is fetched. Raises DimooError."""
    files = files if isinstance(files, list | tuple) else [files]
    knobs(Chat)["images"].check_number(len(files))
    with ThreadPoolExecutor(max(1, len(files))) as pool:  # addresses that take their time do so together
        return tuple(map(opened, pool.map(sent, files)))
