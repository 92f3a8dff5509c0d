"""Stream chunks as bytes: what is constant in a request is encoded once. Knows nothing of sockets or engines.

    data: {"id":...,"model":...,"choices":[{"index":0, "delta":{"content": TEXT } ,"logprobs":null,...}],...}
    `---------------- head, per choice ------------------------------------'      `--- tail, per request ---'

Every chunk of a stream has the same keys. `usage` is one of them if the client asked for usage: null on all
but the last chunk, or a running count on each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec.json import encode

DONE = b"data: [DONE]\n\n"


class ChunkShape(NamedTuple):
    """How one route writes the text of a choice, as pieces of JSON.

    opening: a choice's first chunk, empty if the route has none.   closing: the one that says why it ended.
    """

    object: str
    opening: bytes
    before_text: bytes
    after_text: bytes
    closing: bytes


CHAT_CHUNK = ChunkShape(
    object="chat.completion.chunk",
    opening=b'"delta":{"role":"assistant","content":""}',
    before_text=b'"delta":{"content":',
    after_text=b"}",
    closing=b'"delta":{}',
)
COMPLETION_CHUNK = ChunkShape(
    object="text_completion", opening=b"", before_text=b'"text":', after_text=b"", closing=b'"text":""'
)


class ChunkEncoder:
    """Frames of one stream.

    common: the keys that every chunk begins with; `object` is replaced by the chunk's.
    with_usage: whether chunks have the key `usage`.
    """

    def __init__(self, shape: ChunkShape, common: Mapping[str, Any], *, with_usage: bool) -> None:
        self._shape = shape
        keys = encode({**common, "object": shape.object})
        self._head = b"data: " + keys[:-1] + b',"choices":['
        self._no_usage = b'],"usage":null}\n\n' if with_usage else b"]}\n\n"
        self._unfinished = b',"finish_reason":null,"stop_reason":null}'
        self._plain_tail = shape.after_text + b',"logprobs":null' + self._unfinished
        self._text_heads: dict[int, bytes] = {}

    def opening(self, index: int, usage: Mapping[str, int] | None = None) -> bytes:
        """The chunk that opens a choice; empty if this route has none."""
        if not self._shape.opening:
            return b""
        return (
            self._choice_head(index)
            + self._shape.opening
            + b',"logprobs":null'
            + self._unfinished
            + self._end(usage)
        )

    def text(
        self, index: int, text: str, logprobs: Any = None, usage: Mapping[str, Any] | None = None
    ) -> bytes:
        """The chunk that carries `text`."""
        head = self._text_heads.get(index)
        if head is None:
            head = self._text_heads[index] = self._choice_head(index) + self._shape.before_text
        if logprobs is None:
            return head + encode(text) + self._plain_tail + self._end(usage)
        tail = self._shape.after_text + b',"logprobs":' + encode(logprobs) + self._unfinished
        return head + encode(text) + tail + self._end(usage)

    def closing(
        self,
        index: int,
        finish_reason: str,
        stop_reason: str | int | None,
        usage: Mapping[str, Any] | None = None,
    ) -> bytes:
        """The chunk without text that says why a choice ended."""
        reasons = b',"logprobs":null,"finish_reason":%b,"stop_reason":%b}' % (
            encode(finish_reason),
            encode(stop_reason),
        )
        return self._choice_head(index) + self._shape.closing + reasons + self._end(usage)

    def usage(self, usage: Mapping[str, Any]) -> bytes:
        """The chunk without choices that closes a stream with usage."""
        return self._head + self._end(usage)

    def _choice_head(self, index: int) -> bytes:
        return self._head + b'{"index":%d,' % index

    def _end(self, usage: Mapping[str, Any] | None) -> bytes:
        return self._no_usage if usage is None else b'],"usage":' + encode(usage) + b"}\n\n"


def error_frame(body: Mapping[str, Any]) -> bytes:
    """An error in the middle of a stream; `DONE` still follows."""
    return b"data: " + encode(body) + b"\n\n"
