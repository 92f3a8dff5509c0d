"""What form an answer must have: a grammar as text, before anything is compiled. Knows no tokens."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_SOURCE_BYTES = 128 << 10
"""Of a grammar's text. What is compiled from more could take seconds, and more stack than a thread has."""

JSON_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,40}"
"""Between two tokens of JSON. Bounded: a small model that may write blanks for ever does."""

_KINDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
_IN_WORDS = {"json": "a JSON schema", "structural_tag": "an object"}
_ANY_OBJECT = '{"type": "object"}'


class GrammarKind(enum.StrEnum):
    """How a grammar's text is to be read."""

    JSON = "json"
    """A JSON schema: the answer is an instance of it."""
    REGEX = "regex"
    """A regular expression that matches the whole answer."""
    CHOICE = "choice"
    """A JSON list of strings, one of which is the answer."""
    EBNF = "grammar"
    """Lark's grammar syntax, whose first rule is `start`, or GBNF, whose first rule is `root`."""
    STRUCTURAL_TAG = "structural_tag"
    """JSON that says which parts of a text keep to which form: vLLM's structural tags."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """A grammar that an answer keeps to; equal ones are compiled once.

    whitespace: for a JSON schema, a regular expression of what may stand between two tokens of JSON; None is
    whitespace as JSON has it, in runs of bounded length, and "" is none.
    Raises ValueError if the text is too long.
    """

    kind: GrammarKind
    source: str
    whitespace: str | None = None

    def __post_init__(self) -> None:
        num_bytes = len(self.source.encode(errors="replace"))
        if num_bytes > MAX_SOURCE_BYTES:
            raise ValueError(f"{self.kind.value} must be at most {MAX_SOURCE_BYTES} bytes, got {num_bytes}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredOutputsParams:
    """Exactly one of json, regex, choice, grammar, json_object and structural_tag; names as in vLLM.

    Raises ValueError, naming the field, the rule and the value.
    """

    json: str | Mapping[str, Any] | None = None
    """A JSON schema, as text or as an object."""
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    """In EBNF: Lark's syntax or GBNF."""
    json_object: bool | None = None
    """True: any JSON object."""
    structural_tag: str | Mapping[str, Any] | None = None
    """Which parts of the text keep to which form, as text or as an object; see app/structural_tag.py."""
    disable_any_whitespace: bool = False
    """JSON without any whitespace."""
    disable_additional_properties: bool = False
    """Objects that list `properties` and say nothing of others have no others."""
    whitespace_pattern: str | None = None
    """See Grammar.whitespace."""

    def __post_init__(self) -> None:
        for field in ("regex", "grammar", "whitespace_pattern"):
            value = getattr(self, field)
            _require(value is None or isinstance(value, str), field, "a string", value)
        for field in ("disable_any_whitespace", "disable_additional_properties"):
            _require(isinstance(getattr(self, field), bool), field, "True or False", getattr(self, field))
        _require(self.json_object in (None, True), "json_object", "True or left out", self.json_object)
        schema = self.json is None or isinstance(self.json, str | Mapping)
        _require(schema, "json", "a JSON schema, as text or as an object", self.json)
        tag = self.structural_tag is None or isinstance(self.structural_tag, str | Mapping)
        _require(tag, "structural_tag", "an object, or one as text", self.structural_tag)
        _check_choice(self.choice)
        given = [name for name in _KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"exactly one of {', '.join(_KINDS)} must be given, got {', '.join(given) or 'none'}"
            )
        if self.kind not in ("json", "json_object"):
            for field in ("disable_any_whitespace", "disable_additional_properties", "whitespace_pattern"):
                _require(not getattr(self, field), field, "left out without json", getattr(self, field))
        twice = self.disable_any_whitespace and self.whitespace_pattern is not None
        rule = "left out with disable_any_whitespace"
        _require(not twice, "whitespace_pattern", rule, self.whitespace_pattern)
        self.to_grammar()

    @property
    def kind(self) -> str:
        """The field that was given."""
        return next(name for name in _KINDS if getattr(self, name) is not None)

    def to_grammar(self) -> Grammar:
        """The grammar that is meant."""
        if self.regex is not None:
            return Grammar(GrammarKind.REGEX, self.regex)
        if self.choice is not None:
            return Grammar(GrammarKind.CHOICE, json.dumps(list(self.choice)))
        if self.grammar is not None:
            return Grammar(GrammarKind.EBNF, self.grammar)
        if self.structural_tag is not None:
            return Grammar(GrammarKind.STRUCTURAL_TAG, _as_json(self.structural_tag, "structural_tag"))
        whitespace = "" if self.disable_any_whitespace else self.whitespace_pattern
        source = _ANY_OBJECT if self.json is None else _as_json(self.json, "json")
        if self.disable_additional_properties:
            source = json.dumps(_closed(json.loads(source)))
        return Grammar(GrammarKind.JSON, source, whitespace)


def as_grammar(value: object) -> Grammar | None:
    """What callers in Python may give as `structured_outputs`, as a grammar. Raises ValueError."""
    if value is None or isinstance(value, Grammar):
        return value
    if isinstance(value, StructuredOutputsParams):
        return value.to_grammar()
    raise ValueError(f"structured_outputs must be StructuredOutputsParams, a Grammar or None, got {value!r}")


def _check_choice(choice: Sequence[str] | None) -> None:
    if choice is not None:
        listed = isinstance(choice, Sequence) and not isinstance(choice, str | bytes)
        holds = listed and choice and all(isinstance(entry, str) and entry for entry in choice)
        _require(bool(holds), "choice", "a list of at least one string, none of them empty", choice)


def _as_json(value: str | Mapping[str, Any], field: str) -> str:
    if not isinstance(value, str):
        try:
            return json.dumps(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{field} must be {_IN_WORDS[field]}, but it is no JSON: {error}") from error
    try:
        json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{field} must be {_IN_WORDS[field]}, but it is no JSON: {error}") from error
    return value


def _closed(schema: Any) -> Any:
    """`schema` with additionalProperties false where properties are listed and nothing is said of others."""
    if isinstance(schema, list):
        return [_closed(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(entry) for name, entry in schema.items()}
    if "properties" in closed:
        closed.setdefault("additionalProperties", False)
    return closed


def _require(holds: bool, name: str, rule: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {value!r}")
