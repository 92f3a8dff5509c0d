"""Reads a tool call a character at a time: an object with name and arguments, or the arguments alone.

Knows no format's markers. Arguments that were handed out cannot be taken back, so none are before the call is
certain: it names a tool of the request, and its arguments begin as an object.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Container
from typing import Protocol

from .json_cursor import WHITESPACE, JsonCursor, Step

_ARGUMENTS = ("arguments", "parameters")
_KEYS = frozenset(("name", "id", "type", *_ARGUMENTS))


class CallReader(Protocol):
    """Reads one call.

    name: the tool's, once the call is certain.   ended: the call is whole.
    broken: the last character does not belong to a call; what was certain before remains so.
    """

    name: str | None
    ended: bool
    broken: bool

    def push(self, char: str) -> str:
        """Read `char`; returns the JSON text of arguments that it makes certain."""


class ArgumentsReader:
    """Implements CallReader for the arguments of a tool that is known: `{...}`."""

    def __init__(self, name: str) -> None:
        self.name: str | None = name
        self.ended = False
        self.broken = False
        self._cursor: JsonCursor | None = None

    def push(self, char: str) -> str:
        """See CallReader."""
        if self._cursor is None:
            self._cursor = JsonCursor()
            self.broken = char != "{"
        text = _as_json(char, self._cursor)
        step = self._cursor.step(char)
        self.broken = self.broken or step is Step.BROKEN
        self.ended = step is Step.ENDS
        return "" if self.broken else text


class _Place(enum.Enum):
    OPENING = enum.auto()
    FIRST_KEY = enum.auto()
    KEY = enum.auto()
    COLON = enum.auto()
    VALUE = enum.auto()
    NEXT = enum.auto()


class ObjectReader:
    """Implements CallReader for `{"name": ..., "arguments": {...}}`, keys in any order.

    `parameters` is another name of arguments; they may be JSON text in a string, or left out. An unknown key,
    or a tool that is not one of `tools`, shows that this is no call.
    """

    def __init__(self, tools: Container[str]) -> None:
        self.name: str | None = None
        self.ended = False
        self.broken = False
        self._tools = tools
        self._place = _Place.OPENING
        self._keys: set[str] = set()
        self._key = ""
        self._cursor: JsonCursor | None = None  # in a key or a value
        self._text: list[str] = []  # of that key or value, what has not been handed out
        self._found_name: str | None = None
        self._held_arguments: str | None = None

    def push(self, char: str) -> str:
        """See CallReader."""
        cursor = self._cursor
        if cursor is None:
            return self._between(char)
        text = _as_json(char, cursor)
        step = cursor.step(char)
        if step is Step.BROKEN:
            return self._break()
        if step is Step.HAD_ENDED:
            return self._take() + ("" if self.broken else self._between(char))
        self._text.append(text)
        return self._stream() + (self._take() if step is Step.ENDS else "")

    def _between(self, char: str) -> str:
        place = self._place
        if char in WHITESPACE:
            return ""
        if place is _Place.VALUE or (place in (_Place.KEY, _Place.FIRST_KEY) and char == '"'):
            self._cursor = JsonCursor()
            self._text = [char]
            return self._break() if self._cursor.step(char) is Step.BROKEN else self._stream()
        match place, char:
            case _Place.OPENING, "{":
                self._place = _Place.FIRST_KEY
            case _Place.COLON, ":":
                self._place = _Place.VALUE
            case _Place.NEXT, ",":
                self._place = _Place.KEY
            case ((_Place.NEXT | _Place.FIRST_KEY), "}"):
                return self._end()
            case _:
                return self._break()
        return ""

    def _stream(self) -> str:
        """The arguments so far, if they are being read and the call is certain."""
        in_arguments = self._place is _Place.VALUE and self._key in _ARGUMENTS
        if self.name is None:
            if not in_arguments or self._found_name is None or self._text[0] != "{":
                return ""
            self.name = self._found_name
        if not in_arguments:
            return ""
        text = "".join(self._text)
        self._text.clear()
        return text

    def _take(self) -> str:
        """The key or value that is being read has ended."""
        self._cursor = None
        text = "".join(self._text)
        if self._place is not _Place.VALUE:
            self._key = json.loads(text)
            self._place = _Place.COLON
            name = "arguments" if self._key in _ARGUMENTS else self._key
            if name in self._keys or self._key not in _KEYS:
                return self._break()
            self._keys.add(name)
            return ""
        self._place = _Place.NEXT
        if self._key == "name":
            self._found_name = json.loads(text)
            if not isinstance(self._found_name, str) or self._found_name not in self._tools:
                return self._break()
        elif self._key in _ARGUMENTS and self.name is None:
            self._held_arguments = _arguments(text)
            if self._held_arguments is None:
                return self._break()
        if self.name is None and self._found_name is not None and self._held_arguments is not None:
            self.name = self._found_name
            return self._held_arguments
        return ""

    def _end(self) -> str:
        self.ended = True
        if self.name is not None:
            return ""
        if self._found_name is None:
            return self._break()
        self.name = self._found_name
        return "{}"

    def _break(self) -> str:
        self.broken = True
        return ""


def _as_json(char: str, cursor: JsonCursor) -> str:
    """`char`, escaped if JSON demands it."""
    return json.dumps(char)[1:-1] if char < " " and cursor.in_string else char


def _arguments(text: str) -> str | None:
    """The JSON object that a value stands for: itself, its text in a string, or an empty one for null."""
    value = json.loads(text)
    if isinstance(value, dict):
        return text
    if value is None:
        return "{}"
    if isinstance(value, str):
        try:
            return value if isinstance(json.loads(value), dict) else None
        except ValueError:
            return None
    return None
