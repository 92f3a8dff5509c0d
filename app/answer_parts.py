"""One choice's text in parts: reasoning, content, tool calls; and how a chat answer shows them.

Stands between a choice's text and its chunks, only in answers that can have such parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

from msgspec.json import encode

from ..scheduler.request import FinishReason
from .reasoning import ReasoningStream
from .tool_stream import CallArguments, CallPiece, CallStart, Content, ToolStream


class Reasoning(NamedTuple):
    """What the model thinks."""

    text: str


Piece: TypeAlias = CallPiece | Reasoning


class AnswerParts:
    """Takes one choice's text apart, as it comes.

    reasoning, tools: None if the answer cannot have any.   shows_reasoning: whether it is shown or dropped.
    calls_reason: the finish reason of an answer that ends with calls.
    """

    def __init__(
        self,
        reasoning: ReasoningStream | None,
        tools: ToolStream | None,
        *,
        shows_reasoning: bool = True,
        calls_reason: str = "tool_calls",
    ) -> None:
        self._reasoning = reasoning
        self._tools = tools
        self._shows_reasoning = shows_reasoning
        self._calls_reason = calls_reason
        self._count: Callable[[bool], None] | None = None
        self._counts_pushes = False

    def count_readings(self, count: Callable[[bool], None], *, every_push: bool) -> None:
        """Have `count` told whether calls were found: in each pushed text, or at the end in all of it."""
        self._count, self._counts_pushes = count, every_push

    def push(self, text: str, *, final: bool) -> list[Piece]:
        """What `text` adds; final: no text follows."""
        thought = ""
        if self._reasoning is not None and not self._reasoning.is_over:
            thought, text = self._reasoning.push(text, final=final)
        pieces: list[Piece] = []
        if thought and self._shows_reasoning:
            pieces.append(Reasoning(thought))
        if self._tools is None:
            if text:
                pieces.append(Content(text))
            return pieces
        if text:
            pieces += self._tools.push(text)
        if final:
            pieces += self._tools.finish()
        if self._count is not None and (final or self._counts_pushes):
            self._count(any(map(_is_call, pieces)) if self._counts_pushes else self._tools.num_calls > 0)
        return pieces

    def finish_reason(self, reason: FinishReason) -> str:
        """The finish reason in the response; to be called when all text has been pushed."""
        has_called = self._tools is not None and self._tools.num_calls > 0
        return self._calls_reason if has_called and reason is FinishReason.STOP else reason.value

    def message(self, text: str, echo: str = "") -> dict[str, Any]:
        """The content, reasoning and tool_calls of a message that says `echo`, then all of `text`."""
        return _message([Content(echo), *self.push(text, final=True)], self._reasoning is not None)


PartsMaker: TypeAlias = Callable[[], AnswerParts]
"""Makes the AnswerParts of one choice."""


def delta_json(piece: Piece) -> bytes:
    """`piece` as the `delta` of a chunk."""
    match piece:
        case Content(text):
            return b'{"content":%b}' % encode(text)
        case Reasoning(text):
            return b'{"reasoning":%b}' % encode(text)
        case CallStart(number, call_id, name):
            function = b'{"name":%b,"arguments":""}' % encode(name)
            call = b'{"index":%d,"id":%b,"type":"function",' % (number, encode(call_id))
            call += b'"function":%b}' % function
            return b'{"tool_calls":[%b]}' % call
        case CallArguments(number, text):
            return b'{"tool_calls":[{"index":%d,"function":{"arguments":%b}}]}' % (number, encode(text))


def _is_call(piece: Piece) -> bool:
    return isinstance(piece, CallStart | CallArguments)


def _message(pieces: Iterable[Piece], has_reasoning: bool) -> dict[str, Any]:
    content = reasoning = ""
    calls: list[dict[str, Any]] = []
    for piece in pieces:
        match piece:
            case Content(text):
                content += text
            case Reasoning(text):
                reasoning += text
            case CallStart(_, call_id, name):
                function = {"name": name, "arguments": ""}
                calls.append({"id": call_id, "type": "function", "function": function})
            case CallArguments(number, text):
                calls[number]["function"]["arguments"] += text
    message: dict[str, Any] = {"content": content or (None if calls or reasoning else "")}
    if has_reasoning:
        message["reasoning"] = reasoning or None
    return {**message, "tool_calls": calls} if calls else message
