"""Stream chunks as bytes; what is constant in a request is encoded once. Knows no sockets and no engine.

    data: {"id":...,"model":...,"choices":[{"index":0, "delta":{"content": TEXT } ,"logprobs":null,...}],...}
    `---------------- head, per choice ------------------------------------'      `--- tail, per request ---'

Every chunk of a stream has the same keys. If the client asked for usage, `usage` is one: null on all but the
last chunk, or a running count on each. `token_ids` of a choice is another, and what is told of its prompt,
null on all but its first chunk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from msgspec.json import encode

DONE = b"data: [DONE]\n\n"
_NO_REASON = b',"finish_reason":null,"stop_reason":null'


class ChunkShape(NamedTuple):
    """How one route writes the text of a choice, as pieces of JSON.

    opening: a choice's first chunk, empty if the route has none.   closing: the chunk that says why it ended.
    prompt_in_choice: whether what is told of a prompt is in its choice, or beside the choices.
    """

    object: str
    opening: bytes
    before_text: bytes
    after_text: bytes
    closing: bytes
    prompt_in_choice: bool


CHAT_CHUNK = ChunkShape(
    object="chat.completion.chunk",
    opening=b'"delta":{"role":"assistant","content":""}',
    before_text=b'"delta":{"content":',
    after_text=b"}",
    closing=b'"delta":{}',
    prompt_in_choice=False,
)
COMPLETION_CHUNK = ChunkShape(
    object="text_completion",
    opening=b"",
    before_text=b'"text":',
    after_text=b"",
    closing=b'"text":""',
    prompt_in_choice=True,
)


class ChunkEncoder:
    """Frames of one stream.

    common: the keys that every chunk begins with; `object` is replaced by the chunk's.
    with_usage, with_ids: whether chunks have the key `usage`, and their choices `token_ids`.
    prompt_keys: what is told of prompts.
    """

    def __init__(
        self,
        shape: ChunkShape,
        common: Mapping[str, Any],
        *,
        with_usage: bool,
        with_ids: bool = False,
        prompt_keys: Sequence[str] = (),
    ) -> None:
        self._shape = shape
        self._with_ids = with_ids
        keys = encode({**common, "object": shape.object})
        self._head = b"data: " + keys[:-1] + b',"choices":['
        self._no_prompt = _members(dict.fromkeys(prompt_keys))
        self._null_usage = b',"usage":null' if with_usage else b""
        self._plain_end = b"]" + self._null_usage + self._beside(None) + b"}\n\n"
        self._plain_tail = shape.after_text + b',"logprobs":null' + _NO_REASON + self._choice_end(())
        self._text_heads: dict[int, bytes] = {}

    def opening(
        self,
        index: int,
        usage: Mapping[str, Any] | None = None,
        prompt: Mapping[str, Any] | None = None,
    ) -> bytes:
        """The chunk that opens a choice; empty if this route has none, and nothing is told of the prompt."""
        if not self._shape.opening and not prompt:
            return b""
        return (
            self._choice_head(index)
            + (self._shape.opening or self._shape.closing)
            + b',"logprobs":null'
            + _NO_REASON
            + self._choice_end((), prompt)
            + self._end(usage, prompt)
        )

    def text(
        self,
        index: int,
        text: str,
        logprobs: Any = None,
        usage: Mapping[str, Any] | None = None,
        token_ids: Sequence[int] = (),
    ) -> bytes:
        """The chunk that carries `text`."""
        head = self._text_heads.get(index)
        if head is None:
            head = self._text_heads[index] = self._choice_head(index) + self._shape.before_text
        if logprobs is None and not self._with_ids:
            return head + encode(text) + self._plain_tail + self._end(usage)
        tail = self._shape.after_text + b',"logprobs":' + encode(logprobs) + _NO_REASON
        return head + encode(text) + tail + self._choice_end(token_ids) + self._end(usage)

    def part(
        self,
        index: int,
        delta: bytes,
        logprobs: Any = None,
        usage: Mapping[str, Any] | None = None,
        token_ids: Sequence[int] = (),
    ) -> bytes:
        """The chunk of a chat that carries `delta`, a JSON object."""
        members = b'"delta":' + delta + b',"logprobs":' + encode(logprobs)
        return (
            self._choice_head(index) + members + _NO_REASON + self._choice_end(token_ids) + self._end(usage)
        )

    def closing(
        self,
        index: int,
        finish_reason: str,
        stop_reason: str | int | None,
        usage: Mapping[str, Any] | None = None,
    ) -> bytes:
        """The chunk without text that says why a choice ended."""
        reasons = b',"logprobs":null,"finish_reason":%b,"stop_reason":%b' % (
            encode(finish_reason),
            encode(stop_reason),
        )
        return (
            self._choice_head(index) + self._shape.closing + reasons + self._choice_end(()) + self._end(usage)
        )

    def usage(self, usage: Mapping[str, Any]) -> bytes:
        """The chunk without choices that closes a stream with usage."""
        return self._head + self._end(usage)

    def _choice_head(self, index: int) -> bytes:
        return self._head + b'{"index":%d,' % index

    def _choice_end(self, token_ids: Sequence[int], prompt: Mapping[str, Any] | None = None) -> bytes:
        ids = b',"token_ids":' + encode(token_ids) if self._with_ids else b""
        told = (_members(prompt) if prompt else self._no_prompt) if self._shape.prompt_in_choice else b""
        return ids + told + b"}"

    def _beside(self, prompt: Mapping[str, Any] | None) -> bytes:
        if self._shape.prompt_in_choice:
            return b""
        return _members(prompt) if prompt else self._no_prompt

    def _end(self, usage: Mapping[str, Any] | None, prompt: Mapping[str, Any] | None = None) -> bytes:
        if usage is None and not prompt:
            return self._plain_end
        counted = self._null_usage if usage is None else b',"usage":' + encode(usage)
        return b"]" + counted + self._beside(prompt) + b"}\n\n"


def _members(values: Mapping[str, Any]) -> bytes:
    """`values` as further members of an object."""
    return b"," + encode(values)[1:-1] if values else b""


def error_frame(body: Mapping[str, Any]) -> bytes:
    """An error in the middle of a stream; `DONE` still follows."""
    return b"data: " + encode(body) + b"\n\n"
