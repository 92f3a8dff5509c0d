"""The prefix under which a proxy offers the server, taken off unless the proxy has done so already.

Knows no routes.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class RootPath:
    """An ASGI application around `app`, which sees paths without the prefix. root_path: as in `/llm`."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root_path = root_path
        self._raw = root_path.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI side."""
        if scope["type"] == "http":
            path: str = scope["path"]
            if path == self._root_path or path.startswith(f"{self._root_path}/"):
                raw: bytes = scope["raw_path"]
                shorter = raw[len(self._raw) :] if raw.startswith(self._raw) else raw
                scope = {**scope, "path": path[len(self._root_path) :] or "/", "raw_path": shorter or b"/"}
        await self._app(scope, receive, send)
