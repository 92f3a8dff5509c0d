"""What /v1/responses answers: the response object, whole, and the events that build it up. Knows no HTTP.

response.created, response.in_progress
for each item, a message, reasoning or a function call (app/responses_items.py)
    response.output_item.added, ..., response.output_item.done
response.completed, or response.incomplete, or response.failed
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from ..model.sampling_params import SamplingParams
from .answer_parts import Piece
from .errors import RequestError
from .event_answer import AnswerHead, Counts, Ending, event_frame
from .protocol_responses import ResponsesRequest, TextFormat
from .responses_items import ResponseItem, new_item
from .tool_stream import Content

RESPONSE_PREFIX = "resp_"
_INCOMPLETE = {"length": "max_output_tokens"}


class ResponsesWriter:
    """Implements EventWriter for one response."""

    def __init__(
        self, head: AnswerHead, model: str, request: ResponsesRequest, params: SamplingParams
    ) -> None:
        self._request_id = head.request_id
        self._response_id = f"{RESPONSE_PREFIX}{head.request_id}"
        self._created_s = head.created_s
        self._model = model
        self._request = request
        self._params = params
        text = request.text
        self._format = {"type": "text"} if text is None or text.format is None else _shown(text.format)
        self._num_events = 0
        self._items: list[ResponseItem] = []

    def opening(self, counts: Counts) -> bytes:
        """The response without output."""
        response = self._response("in_progress")
        return self._event({"type": "response.created", "response": response}) + self._event(
            {"type": "response.in_progress", "response": response}
        )

    def piece(self, piece: Piece, logprobs: list[Any]) -> bytes:
        """The piece added to the last item, or to a new one if it does not belong there."""
        frames = b""
        item = self._items[-1] if self._items else None
        if item is None or not item.takes(piece):
            frames = self._close("completed")
            item = new_item(piece, self._request_id, len(self._items))
            self._items.append(item)
            frames += self._events(item.opening())
        return frames + self._events(item.add(piece, logprobs))

    def closing(self, ending: Ending) -> bytes:
        """The end of the last item and of the response."""
        frames = self._settle(ending)
        response = self._ended(ending)
        return frames + self._event({"type": f"response.{response['status']}", "response": response})

    def whole(self, ending: Ending) -> dict[str, Any]:
        """The response object."""
        self._settle(ending)
        return self._ended(ending)

    def failure(self, error: RequestError) -> bytes:
        """The end of a response that failed while it was streamed."""
        response = self._response("failed")
        # OpenAI's list of codes is closed, and clients check it.
        response["error"] = {"code": "server_error", "message": error.message}
        response["output"] = [item.shown() for item in self._items]
        return self._event({"type": "response.failed", "response": response})

    def _settle(self, ending: Ending) -> bytes:
        """The end of the last item; an empty answer has one, too."""
        frames = b"" if self._items else self.piece(Content(""), [])
        return frames + self._close("incomplete" if ending.finish_reason in _INCOMPLETE else "completed")

    def _close(self, status: str) -> bytes:
        return self._events(self._items[-1].closing(status)) if self._items else b""

    def _ended(self, ending: Ending) -> dict[str, Any]:
        reason = _INCOMPLETE.get(ending.finish_reason)
        status = "completed" if reason is None else "incomplete"
        response = self._response(status)
        if reason is None:
            response["completed_at"] = int(time.time())
        else:
            response["incomplete_details"] = {"reason": reason}
        response["output"] = [item.shown() for item in self._items]
        response["usage"] = {**_usage(ending.counts), "timings": ending.times}
        return response

    def _response(self, status: str) -> dict[str, Any]:
        request, params = self._request, self._params
        return {
            "id": self._response_id,
            "object": "response",
            "created_at": self._created_s,
            "completed_at": None,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "max_tool_calls": None,
            "metadata": request.metadata or {},
            "model": self._model,
            "output": [],
            "parallel_tool_calls": request.parallel_tool_calls,
            "previous_response_id": None,
            "prompt_cache_key": request.prompt_cache_key,
            "reasoning": {
                "effort": None if request.reasoning is None else request.reasoning.effort,
                "summary": None,
            },
            "safety_identifier": request.safety_identifier,
            "service_tier": "default",
            "store": False,
            "temperature": params.temperature,
            "text": {"format": self._format},
            "tool_choice": "auto" if request.tool_choice is None else request.tool_choice,
            "tools": request.tools or [],
            "top_logprobs": request.top_logprobs or 0,
            "top_p": params.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": request.user,
        }

    def _events(self, events: Iterable[dict[str, Any]]) -> bytes:
        return b"".join(map(self._event, events))

    def _event(self, event: dict[str, Any]) -> bytes:
        event["sequence_number"] = self._num_events
        self._num_events += 1
        return event_frame(event)


def _shown(form: TextFormat) -> dict[str, Any]:
    if form.type != "json_schema":
        return {"type": form.type}
    return {name: getattr(form, name) for name in TextFormat.__struct_fields__}


def _usage(counts: Counts) -> dict[str, Any]:
    return {
        "input_tokens": counts.prompt,
        "input_tokens_details": {"cached_tokens": counts.cached},
        "output_tokens": counts.completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counts.prompt + counts.completion,
    }
