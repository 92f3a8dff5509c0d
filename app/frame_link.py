"""A connected socket that carries frames, both ways, in an event loop. Knows no frame's meaning.

What the other end leaves unread is bounded in bytes and in time; beyond either the link is cut.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import cast

from .frames import FrameSplitter, ProtocolError

log = logging.getLogger(__name__)

_HIGH_WATER_BYTES = 256 << 10
MAX_BUFFERED_BYTES = 64 << 20
MAX_STALLED_S = 10.0


class FrameLink(asyncio.Protocol):
    """One end.

    receive: called with (kind, payload) of each frame; the payload is valid during the call only.
    lost: called once, with the cause, when no frame can come or go any more.   was_cut: by this end.
    max_buffered_bytes, max_stalled_s: how much may wait for the other end to read, and how long.
    """

    def __init__(
        self,
        receive: Callable[[int, memoryview], None],
        lost: Callable[[str], None],
        *,
        max_buffered_bytes: int = MAX_BUFFERED_BYTES,
        max_stalled_s: float = MAX_STALLED_S,
    ) -> None:
        self._receive = receive
        self._lost = lost
        self._max_buffered_bytes = max_buffered_bytes
        self._max_stalled_s = max_stalled_s
        self._splitter = FrameSplitter()
        self._transport: asyncio.Transport | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._cause = "its connection was closed"
        self.was_cut = False

    async def attach(self, end: socket.socket) -> None:
        """Carry frames over `end`, a connected socket that is the link's from now on."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=end)

    def send(self, data: bytes) -> None:
        """Queue a whole frame; nothing happens once the link is lost."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if transport.get_write_buffer_size() > self._max_buffered_bytes:
            self.cut(f"it left more than {self._max_buffered_bytes} bytes unread")
            return
        transport.write(data)

    def cut(self, cause: str) -> None:
        """Close at once, dropping what is queued."""
        if self._transport is not None and not self._transport.is_closing():
            self._cause = cause
            self.was_cut = True
            self._transport.abort()

    # The asyncio side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Frames can come and go."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(_HIGH_WATER_BYTES)

    def data_received(self, data: bytes) -> None:
        """Hand on the frames that are complete."""
        try:
            for kind, payload in self._splitter.feed(data):
                self._receive(kind, payload)
        except ProtocolError as error:
            self.cut(str(error))

    def pause_writing(self) -> None:
        """The other end has stopped reading; give it a while."""
        loop = asyncio.get_running_loop()
        self._stall = loop.call_later(
            self._max_stalled_s, self.cut, f"it has read nothing for {self._max_stalled_s:g} s"
        )

    def resume_writing(self) -> None:
        """It reads again."""
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self.resume_writing()
        self._lost(self._cause if exc is None else f"{type(exc).__name__}: {exc}")
