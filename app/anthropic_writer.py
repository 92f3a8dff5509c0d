"""What /v1/messages answers: the message object, whole, and the events that build it up. Knows no HTTP.

message_start, content_block_start, content_block_delta ..., content_block_stop, message_delta, message_stop
or, where it failed, error
"""

from __future__ import annotations

from typing import Any

from msgspec.json import encode

from .anthropic_error import anthropic_error
from .errors import RequestError
from .event_answer import AnswerHead, Counts, Ending, event_frame

MESSAGE_PREFIX = "msg_"
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens"}
_DELTA_HEAD = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":'
)


class AnthropicWriter:
    """Implements EventWriter for one message."""

    def __init__(self, head: AnswerHead, model: str) -> None:
        self._request_id = head.request_id
        self._model = model

    def whole(self, text: str, logprobs: list[Any], ending: Ending) -> dict[str, Any]:
        """The message object."""
        message = self._message([{"type": "text", "text": text, "citations": None}], ending.counts)
        return {**message, **_stop(ending), "usage": _final_usage(ending)}

    def opening(self, counts: Counts) -> bytes:
        """The message without content, and its one block without text."""
        block = {"type": "text", "text": "", "citations": None}
        return (
            event_frame({"type": "message_start", "message": self._message([], counts)})
            + event_frame({"type": "content_block_start", "index": 0, "content_block": block})
            + event_frame({"type": "ping"})
        )

    def text(self, text: str, logprobs: list[Any]) -> bytes:
        """The next words."""
        return _DELTA_HEAD + encode(text) + b"}}\n\n" if text else b""

    def closing(self, ending: Ending) -> bytes:
        """Why it ended, and what it took in all."""
        return (
            event_frame({"type": "content_block_stop", "index": 0})
            + event_frame({"type": "message_delta", "delta": _stop(ending), "usage": _final_usage(ending)})
            + event_frame({"type": "message_stop"})
        )

    def failure(self, error: RequestError) -> bytes:
        """The end of a message that failed while it was streamed."""
        return event_frame(anthropic_error(error, self._request_id))

    def _message(self, content: list[dict[str, Any]], counts: Counts) -> dict[str, Any]:
        return {
            "id": f"{MESSAGE_PREFIX}{self._request_id}",
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(counts),
        }


def _stop(ending: Ending) -> dict[str, Any]:
    # A stop token is an end that the model has chosen; only a text is a sequence to report.
    sequence = ending.stop_reason if isinstance(ending.stop_reason, str) else None
    reason = _STOP_REASONS.get(ending.finish_reason, ending.finish_reason)
    return {"stop_reason": reason if sequence is None else "stop_sequence", "stop_sequence": sequence}


def _final_usage(ending: Ending) -> dict[str, Any]:
    return {**_usage(ending.counts), "timings": ending.times}


def _usage(counts: Counts) -> dict[str, Any]:
    """Anthropic counts what came from the cache beside the input, not within it."""
    return {
        "input_tokens": counts.prompt - counts.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counts.cached,
        "output_tokens": counts.completion,
    }
