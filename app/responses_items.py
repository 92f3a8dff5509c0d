"""The output items of a response, each built from pieces of the answer, and their events.

message         output_item.added, content_part.added, output_text.delta ..., output_text.done,
                content_part.done, output_item.done
reasoning       the same with reasoning_text
function_call   output_item.added, function_call_arguments.delta ..., function_call_arguments.done,
                output_item.done
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from .answer_parts import Piece, Reasoning
from .tool_stream import CallArguments, CallStart, Content

Event = dict[str, Any]


class ResponseItem(Protocol):
    """One item under way. Events lack their sequence number."""

    def takes(self, piece: Piece) -> bool: ...

    def opening(self) -> Iterator[Event]: ...

    def add(self, piece: Piece, logprobs: list[Any]) -> Iterator[Event]: ...

    def closing(self, status: str) -> Iterator[Event]: ...

    def shown(self) -> dict[str, Any]: ...


def new_item(piece: Piece, request_id: str, index: int) -> ResponseItem:
    """The item that `piece` begins, the index-th of the output."""
    suffix = f"{request_id}_{index}" if index else request_id
    match piece:
        case CallStart(number, call_id, name):
            return _FunctionCall(f"fc_{suffix}", index, number, call_id, name)
        case Reasoning(_):
            return _Text(f"rs_{suffix}", index, Reasoning, "reasoning_text")
        case _:
            return _Text(f"msg_{suffix}", index, Content, "output_text")


class _Text:
    """A message, or reasoning."""

    def __init__(self, item_id: str, index: int, kind: type[Content] | type[Reasoning], name: str) -> None:
        self._item_id = item_id
        self._index = index
        self._kind = kind
        self._name = name
        self._status = "in_progress"
        self._text = ""
        self._logprobs: list[Any] = []

    def takes(self, piece: Piece) -> bool:
        return isinstance(piece, self._kind)

    def opening(self) -> Iterator[Event]:
        item = self._item([])
        yield {"type": "response.output_item.added", "output_index": self._index, "item": item}
        yield {"type": "response.content_part.added", **self._place(), "part": self._part()}

    def add(self, piece: Piece, logprobs: list[Any]) -> Iterator[Event]:
        assert isinstance(piece, Content | Reasoning), "see takes"
        self._text += piece.text
        self._logprobs += logprobs
        if piece.text or logprobs:
            told = {"logprobs": logprobs} if self._kind is Content else {}
            yield {"type": f"response.{self._name}.delta", **self._place(), "delta": piece.text, **told}

    def closing(self, status: str) -> Iterator[Event]:
        if self._status != "in_progress":
            return
        self._status = status
        told = {"logprobs": self._logprobs} if self._kind is Content else {}
        yield {"type": f"response.{self._name}.done", **self._place(), "text": self._text, **told}
        yield {"type": "response.content_part.done", **self._place(), "part": self._part()}
        yield {"type": "response.output_item.done", "output_index": self._index, "item": self.shown()}

    def shown(self) -> dict[str, Any]:
        return self._item([self._part()])

    def _item(self, content: list[Any]) -> dict[str, Any]:
        item = {"id": self._item_id, "status": self._status, "content": content}
        if self._kind is Content:
            return {**item, "type": "message", "role": "assistant"}
        return {**item, "type": "reasoning", "summary": []}

    def _part(self) -> dict[str, Any]:
        part: dict[str, Any] = {"type": self._name, "text": self._text}
        if self._kind is Content:
            part |= {"annotations": [], "logprobs": list(self._logprobs)}
        return part

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item_id, "output_index": self._index, "content_index": 0}


class _FunctionCall:
    """A call of a tool."""

    def __init__(self, item_id: str, index: int, number: int, call_id: str, name: str) -> None:
        self._item_id = item_id
        self._index = index
        self._number = number
        self._call_id = call_id
        self._name = name
        self._status = "in_progress"
        self._arguments = ""

    def takes(self, piece: Piece) -> bool:
        return isinstance(piece, CallArguments) and piece.number == self._number

    def opening(self) -> Iterator[Event]:
        yield {"type": "response.output_item.added", "output_index": self._index, "item": self.shown()}

    def add(self, piece: Piece, logprobs: list[Any]) -> Iterator[Event]:
        if isinstance(piece, CallArguments):
            self._arguments += piece.text
            event = "response.function_call_arguments.delta"
            yield {"type": event, **self._place(), "delta": piece.text}

    def closing(self, status: str) -> Iterator[Event]:
        if self._status != "in_progress":
            return
        self._status = status
        event = "response.function_call_arguments.done"
        yield {"type": event, **self._place(), "name": self._name, "arguments": self._arguments}
        yield {"type": "response.output_item.done", "output_index": self._index, "item": self.shown()}

    def shown(self) -> dict[str, Any]:
        return {
            "id": self._item_id,
            "type": "function_call",
            "status": self._status,
            "call_id": self._call_id,
            "name": self._name,
            "arguments": self._arguments,
        }

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item_id, "output_index": self._index}
