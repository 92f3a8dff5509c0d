"""What /v1/messages answers: the message object, whole, and the events that build it up. Knows no HTTP.

message_start, content_block_start, content_block_delta ..., content_block_stop, message_delta, message_stop
or, where it failed, error
"""

from __future__ import annotations

from typing import Any

from msgspec import DecodeError
from msgspec.json import decode

from .answer_parts import Piece, Reasoning
from .errors import RequestError
from .event_answer import AnswerHead, Counts, Ending, event_frame
from .tool_stream import CallArguments, CallStart, Content

MESSAGE_PREFIX = "msg_"
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class AnthropicWriter:
    """Implements EventWriter for one message."""

    def __init__(self, head: AnswerHead, model: str) -> None:
        self._request_id = head.request_id
        self._model = model
        self._blocks: list[_Block] = []

    def opening(self, counts: Counts) -> bytes:
        """The message without content."""
        return event_frame({"type": "message_start", "message": self._message(counts)}) + event_frame(
            {"type": "ping"}
        )

    def piece(self, piece: Piece, logprobs: list[Any]) -> bytes:
        """The piece added to the last block, or to a new one if it does not belong there."""
        frames = b""
        block = self._blocks[-1] if self._blocks else None
        if block is None or not block.takes(piece):
            frames = self._close()
            block = _Block(piece)
            self._blocks.append(block)
            event = {"type": "content_block_start", "index": self._index, "content_block": block.begun()}
            frames += event_frame(event)
        delta = block.add(piece)
        if delta is not None:
            frames += event_frame({"type": "content_block_delta", "index": self._index, "delta": delta})
        return frames

    def closing(self, ending: Ending) -> bytes:
        """The end of the last block and of the message: why it ended, and the usage."""
        frames = self._settle()
        delta = {"type": "message_delta", "delta": self._stop(ending), "usage": _final_usage(ending)}
        return frames + event_frame(delta) + event_frame({"type": "message_stop"})

    def whole(self, ending: Ending) -> dict[str, Any]:
        """The message object."""
        self._settle()
        message = self._message(ending.counts)
        return {**message, **self._stop(ending), "usage": _final_usage(ending)}

    def failure(self, error: RequestError) -> bytes:
        """The end of a message that failed while it was streamed."""
        return event_frame(error.anthropic_body(self._request_id))

    @property
    def _index(self) -> int:
        return len(self._blocks) - 1

    def _settle(self) -> bytes:
        """The end of the last block; an empty answer has one, too."""
        return (b"" if self._blocks else self.piece(Content(""), [])) + self._close()

    def _close(self) -> bytes:
        if not self._blocks:
            return b""
        return event_frame({"type": "content_block_stop", "index": self._index})

    def _message(self, counts: Counts) -> dict[str, Any]:
        return {
            "id": f"{MESSAGE_PREFIX}{self._request_id}",
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [block.shown() for block in self._blocks],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(counts),
        }

    def _stop(self, ending: Ending) -> dict[str, Any]:
        # A stop token is not reported as a sequence: it has no text.
        sequence = ending.stop_reason if isinstance(ending.stop_reason, str) else None
        reason = _STOP_REASONS.get(ending.finish_reason, ending.finish_reason)
        if sequence is not None:
            reason = "stop_sequence"
        elif reason == "end_turn" and any(block.kind is CallStart for block in self._blocks):
            reason = "tool_use"
        return {"stop_reason": reason, "stop_sequence": sequence}


class _Block:
    """One block of content: text, thinking or the use of a tool."""

    def __init__(self, piece: Piece) -> None:
        self.kind = type(piece)
        self._first = piece
        self._text = ""

    def takes(self, piece: Piece) -> bool:
        if isinstance(self._first, CallStart):
            return isinstance(piece, CallArguments) and piece.number == self._first.number
        return type(piece) is self.kind

    def begun(self) -> dict[str, Any]:
        """Without what follows in deltas."""
        match self._first:
            case CallStart(_, call_id, name):
                return {"type": "tool_use", "id": call_id, "name": name, "input": {}}
            case Reasoning(_):
                return {"type": "thinking", "thinking": "", "signature": ""}
            case _:
                return {"type": "text", "text": "", "citations": None}

    def add(self, piece: Piece) -> dict[str, Any] | None:
        """The delta; None if there is nothing to tell."""
        match piece:
            case CallArguments(_, text):
                delta = {"type": "input_json_delta", "partial_json": text}
            case Reasoning(text):
                delta = {"type": "thinking_delta", "thinking": text}
            case Content(text):
                delta = {"type": "text_delta", "text": text}
            case _:
                return None
        self._text += text
        return delta if text else None

    def shown(self) -> dict[str, Any]:
        """All of it."""
        block = self.begun()
        match block["type"]:
            case "tool_use":
                block["input"] = _object(self._text)
            case "thinking":
                block["thinking"] = self._text
            case _:
                block["text"] = self._text
        return block


def _object(text: str) -> dict[str, Any]:
    """The arguments of a call; empty if the call was cut off."""
    try:
        value = decode(text)
    except DecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _final_usage(ending: Ending) -> dict[str, Any]:
    return {**_usage(ending.counts), "timings": ending.times}


def _usage(counts: Counts) -> dict[str, Any]:
    """Anthropic does not count cached tokens as input."""
    return {
        "input_tokens": counts.prompt - counts.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counts.cached,
        "output_tokens": counts.completion,
    }
