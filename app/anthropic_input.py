"""The messages of a request to /v1/messages as those of a chat request, checked. Knows no other field.

A user's message may hold results of tools, which are messages of their own in a chat request.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.json import encode

from .errors import RequestError
from .validation import Refused, convert, read_object, wrong

ROLES = ("user", "assistant", "system")
_BLOCK_REFUSED: Refused = {"citations": ([],)}
_TOOL_USE_REFUSED: Refused = {"caller": ({"type": "direct"},)}


class InputMessage(Struct, kw_only=True):
    """A message."""

    role: str
    content: str | list[Any]


class InputText(Struct, kw_only=True):
    """A block of text."""

    type: str
    text: str
    cache_control: dict[str, Any] | None = None


class InputThinking(Struct, kw_only=True):
    """What the model thought. The signature is empty here and not checked."""

    type: str
    thinking: str
    signature: str = ""


class InputToolUse(Struct, kw_only=True):
    """A call that the model has made."""

    type: str
    id: str
    name: str
    input: dict[str, Any]
    cache_control: dict[str, Any] | None = None


class InputToolResult(Struct, kw_only=True):
    """What a call returned. Of an error, the model is told the content."""

    type: str
    tool_use_id: str
    content: str | list[Any] = ""
    is_error: bool = False
    cache_control: dict[str, Any] | None = None


_KINDS: dict[str, tuple[type[Struct], Refused]] = {
    "text": (InputText, _BLOCK_REFUSED),
    "thinking": (InputThinking, {}),
    "tool_use": (InputToolUse, _TOOL_USE_REFUSED),
    "tool_result": (InputToolResult, {}),
}
_ALLOWED = {
    "user": ("text", "tool_result"),
    "assistant": ("text", "thinking", "tool_use"),
    "system": ("text",),
}


class MessagesReader:
    """Gathers messages, and for each the place where the client wrote it."""

    def __init__(self, ignored: list[str]) -> None:
        self.messages: list[dict[str, Any]] = []
        self.places: list[str] = []
        self._ignored = ignored

    def add_system(self, system: str | list[Any]) -> None:
        """The field `system`."""
        self._append({"role": "system", "content": self._texts(system, "system")}, "system")

    def add(self, entry: Any, path: str) -> None:
        """The next message. Raises RequestError."""
        if not isinstance(entry, dict):
            raise wrong(path, "an object", entry, "invalid_type")
        message = convert(read_object(entry, InputMessage, {}, path, self._ignored), InputMessage, path)
        if message.role not in ROLES:
            raise wrong(f"{path}.role", f"one of {', '.join(ROLES)}", message.role)
        if isinstance(message.content, str):
            self._append({"role": message.role, "content": message.content}, path)
            return
        if not message.content:
            raise RequestError(
                f"{path}.content must hold at least one block, got []", param=f"{path}.content"
            )
        self._add_blocks(message.role, message.content, path)

    def _add_blocks(self, role: str, content: list[Any], path: str) -> None:
        texts, thoughts, calls = [], [], []
        for i, entry in enumerate(content):
            place = f"{path}.content[{i}]"
            match self._block(entry, _ALLOWED[role], place):
                case InputText() as block:
                    texts.append(block.text)
                case InputThinking() as block:
                    thoughts.append(block.thinking)
                case InputToolUse() as block:
                    function = {"name": block.name, "arguments": encode(block.input).decode()}
                    calls.append({"id": block.id, "type": "function", "function": function})
                case InputToolResult() as block:
                    told = self._texts(block.content, f"{place}.content") if block.content else ""
                    result = {"role": "tool", "tool_call_id": block.tool_use_id, "content": told}
                    self._append(result, place)
        if not (texts or thoughts or calls):
            return
        message: dict[str, Any] = {"role": role}
        if texts or not calls:
            message["content"] = "".join(texts)
        if thoughts:
            message["reasoning"] = "".join(thoughts)
        if calls:
            message["tool_calls"] = calls
        self._append(message, path)

    def _append(self, message: dict[str, Any], place: str) -> None:
        self.messages.append(message)
        self.places.append(place)

    def _texts(self, content: str | list[Any], path: str) -> str:
        if isinstance(content, str):
            return content
        texts = []
        for i, entry in enumerate(content):
            block = self._block(entry, ("text",), f"{path}[{i}]")
            assert isinstance(block, InputText), "nothing else is allowed"
            texts.append(block.text)
        return "".join(texts)

    def _block(self, entry: Any, allowed: tuple[str, ...], path: str) -> Struct:
        kind = entry.get("type") if isinstance(entry, dict) else None
        if isinstance(kind, str) and kind not in allowed:
            names = " or ".join(f'"{name}"' for name in allowed)
            raise wrong(f"{path}.type", f"{names} here", kind, "unsupported_value")
        into, refused = _KINDS[kind if isinstance(kind, str) else "text"]
        return convert(read_object(entry, into, refused, path, self._ignored), into, path)
