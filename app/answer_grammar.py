"""The grammar of an answer in parts: reasoning, then tool calls, or what response_format asks for.

Written in Lark's syntax as llguidance reads it. A marker that is a special token is written as that token,
since no text can spell it; others are written as text. reasoning.py and tool_stream.py read what the grammar
allows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..model.grammar import JSON_WHITESPACE, Grammar, GrammarKind
from .lark_text import SpecialId, json_rule, literal, marked_text, regex
from .reasoning import ReasoningFormat
from .tool_formats import ToolFormat
from .tool_types import ToolUse

COMBINABLE = (GrammarKind.JSON, GrammarKind.CHOICE)
"""Kinds of grammars that can be part of another."""
_MAX_CALLS = 32
"""Of one answer that must call: a small model would go on for ever."""
_LIKE_PYTHON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""The spaces in calls, as templates write them and models were trained on them."""
_OWN_RULES = frozenset(
    ("additionalProperties", "unevaluatedProperties", "patternProperties", "$ref", "allOf", "anyOf", "oneOf")
)
_ANY: Mapping[str, Any] = {"type": "object"}


class AnswerGrammar:
    """Writes the grammars of one request.

    thinking, inside: how the model reasons, None if it does not, and whether an answer begins inside.
    All methods raise ValueError if the text gets too long.
    """

    def __init__(self, thinking: ReasoningFormat | None, inside: bool, special_id: SpecialId) -> None:
        self._special_id = special_id
        self._rules: dict[str, str] = {}
        self._head = "" if thinking is None else self._thought(thinking, inside)

    def thoughtful(self, answer: Grammar) -> Grammar:
        """Reasoning, if there is any, and then `answer`, which is of a kind in COMBINABLE."""
        return self._grammar(self._answer(answer))

    def calling(self, use: ToolUse, form: ToolFormat) -> Grammar:
        """At least one call, and nothing else."""
        return self._grammar(self._calls(use, form))

    def calling_or(self, use: ToolUse, form: ToolFormat, answer: Grammar) -> Grammar:
        """Calls, or else `answer`, which is of a kind in COMBINABLE."""
        return self._grammar(f"{self._calls(use, form)} | {self._answer(answer)}")

    def strictly(self, use: ToolUse, form: ToolFormat) -> Grammar:
        """Anything, but the arguments of strict tools keep to their schemas."""
        run = self._run(use, form, [tool.parameters if tool.strict else _ANY for tool in use.allowed])
        opening = form.syntax.opening
        token = self._special_id(opening)
        if form.syntax.may_begin:
            # Text that begins like a call looks like one, and so does a marker in the middle of text.
            self._rules["PROSE"] = r"/(?s:\s*[^\s{].*)/"
            marker = "" if token is None else f"<[{token}]>? "
            return self._grammar(f"{marker}{run} | PROSE?")
        group = f"{self._text(form.before.removeprefix(opening))} {run} {self._text(form.after)}"
        if token is None:
            marked = f"(?s:.*){regex(opening)}"
            self._rules["said[lazy]"] = f"/{marked}/"
            self._rules["TEXT"] = f"/(?s:.+)/ & ~/{marked}(?s:.*)/"
            return self._grammar(f"(said {group})* TEXT?")
        self._rules["TEXT"] = "/(?s:.+)/"
        return self._grammar(f"TEXT? (<[{token}]> {group} TEXT?)*")

    def _grammar(self, body: str) -> Grammar:
        rules = {"start": f"{self._head} body", "body": body, **self._rules}
        return Grammar(GrammarKind.EBNF, "\n".join(f"{name}: {rule}" for name, rule in rules.items()))

    def _thought(self, thinking: ReasoningFormat, inside: bool) -> str:
        self._rules["BREAK"] = r"/\n{1,4}/"
        token = self._special_id(thinking.closing)
        if token is None:
            self._rules["thought[lazy]"] = f"/(?s:.*){regex(thinking.closing)}/"
        else:
            self._rules["THOUGHT"] = "/(?s:.+)/"
            self._rules["thought"] = f"THOUGHT? <[{token}]>"
        opening = self._text(thinking.opening)
        if not inside:
            return f"({opening} thought BREAK?)?"
        return "thought BREAK?" if token is None else f"({opening})? thought BREAK?"  # text can spell a tag

    def _answer(self, answer: Grammar) -> str:
        if answer.kind is GrammarKind.CHOICE:
            self._rules["answer"] = " | ".join(literal(text) for text in json.loads(answer.source))
        else:
            assert answer.kind is GrammarKind.JSON, answer.kind
            schema = json.loads(answer.source)
            pattern = JSON_WHITESPACE if answer.whitespace is None else answer.whitespace
            self._rules["answer"] = json_rule(schema, {"whitespace_pattern": pattern})
        return "answer"

    def _calls(self, use: ToolUse, form: ToolFormat) -> str:
        run = self._run(use, form, [tool.parameters for tool in use.allowed])
        return f"{self._text(form.before)} {run} {self._text(form.after)}"

    def _run(self, use: ToolUse, form: ToolFormat, schemas: Sequence[Mapping[str, Any]]) -> str:
        """Calls in a row, with what the format puts between them."""
        for i, (tool, schema) in enumerate(zip(use.allowed, schemas, strict=True)):
            self._rules[f"call_{i}"] = f"{self._text(form.head(tool.name))} args_{i} {self._text(form.tail)}"
            self._rules[f"args_{i}"] = json_rule(_closed(schema), _LIKE_PYTHON)
        self._rules["call"] = " | ".join(f"call_{i}" for i in range(len(schemas)))
        if form.single or not use.parallel:
            return "call"
        return f"call ({self._text(form.between)} call){{0,{_MAX_CALLS - 1}}}"

    def _text(self, text: str) -> str:
        return marked_text(text, self._special_id)


def tools_complaint(message: str) -> str:
    """The complaint about a grammar made of the client's tools, which the client has not seen."""
    cause = message.rpartition("failed to compile JSON schema: ")[2]
    return f"tools: the parameters of a function cannot be kept to: {cause}"


def _closed(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """`schema`, allowing no arguments that it does not name, unless it says otherwise."""
    if "properties" not in schema or _OWN_RULES & schema.keys():
        return schema
    return {**schema, "additionalProperties": False}
