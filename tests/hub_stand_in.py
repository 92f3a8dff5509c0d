"""A stand-in for the hub's HTTP API, as much of it as a download uses, that can misbehave on request."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

_COMMIT = "0123456789abcdef0123456789abcdef01234567"
_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_INFO = re.compile(rf"^/api/models/{_REPO}(/revision/(?P<revision>[^/]+))?$")
_TREE = re.compile(rf"^/api/models/{_REPO}/tree/(?P<revision>[^/]+)$")
_FILE = re.compile(rf"^/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)$")


@dataclass
class HubStandIn:
    """Repositories by name and what the server does to requests.

    gated, broken: names of repositories that answer 403 and 500.   token: what those in `private` need.
    cut_after: bytes of a file after which the connection is closed.
    """

    repos: dict[str, dict[str, bytes]]
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    token: str = "a-token"
    cut_after: int | None = None
    requests: list[str] = field(default_factory=list)
    url: str = ""

    @contextmanager
    def running(self) -> Iterator[HubStandIn]:
        """Serve in threads until the block ends."""
        hub = self

        class Handler(_Handler):
            state = hub

        server = ThreadingHTTPServer(("localhost", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        self.url = f"http://localhost:{server.server_address[1]}"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def downloaded(self) -> set[str]:
        """Paths of the files whose contents were asked for."""
        return {
            match["path"]
            for line in self.requests
            if (match := re.match(r"^GET .*/resolve/[^/]+/(?P<path>.+)$", line))
        }


class _Handler(BaseHTTPRequestHandler):
    state: HubStandIn
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.state.requests.append(f"{self.command} {path}")
        match = _INFO.match(path) or _TREE.match(path) or _FILE.match(path)
        if match is None:
            return self.refuse(404, "EntryNotFound")
        repo = match["repo"]
        authorized = self.headers.get("authorization") == f"Bearer {self.state.token}"
        if repo not in self.state.repos or (repo in self.state.private and not authorized):
            return self.refuse(401, "RepoNotFound")
        if repo in self.state.broken:
            return self.refuse(500, "")
        if (match["revision"] or "main") not in ("main", _COMMIT):
            return self.refuse(404, "RevisionNotFound")
        files = self.state.repos[repo]
        if match.re is _INFO:
            siblings = [{"rfilename": name} for name in files]
            return self.json({"id": repo, "sha": _COMMIT, "siblings": siblings})
        if match.re is _TREE:
            return self.json([self.entry(name, content) for name, content in files.items()])
        if repo in self.state.gated:
            return self.refuse(403, "GatedRepo")
        if match["path"] not in files:
            return self.refuse(404, "EntryNotFound")
        return self.file(files[match["path"]], with_body=with_body)

    def entry(self, name: str, content: bytes) -> dict[str, Any]:
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def file(self, content: bytes, *, with_body: bool) -> None:
        start = 0
        if asked := re.match(r"^bytes=(\d+)-", self.headers.get("range") or ""):
            start = int(asked[1])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", _COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if not with_body:
            return
        cut = self.state.cut_after
        if cut is not None and start + cut < len(content):
            self.wfile.write(content[start : start + cut])
            self.close_connection = True
            return
        self.wfile.write(content[start:])

    def json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""
