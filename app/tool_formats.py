"""How models write tool calls: the formats, and which of them a chat template teaches.

Knows how calls are written and marked; tool_stream.py reads them.
"""

from __future__ import annotations

import hashlib
import secrets
import string
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from msgspec.json import encode

from .tool_stream import CallSyntax

_ALPHANUMERIC = string.ascii_letters + string.digits


class WrittenCall(NamedTuple):
    """A call; arguments: JSON text of an object."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """How a family of models writes calls.

    before, between, after: text around and between several calls.
    call: text before a name, between it and the arguments, and after these.
    quoted: whether a name is a JSON string.   markers: what may be a single special token.
    id_length: of call ids, letters and digits only; 0 if any id will do.
    single: whether an answer has one call at most.
    """

    syntax: CallSyntax
    before: str = ""
    between: str
    after: str = ""
    call: tuple[str, str, str]
    quoted: bool = True
    markers: tuple[str, ...] = ()
    id_length: int = 0
    single: bool = False

    def head(self, name: str) -> str:
        """The text before a call's arguments."""
        return self.call[0] + (encode(name).decode() if self.quoted else name) + self.call[1]

    @property
    def tail(self) -> str:
        """The text after a call's arguments."""
        return self.call[2]

    def write(self, calls: Iterable[WrittenCall]) -> str:
        """`calls` as the model would have written them."""
        written = [self.head(call.name) + call.arguments + self.tail for call in calls]
        return self.before + self.between.join(written) + self.after

    def new_id(self) -> str:
        """An id for a call."""
        if not self.id_length:
            return f"call_{secrets.token_hex(12)}"
        return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(self.id_length))

    def fitting_id(self, call_id: str) -> str:
        """`call_id`, or a hash of it if templates refuse its form; equal ids stay equal."""
        usable = call_id.isascii() and call_id.isalnum() and len(call_id) == self.id_length
        if not self.id_length or usable:
            return call_id
        return hashlib.blake2b(call_id.encode(errors="replace")).hexdigest()[: self.id_length]


HERMES = ToolFormat(
    syntax=CallSyntax("<tool_call>", "</tool_call>"),
    before="<tool_call>\n",
    between="\n</tool_call>\n<tool_call>\n",
    after="\n</tool_call>",
    call=('{"name": ', ', "arguments": ', "}"),
    markers=("<tool_call>", "</tool_call>"),
)
"""NousResearch's Hermes 2 Pro and 3, Qwen2.5, Qwen3."""
LLAMA3_JSON = ToolFormat(
    syntax=CallSyntax("<|python_tag|>", may_begin=True, separator=";"),
    between="; ",
    call=('{"name": ', ', "parameters": ', "}"),
    markers=("<|python_tag|>",),
)
"""Llama 3.1, 3.2, 3.3."""
LLAMA3_JSON_SINGLE = replace(LLAMA3_JSON, single=True)
"""For templates, such as Meta's own, that refuse answers with several calls."""
MISTRAL = ToolFormat(
    syntax=CallSyntax("[TOOL_CALLS]", lists=True, named=True),
    before="[TOOL_CALLS] [",
    between=", ",
    after="]",
    call=('{"name": ', ', "arguments": ', "}"),
    markers=("[TOOL_CALLS]",),
    id_length=9,
)
"""Mistral's models up to tokenizer version 7."""
MISTRAL_ARGS = ToolFormat(
    syntax=MISTRAL.syntax,
    before="[TOOL_CALLS]",
    between="[TOOL_CALLS]",
    call=("", "[ARGS]", ""),
    quoted=False,
    markers=("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
    id_length=9,
)
"""Mistral's models since tokenizer version 11."""

_LLAMA3 = ("<|python_tag|>", '{"name": function name, "parameters": ')
# Qwen3-Coder and GLM put other things than JSON between Hermes' markers.
_NOT_HERMES = ("<function=", "<arg_key>")


def tool_format(parser: str, template: str) -> ToolFormat | None:
    """The format that the setting `parser` names; auto: the one that the chat template teaches, if one is."""
    if parser == "mistral" or (parser == "auto" and "[TOOL_CALLS]" in template):
        return MISTRAL_ARGS if "[ARGS]" in template else MISTRAL
    if parser == "llama3_json" or (parser == "auto" and any(hint in template for hint in _LLAMA3)):
        return LLAMA3_JSON_SINGLE if "single tool-calls" in template else LLAMA3_JSON
    known = "<tool_call>" in template and not any(marker in template for marker in _NOT_HERMES)
    return HERMES if parser == "hermes" or known else None
