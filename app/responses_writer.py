"""What /v1/responses answers: the response object, whole, and the events that build it up. Knows no HTTP.

response.created, response.in_progress
response.output_item.added, response.content_part.added
response.output_text.delta ...
response.output_text.done, response.content_part.done, response.output_item.done
response.completed, or response.incomplete, or response.failed
"""

from __future__ import annotations

import time
from typing import Any

from msgspec.json import encode

from ..model.sampling_params import SamplingParams
from .errors import RequestError
from .event_answer import AnswerHead, Counts, Ending, event_frame
from .protocol_responses import ResponsesRequest, TextFormat

RESPONSE_PREFIX = "resp_"
_INCOMPLETE = {"length": "max_output_tokens"}


class ResponsesWriter:
    """Implements EventWriter for one response."""

    def __init__(
        self, head: AnswerHead, model: str, request: ResponsesRequest, params: SamplingParams
    ) -> None:
        self._response_id = f"{RESPONSE_PREFIX}{head.request_id}"
        self._item_id = f"msg_{head.request_id}"
        self._created_s = head.created_s
        self._model = model
        self._request = request
        self._params = params
        text = request.text
        self._format = {"type": "text"} if text is None or text.format is None else _shown(text.format)
        self._num_events = 0
        self._texts: list[str] = []
        self._logprobs: list[Any] = []
        place = encode({"item_id": self._item_id, "output_index": 0, "content_index": 0})
        self._delta_head = (
            b"event: response.output_text.delta\n"
            b'data: {"type":"response.output_text.delta",%b,"delta":' % place[1:-1]
        )

    def whole(self, text: str, logprobs: list[Any], ending: Ending) -> dict[str, Any]:
        """The response object."""
        return self._ended(text, logprobs, ending)

    def opening(self, counts: Counts) -> bytes:
        """The response, its one item and the item's one part, all without text."""
        response = self._response("in_progress")
        item = self._item("in_progress", [])
        return (
            self._event("response.created", response=response)
            + self._event("response.in_progress", response=response)
            + self._event("response.output_item.added", output_index=0, item=item)
            + self._event("response.content_part.added", **self._place(), part=_part("", []))
        )

    def text(self, text: str, logprobs: list[Any]) -> bytes:
        """The next words."""
        self._texts.append(text)
        self._logprobs += logprobs
        tail = b',"logprobs":%b,"sequence_number":%d}\n\n' % (encode(logprobs), self._next_number())
        return self._delta_head + encode(text) + tail

    def closing(self, ending: Ending) -> bytes:
        """Part, item and response, each whole."""
        text = "".join(self._texts)
        response = self._ended(text, self._logprobs, ending)
        (item,) = response["output"]
        return (
            self._event("response.output_text.done", **self._place(), text=text, logprobs=self._logprobs)
            + self._event("response.content_part.done", **self._place(), part=item["content"][0])
            + self._event("response.output_item.done", output_index=0, item=item)
            + self._event(f"response.{response['status']}", response=response)
        )

    def failure(self, error: RequestError) -> bytes:
        """The end of a response that failed while it was streamed."""
        response = self._response("failed")
        # OpenAI's list of codes is closed, and clients check it.
        response["error"] = {"code": "server_error", "message": error.message}
        return self._event("response.failed", response=response)

    def _ended(self, text: str, logprobs: list[Any], ending: Ending) -> dict[str, Any]:
        reason = _INCOMPLETE.get(ending.finish_reason)
        status = "completed" if reason is None else "incomplete"
        response = self._response(status)
        if reason is None:
            response["completed_at"] = int(time.time())
        else:
            response["incomplete_details"] = {"reason": reason}
        response["output"] = [self._item(status, [_part(text, logprobs)])]
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
            "reasoning": {"effort": None, "summary": None},
            "safety_identifier": request.safety_identifier,
            "service_tier": "default",
            "store": False,
            "temperature": params.temperature,
            "text": {"format": self._format},
            "tool_choice": "auto",
            "tools": [],
            "top_logprobs": request.top_logprobs or 0,
            "top_p": params.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": request.user,
        }

    def _item(self, status: str, content: list[Any]) -> dict[str, Any]:
        return {
            "id": self._item_id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    def _event(self, name: str, **fields: Any) -> bytes:
        return event_frame({"type": name, **fields, "sequence_number": self._next_number()})

    def _next_number(self) -> int:
        self._num_events += 1
        return self._num_events - 1


def _shown(form: TextFormat) -> dict[str, Any]:
    if form.type != "json_schema":
        return {"type": form.type}
    return {name: getattr(form, name) for name in TextFormat.__struct_fields__}


def _part(text: str, logprobs: list[Any]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _usage(counts: Counts) -> dict[str, Any]:
    return {
        "input_tokens": counts.prompt,
        "input_tokens_details": {"cached_tokens": counts.cached},
        "output_tokens": counts.completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counts.prompt + counts.completion,
    }
