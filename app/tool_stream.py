"""A model's text, as it arrives, to content and tool calls. Knows no JSON and no request.

    I'll look it up.\n<tool_call>\n{"name": "search", "arguments": {"query": "octavo"}}\n</tool_call>
    `---content----' `-held until the call is certain-'             `-handed out as it comes-'

What turns out to be no call is content, to the last character. Whitespace next to a call belongs to its
format; content before and after a call is separated by a newline. The result does not depend on how the text
is cut into pieces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from typing import NamedTuple

from .detokenizer import start_of_partial
from .tool_call_reader import ArgumentsReader, CallReader, ObjectReader


class Content(NamedTuple):
    """What the model says."""

    text: str


class CallStart(NamedTuple):
    """A call begins. number: its place among the answer's calls, from 0."""

    number: int
    id: str
    name: str


class CallArguments(NamedTuple):
    """More JSON of a call's arguments."""

    number: int
    text: str


CallPiece = Content | CallStart | CallArguments


class CallSyntax(NamedTuple):
    """How a format marks calls.

    opening: a marker before a call or a list of calls.   closing: after one, may be missing.
    may_begin: whether an answer may begin with a call without marker.
    separator: between calls that follow each other without marker.
    lists, named: whether `[{...}, {...}]`, and `name[ARGS]{...}`, may follow the marker.
    """

    opening: str
    closing: str = ""
    may_begin: bool = False
    separator: str = ""
    lists: bool = False
    named: bool = False


_NAMED = re.compile(r"([^\s\[\]{}]+)(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?\s*(?=\{)")
_NAMED_SO_FAR = re.compile(r"[^\s\[\]{}]+(?:\[[A-Z_]*\]?\w*)*\s*")


class ToolStream:
    """Reads one answer.

    tools: names that a call may have; others are content.   new_id: makes the id of a call.
    only_one: calls after the first are dropped.
    """

    def __init__(
        self, syntax: CallSyntax, tools: Container[str], new_id: Callable[[], str], *, only_one: bool = False
    ) -> None:
        self.num_calls = 0
        self._syntax = syntax
        self._tools = tools
        self._new_id = new_id
        self._only_one = only_one
        self._text = ""  # not read yet
        self._held = ""  # read, and content if it is no call
        self._space = ""  # whitespace that is content unless a call follows
        self._after_call = False
        self._has_spoken = False
        self._in_list = False
        self._reader: CallReader | None = None
        self._started = False  # whether the call that is being read has been told of
        self._pieces: list[CallPiece] = []
        self._final = False
        self._state = self._begin if syntax.may_begin else self._outside

    def push(self, text: str) -> list[CallPiece]:
        """The pieces that `text` makes certain."""
        self._text += text
        return self._read()

    def finish(self) -> list[CallPiece]:
        """The remaining pieces, when no text follows."""
        self._final = True
        pieces = self._read()
        if self._reader is None or self._reader.name is None:
            self._say(self._held + self._text)
        if self._space:
            pieces.append(Content(self._space))
        return pieces

    def _read(self) -> list[CallPiece]:
        self._pieces = []
        while self._text and self._state():
            pass
        return self._pieces

    # Each state reads some of _text and returns whether there may be more to read.

    def _begin(self) -> bool:
        """Nothing but whitespace has come."""
        stripped = self._text.lstrip()
        if not stripped:
            return False
        if stripped.startswith("{"):
            self._hold(len(self._text) - len(stripped))
            self._read_call(ObjectReader(self._tools))
        else:
            self._state = self._outside
        return True

    def _outside(self) -> bool:
        """In content."""
        opening, text = self._syntax.opening, self._text
        start = text.find(opening)
        if start < 0:
            num_certain = len(text) if self._final else start_of_partial(text, opening)
            self._say(text[:num_certain])
            self._text = text[num_certain:]
            return False
        self._say(text[:start])
        self._text = text[start:]
        self._hold(len(opening))
        self._state = self._opened
        return True

    def _opened(self) -> bool:
        """After a marker, or in a list before a call."""
        text = self._text.lstrip()
        if not text:
            return False
        if text.startswith("{"):
            self._hold(len(self._text) - len(text))
            self._read_call(ObjectReader(self._tools))
        elif self._syntax.lists and not self._in_list and text.startswith("["):
            self._in_list = True
            self._hold(len(self._text) - len(text) + 1)
        elif self._syntax.named and not self._in_list and (match := _NAMED.match(text)):
            if match[1] not in self._tools:
                self._give_up()
                return True
            self._hold(len(self._text) - len(text) + match.end())
            self._read_call(ArgumentsReader(match[1]))
        elif self._syntax.named and not self._in_list and not self._final and _NAMED_SO_FAR.fullmatch(text):
            return False
        else:
            self._give_up()
        return True

    def _inside(self) -> bool:
        """In a call."""
        reader, text = self._reader, self._text
        assert reader is not None, "a call is read by a reader"
        arguments = ""
        num_read = len(text)
        for i, char in enumerate(text):
            arguments += reader.push(char)
            if reader.broken or reader.ended:
                num_read = i + reader.ended
                break
        if reader.name is None:
            self._hold(num_read)
            if reader.broken:
                self._give_up()
            return reader.broken
        self._text = text[num_read:]
        self._add_call(reader.name, arguments)
        if not reader.broken and not reader.ended:
            return False
        self._reader = None
        self._after_call = True
        self._state = self._after
        return True

    def _after(self) -> bool:
        """After a call: its closing marker, or another call that needs no marker."""
        text, syntax = self._text.lstrip(), self._syntax
        if not text:
            return False
        expected = syntax.closing or syntax.separator or ","
        if len(text) < len(expected) and expected.startswith(text) and not self._final:
            return False
        self._text = text
        if syntax.closing and text.startswith(syntax.closing):
            self._text = text.removeprefix(syntax.closing)
        elif self._in_list and text.startswith(","):
            self._hold(1)
            self._state = self._opened
            return True
        elif self._in_list and text.startswith("]"):
            self._text = text[1:]
        elif syntax.separator:
            following = text.removeprefix(syntax.separator).lstrip()
            if not following and not self._final:
                return False
            if following.startswith("{"):
                self._hold(len(text) - len(following))
                self._read_call(ObjectReader(self._tools))
                return True
        self._in_list = False
        self._state = self._outside
        return True

    def _hold(self, num_chars: int) -> None:
        self._held += self._text[:num_chars]
        self._text = self._text[num_chars:]

    def _read_call(self, reader: CallReader) -> None:
        self._reader = reader
        self._started = False
        self._state = self._inside

    def _add_call(self, name: str, arguments: str) -> None:
        if not self._started:
            self._started = True
            self._held = self._space = ""
            self.num_calls += 1
            if self.num_calls == 1 or not self._only_one:
                self._pieces.append(CallStart(self.num_calls - 1, self._new_id(), name))
        if arguments and (self.num_calls == 1 or not self._only_one):
            self._pieces.append(CallArguments(self.num_calls - 1, arguments))

    def _give_up(self) -> None:
        """The held text is no call, but content."""
        held, self._held = self._held, ""
        self._say(held)
        self._reader = None
        self._in_list = False
        self._state = self._outside

    def _say(self, text: str) -> None:
        if self._after_call:
            text = text.lstrip()
        body = text.rstrip()
        if body:
            if self._after_call and self._has_spoken:
                self._space = "\n"
            self._after_call = False
            self._has_spoken = True
            self._pieces.append(Content(self._space + body))
            self._space = ""
        self._space += text[len(body) :]
