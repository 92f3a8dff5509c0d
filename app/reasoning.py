"""A model's reasoning, separated from its answer while both arrive. Knows no tokens.

    <think>\nThe user greets me.\n</think>\n\nHello!
             `--- reasoning ---'              `- answer

Newlines next to a tag belong to the tag. Reasoning is at the beginning or not at all: a tag in the middle of
a text is text.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from .detokenizer import start_of_partial


class ReasoningFormat(NamedTuple):
    """The tags around the reasoning.

    always: every answer begins with reasoning, whether or not a tag opens it.
    """

    opening: str
    closing: str
    always: bool = False

    def begins_inside(self, prompt: str) -> bool:
        """Whether an answer to the rendered `prompt` begins inside the reasoning."""
        opened = prompt.rfind(self.opening)
        return self.always or (opened >= 0 and not prompt[opened + len(self.opening) :].strip())


_THINK = ReasoningFormat("<think>", "</think>")
_FORMATS = {
    "qwen3": _THINK,
    "deepseek_r1": _THINK._replace(always=True),
    "mistral": ReasoningFormat("[THINK]", "[/THINK]"),
}


def reasoning_format(parser: str, template: str) -> ReasoningFormat | None:
    """The format that the setting `parser` names; auto: whose closing tag the chat template mentions."""
    if parser != "auto":
        return _FORMATS.get(parser)
    return next((known for known in _FORMATS.values() if known.closing in template), None)


class _Stage(enum.Enum):
    BEFORE = enum.auto()  # nothing but whitespace has come
    OPENED = enum.auto()  # the tag has come, or was in the prompt, and no text yet
    INSIDE = enum.auto()
    CLOSED = enum.auto()  # the closing tag has come, and no text yet
    OUTSIDE = enum.auto()


class ReasoningStream:
    """Reads one answer. inside: it begins within the reasoning, even if no tag opens it."""

    def __init__(self, syntax: ReasoningFormat, *, inside: bool) -> None:
        self._syntax = syntax
        self._inside = inside
        self._stage = _Stage.BEFORE
        self._text = ""  # not handed out yet

    @property
    def is_over(self) -> bool:
        """Whether all text that follows is the answer."""
        return self._stage is _Stage.OUTSIDE

    def push(self, text: str, *, final: bool = False) -> tuple[str, str]:
        """What `text` adds to the reasoning, and what to the answer. final: no text follows."""
        if (
            self._stage is _Stage.INSIDE
            and not self._text
            and self._syntax.closing[0] not in text
            and not text.endswith("\n")
        ):
            return text, ""  # nearly every token comes here
        self._text += text
        if self._stage is _Stage.BEFORE:
            self._begin(final)
        thought = self._think(final) if self._stage in (_Stage.OPENED, _Stage.INSIDE) else ""
        if self._stage is _Stage.CLOSED:
            self._text = self._text.lstrip("\n")
            if self._text:
                self._stage = _Stage.OUTSIDE
        answer = ""
        if self._stage is _Stage.OUTSIDE:
            answer, self._text = self._text, ""
        return thought, answer

    def _begin(self, final: bool) -> None:
        opening, text = self._syntax.opening, self._text.lstrip()
        if text.startswith(opening):
            self._text = text.removeprefix(opening)
            self._stage = _Stage.OPENED
        elif final or not opening.startswith(text):
            self._stage = _Stage.OPENED if self._inside else _Stage.OUTSIDE

    def _think(self, final: bool) -> str:
        text, closing = self._text, self._syntax.closing
        if self._stage is _Stage.OPENED:
            text = text.lstrip("\n")
            if text:
                self._stage = _Stage.INSIDE
        end = text.find(closing)
        if end >= 0:
            self._text = text[end + len(closing) :]
            self._stage = _Stage.CLOSED
            return text[:end].rstrip("\n")
        thought = text if final else text[: start_of_partial(text, closing)].rstrip("\n")
        self._text = text[len(thought) :]
        return thought
