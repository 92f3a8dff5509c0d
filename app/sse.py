"""A Server-Sent Events response that costs little per event. Knows bytes, not what they say.

Its headers are sse-starlette's, sending is its own. A keep-alive comment is sent only after silence, so a
flowing stream has none. A stream ends when its content does or the client goes; sse-starlette also cuts
streams when uvicorn begins to stop, which would defeat draining.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

from sse_starlette import EventSourceResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from .direct_writer import DirectWriter, direct_writer
from .disconnect import unless_disconnected

KEEP_ALIVE = b": keep-alive\n\n"
DIRECT_SEND = "octavo.direct_send"
"""ASGI extension: the server's own `send`. Middleware has nothing to add to the parts of a body."""


class EventStream(EventSourceResponse):
    """Sends the frames of `content`; closes it, then calls `on_close` once, however the response ends.

    content: whole frames, each `data: ...\\n\\n`, any number at a time.
    keep_alive_s: silence after which a comment is sent.
    on_direct: called after the first frames if the connection can be written to past `send`. Writing there is
    in order as long as `content` is waiting for more.
    """

    def __init__(
        self,
        content: AsyncGenerator[bytes],
        *,
        on_close: Callable[[], None],
        headers: Mapping[str, str],
        keep_alive_s: float,
        on_direct: Callable[[DirectWriter], None] = lambda writer: None,
    ) -> None:
        super().__init__(content, headers=headers)
        self._content = content
        self._on_close = on_close
        self._keep_alive_s = keep_alive_s
        self._last_sent_s = 0.0
        self._on_direct = on_direct
        self._writer: DirectWriter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI side."""
        send_body = scope.get("extensions", {}).get(DIRECT_SEND, send)

        async def keep_alive() -> None:
            if self._writer is not None and self._writer.has_written:
                self._writer.has_written = False
                self._last_sent_s = time.monotonic()
            if time.monotonic() - self._last_sent_s >= self._keep_alive_s:
                await self._send(send_body, KEEP_ALIVE)

        try:
            await unless_disconnected(
                receive, self._send_all(send, send_body), every_s=self._keep_alive_s, meanwhile=keep_alive
            )
        except ClientDisconnect:
            return  # Nobody is left to be told.
        finally:
            self._on_close()

    async def _send_all(self, send: Send, send_body: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        asked = False
        async with aclosing(self._content) as content:
            async for frames in content:
                await self._send(send_body, frames)
                if not asked:
                    asked, self._writer = True, direct_writer(send_body)
                    if self._writer is not None:
                        self._on_direct(self._writer)
        await send_body({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, body: bytes) -> None:
        self._last_sent_s = time.monotonic()
        await send({"type": "http.response.body", "body": body, "more_body": True})
