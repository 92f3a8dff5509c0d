"""One HTTP connection, as uvicorn reads it, with bounds on size and on how slow a client may be.

Knows no routes and no application.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import sys
import termios
from collections.abc import Callable
from http import HTTPStatus
from secrets import token_hex
from typing import Any

import httptools
from msgspec.json import encode
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .errors import EngineOverloadedError, RequestError

log = logging.getLogger(__name__)

_HEADER_OVERHEAD = len(": \r\n")
_FRAMING = (b"content-length", b"transfer-encoding")


class ReadTimer:
    """Limits how long a client may leave something half sent. Moving the deadline costs no new timer.

    too_late: called once, `limit_s` after the last `expect` or `more`, unless `done` came before.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_s: float, too_late: Callable[[], None]) -> None:
        self._loop = loop
        self._limit_s = limit_s
        self._too_late = too_late
        self._due_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def expect(self) -> None:
        """Something must arrive as a whole within the limit; a deadline that is set already stays."""
        if self._due_s is None:
            self.more()

    def more(self) -> None:
        """A part of something long has come: the limit counts from now."""
        self._due_s = self._loop.time() + self._limit_s
        if self._timer is None:
            self._timer = self._loop.call_at(self._due_s, self._look)

    def done(self) -> None:
        """Nothing is expected."""
        self._due_s = None

    def close(self) -> None:
        """The connection has gone."""
        self._due_s = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._due_s is None:
            return
        if self._loop.time() < self._due_s:
            self._timer = self._loop.call_at(self._due_s, self._look)
        else:
            self._due_s = None
            self._too_late()


class HttpConnection(HttpToolsProtocol):
    """uvicorn stops the application while 64 KiB wait to be read. A client that then reads nothing at all for
    `max_stalled_s` is cut off.

    max_header_bytes: of a request's line and headers, however they arrive; more is answered with 431.
    max_silent_s: for all headers of a request to arrive, and between parts of its body. A connection that
        has sent nothing is closed, one that has sent a part is answered with 408.
    max_connections: of the process; one more gets 503, for which a file is kept free.
    """

    def __init__(
        self,
        *,
        on_slow_reader: Callable[[], None],
        max_stalled_s: float,
        max_header_bytes: int,
        max_connections: int,
        max_silent_s: float,
        **others: Any,
    ) -> None:
        super().__init__(**others)
        self._max_header_bytes = max_header_bytes
        self._max_connections = max_connections
        self._num_header_bytes = 0  # of the request that is being read, parsed so far
        self._num_unparsed = 0  # bytes since the parser last got ahead
        self._progresses = False
        self._refused = False
        self._on_slow_reader = on_slow_reader
        self._max_stalled_s = max_stalled_s
        self._stall: asyncio.TimerHandle | None = None
        self._num_unread = 0
        self._begun = False  # whether anything has been sent
        self._max_silent_s = max_silent_s
        self._reading = ReadTimer(self.loop, max_silent_s, self._give_up_reading)
        self._fed = b""
        self._framing: list[bytes] = []  # the headers that say how long the body is
        self._bridging = False  # what is parsed is no request but _framing again

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client."""
        super().connection_made(transport)
        self._reading.expect()
        if len(self.connections) > self._max_connections:
            self._refuse(
                EngineOverloadedError(
                    f"This process serves {self._max_connections} connections, as many as its limit of open "
                    "files (ulimit -n) allows."
                )
            )

    def data_received(self, data: bytes) -> None:
        """More of a request."""
        if self._refused:
            return
        self._progresses = False
        if not self._begun:
            self._begun = True
            self._reading.done()
            self._reading.expect()
        self._fed = data
        super().data_received(data)
        self._num_unparsed = 0 if self._progresses else self._num_unparsed + len(data)
        if self._num_unparsed > self._max_header_bytes and not self._refused:
            self.send_400_response("")  # else the parser would buffer it all

    def _unsupported_upgrade_warning(self) -> None:
        """uvicorn's, while it handles HttpParserUpgrade: the client offers another protocol, as Java's does.

        It must take HTTP/1.1 for an answer (RFC 9110, 7.8). The parser has ended the request at its headers
        and taken the body for the other protocol's: a new one reads it.
        """
        upgrade = sys.exception()
        assert isinstance(upgrade, httptools.HttpParserUpgrade), "called for another reason"
        self.parser = httptools.HttpRequestParser(self)
        if self._framing:
            self._bridging = True
            self.parser.feed_data(b"POST / HTTP/1.1\r\n" + b"".join(self._framing) + b"\r\n")
            self._bridging = False
        if rest := self._fed[upgrade.args[0] :]:
            self.data_received(rest)

    def on_message_begin(self) -> None:
        """Of the parser: a request begins."""
        if self._bridging:
            return
        super().on_message_begin()
        self._framing = []
        self._reading.expect()
        self._progresses = True
        self._num_header_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Of the parser: a part of the address."""
        if not self._bridging:
            super().on_url(url)
            self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of the parser: a header, or one that trails a body."""
        if self._bridging:
            return
        super().on_header(name, value)
        self._count(len(name) + len(value) + _HEADER_OVERHEAD)
        if name.lower() in _FRAMING:
            self._framing.append(name + b": " + value + b"\r\n")

    def on_headers_complete(self) -> None:
        """Of the parser: the body follows."""
        if self._bridging:
            return
        self._progresses = True
        self._reading.more()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Of the parser: a part of the body."""
        self._progresses = True
        self._reading.more()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Of the parser: the next request may follow."""
        if self.parser.should_upgrade() and self._framing:
            return  # it may not: the body is still to come
        self._progresses = True
        self._reading.done()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP request, or has too large headers, in the shape of all errors."""
        if max(self._num_header_bytes, self._num_unparsed) > self._max_header_bytes:
            message = f"The request's line and headers must be at most {self._max_header_bytes} bytes."
            error = RequestError(message, status=431, code="request_headers_too_large")
        else:
            error = RequestError("What was sent is not a valid HTTP request.", code="invalid_http")
        self._refuse(error)

    def _refuse(self, error: RequestError) -> None:
        self._refused = True
        body = encode(error.body())
        status = HTTPStatus(error.status)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {token_hex(12)}\r\nconnection: close\r\n"
        )
        if error.retry_after_s is not None:
            head += f"retry-after: {error.retry_after_s}\r\n"
        self.transport.write(f"{head}\r\n".encode() + body)
        self.transport.close()

    def _count(self, num_bytes: int) -> None:
        """Count header bytes. Raises OverflowError, which uvicorn takes for a bad request."""
        self._progresses = True
        self._num_header_bytes += num_bytes
        if self._num_header_bytes > self._max_header_bytes:
            raise OverflowError("too many bytes of headers")

    def pause_writing(self) -> None:
        """The client has stopped reading; give it a while."""
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
        self._reading.close()
        super().connection_lost(exc)

    def _give_up_reading(self) -> None:
        if self._refused or self.transport.is_closing():
            return
        if self.flow is not None and self.flow.read_paused:
            self._reading.more()  # the server has stopped reading, not the client sending
        elif not self._begun:
            self.transport.close()
        else:
            message = f"Nothing more of the request has come for {self._max_silent_s:g} s."
            self._refuse(RequestError(message, status=408, code="request_timeout"))

    def _count_unread(self) -> int:
        """Bytes that the client has not acknowledged: those here, and those in the kernel's send buffer."""
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
