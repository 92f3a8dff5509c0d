"""The items of a response's input as the messages of a chat request, checked. Knows no other field.

Items of one answer (reasoning, message, function calls) become one message, as chat requests have it.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from .errors import RequestError
from .validation import Refused, check_fields, convert, read_object, wrong

ROLES = ("system", "developer", "user", "assistant")
_PART_REFUSED: Refused = {"annotations": ([],), "logprobs": ([],), "prompt_cache_breakpoint": ()}
_REASONING_REFUSED: Refused = {"encrypted_content": ()}
_TEXT_TYPES = ("input_text", "output_text")


class InputMessage(Struct, kw_only=True):
    """A message. Answers that come back as input carry id, status and phase, which say nothing new."""

    role: str
    content: str | list[Any]
    type: str = "message"
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class InputCall(Struct, kw_only=True):
    """A call that the model has made."""

    call_id: str
    name: str
    arguments: str
    type: str = "function_call"
    id: str | None = None
    status: str | None = None


class InputResult(Struct, kw_only=True):
    """What a call returned."""

    call_id: str
    output: str | list[Any]
    type: str = "function_call_output"
    id: str | None = None
    status: str | None = None


class InputReasoning(Struct, kw_only=True):
    """What the model thought; a summary is not what it thought."""

    content: list[Any] = []
    summary: list[Any] = []
    type: str = "reasoning"
    id: str | None = None
    status: str | None = None


_KINDS: dict[str, tuple[type[Struct], Refused]] = {
    "message": (InputMessage, {}),
    "function_call": (InputCall, {}),
    "function_call_output": (InputResult, {}),
    "reasoning": (InputReasoning, _REASONING_REFUSED),
}
ITEM_TYPES = {kind: into for kind, (into, _) in _KINDS.items()}
"""Kinds of items, each with its fields."""


class _Part(Struct, kw_only=True):
    type: str
    text: str


class InputReader:
    """Gathers messages, and for each the place where the client wrote it, item by item."""

    def __init__(self, ignored: list[str]) -> None:
        self.messages: list[dict[str, Any]] = []
        self.places: list[str] = []
        self._ignored = ignored

    def add_text(self, role: str, text: str, place: str) -> None:
        """A message that is no item."""
        self._append({"role": role, "content": text}, place)

    def add(self, entry: Any, path: str) -> None:
        """The next item. Raises RequestError."""
        if not isinstance(entry, dict):
            raise wrong(path, "an object", entry, "invalid_type")
        kind = entry.get("type") or "message"
        if not isinstance(kind, str) or kind not in _KINDS:
            rule = f"one of {', '.join(_KINDS)} on this server"
            raise wrong(f"{path}.type", rule, kind, "unsupported_value")
        into, refused = _KINDS[kind]
        match convert(read_object(entry, into, refused, path, self._ignored), into, path):
            case InputMessage() as item:
                self._add_message(item, path)
            case InputCall() as item:
                function = {"name": item.name, "arguments": item.arguments}
                call = {"id": item.call_id, "type": "function", "function": function}
                self._answer(path).setdefault("tool_calls", []).append(call)
            case InputResult() as item:
                content = self._content(item.output, f"{path}.output", "input_text")
                self._append({"role": "tool", "tool_call_id": item.call_id, "content": content}, path)
            case InputReasoning() as item:
                thoughts = [
                    self._part(part, ("reasoning_text",), f"{path}.content[{i}]")["text"]
                    for i, part in enumerate(item.content)
                ]
                if thoughts:
                    self._append({"role": "assistant", "reasoning": "\n".join(thoughts)}, path)

    def _add_message(self, item: InputMessage, path: str) -> None:
        if item.role not in ROLES:
            raise wrong(f"{path}.role", f"one of {', '.join(ROLES)}", item.role)
        kind = "output_text" if item.role == "assistant" else "input_text"
        content = self._content(item.content, f"{path}.content", kind)
        last = self.messages[-1] if self.messages else {}
        if item.role == "assistant" and "reasoning" in last and "content" not in last:
            last["content"] = content
        else:
            self._append({"role": item.role, "content": content}, path)

    def _answer(self, path: str) -> dict[str, Any]:
        """The assistant's message that a call belongs to."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self._append({"role": "assistant"}, path)
        return self.messages[-1]

    def _append(self, message: dict[str, Any], place: str) -> None:
        self.messages.append(message)
        self.places.append(place)

    def _content(self, content: str | list[Any], path: str, kind: str) -> str | list[dict[str, Any]]:
        if isinstance(content, str):
            return content
        if not content:
            raise RequestError(f"{path} must hold at least one part, got []", param=path)
        order = sorted(_TEXT_TYPES, key=lambda name: name != kind)
        return [self._part(part, order, f"{path}[{i}]") for i, part in enumerate(content)]

    def _part(self, entry: Any, kinds: Any, path: str) -> dict[str, Any]:
        given = entry.get("type") if isinstance(entry, dict) else None
        if isinstance(given, str) and given not in kinds:
            raise wrong(f"{path}.type", f'"{kinds[0]}" on this server', given, "unsupported_value")
        part = convert(entry, _Part, path)
        self._ignored += check_fields(entry, _Part, _PART_REFUSED, path)
        return {"type": "text", "text": part.text}
