"""The messages of a chat request, checked, and as chat templates take them. Knows no other field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from .errors import RequestError
from .validation import Refused, check_fields, convert, join, missing, read_object, show, without_nulls, wrong

ROLES = ("system", "developer", "user", "assistant", "tool")

# Clients send answers back with all keys that they had, most of them null or empty.
_REFUSED: Refused = {"annotations": ([],), "audio": (), "function_call": (), "refusal": ("",)}
_NOT_ASSISTANT_REFUSED: Refused = {"reasoning": ("",), "reasoning_content": ("",), "tool_calls": ([],)}
_NOT_TOOL_REFUSED: Refused = {"tool_call_id": ()}
_PART_REFUSED: Refused = {"annotations": ([],)}


class _Message(Struct, kw_only=True):
    role: str
    content: str | list[Any] | None = None
    name: str | None = None


class _Assistant(_Message, kw_only=True):
    """reasoning_content is an older name of reasoning, and the one that most templates know."""

    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Any] | None = None


class _Result(_Message, kw_only=True):
    tool_call_id: str | None = None


class _TextPart(Struct, kw_only=True):
    type: str
    text: str


class _RefusalPart(Struct, kw_only=True):
    type: str
    refusal: str

    @property
    def text(self) -> str:
        """The words of the refusal."""
        return self.refusal


class _Call(Struct, kw_only=True):
    """index: of a call that was put together from a stream."""

    function: dict[str, Any]
    id: str | None = None
    type: str = "function"
    index: int | None = None


class _Function(Struct, kw_only=True):
    name: str
    arguments: str = "{}"


_Part = _TextPart | _RefusalPart
_PARTS: Mapping[str, type[_Part]] = {"text": _TextPart}
_ASSISTANT_PARTS: Mapping[str, type[_Part]] = {**_PARTS, "refusal": _RefusalPart}


def read_messages(entries: Sequence[Any], ignored: list[str]) -> list[dict[str, Any]]:
    """Messages as a chat template takes them, text parts joined; unknown fields' paths go to `ignored`."""
    if not entries:
        raise RequestError("messages must hold at least one message, got []", param="messages")
    return [_read_message(entry, f"messages[{i}]", ignored) for i, entry in enumerate(entries)]


def _read_message(entry: Any, path: str, ignored: list[str]) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise wrong(path, "an object", entry, "invalid_type")
    into, refused = _kind(entry.get("role"))
    ignored += check_fields(entry, into, refused, path)
    message = convert(without_nulls(entry), into, path)
    if message.role not in ROLES:
        raise wrong(f"{path}.role", f"one of {', '.join(ROLES)}", message.role)
    extras = _assistant_extras(message, path, ignored) if isinstance(message, _Assistant) else {}
    if message.content is None and not extras and not (message.role == "assistant" and "content" in entry):
        raise missing(f"{path}.content")
    # Open models are trained on "system"; "developer" is OpenAI's newer word for it.
    role = "system" if message.role == "developer" else message.role
    parts = _ASSISTANT_PARTS if role == "assistant" else _PARTS
    content = "" if message.content is None else _read_content(message.content, parts, path, ignored)
    rendered: dict[str, Any] = {"role": role, "content": content}
    if message.name is not None:
        rendered["name"] = message.name
    if isinstance(message, _Result) and message.tool_call_id is not None:
        rendered["tool_call_id"] = message.tool_call_id
    return {**rendered, **extras}


def _kind(role: Any) -> tuple[type[_Message], Refused]:
    if role == "assistant":
        return _Assistant, {**_REFUSED, **_NOT_TOOL_REFUSED}
    if role == "tool":
        return _Result, {**_REFUSED, **_NOT_ASSISTANT_REFUSED}
    return _Message, {**_REFUSED, **_NOT_ASSISTANT_REFUSED, **_NOT_TOOL_REFUSED}


def _assistant_extras(message: _Assistant, path: str, ignored: list[str]) -> dict[str, Any]:
    extras: dict[str, Any] = {}
    if reasoning := message.reasoning or message.reasoning_content:
        extras |= {"reasoning": reasoning, "reasoning_content": reasoning}
    if message.tool_calls:
        extras["tool_calls"] = [
            _read_call(call, f"{path}.tool_calls[{i}]", ignored) for i, call in enumerate(message.tool_calls)
        ]
    return extras


def _read_call(entry: Any, path: str, ignored: list[str]) -> dict[str, Any]:
    call = convert(read_object(entry, _Call, {}, path, ignored), _Call, path)
    if call.type != "function":
        raise wrong(f"{path}.type", '"function"', call.type)
    path = f"{path}.function"
    function = convert(read_object(call.function, _Function, {}, path, ignored), _Function, path)
    named = {"name": function.name, "arguments": function.arguments or "{}"}
    return {**({} if call.id is None else {"id": call.id}), "type": "function", "function": named}


def _read_content(
    content: str | list[Any], parts: Mapping[str, type[_Part]], message_path: str, ignored: list[str]
) -> str:
    if isinstance(content, str):
        return content
    if not content:
        path = join(message_path, "content")
        raise RequestError(f"{path} must hold at least one part, got []", param=path)
    texts = []
    for i, entry in enumerate(content):
        path = f"{message_path}.content[{i}]"
        kind = entry.get("type") if isinstance(entry, dict) else None
        if isinstance(kind, str) and kind not in parts:
            raise wrong(f"{path}.type", " or ".join(map(show, parts)), kind, "unsupported_value")
        into = parts.get(kind, _TextPart) if isinstance(kind, str) else _TextPart
        part = convert(entry, into, path)
        ignored += check_fields(entry, into, _PART_REFUSED, path)
        texts.append(part.text)
    return "\n".join(texts)
