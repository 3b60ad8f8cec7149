"""A stand-in for the Hugging Face hub that serves one folder as a model, and can break a download off half-way."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlparse

COMMIT = "c0ffee" + "0" * 34


class HubServer(ThreadingHTTPServer):
    """Serves `folder` as `name` at one commit. gets: (path, Range header) of every file sent, in order.

    breaks_at: bytes after which the connection is cut while a file is sent, once; unless it recovers nothing is sent after that
    until breaks_at is None.
    """

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.name = folder, name
        self.gets: list[tuple[str, str | None]] = []
        self.breaks_at: int | None = None
        self.recovers = True
        self.broken = False
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)
        self.thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def files(self) -> list[dict]:
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return [
            {"type": "file", "path": str(p.relative_to(self.folder)), "size": p.stat().st_size, "oid": blob_id(p)} for p in paths
        ]

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join()


def blob_id(path: Path) -> str:
    return hashlib.sha1(str(path).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    server: HubServer

    def do_HEAD(self) -> None:
        self.answer(send=False)

    def do_GET(self) -> None:
        self.answer(send=True)

    def answer(self, send: bool) -> None:
        path, name = urlparse(self.path).path, self.server.name
        if self.server.broken and self.server.breaks_at is not None and not self.server.recovers:
            return self.reply(410, b"")  # a status after which nobody tries again at once
        if path.startswith(f"/api/models/{name}/tree/"):
            return self.reply(200, json.dumps(self.server.files()).encode())
        if path in (f"/api/models/{name}", f"/api/models/{name}/revision/main", f"/api/models/{name}/revision/{COMMIT}"):
            return self.reply(200, json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode())
        file = self.server.folder / path.removeprefix(f"/{name}/resolve/{COMMIT}/")
        if not path.startswith(f"/{name}/resolve/") or not file.is_file():
            return self.reply(404, b"")
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        content = file.read_bytes()
        headers = {"ETag": f'"{blob_id(file)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if send:
            self.server.gets.append((str(file.relative_to(self.server.folder)), wanted))
        self.reply(206 if wanted else 200, content[start:], headers, send)

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None, send: bool = True) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        limit = self.server.breaks_at
        if send and limit is not None and len(body) > limit and not self.server.broken:
            self.server.broken = True
            body = body[:limit]
            self.close_connection = True
        if send:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
