"""Reads one JSON value a character at a time: whether it goes on, has ended, or is no JSON.

Does not keep the value. One leniency: control characters may stand in strings unescaped, because models write
them so.
"""

from __future__ import annotations

import enum
import re

WHITESPACE = " \t\n\r"
_LITERAL = re.compile(r"true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_LITERAL_CHARACTERS = frozenset("0123456789+-.eEtrufalsn")
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
_CLOSING = {"{": "}", "[": "]"}
_MAX_DEPTH = 200
"""Of nested lists and objects: parsers of the value recurse."""


class Step(enum.Enum):
    """What a character means for the value."""

    GOES_ON = enum.auto()
    ENDS = enum.auto()
    """The character is the last of the value."""
    HAD_ENDED = enum.auto()
    """The character does not belong to it: only what follows a number shows that it has ended."""
    BROKEN = enum.auto()
    """No JSON value goes on like that."""


class _Place(enum.Enum):
    VALUE = enum.auto()
    FIRST_VALUE = enum.auto()  # of a list, which may also end here
    KEY = enum.auto()
    FIRST_KEY = enum.auto()  # of an object, which may also end here
    COLON = enum.auto()
    NEXT = enum.auto()  # a comma, or the end of the list or object
    STRING = enum.auto()
    ESCAPE = enum.auto()
    LITERAL = enum.auto()  # a number, true, false or null


class JsonCursor:
    """Reads one value. Leading whitespace belongs to it."""

    def __init__(self) -> None:
        self._place = _Place.VALUE
        self._open: list[str] = []
        self._is_key = False
        self._num_hex = 0
        self._literal = ""

    @property
    def in_string(self) -> bool:
        """Whether the next character is inside a string."""
        return self._place is _Place.STRING

    def step(self, char: str) -> Step:
        """Read `char`. Nothing may follow any answer but GOES_ON."""
        match self._place:
            case _Place.STRING:
                return self._in_string(char)
            case _Place.ESCAPE:
                return self._in_escape(char)
            case _Place.LITERAL:
                if char in _LITERAL_CHARACTERS:
                    self._literal += char
                    return Step.GOES_ON
                if _LITERAL.fullmatch(self._literal) is None:
                    return Step.BROKEN
                if not self._open:
                    return Step.HAD_ENDED
                self._place = _Place.NEXT
        return Step.GOES_ON if char in WHITESPACE else self._between(char)

    def _in_string(self, char: str) -> Step:
        if char == "\\":
            self._place = _Place.ESCAPE
        elif char == '"':
            if not self._is_key:
                return self._value_ends()
            self._place = _Place.COLON
        return Step.GOES_ON

    def _in_escape(self, char: str) -> Step:
        if self._num_hex:
            self._num_hex -= 1
            holds = char in _HEX_DIGITS
        elif char == "u":
            self._num_hex = 4
            holds = True
        else:
            holds = char in '"\\/bfnrt'
        if not self._num_hex:
            self._place = _Place.STRING
        return Step.GOES_ON if holds else Step.BROKEN

    def _between(self, char: str) -> Step:
        place = self._place
        if place in (_Place.FIRST_KEY, _Place.FIRST_VALUE, _Place.NEXT) and char == _CLOSING[self._open[-1]]:
            self._open.pop()
            return self._value_ends()
        if place in (_Place.VALUE, _Place.FIRST_VALUE):
            return self._begin_value(char)
        if place in (_Place.KEY, _Place.FIRST_KEY) and char == '"':
            self._place, self._is_key = _Place.STRING, True
        elif place is _Place.COLON and char == ":":
            self._place = _Place.VALUE
        elif place is _Place.NEXT and char == ",":
            self._place = _Place.KEY if self._open[-1] == "{" else _Place.VALUE
        else:
            return Step.BROKEN
        return Step.GOES_ON

    def _begin_value(self, char: str) -> Step:
        if char in _CLOSING and len(self._open) < _MAX_DEPTH:
            self._open.append(char)
            self._place = _Place.FIRST_KEY if char == "{" else _Place.FIRST_VALUE
        elif char == '"':
            self._place, self._is_key = _Place.STRING, False
        elif char in _LITERAL_CHARACTERS:
            self._place, self._literal = _Place.LITERAL, char
        else:
            return Step.BROKEN
        return Step.GOES_ON

    def _value_ends(self) -> Step:
        self._place = _Place.NEXT
        return Step.GOES_ON if self._open else Step.ENDS
