"""uvicorn as octavo runs it: signals are left to others, and who does not read is cut off. No routes here."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import socket
import sys
import termios
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = logging.getLogger(__name__)

BACKLOG = 8192
LAST_WRITES_S = 2
"""Time for clients to read what a cut stream still has to say."""
_KEEP_ALIVE_S = 60
_MAX_STALLED_S = 30.0


class HttpServer(uvicorn.Server):
    """Serves `app` on sockets that are bound already, until `should_exit` is set.

    on_slow_reader: called when a connection was cut since its client read nothing for `max_stalled_s`.
    """

    def __init__(
        self,
        app: ASGIApp,
        on_slow_reader: Callable[[], None],
        *,
        max_stalled_s: float = _MAX_STALLED_S,
    ) -> None:
        protocol = partial(_Protocol, on_slow_reader=on_slow_reader, max_stalled_s=max_stalled_s)
        super().__init__(
            uvicorn.Config(
                app,
                loop="none",
                http=cast(type[asyncio.Protocol], protocol),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=LAST_WRITES_S,
            )
        )
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone: signals begin a drain elsewhere, and uvicorn's stop comes after it."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell when connections are accepted."""
        await super().startup(sockets)
        self.ready.set()


class _Protocol(HttpToolsProtocol):
    """A connection. uvicorn lets nothing be produced while 64 KiB wait to be read; a client that then reads
    nothing at all for `max_stalled_s` is cut off."""

    def __init__(self, *, on_slow_reader: Callable[[], None], max_stalled_s: float, **others: Any) -> None:
        super().__init__(**others)
        self._on_slow_reader = on_slow_reader
        self._max_stalled_s = max_stalled_s
        self._stall: asyncio.TimerHandle | None = None
        self._num_unread = 0

    def pause_writing(self) -> None:
        """The client has stopped to read; give it a while."""
        super().pause_writing()
        self._num_unread = self._count_unread()
        self._stall = self.loop.call_later(self._max_stalled_s, self._check_stall)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        self._forget_stall()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self._forget_stall()
        super().connection_lost(exc)

    def _count_unread(self) -> int:
        """Bytes that the client has not acknowledged, here and in the kernel, which makes room in gulps."""
        queued = fcntl.ioctl(self.transport.get_extra_info("socket"), termios.TIOCOUTQ, bytes(4))
        return self.transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)

    def _forget_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _check_stall(self) -> None:
        num_unread = self._count_unread()
        if num_unread < self._num_unread:
            self._num_unread = num_unread
            self._stall = self.loop.call_later(self._max_stalled_s, self._check_stall)
            return
        log.info("a client has read nothing for %g s: its connection is cut", self._max_stalled_s)
        self._on_slow_reader()
        self.transport.abort()
