"""A small HTTP server that behaves as the Hub does, with the faults of real networks on demand.

Listing, redirect to storage on another host, ranges, gated and missing repositories, and their
headers, as huggingface.co sends them.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Repository:
    """Files by path. `corrupt`: what is sent instead; `gated`: 401 or 403 for the files.

    `header`: what the Hub has read of the GGUF, `{total, architecture, context_length}`.
    """

    files: dict[str, bytes]
    gated: int = 0
    license: str | None = "mit"
    downloads: int = 1
    header: dict[str, object] | None = None
    corrupt: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Seen:
    """A request: `range` is where it starts, None without a Range header."""

    method: str
    path: str
    range: int | None
    authorization: str | None


class FakeHub:
    """The server. Set its fields to make trouble.

    drops
        Of each coming transfer: bytes after which the connection is cut; None lets it pass.
        The last one stays in force.
    ranges
        Whether Range headers are honoured.
    release
        Transfers stop in their middle until this is set.
    listing
        Status and body that searches are answered with instead.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.plain: dict[str, bytes] = {}
        self.seen: list[Seen] = []
        self.drops: list[int | None] = [None]
        self.ranges = True
        self.etags = True
        self.status: list[int] = []
        self.listing: tuple[int, bytes] | None = None
        self.release = threading.Event()
        self.release.set()
        self.started = threading.Event()
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def storage(self) -> str:
        """Another host than the Hub's, as in reality."""
        return f"http://localhost:{self.port}"

    def transfers(self) -> list[Seen]:
        """The requests for the bytes of files."""
        return [one for one in self.seen if one.path.startswith(("/storage/", "/plain/"))]


class _Handler(BaseHTTPRequestHandler):
    server_hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.server_hub
        path = unquote(urlsplit(self.path).path)
        start = self.headers.get("Range")
        begin = int(start.removeprefix("bytes=").partition("-")[0]) if start else None
        hub.seen.append(Seen(self.command, path, begin, self.headers.get("Authorization")))
        parts = path.strip("/").split("/")
        if parts[0] == "api":
            if parts == ["api", "models"]:
                self._search()
            else:
                self._listing("/".join(parts[2:4]))
        elif parts[0] == "plain":
            self._send_file(hub.plain.get(parts[-1]), begin)
        elif parts[0] == "storage":
            self._send_file(self._stored("/".join(parts[1:3]), "/".join(parts[3:])), begin)
        else:
            self._resolve("/".join(parts[:2]), "/".join(parts[4:]))

    def _search(self) -> None:
        """Repositories whose names have the words, as `/api/models` finds them."""
        hub = self.server_hub
        if hub.listing is not None:
            status, body = hub.listing
            self._send(status, body, {"Content-Type": "text/html"})
            return
        asked = parse_qs(urlsplit(self.path).query)
        words = asked.get("search", [""])[0].lower().split()
        found = [
            {
                "_id": name,
                "id": name,
                "modelId": name,
                "downloads": one.downloads,
                "likes": 3,
                "lastModified": "2026-02-03T04:05:06.000Z",
                "gated": "manual" if one.gated else False,
                **({"gguf": one.header} if one.header else {}),
            }
            for name, one in hub.repositories.items()
            if all(word in name.lower() for word in words)
            and any(path.endswith(".gguf") for path in one.files)
        ]
        found.sort(key=lambda row: -hub.repositories[str(row["id"])].downloads)
        body = json.dumps(found[: int(asked["limit"][0])]).encode()
        self._send(200, body, {"Content-Type": "application/json"})

    def _listing(self, name: str) -> None:
        repository = self.server_hub.repositories.get(name)
        if repository is None:
            # The Hub does not tell a stranger whether a repository is private or missing.
            self._error(401, "RepoNotFound", "Invalid username or password.")
            return
        siblings = [
            {
                "rfilename": path,
                "size": len(data),
                "blobId": hashlib.sha1(data).hexdigest(),
                "lfs": {
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "size": len(data),
                    "pointerSize": 130,
                },
            }
            for path, data in repository.files.items()
        ]
        body = {
            "_id": "1",
            "id": name,
            "sha": COMMIT,
            "private": False,
            "gated": "manual" if repository.gated else False,
            "siblings": siblings,
            "tags": [],
            "downloads": repository.downloads,
            "cardData": {"license": repository.license} if repository.license else None,
        }
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _resolve(self, name: str, path: str) -> None:
        repository = self.server_hub.repositories.get(name)
        if repository is None or path not in repository.files:
            self._error(404, "EntryNotFound", "Entry not found")
        elif repository.gated:
            self._error(repository.gated, "GatedRepo", f"Access to model {name} is restricted.")
        else:
            digest = hashlib.sha256(repository.files[path]).hexdigest()
            target = f"{self.server_hub.storage}/storage/{name}/{path}"
            headers = {"Location": target, "X-Linked-Etag": f'"{digest}"', "X-Repo-Commit": COMMIT}
            self._send(302, b"", headers)

    def _stored(self, name: str, path: str) -> bytes | None:
        repository = self.server_hub.repositories[name]
        return repository.corrupt.get(path, repository.files.get(path))

    def _send_file(self, data: bytes | None, begin: int | None) -> None:
        hub = self.server_hub
        if hub.status:
            self._send(hub.status.pop(0), b"trouble", {})
            return
        if data is None:
            self._send(404, b"no such file", {})
            return
        etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        headers = {"ETag": etag} if hub.etags else {}
        matches = self.headers.get("If-Range") in {None, etag}
        if begin is not None and hub.ranges and matches:
            if begin >= len(data):
                self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
            self._stream(206, data[begin:], headers)
        else:
            self._stream(200, data, headers)

    def _stream(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        hub = self.server_hub
        drop = hub.drops.pop(0) if len(hub.drops) > 1 else hub.drops[0]
        self._head(status, len(data), headers)
        hub.started.set()
        half = len(data) // 2
        self.wfile.write(data[:half] if drop is None else data[:drop])
        self.wfile.flush()
        if drop is not None:
            self.close_connection = True
            return
        hub.release.wait(60)
        self.wfile.write(data[half:])

    def _error(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._head(status, len(body), headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, one in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, one)
        self.end_headers()
