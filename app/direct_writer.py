"""Parts of a streamed body, written straight to the connection. Knows uvicorn's private attributes.

ASGI's `send` costs a dictionary, a coroutine and a dozen checks for each part. Once the head of a response is
sent, all that remains is a write: the part's length, the part, a line end (RFC 9112, section 7.1).
"""

from __future__ import annotations

from starlette.types import Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class DirectWriter:
    """A response whose head has been sent. has_written: set by every write, for the owner to clear."""

    __slots__ = ("_cycle", "_flow", "_transport", "has_written")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._flow = cycle.flow
        self._transport = cycle.transport
        self.has_written = False

    def ready(self) -> bool:
        """Whether a write would go out: the client reads, is there, and the response has not ended."""
        cycle = self._cycle
        return not (
            self._flow.write_paused
            or cycle.disconnected
            or cycle.response_complete
            or self._transport.is_closing()
        )

    def write(self, body: bytes) -> None:
        """Send a part of the body, not empty; only while `ready`."""
        self.has_written = True
        self._transport.write(b"%x\r\n%b\r\n" % (len(body), body))


def direct_writer(send: Send) -> DirectWriter | None:
    """A writer for the response that `send` has begun; None if the server is not the uvicorn known here.

    uvicorn promises none of this. Whatever it changes, `send` still works and is used then.
    """
    cycle = getattr(send, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle):
        return None
    try:
        begun = cycle.response_started and cycle.chunked_encoding is True and cycle.scope["method"] != "HEAD"
        writer = DirectWriter(cycle) if begun else None
        return writer if writer is not None and writer.ready() else None
    except AttributeError:
        return None
