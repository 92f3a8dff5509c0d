"""One HTTP/1.1 connection that notes what arrives and when. Knows where a response ends, and no more of it.

While the clock runs a read costs two appends and a look at its end; everything else is answer.py's affair,
after the run. So the client is cheap, and its own work does not delay what it measures.
"""

from __future__ import annotations

import asyncio
import re
from time import monotonic
from typing import NamedTuple, cast

_CHUNKS_END = b"\r\n0\r\n\r\n"
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_CHUNKED = re.compile(rb"(?i)\r\ntransfer-encoding: *chunked")
_UNTIL_CLOSED = 1 << 62


class Recording(NamedTuple):
    """A response as it came: reads[i] at times[i].   end: complete, closed, cut (by us), timeout."""

    reads: list[bytes]
    times: list[float]
    end: str


class Connection(asyncio.Protocol):
    """Sends a request at a time and records the response."""

    def __init__(self) -> None:
        self.usable = False
        self._transport: asyncio.Transport | None = None
        self._over: asyncio.Future[str] | None = None
        self._reads: list[bytes] = []
        self._times: list[float] = []
        self._cut_after: int | None = None
        self._in_head = True
        self._left: int | None = None  # bytes of the body to come; None if it ends with an empty chunk

    async def exchange(self, request: bytes, cut_after: int | None, timeout_s: float) -> Recording:
        """Send `request`, wait for the end of its response."""
        assert self._transport is not None and self._over is None, "one exchange at a time, when connected"
        self._reads, self._times = [], []
        self._in_head, self._left = True, None
        self._cut_after = cut_after
        self._over = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            async with asyncio.timeout(timeout_s):
                end = await self._over
        except TimeoutError:
            self.abort()
            end = "timeout"
        finally:
            self._over = None
        return Recording(self._reads, self._times, end)

    def abort(self) -> None:
        """Hang up at once."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.usable = True

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        self._finish("complete" if self._left == _UNTIL_CLOSED and error is None else "closed")

    def data_received(self, data: bytes) -> None:
        self._times.append(monotonic())
        self._reads.append(data)
        if self._in_head:
            self._read_head()
        elif self._left is None:
            # A last read of seven bytes and more holds the whole end mark.
            if data.endswith(_CHUNKS_END) or (len(data) < len(_CHUNKS_END) and self._ends_chunks()):
                self._finish("complete")
        else:
            self._take(len(data))
        if len(self._reads) == self._cut_after:
            self._finish("cut")
            self.abort()

    def _read_head(self) -> None:
        data = b"".join(self._reads)
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            return
        self._in_head = False
        if _CHUNKED.search(head):
            if (end + rest).endswith(_CHUNKS_END):
                self._finish("complete")
            return
        length = _LENGTH.search(head)
        self._left = int(length[1]) if length else _UNTIL_CLOSED
        self._take(len(rest))

    def _take(self, count: int) -> None:
        assert self._left is not None
        if self._left != _UNTIL_CLOSED:
            self._left -= count
            if self._left <= 0:
                self._finish("complete")

    def _ends_chunks(self) -> bool:
        # Reads are never empty, so the mark can be spread over as many as it has bytes.
        return b"".join(self._reads[-len(_CHUNKS_END) :]).endswith(_CHUNKS_END)

    def _finish(self, end: str) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(end)
