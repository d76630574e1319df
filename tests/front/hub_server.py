"""A local server that speaks the Hugging Face hub's protocol for one repository: model info, and files by ranges."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Files of a repository, and what was asked of the server.

    Attributes:
        requests: method, path and Range header of each request.
        cut_after: bytes after which the next download of a safetensors file breaks off; None for never.
        gated: whether every request without a token is refused.
    """

    def __init__(self, folder: Path, repository: str = "owner/tiny") -> None:
        self.folder = folder
        self.repository = repository
        self.requests: list[tuple[str, str, str | None]] = []
        self.cut_after: int | None = None
        self.gated = False
        self.address = ""

    def files(self) -> list[dict[str, Any]]:
        files = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        return [{"rfilename": p.relative_to(self.folder).as_posix(), "size": p.stat().st_size} for p in files]

    def info(self) -> dict[str, Any]:
        return {
            "id": self.repository,
            "modelId": self.repository,
            "sha": COMMIT,
            "private": False,
            "siblings": self.files(),
            "tags": [],
            "downloads": 0,
            "cardData": {"license": "apache-2.0"},
        }


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, *, with_body: bool) -> None:
            hub.requests.append((self.command, self.path, self.headers.get("Range")))
            path = self.path.partition("?")[0]
            if hub.gated and self.headers.get("Authorization") != "Bearer hf_right":
                self.send(401, b"{}", {"X-Error-Code": "GatedRepo"}, with_body)
            elif path.startswith(f"/api/models/{hub.repository}"):
                rest = path.removeprefix(f"/api/models/{hub.repository}")
                if rest.startswith(f"/tree/{COMMIT}"):
                    files = [
                        {"type": "file", "path": s["rfilename"], "oid": "0", "size": s["size"]} for s in hub.files()
                    ]
                    self.send(200, json.dumps(files).encode(), {"Content-Type": "application/json"}, with_body)
                    return
                if rest not in ("", "/revision/main", f"/revision/{COMMIT}"):
                    self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, with_body)
                    return
                self.send(200, json.dumps(hub.info()).encode(), {"Content-Type": "application/json"}, with_body)
            elif path.startswith(f"/{hub.repository}/resolve/"):
                file = hub.folder / path.split("/", 5)[5]
                if file.is_file():
                    self.send_file(file, with_body)
                else:
                    self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, with_body)
            else:
                self.send(401, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body)

        def send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def send_file(self, file: Path, with_body: bool) -> None:
            data = file.read_bytes()
            headers = {
                "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                "X-Repo-Commit": COMMIT,
                "Accept-Ranges": "bytes",
            }
            wanted = self.headers.get("Range")
            if wanted is not None and with_body:
                first = int(wanted.removeprefix("bytes=").split("-")[0])
                headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
                self.send(206, data[first:], headers, with_body)
            elif with_body and hub.cut_after is not None and file.suffix == ".safetensors":
                self.send_response(200)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data[: hub.cut_after])
                self.wfile.flush()
                self.close_connection = True
            else:
                self.send(200, data, headers, with_body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
