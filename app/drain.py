"""Stopping without loss: a door that closes for new requests, and a count of those still inside."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from ..scheduler.request import Request
from .client import EngineClient, OutputStream
from .errors import RequestError
from .sse import DIRECT_SEND

_RETRY_AFTER_S = 5


class DoorClient:
    """An EngineClient that refuses new requests with 503 once it is closed; those that run go on."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._closed = False

    def submit(self, request: Request) -> OutputStream:
        """See EngineClient."""
        if self._closed:
            raise RequestError(
                self.complaint() or "",
                code="server_draining",
                status=503,
                type="server_error",
                retry_after_s=_RETRY_AFTER_S,
                refusal="draining",
            )
        return self._client.submit(request)

    def close(self) -> None:
        """Take nothing new from now on."""
        self._closed = True

    def complaint(self) -> str | None:
        """Why no new request is taken; None while they are."""
        return "The server is shutting down and takes no new requests." if self._closed else None


class OpenRequests:
    """An ASGI application around `app` that knows how many HTTP requests it has not finished.

    As the outermost it also leaves the server's own `send` in the scope's extensions; see sse.py.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._num_open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI side."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._num_open += 1
        self._idle.clear()
        scope.setdefault("extensions", {})[DIRECT_SEND] = send
        try:
            await self._app(scope, receive, send)
        finally:
            self._num_open -= 1
            if self._num_open == 0:
                self._idle.set()

    @property
    def num_open(self) -> int:
        """Requests whose response has not ended."""
        return self._num_open

    async def idle(self, timeout_s: float | None) -> bool:
        """Wait until none is open, at most `timeout_s` (None: as long as it takes); whether none is."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True
