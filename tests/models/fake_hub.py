"""A model hub on a real socket: the endpoints that huggingface-hub asks, and ways to fail."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "a" * 40
REPOSITORY = "org/small"


@dataclass
class FakeHub:
    """One repository at one commit."""

    files: dict[str, bytes]
    endpoint: str = ""
    gated: bool = False
    break_at: dict[str, int] = field(default_factory=dict)
    """Close the connection once, after so many bytes of a file."""
    silent: bool = False
    """Accept connections and answer nothing."""
    ended: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and Range of each request."""

    def fetched(self) -> set[str]:
        """Names of the files whose content was asked for."""
        return {
            path.rpartition("/resolve/")[2].partition("/")[2]
            for verb, path, _ in self.requests
            if verb == "GET" and "/resolve/" in path
        }


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Answer on a free port of the loopback until the block ends."""

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        hub.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.served.silent:
            self.close_connection = True
            self.served.ended.wait()
            return
        path = unquote(urlsplit(self.path).path)
        self.served.requests.append((self.command, path, self.headers.get("Range")))
        if REPOSITORY not in path:
            self._refuse(404, "RepoNotFound")
        elif self.served.gated:
            self._refuse(403, "GatedRepo")
        elif found := re.fullmatch(rf"/api/models/{REPOSITORY}(?:/revision/(.+))?", path):
            if found[1] in {None, "main", "v1", COMMIT}:
                self._json({"id": REPOSITORY, "sha": COMMIT, "siblings": []})
            else:
                self._refuse(404, "RevisionNotFound")
        elif path == f"/api/models/{REPOSITORY}/tree/{COMMIT}":
            self._json([self._entry(name) for name in self.served.files])
        else:
            self._file(path.removeprefix(f"/{REPOSITORY}/resolve/{COMMIT}/"))

    def _entry(self, name: str) -> dict[str, object]:
        content = self.served.files[name]
        return {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}

    def _json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self._answer(200, body, {"Content-Type": "application/json"})

    def _file(self, name: str) -> None:
        if name not in self.served.files:
            self._refuse(404, "EntryNotFound")
            return
        content = self.served.files[name]
        headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        status, first = (206, int(start[1])) if start else (200, 0)
        if start:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        broken = self.served.break_at.pop(name, None) if self.command == "GET" else None
        self._answer(status, content[first:], headers, only=broken)

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str], *, only: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[:only])
        if only is not None:
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Say nothing: the requests are kept in the hub."""


def _etag(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
